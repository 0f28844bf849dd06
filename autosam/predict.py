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
from autosam.data.dataset import make_sample
from autosam.data.geometry import restore
from autosam.data.images import EXTENSIONS, read_image, write_png
from autosam.errors import AutosamError, ConfigError, DataError
from autosam.metrics import predict_label
from autosam.models.segmenter import Segmenter
from autosam.pictures import overlay
from autosam.types import Batch


@dataclass
class PredictConfig:
    """Segment images with a trained run."""

    checkpoint: str = ""
    """Run folder or checkpoint file."""
    input: str = ""
    """An image, or a folder of images (not its sub-folders)."""
    output: str = ""
    """Folder for the masks: NAME.png, 0 background; 255 foreground for one class, else the class
    number. Independent classes: NAME_1.png .. NAME_K.png, 0 and 255 each."""
    overlay: bool = False
    """Also write NAME_overlay.png, the mask drawn on the image."""
    sam_checkpoint: str | None = None
    """SAM weights, where they lie elsewhere than in training."""


@torch.no_grad()
def segment(segmenter: Segmenter, image: np.ndarray, exclusive: bool = True) -> np.ndarray:
    """Segment one picture.

    Args:
        segmenter: in evaluation mode.
        image: uint8 H x W x 3 RGB.
        exclusive: see `autosam.metrics.predict_label`.

    Returns:
        bool K x H x W.
    """
    frame = segmenter.frame
    device = next(segmenter.parameters()).device
    batch = Batch.collate([make_sample("image", image, frame)]).to(device)
    logits = segmenter(batch)[0].float()
    full = restore(logits, image.shape[:2], frame.image_size, frame.geometry)
    return predict_label(full, exclusive)


def find_images(source: Path) -> list[Path]:
    """The image itself, or the images of a folder by name.

    Raises:
        DataError: there is none, or two would write the same mask.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"--input {source}: no such file or folder.")
    found = sorted(p for p in source.iterdir() if p.suffix.lower() in EXTENSIONS)
    if not found:
        raise DataError(f"--input {source}: holds no image ({', '.join(sorted(EXTENSIONS))}).")
    seen: dict[str, Path] = {}
    for path in found:
        other = seen.setdefault(path.stem, path)
        if other is not path:
            raise DataError(
                f"{other} and {path.name} would both write {path.stem}.png; rename one."
            )
    return found


def mask_files(masks: np.ndarray, exclusive: bool) -> Iterator[tuple[str, np.ndarray]]:
    """bool K x H x W -> (suffix of the file name, uint8 H x W)."""
    if len(masks) == 1:
        yield "", masks[0].astype(np.uint8) * 255
    elif exclusive:
        numbers = np.arange(1, len(masks) + 1, dtype=np.uint8)[:, None, None]
        yield "", (masks * numbers).max(0)
    else:
        for k, mask in enumerate(masks):
            yield f"_{k + 1}", mask.astype(np.uint8) * 255


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
    exclusive = loaded.config.data.exclusive
    segmenter = loaded.segmenter.to("cuda" if torch.cuda.is_available() else "cpu")
    output.mkdir(parents=True, exist_ok=True)
    written, failed = [], []
    for path in track(images, "segmenting"):
        try:
            image = read_image(path)
        except AutosamError as error:
            failed.append(path)
            print(f"skipped: {error}", file=sys.stderr)
            continue
        masks = segment(segmenter, image, exclusive)
        for suffix, pixels in mask_files(masks, exclusive):
            written.append(output / f"{path.stem}{suffix}.png")
            write_png(written[-1], pixels)
        if config.overlay:
            write_png(output / f"{path.stem}_overlay.png", overlay(image, masks))
    print(f"{len(written)} masks in {output}")
    if failed:
        raise DataError(f"{len(failed)} of {len(images)} images could not be read (see above).")
    return written


def main() -> None:
    run_command(PredictConfig, predict)


if __name__ == "__main__":
    main()
