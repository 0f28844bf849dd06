"""`python -m autosam.predict`: masks for new images, no prompt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from autosam import checkpoint
from autosam.command import run_command
from autosam.config import DataConfig, PromptConfig
from autosam.data.dataset import make_sample
from autosam.data.folders import image_file
from autosam.data.geometry import restore
from autosam.data.images import EXTENSIONS, write_png
from autosam.data.pairs import Pixels
from autosam.data.rough import rough_mask
from autosam.data.volumes import Slice, is_volume, name_of, shape_of, stack, write_volume
from autosam.errors import AutosamError, ConfigError, DataError
from autosam.metrics import predict_label
from autosam.models.segmenter import Segmenter
from autosam.pictures import overlay, palette
from autosam.precision import choose_device
from autosam.types import Batch


@dataclass
class PredictConfig:
    """Segment images with a trained run."""

    checkpoint: str = ""
    """Run folder or checkpoint file."""
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


@torch.no_grad()
def segment(
    segmenter: Segmenter,
    image: np.ndarray,
    exclusive: bool = True,
    guide: np.ndarray | None = None,
    prompting: PromptConfig | None = None,
) -> np.ndarray:
    """Segment one picture.

    Args:
        segmenter: in evaluation mode.
        image: uint8 H x W x 3 RGB.
        exclusive: see `autosam.metrics.predict_label`.
        guide, prompting: see `make_sample`; for segmenters prompted by a rough mask.

    Returns:
        bool K x H x W.
    """
    frame = segmenter.frame
    device = next(segmenter.parameters()).device
    sample = make_sample("image", image, frame, prompting=prompting, guide=guide)
    batch = Batch.collate([sample]).to(device)
    logits = segmenter(batch)[0].float()
    full = restore(logits, image.shape[:2], frame.image_size, frame.geometry)
    return predict_label(full, exclusive)


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
    loaded = checkpoint.load(config.checkpoint, config.sam_checkpoint)
    rule = loaded.config.rule
    if loaded.segmenter.prompts is not None and rule is None:
        raise ConfigError(
            f"--checkpoint {config.checkpoint}: the run {loaded.config.run} takes its prompts from "
            "true masks, which new images do not have. Train autosam, decoder, decoder-rough, "
            "hybrid or head."
        )
    if loaded.config.embedding == "shuffled":
        raise ConfigError(
            f"--checkpoint {config.checkpoint}: a control, trained with --embedding shuffled: SAM "
            "saw other pictures than the prompt generator. Only `evaluate` scores it."
        )
    data = loaded.config.data
    targets = plan(images, output, data, config.overlay, config.overwrite)
    segmenter = loaded.segmenter.to(choose_device())
    colours = palette(data)

    def masks_of(picture: Pixels) -> tuple[np.ndarray, np.ndarray]:
        """uint8 H x W x 3, and bool K x H x W."""
        image = picture.read()
        guide = None if rule is None else rough_mask(picture, rule)
        return image, segment(segmenter, image, data.exclusive, guide, loaded.config.prompt)

    output.mkdir(parents=True, exist_ok=True)
    written, failed = [], []
    for path, files in track(list(zip(images, targets, strict=True)), "segmenting"):
        try:
            if is_volume(path):
                size = shape_of(path)[data.axis]
                slices = [
                    list(mask_files(masks_of(Slice(path, data.axis, i, window=data.window))[1],
                                    data.exclusive))
                    for i in range(size)
                ]  # fmt: skip
                for file, pixels in zip(files, zip(*slices, strict=True), strict=True):
                    write_volume(file, stack(list(pixels), data.axis), path)
                    written.append(file)
                continue
            image, masks = masks_of(image_file(path, data))
        except AutosamError as error:
            failed.append(path)
            print(f"skipped: {error}", file=sys.stderr)
            continue
        for file, pixels in zip(files, mask_files(masks, data.exclusive), strict=False):
            write_png(file, pixels)
            written.append(file)
        if config.overlay:
            write_png(files[-1], overlay(image, masks, colours))
    print(f"{len(written)} masks in {output}")
    if failed:
        raise DataError(f"{len(failed)} of {len(images)} images could not be read (see above).")
    return written


def main() -> None:
    run_command(PredictConfig, predict)


if __name__ == "__main__":
    main()
