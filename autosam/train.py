"""`python -m autosam.train`: train a run, score it once on test, leave everything in its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from rich import get_console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from autosam.config import RUNS, Config, DataConfig
from autosam.config.choices import require_config
from autosam.config.cli import flatten, from_dict, run_command, to_dict
from autosam.config.validation import check_settings
from autosam.config.yaml import read_yaml
from autosam.data.augment import Augment, build_augment
from autosam.data.checks import check_split
from autosam.data.dataset import PairDataset
from autosam.data.layouts import load_split
from autosam.data.loaders import Data, worker_count
from autosam.embeddings import use_cache, views_of
from autosam.errors import CheckpointError, ConfigError
from autosam.models import checkpoint
from autosam.models.backbones.timm import WEIGHTS_BY_WORD
from autosam.models.sam.weights.locate import known
from autosam.models.segmenter import Segmenter, build_segmenter
from autosam.training import resume as state
from autosam.training.auto_batch import fit_batch
from autosam.training.finalize import TrainResult, finish
from autosam.training.trainer import Run
from autosam.types import Frame
from autosam.utils import provenance as origin
from autosam.utils.device import gains_from_bf16
from autosam.utils.distributed import make_accelerator
from autosam.utils.io import LOCK, claim, make_folder
from autosam.utils.launcher import check_launcher, launcher_precision
from autosam.utils.logging import log
from autosam.utils.memory import PeakMemory
from autosam.utils.signals import Interrupt

WHERE = ("data.root", "data.images", "data.masks", "data.annotations", "data.groups",
         "data.workers", "cache.dir", "cache.max_gb", "sam_checkpoint")  # fmt: skip
"""Settings that --resume may be given anew: they say where things lie, not what is trained."""

__all__ = ["TrainResult", "train"]


def train(config: Config) -> TrainResult:
    """Train a run from start to test score.

    Args:
        config: the run; see `autosam.config`.

    Returns:
        The run folder and its scores.

    Raises:
        AutosamError: before training: settings, data or weights that cannot be used, nothing
            written; during it: a loss that is no longer finite, the last good checkpoint kept.
    """
    require_config(config, Config, "train")
    started = time.perf_counter()
    check_launcher()
    config, saved = resolve(config)
    check_settings(config)
    known(config.sam)
    with Interrupt() as interrupt:
        interrupt.at_once = True
        if saved is not None:
            interrupt.remedy = state.how_to_go_on(Path(config.output or ""))
        return _train(config, saved, started, interrupt)


def _train(
    config: Config, saved: dict[str, Any] | None, started: float, interrupt: Interrupt
) -> TrainResult:
    """`train`, while signals are noted."""
    accelerator = make_accelerator(config.train.accumulate)
    main = accelerator.is_main_process
    set_up_log(main)
    if launcher_precision() != "no":
        log.info("the launcher's precision %s is not used: --train.precision %s decides",
                 launcher_precision(), config.train.precision)  # fmt: skip
    # Every process has its own clock, and so its own idea of the folder's name.
    folder = Path(broadcast_object_list([config.output])[0])
    config.output = str(folder)
    if saved is None:
        refuse_folder(folder, config)
    if config.deterministic:  # cuBLAS reads this when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic)
    set_seed(config.train.seed)
    views = views_of(config)
    segmenter = build_segmenter(config, encoder=views == 0)
    if config.init and saved is None:
        count = checkpoint.initialise(segmenter, config, config.init)
        log.info("%d tensors taken from %s", count, config.init)
    data = open_data(config, segmenter.frame, views)
    if config.train.epochs is None:
        config.train = dataclasses.replace(config.train, epochs=default_epochs(len(data.train)))
    with contextlib.ExitStack() as stack:
        if main:
            stack.enter_context(occupy(folder, empty=saved is None))
        accelerator.wait_for_everyone()
        if views:
            embed(config, data, segmenter, accelerator, interrupt)
        bf16 = config.train.precision == "bf16" or (
            config.train.precision == "auto"
            and accelerator.device.type == "cuda"
            and gains_from_bf16(accelerator.device)
        )
        if config.auto_batch and saved is None and RUNS[config.run].trainable:
            config.train = fit_batch(config, segmenter, data.train, accelerator, bf16)
            accelerator.gradient_accumulation_steps = config.train.accumulate
            log.info("batches of %d, %d for each optimiser step",
                     config.train.batch_size, config.train.accumulate)  # fmt: skip
        run = Run(config, folder, segmenter, data, accelerator, bf16, started, interrupt, saved)
        stack.callback(run.close)
        stack.enter_context(run.explaining())
        with PeakMemory() as peak, Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  loss {task.fields[loss]}  val Dice "
                       "{task.fields[dice]}  {task.fields[speed]:.1f} images/s  left"),
            TimeRemainingColumn(),
            disable=not main,
        ) as progress:  # fmt: skip
            run.fit(progress)
        log.info("scoring validation and test by the checkpoint that validation chose")
        return finish(run, peak.gib)


@contextlib.contextmanager
def occupy(folder: Path, empty: bool) -> Iterator[None]:
    """Be the one process that writes into a run folder, which is made if need be.

    Args:
        folder: the run folder.
        empty: delete what an earlier run left in it.

    Raises:
        ConfigError, StorageError: see `claim`.
    """
    make_folder(folder)
    with claim(folder):
        for path in folder.iterdir() if empty else ():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        yield


def embed(
    config: Config, data: Data, segmenter: Segmenter, accelerator: Accelerator, interrupt: Interrupt
) -> None:
    """Let the parts of the data take their embeddings from the cache."""
    workers = worker_count(config.data.workers, accelerator.num_processes)
    parts = {"validation": data.validation, "test": data.test}
    if RUNS[config.run].trainable or segmenter.rule is not None:
        parts = {"train": data.train, **parts}
    use_cache(config, parts, accelerator.device, workers, interrupt)


def set_up_log(main: bool) -> None:
    """Messages to the terminal (above the progress bar), or plain lines to a file or pipe."""
    if not log.handlers:
        terminal = get_console().is_terminal
        rich = RichHandler(show_path=False, show_time=False, show_level=False)
        log.addHandler(rich if terminal else logging.StreamHandler(sys.stdout))
        log.setLevel(logging.INFO if main else logging.ERROR)


def resolve(config: Config) -> tuple[Config, dict[str, Any] | None]:
    """The settings in force (paths absolute, `output` set), and the state to go on from or None.

    Raises:
        ConfigError: `--resume` with settings beside it that are not those of `WHERE`.
        CheckpointError: nothing to resume.
    """
    if not config.resume:
        name = f"runs/{datetime.now():%Y%m%d-%H%M%S}-{config.title}"
        return dataclasses.replace(with_whole_paths(config), output=config.output or name), None
    folder, default = Path(config.resume), flatten(to_dict(Config()))
    said = {key: value for key, value in flatten(to_dict(config)).items() if value != default[key]}
    del said["resume"]
    if others := [key for key in said if key not in WHERE]:
        raise ConfigError(
            f"--resume takes its settings from the run: leave {', '.join(others)} out. Only where "
            f"things lie may be said anew ({', '.join(WHERE)}). (--init RUN starts a new run, with "
            "settings of its own, from its weights.)"
        )
    saved, warnings = state.load(folder)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    file = folder / "config.yaml"
    if not file.is_file():
        raise CheckpointError(
            f"--resume {folder}: its config.yaml is missing. Bring it back, or start a new run "
            "from its weights with --init."
        )
    values = read_yaml(file)
    for key, value in said.items():
        section, _, last = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[last] = value
    try:
        resolved = with_whole_paths(from_dict(Config, values))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return dataclasses.replace(resolved, output=str(folder)), saved


def with_whole_paths(config: Config) -> Config:
    """A checkpoint must find its files from wherever it is used."""

    def whole(path: str | None, certain: bool = True) -> str | None:
        return str(Path(path).resolve()) if path and (certain or Path(path).exists()) else path

    groups = config.data.groups  # a table, or an expression
    data: DataConfig = dataclasses.replace(
        config.data,
        root=whole(config.data.root, certain=False),  # or a name on the hub
        images=whole(config.data.images),
        masks=whole(config.data.masks),
        annotations=whole(config.data.annotations),
        groups=whole(groups) if groups and groups.lower().endswith(".csv") else groups,
    )
    # A word of the settings is never a path: a folder of that name is written ./auto.
    weights = config.model.backbone_weights
    if weights not in WEIGHTS_BY_WORD:
        weights = str(Path(weights).resolve())
    model = dataclasses.replace(config.model, backbone_weights=weights)
    return dataclasses.replace(
        config,
        data=data,
        cache=dataclasses.replace(config.cache, dir=whole(config.cache.dir)),
        sam_checkpoint=whole(config.sam_checkpoint),
        init=whole(config.init, certain=False),  # or a name on the hub
        model=model,
    )


def refuse_folder(folder: Path, config: Config) -> None:
    """Say no to an output folder that holds anything but an old run to be replaced on request.

    Raises:
        ConfigError: it must not be written to.
    """
    if not folder.exists():
        return
    # A killed run may have left no more than its lock.
    if folder.is_dir() and all(path.name == LOCK for path in folder.iterdir()):
        return
    if not config.overwrite:
        raise ConfigError(
            f"--output {folder}: exists. Choose another, pass --overwrite, or go on with it by "
            f"--resume {folder}."
        )
    if not (folder / origin.FILE).exists():  # the first that a run writes
        raise ConfigError(f"--output {folder}: is not a run (no {origin.FILE}); not overwritten.")
    read = (config.data.root, config.data.images, config.data.masks, config.sam_checkpoint,
            config.init)  # fmt: skip
    for path in (Path(p).resolve() for p in read if p):
        if path == folder.resolve() or folder.resolve() in path.parents:
            raise ConfigError(f"--output {folder}: holds {path}, which this run reads.")


def open_data(config: Config, frame: Frame, views: int = 0) -> Data:
    """Find, check and wrap the files; warnings go to the log.

    Args:
        config: the run.
        frame: of its segmenter.
        views: V of the training images, 0 for none; the others then have one.

    Raises:
        ConfigError, DataError: see `load_split` and `check_split`.
    """
    split = load_split(config.data)
    report = check_split(split, config.data)
    log.info("%s", ", ".join(f"{len(pairs)} {part}" for part, pairs in split.items()) + " images")
    for warning in report.warnings:
        log.warning(warning)
    if report.reading.how:
        log.info("masks: %s", report.reading.how)
    if config.loss.resolution == "full":
        frame = dataclasses.replace(frame, target_size=frame.image_size)
    augment = build_augment(config.augment)

    def part(name: str, augment: Augment | None, views: int) -> PairDataset:
        return PairDataset(
            split[name], frame, report.reading, augment, config.train.seed, config.prompt, views,
            config.rule, config.embedding == "shuffled",
        )  # fmt: skip

    clean = min(views, 1)
    learns = bool(RUNS[config.run].trainable)
    return Data(
        part("train", augment, views) if learns else part("train", None, clean),
        part("validation", None, clean),
        part("test", None, clean),
    )


def default_epochs(images: int) -> int:
    """How long to train where the settings do not say; see `TrainConfig.epochs`."""
    return max(5, min(50, math.ceil(1440 / images)))


def main() -> None:
    run_command(Config, train, shared=True)


if __name__ == "__main__":
    main()
