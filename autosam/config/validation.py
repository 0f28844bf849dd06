"""Settings that cannot work, refused before anything is built."""

from __future__ import annotations

import re
import sys

from autosam.config import MOST_OVERLAPPING, RUNS, Config, DataConfig
from autosam.config.data import LAYOUT_NAMES
from autosam.config.values import check_choices, check_ranges, number_ranges
from autosam.errors import ConfigError
from autosam.utils.suggest import require_choice


def check_settings(config: Config) -> None:
    """Refuse settings of a run that cannot work, before anything is built.

    Raises:
        ConfigError: naming the key, what was found and what is expected.
    """
    check_choices(config)
    check_ranges(config)
    check_data(config.data)
    check_folders(config.data)
    weights = {f"--loss.{k}": v for k, v in vars(config.loss).items() if not isinstance(v, str)}
    if not any(weights.values()):
        raise ConfigError(f"{', '.join(weights)}: one must be above 0.")
    if RUNS[config.run].uses_color_prior and config.data.num_classes > 1:
        raise ConfigError(f"--run {config.run}: a rough mask has one class, the data have several.")
    if config.embedding != "real" and not RUNS[config.run].uses_sam:
        raise ConfigError(f"--embedding {config.embedding}: the run {config.run} has no SAM.")
    check_sources(config)
    by_blocks = RUNS[config.run].tunes_encoder or config.model.sam_features == "blocks"
    if config.encoder_backend == "openvino" and by_blocks:
        raise ConfigError(
            "--encoder_backend openvino: OpenVINO does not compute image encoders with LoRA, or of "
            "which --model.sam_features reads blocks. Leave it out."
        )
    check_task(config)
    for name in ("double_normalisation", "min_max_logits"):
        if getattr(config.paper, name) and not RUNS[config.run].uses_sam:
            raise ConfigError(f"--paper.{name}: the run {config.run} has no SAM.")
    if config.paper.min_max_logits and RUNS[config.run].prompter == "grid":
        raise ConfigError(f"--paper.min_max_logits: {config.run} does not take SAM's logits.")
    if config.resume and config.init:
        raise ConfigError("--resume and --init exclude each other.")


def check_sources(config: Config) -> None:
    """Refuse inputs of the prompt generator that cannot work, see `check_settings`.

    Raises:
        ConfigError: naming the settings.
    """
    model, run = config.model, RUNS[config.run]
    if config.data.generator_channels and (run.prompter == "grid" or model.backbone == "none"):
        what = f"--run {config.run}" if run.prompter == "grid" else "--model.backbone none"
        raise ConfigError(
            f"{what}: has no network of its own that could read --data.generator_bands or "
            "--data.slices. Leave them out."
        )
    if model.backbone == "none" and run.decoder == "head":
        raise ConfigError(f"--model.backbone none: the run {config.run} is nothing but a backbone.")
    if run.prompter == "learned" and (model.backbone, model.sam_features) == ("none", "none"):
        raise ConfigError(
            "--model.backbone none: needs --model.sam_features last or blocks, or else the prompt "
            "generator sees nothing."
        )
    if model.sam_features != "none" and model.prompt == "sparse":
        raise ConfigError(
            f"--model.sam_features {model.sam_features}: is merged into maps, and --model.prompt "
            "sparse has none. Add dense or high_res to the prompt."
        )
    if run.tunes_encoder and config.embedding == "blank":
        raise ConfigError(
            f"--embedding blank: adapters of the run {config.run} would get no gradient."
        )


def check_task(config: Config) -> None:
    """Refuse what objects cannot be found with, see `check_settings`.

    Raises:
        ConfigError: naming the settings.
    """
    if config.task != "instances":
        return
    if not config.data.exclusive:
        raise ConfigError(
            "--task instances and --data.exclusive false exclude each other: a pixel belongs to "
            "one object. Leave --data.exclusive out."
        )
    if not config.finds_objects:
        return
    if not {"dense", "high_res"} & {*config.model.prompt_kinds}:
        raise ConfigError(
            f"--task instances: --model.prompt {config.model.prompt} has no map to find objects in."
            " Add dense or high_res."
        )
    if config.loss.resolution != "low":
        raise ConfigError(
            f"--task instances: the loss on each object has no --loss.resolution "
            f"{config.loss.resolution}. Leave it out."
        )
    for name in config.paper.names:
        raise ConfigError(f"--paper.{name}: has no meaning for --task instances. Leave it out.")


def check_data(data: DataConfig) -> None:
    """Refuse settings of the data that cannot work, see `check_settings`.

    Raises:
        ConfigError: naming the key.
    """
    check_ranges(data, "data")
    check_layout(data)
    check_classes(data)
    check_values(data)
    if data.window is not None and not data.window[0] < data.window[1]:
        raise ConfigError(
            f"--data.window {list(data.window)}: the first value must be below the second."
        )
    if data.resolution is not None and data.crop is None:
        raise ConfigError(
            f"--data.resolution {data.resolution:g}: is that of crops. Add --data.crop, their side "
            "in pixels of this size."
        )
    check_channels(data)


def check_channels(data: DataConfig) -> None:
    """Refuse settings of the generator's channels that cannot work, see `check_settings`.

    Raises:
        ConfigError: naming the settings.
    """
    bands, windows = data.generator_bands, data.generator_window
    if data.slices % 2 == 0:
        raise ConfigError(
            f"--data.slices {data.slices}: must be odd, so that as many slices lie before as after."
        )
    if data.slices > 1 and data.layout != "volumes":
        raise ConfigError(f"--data.slices {data.slices}: is for --data.layout volumes.")
    if windows is not None and not isinstance(bands, list):
        raise ConfigError("--data.generator_window: belongs to --data.generator_bands. Give both.")
    if not isinstance(bands, list):
        return
    if data.bands is None:
        raise ConfigError(
            "--data.generator_bands: needs --data.bands, the three bands that SAM sees as red, "
            "green and blue."
        )
    if windows is not None and len(windows) != len(bands):
        raise ConfigError(
            f"--data.generator_window: {len(windows)} ranges for {len(bands)} bands. Give one for "
            "each band."
        )
    for low, high in windows or []:
        if not low < high:
            raise ConfigError(
                f"--data.generator_window [{low}, {high}]: the first value must be below the "
                "second."
            )


def check_layout(data: DataConfig) -> None:
    """Refuse an unknown layout, unless a script may have added layouts.

    Raises:
        ConfigError: see `require_choice`.
    """
    if "autosam.data.layouts" not in sys.modules:
        require_choice("--data.layout", data.layout, LAYOUT_NAMES)


def check_folders(data: DataConfig) -> None:
    """Refuse combinations of folders and files that the layout does not read.

    Raises:
        ConfigError: naming the settings.
    """
    if data.layout == "rasters":
        check_rasters(data)
        return
    if data.class_column:
        raise ConfigError("--data.class_column: is for --data.layout rasters. Leave it out.")
    partner = "annotations" if data.layout == "coco" else "masks"
    if data.root and (data.images or data.masks or data.annotations):
        raise ConfigError(
            f"--data.root and --data.images/--data.{partner} exclude each other. Leave one out."
        )
    if bool(data.images) != bool(getattr(data, partner)):
        raise ConfigError(f"--data.images and --data.{partner} go together. Give both.")
    unread = "masks" if data.layout == "coco" else "annotations"
    if getattr(data, unread):
        raise ConfigError(
            f"--data.{unread}: --data.layout {data.layout} does not read it. Leave it out, or "
            "choose another layout."
        )


def check_rasters(data: DataConfig) -> None:
    """See `check_folders`, for the layout rasters.

    Raises:
        ConfigError: naming the settings.
    """
    if data.root or not data.images or bool(data.masks) == bool(data.annotations):
        raise ConfigError(
            "--data.layout rasters: expected --data.images (a TIFF, or a folder of TIFFs) with "
            "either --data.annotations (a vector file of polygons) or --data.masks (label TIFFs)."
        )
    if data.class_column and data.masks:
        raise ConfigError("--data.class_column: belongs to --data.annotations. Leave it out.")
    if data.crop is not None and data.resolution is None and data.crop > data.block:
        raise ConfigError(
            f"--data.crop {data.crop}: is larger than --data.block {data.block}, of which crops "
            "are parts. Make it smaller, or blocks larger."
        )


def value_ranges(values: str | int | list[int]) -> list[tuple[int, int]]:
    """Parse `--data.values` as ranges: lowest and highest value of each.

    Raises:
        ConfigError: not numbers or ranges of 0 to 65535.
    """
    ranges = number_ranges(values)
    if ranges is None or any(last >= 2**16 for _, last in ranges):
        raise ConfigError(
            f"--data.values {values}: expected mask values from 0 to 65535, such as 2 or 1,3 or "
            "128-255."
        )
    return ranges


def check_values(data: DataConfig) -> None:
    """Refuse settings that contradict `--data.values`.

    Raises:
        ConfigError: several classes, instances, or a value that is also ignored.
    """
    if data.values is None:
        return
    ranges = value_ranges(data.values)
    listed = any(entry.values for entry in data.classes or [])
    if listed or (data.num_classes > 1 and data.exclusive):
        raise ConfigError(
            f"--data.values {data.values}: says what is foreground where there is one class. The "
            "values of several belong in --data.classes."
        )
    if data.instances:
        raise ConfigError("--data.values and --data.instances exclude each other. Leave one out.")
    if data.layout in ("coco", "monuseg", "stamps") or data.annotations:
        raise ConfigError(f"--data.values: layout {data.layout} has no mask values. Leave it out.")
    if data.ignore is not None and any(a <= data.ignore <= b for a, b in ranges):
        raise ConfigError(
            f"--data.values {data.values}: holds {data.ignore}, which --data.ignore leaves out."
        )


def check_classes(data: DataConfig) -> None:
    """Refuse duplicate classes, invalid colours, and numbers of objects of several classes.

    Raises:
        ConfigError: naming the class or the settings.
    """
    if data.instances and data.exclusive and data.num_classes > 1:
        raise ConfigError(
            f"--data.instances true: mask values number the objects of one class, but "
            f"--data.num_classes is {data.num_classes}. Leave --data.num_classes out; or leave "
            "--data.instances out, which outlines and a file for each object do not need."
        )
    names = [entry.name for entry in data.classes or []]
    values = [value for entry in data.classes or [] for value in entry.values or []]
    if len(set(names)) < len(names) or len(set(values)) < len(values):
        raise ConfigError("--data.classes: a name or a mask value is listed twice.")
    for entry in data.classes or []:
        if entry.color and not re.fullmatch(r"#?[0-9a-fA-F]{6}", entry.color):
            raise ConfigError(
                f"--data.classes {entry.name}: color {entry.color}, expected #rrggbb."
            )
        if "/" in entry.name or not entry.name:
            raise ConfigError(f"--data.classes {entry.name!r}: a name without / is needed.")
    if data.num_classes > MOST_OVERLAPPING and not data.exclusive:
        raise ConfigError(
            f"--data.num_classes {data.num_classes}: of classes that may overlap there can be "
            f"{MOST_OVERLAPPING}."
        )
