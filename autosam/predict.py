"""`python -m autosam.predict`: masks for new images, no prompt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from autosam.command import run_command
from autosam.config import DataConfig
from autosam.data.folders import image_file
from autosam.data.images import EXTENSIONS, write_png
from autosam.data.volumes import Slice, is_volume, name_of, shape_of, stack, write_volume
from autosam.errors import AutosamError, ConfigError, DataError
from autosam.pictures import overlay, palette
from autosam.predictor import load


@dataclass
class PredictConfig:
    """Segment images with a trained run."""

    checkpoint: str = ""
    """Run folder, checkpoint file, or name on the Hugging Face hub (owner/name)."""
    input: str = ""
    """An image or a volume (NIfTI, or a folder of DICOM slices), or a folder of such (not its
    sub-folders)."""
    output: str = ""
    """Folder for the masks: NAME.png, 0 background; 255 foreground for one class, else the class
    number. Independent classes: NAME_1.png .. NAME_K.png, 0 and 255 each. Of volumes: .nii.gz, with
    the orientation of the volume."""
    overlay: bool = False
    """Also write NAME_overlay.png, the mask drawn on the image (not for volumes)."""
    overwrite: bool = False
    """Replace files that are there already."""
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


def find_images(source: Path) -> list[Path]:
    """The image or volume itself, or those of a folder by name.

    Raises:
        DataError: there is none.
    """
    if source.is_file() or is_volume(source):
        return [source]
    if not source.is_dir():
        raise DataError(f"--input {source}: no such file or folder.")
    found = sorted(p for p in source.iterdir() if p.suffix.lower() in EXTENSIONS or is_volume(p))
    if not found:
        raise DataError(f"--input {source}: holds no image ({', '.join(sorted(EXTENSIONS))}).")
    return found


def mask_files(masks: np.ndarray, exclusive: bool) -> Iterator[np.ndarray]:
    """bool K x H x W -> uint8 H x W for each file of `target_names`."""
    if len(masks) == 1 or not exclusive:
        yield from masks.astype(np.uint8) * 255
    else:
        numbers = np.arange(1, len(masks) + 1, dtype=np.uint8)[:, None, None]
        yield (masks * numbers).max(0)


def target_names(path: Path, num_classes: int, exclusive: bool, overlay: bool) -> list[str]:
    """Files that an image's prediction is written to: the masks, then the overlay."""
    volume = is_volume(path)
    stem, suffix = (name_of(path), ".nii.gz") if volume else (path.stem, ".png")
    single = num_classes == 1 or exclusive
    names = [stem] if single else [f"{stem}_{k + 1}" for k in range(num_classes)]
    drawn = [f"{stem}_overlay.png"] if overlay and not volume else []
    return [name + suffix for name in names] + drawn


def plan(
    images: list[Path], output: Path, data: DataConfig, overlay: bool, overwrite: bool
) -> list[list[Path]]:
    """The files to write for each image.

    Raises:
        DataError: one exists (and `overwrite` is off), or two images would write the same.
    """
    writer: dict[Path, Path] = {}
    targets = []
    for path in images:
        names = target_names(path, data.num_classes, data.exclusive, overlay)
        targets.append([output / name for name in names])
        for target in targets[-1]:
            if target in writer:
                raise DataError(
                    f"{writer[target]} and {path.name} would both write {target.name}; rename one."
                )
            writer[target] = path
            if target.exists() and not overwrite:
                raise DataError(f"{target}: exists. Choose another --output, or pass --overwrite.")
    return targets


def predict(config: PredictConfig) -> list[Path]:
    """Write a mask for every image; returns the files written.

    A file that cannot be read is reported and does not stop the rest.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is written; DataError at the end
            when some images failed, naming them.
    """
    for name in ("checkpoint", "input", "output"):
        if not getattr(config, name):
            raise ConfigError(f"--{name} is needed.")
    images, output = find_images(Path(config.input)), Path(config.output)
    source = Path(config.input)
    if output.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise ConfigError(f"--output {output}: is the input's folder; masks would replace images.")
    predictor = load(
        config.checkpoint, config.sam_checkpoint, None, config.fast, config.flips, config.threshold
    )
    data = predictor.loaded.config.data
    targets = plan(images, output, data, config.overlay, config.overwrite)
    colours = palette(data)
    output.mkdir(parents=True, exist_ok=True)
    written, failed = [], []
    for path, files in track(list(zip(images, targets, strict=True)), "segmenting"):
        try:
            if is_volume(path):
                pictures = [
                    Slice(path, data.axis, i, window=data.window)
                    for i in range(shape_of(path)[data.axis])
                ]
                slices = [
                    list(mask_files(found.masks, data.exclusive))
                    for found in predictor.stream(pictures)
                ]
                for file, pixels in zip(files, zip(*slices, strict=True), strict=True):
                    write_volume(file, stack(list(pixels), data.axis), path)
                    written.append(file)
                continue
            masks = predictor(path).masks
        except AutosamError as error:
            failed.append(path)
            print(f"skipped: {error}", file=sys.stderr)
            continue
        for file, pixels in zip(files, mask_files(masks, data.exclusive), strict=False):
            write_png(file, pixels)
            written.append(file)
        if config.overlay:
            write_png(files[-1], overlay(image_file(path, data).read(), masks, colours))
    print(f"{len(written)} masks in {output}")
    if failed:
        raise DataError(f"{len(failed)} of {len(images)} images could not be read (see above).")
    return written


def main() -> None:
    run_command(PredictConfig, predict)


if __name__ == "__main__":
    main()
