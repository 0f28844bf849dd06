"""`python -m autosam.predict`: masks for new pictures, volumes and videos, no prompt."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
from rich.progress import track

from autosam.checkpoint import write_atomically
from autosam.command import run_command
from autosam.config import DataConfig
from autosam.data.folders import image_file
from autosam.data.images import write_png
from autosam.data.volumes import Slice, shape_of, stack, write_volume
from autosam.errors import AutosamError, ConfigError, DataError
from autosam.inputs import Source, find_sources, frames_of, rate_of
from autosam.journal import JOURNAL, Journal
from autosam.outputs import (
    geojson,
    mask_files,
    mask_names,
    objects_of,
    probability_names,
    rows_of,
    write_probabilities,
)
from autosam.pictures import overlay, palette
from autosam.predictor import Prediction, Predictor, load


@dataclass
class PredictConfig:
    """Segment pictures, volumes and videos with a trained run. What is done already is skipped; a
    file that cannot be read is named and does not stop the rest, but the exit code says so."""

    checkpoint: str = ""
    """Run folder, checkpoint file, or name on the Hugging Face hub (owner/name)."""
    input: str = ""
    """A picture, a volume (NIfTI, or a folder of DICOM slices), a video, a folder of such, or a
    pattern in quotes ('scans/*/*.png')."""
    output: str = ""
    """Folder for the masks: NAME.png, 0 background; 255 foreground for one class, else the class
    number. Independent classes: NAME_1.png .. NAME_K.png, 0 and 255 each. Of volumes: .nii.gz, with
    the orientation of the volume. Of videos: a folder with a mask for each frame. Beside them
    areas.csv: area, objects and mean probability of each."""
    recursive: bool = False
    """Search folders to the bottom; the output has the same sub-folders."""
    overlay: bool = False
    """Also write NAME_overlay.png, the mask drawn on the picture; of videos NAME_overlay.mp4 (not
    for volumes)."""
    probabilities: bool = False
    """Also write NAME_probability.png, 16 bits, 0 to 65535 (pictures alone)."""
    coco: Literal["no", "rle", "polygon"] = "no"
    """Also write coco.json, each connected part an object, as run lengths or as polygons, which
    lose holes (pictures alone)."""
    geojson: bool = False
    """Also write NAME.geojson, outlines with holes in pixels (pictures alone)."""
    overwrite: bool = False
    """Do again what is done already."""
    sam_checkpoint: str | None = None
    """SAM weights, where they lie elsewhere than in training."""
    fast: bool = False
    """The mask that the learned prompt makes by itself, through the surrogate decoder; SAM is not
    loaded."""
    flips: bool = False
    """Also segment the mirror images that training drew, and average: twice or four times the
    work."""
    threshold: float | None = None
    """Probability from which on a pixel is foreground; unset: the checkpoint's own."""
    smooth: float = 0.0
    """Of videos: share of the frames before in each frame's logits, 0 (none) to below 1."""


def predict(config: PredictConfig) -> list[Path]:
    """Write what `PredictConfig` asks for; returns the mask files of all sources, those of earlier
    calls included.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is written; DataError at the end
            when some sources failed, naming them.
    """
    output = check(config)
    sources = find_sources(config.input, config.recursive, output)
    predictor = load(
        config.checkpoint, config.sam_checkpoint, None, config.fast, config.flips, config.threshold
    )
    data = predictor.loaded.config.data
    files = {source: files_of(source, output, config, data) for source in sources}
    refuse_clashes(files, output, config.overwrite)
    output.mkdir(parents=True, exist_ok=True)
    needs = ["rows", *["objects"] * (config.coco != "no")]
    journal = Journal(output, needs, config.overwrite)
    left = [
        source
        for source, paths in files.items()
        if source.name not in journal.done or not all(path.exists() for path in paths)
    ]
    if len(left) < len(sources):
        print(f"{len(sources) - len(left)} of {len(sources)} are done already")
    writers = {"picture": write_picture, "volume": write_of_volume, "video": write_video}
    failed = 0
    for source in track(left, "segmenting"):
        files[source][0].parent.mkdir(parents=True, exist_ok=True)
        try:
            entry = writers[source.kind](source, files[source], predictor, config)
        except AutosamError as error:
            failed += 1
            print(f"skipped: {error}", file=sys.stderr)
            continue
        journal.add({"name": source.name, "file": source.path.name, **entry})
    journal.table()
    if config.coco != "no":
        journal.coco(data.class_names)
    count = len(mask_names(data.num_classes, data.exclusive))
    written = [
        file
        for source, paths in files.items()
        if source.name in journal.done
        for file in paths[: 1 if source.kind == "video" else count]
    ]
    print(f"{len(written)} masks in {output}")
    if failed:
        raise DataError(f"{failed} of {len(sources)} could not be read (see above).")
    return written


def check(config: PredictConfig) -> Path:
    """The output folder.

    Raises:
        ConfigError: settings that cannot work.
    """
    for name in ("checkpoint", "input", "output"):
        if not getattr(config, name):
            raise ConfigError(f"--{name} is needed.")
    if not 0 <= config.smooth < 1:
        raise ConfigError(f"--smooth {config.smooth}: must be at least 0 and below 1.")
    source, output = Path(config.input), Path(config.output)
    if output.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise ConfigError(f"--output {output}: is the input's folder; masks would replace images.")
    return output


def files_of(source: Source, output: Path, config: PredictConfig, data: DataConfig) -> list[Path]:
    """What is written of a source, masks first; of a video the folder of its masks."""
    names = mask_names(data.num_classes, data.exclusive)
    if source.kind == "volume":
        return [output / f"{source.name}{name}.nii.gz" for name in names]
    drawn = [".mp4" if source.kind == "video" else ".png"] * config.overlay
    files = [output / f"{source.name}_overlay{suffix}" for suffix in drawn]
    if source.kind == "video":
        return [output / source.name, *files]
    if config.probabilities:
        names = [*names, *probability_names(data.num_classes)]
    if config.geojson:
        files.append(output / f"{source.name}.geojson")
    return [output / f"{source.name}{name}.png" for name in names] + files


def refuse_clashes(files: dict[Source, list[Path]], output: Path, overwrite: bool) -> None:
    """
    Raises:
        DataError: two sources would write one file, or a file is there that no earlier call wrote.
    """
    writer: dict[Path, Source] = {}
    ours = overwrite or (output / JOURNAL).is_file()
    for source, paths in files.items():
        for path in paths:
            if path in writer:
                raise DataError(
                    f"{writer[path].path.name} and {source.path.name} would both write "
                    f"{path.name}; rename one."
                )
            writer[path] = source
            if path.exists() and not ours:
                raise DataError(f"{path}: exists. Choose another --output, or pass --overwrite.")


def write_picture(
    source: Source, files: list[Path], predictor: Predictor, config: PredictConfig
) -> dict[str, Any]:
    """Segment a picture and write its files; what the journal notes of it."""
    data = predictor.loaded.config.data
    picture = image_file(source.path, data)
    found = predictor(picture)
    rest = write_masks(files, found, data)
    if config.probabilities:
        write_probabilities(rest[: data.num_classes], found)
        rest = rest[data.num_classes :]
    if config.overlay:
        write_png(rest[0], overlay(picture.read(), found.masks, palette(data)))
    if config.geojson:
        text = json.dumps(geojson(found, data.class_names))
        write_atomically(rest[-1], lambda to: to.write_text(text, encoding="utf-8"))
    height, width = found.masks.shape[1:]
    entry: dict[str, Any] = {"size": {"height": height, "width": width}}
    entry["rows"] = rows_of(source.name, found, data.class_names)
    if config.coco != "no":
        entry["objects"] = objects_of(found, config.coco == "rle")
    return entry


def write_masks(files: list[Path], found: Prediction, data: DataConfig) -> list[Path]:
    """Write the masks; returns the files that are left."""
    masks = list(mask_files(found.masks, data.exclusive))
    for file, pixels in zip(files, masks, strict=False):
        write_png(file, pixels)
    return files[len(masks) :]


def write_of_volume(
    source: Source, files: list[Path], predictor: Predictor, config: PredictConfig
) -> dict[str, Any]:
    """The same for a volume, slice by slice."""
    data = predictor.loaded.config.data
    slices = [
        Slice(source.path, data.axis, i, window=data.window)
        for i in range(shape_of(source.path)[data.axis])
    ]
    masks, rows = [], []
    for i, found in enumerate(predictor.stream(slices)):
        masks.append(list(mask_files(found.masks, data.exclusive)))
        rows += rows_of(f"{source.name} slice {i}", found, data.class_names)
    for file, pixels in zip(files, zip(*masks, strict=True), strict=True):
        write_volume(file, stack(list(pixels), data.axis), source.path)
    return {"rows": rows, "objects": []}


def write_video(
    source: Source, files: list[Path], predictor: Predictor, config: PredictConfig
) -> dict[str, Any]:
    """The same for a video, frame by frame: masks in a folder, numbered from 0."""
    data = predictor.loaded.config.data
    folder, colours, rows = files[0], palette(data), []
    folder.mkdir(exist_ok=True)
    drawn: cv2.VideoWriter | None = None
    held, kept = itertools.tee(frames_of(source.path))
    for i, (frame, found) in enumerate(
        zip(held, predictor.stream(kept, smooth=config.smooth), strict=True)
    ):
        names = [f"{i:06d}{name}.png" for name in mask_names(data.num_classes, data.exclusive)]
        write_masks([folder / name for name in names], found, data)
        rows += rows_of(f"{source.name} frame {i}", found, data.class_names)
        if config.overlay:
            if drawn is None:
                code = cv2.VideoWriter.fourcc(*"mp4v")
                size = (frame.shape[1], frame.shape[0])
                drawn = cv2.VideoWriter(str(files[1]), code, rate_of(source.path), size)
            picture = overlay(frame, found.masks, colours)
            drawn.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if drawn is not None:
        drawn.release()
    return {"rows": rows, "objects": []}


def main() -> None:
    run_command(PredictConfig, predict)


if __name__ == "__main__":
    main()
