"""Images far larger than SAM's input: window by window, memory bounded by the window."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import PatchInferer, ZarrAvgMerger

from autosam.data.images import ImageFile, ImageReader
from autosam.data.pairs import Pixels, read_valid
from autosam.data.readers.memory import MemoryImage
from autosam.errors import ConfigError
from autosam.inference.predictor import Predictor

CELLS = 1024
"""Side of the pieces in which results lie on disk, pixels."""


class WholePixels:
    """An image that is read at once."""

    def __init__(self, image: Pixels) -> None:
        self.values, self.valid = read_valid(image)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[:2]

    def part(self, y: int, x: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See `ImageReader.part`."""
        where = (slice(y, y + height), slice(x, x + width))
        return self.values[where], None if self.valid is None else self.valid[where]

    def close(self) -> None:
        """Nothing is open."""


def require(name: str) -> Any:
    """A package that large images need.

    Raises:
        ConfigError: it is missing.
    """
    try:
        return __import__(name)
    except ImportError:
        raise ConfigError(f"--tile: needs {name}: pip install 'autosam[data]'") from None


def open_pixels(image: Pixels) -> ImageReader | WholePixels:
    """An image to read in pieces. Of a TIFF only what is asked for is read, so that it may be of
    any size."""
    if isinstance(image, ImageFile):
        return image.open(limit=False)
    return WholePixels(image)


def starts(length: int, size: int, overlap: float) -> list[int]:
    """Where windows of `size` begin along a side of `length`, evenly, the last at its end."""
    if length <= size:
        return [0]
    count = 1 + int(np.ceil((length - size) / (size * (1 - overlap))))
    return np.linspace(0, length - size, count).round().astype(int).tolist()


def segment_tiles(
    predictor: Predictor, pixels: ImageReader | WholePixels, size: int, overlap: float, folder: Path
) -> Any:
    """Segment an image window by window; where windows overlap, their logits are averaged.

    Args:
        predictor: a run that needs no rule on colours.
        pixels: the image.
        size: side of a window, pixels of the image.
        overlap: share of a window that the next one covers again, 0 to below 1.
        folder: for the results, K x H x W values of 4 bytes and two like it.

    Returns:
        zarr array float32 1 x K x H x W, logits, on disk.
    """
    zarr = require("zarr")
    height, width = pixels.shape
    high, wide = min(size, height), min(size, width)

    def windows() -> Iterator[tuple[torch.Tensor, tuple[int, int]]]:
        for y, x in itertools.product(starts(height, size, overlap), starts(width, size, overlap)):
            part, valid = pixels.part(y, x, high, wide)
            fourth = np.ones(part.shape[:2], np.uint8) if valid is None else valid
            yield torch.from_numpy(np.dstack([part, fourth])).permute(2, 0, 1)[None], (y, x)

    def network(parts: torch.Tensor) -> torch.Tensor:
        arrays = [np.ascontiguousarray(part.permute(1, 2, 0).numpy()) for part in parts]
        images = [MemoryImage(a[..., :3], valid=a[..., 3] > 0) for a in arrays]
        return torch.stack([torch.from_numpy(found.logits) for found in predictor(images)])

    shape = (1, predictor.segmenter.num_classes, height, width)
    stores = {
        name: zarr.storage.LocalStore(folder / name)
        for name in ("store", "value_store", "count_store")
    }
    infer = PatchInferer(
        merger_cls=ZarrAvgMerger,
        batch_size=4,
        merged_shape=shape,
        cropped_shape=shape,
        chunks=(1, 1, CELLS, CELLS),
        **stores,
    )
    return infer(windows(), network)  # type: ignore[arg-type]  # it takes any iterable
