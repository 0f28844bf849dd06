"""Segment large images tile by tile, with memory bounded by the tile size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autosam.data.images import ImageFile, ImageReader
from autosam.data.pairs import Pixels, read_valid
from autosam.data.readers.memory import MemoryImage
from autosam.data.tiles import tile_regions
from autosam.errors import ConfigError
from autosam.inference.predictor import Predictor

CHUNK = 1024
"""Side of the chunks of the arrays on disk, pixels."""


class WholePixels:
    """An image that is read into memory as a whole.

    Args:
        image: where it is read from.
    """

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
    """Import a package that tiling needs.

    Args:
        name: name of the package.

    Returns:
        The module.

    Raises:
        ConfigError: the package is missing.
    """
    try:
        return __import__(name)
    except ImportError:
        raise ConfigError(f"--tile: needs {name}: pip install 'autosam[data]'") from None


def open_pixels(image: Pixels) -> ImageReader | WholePixels:
    """Open an image to be read in parts. Of a TIFF only the requested parts are read, so it may be
    larger than memory.

    Args:
        image: where it is read from.
    """
    if isinstance(image, ImageFile):
        return image.open(limit=False)
    return WholePixels(image)


def segment_tiles(
    predictor: Predictor, pixels: ImageReader | WholePixels, size: int, overlap: float, folder: Path
) -> Any:
    """Segment an image tile by tile; logits are averaged where tiles overlap.

    Args:
        predictor: a run without a color prior.
        pixels: the image.
        size: side of a tile, pixels of the image.
        overlap: smallest share of a tile that the next one covers too, in [0, 1).
        folder: folder for three arrays of K x H x W values of 4 bytes.

    Returns:
        Logits, a zarr array on disk, float32 1 x K x H x W.

    Raises:
        ConfigError: zarr is missing.
    """
    zarr = require("zarr")
    from monai.inferers import PatchInferer, ZarrAvgMerger  # takes seconds

    height, width = pixels.shape

    def tiles() -> Iterator[tuple[torch.Tensor, tuple[int, int]]]:
        for region in tile_regions((height, width), size, overlap):
            part, valid = pixels.part(*region)
            # The last channel says which pixels hold data.
            last = np.ones(part.shape[:2], np.uint8) if valid is None else valid
            yield torch.from_numpy(np.dstack([part, last])).permute(2, 0, 1)[None], region[:2]

    def network(batch: torch.Tensor) -> torch.Tensor:
        arrays = [np.ascontiguousarray(tile.permute(1, 2, 0).numpy()) for tile in batch]
        images = [MemoryImage.of(a[..., :-1], "a tile", a[..., -1] > 0) for a in arrays]
        return torch.stack([torch.from_numpy(one.logits) for one in predictor(images)])

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
        chunks=(1, 1, CHUNK, CHUNK),
        **stores,
    )
    return infer(tiles(), network)  # type: ignore[arg-type]  # it takes any iterable
