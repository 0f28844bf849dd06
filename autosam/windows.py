"""Pictures far larger than SAM's input: window by window, memory bounded by the window."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import PatchInferer, ZarrAvgMerger

from autosam.data.images import Window, require_file
from autosam.data.memory import MemoryImage
from autosam.data.pairs import Pixels
from autosam.errors import ConfigError, DataError
from autosam.predictor import Predictor

TIFFS = (".tif", ".tiff")
CELLS = 1024
"""Side of the pieces in which results lie on disk, pixels."""


class TiledPixels:
    """A TIFF of which only what is asked for is read.

    Args:
        path: with one picture of 1, 3 or 4 bands, 8 or 16 bits.
        window: see `read_image`.

    Raises:
        DataError: unreadable, or of another kind.
        ConfigError: tifffile or zarr are missing.
    """

    def __init__(self, path: Path, window: Window | None = None) -> None:
        zarr, tifffile = require("zarr"), require("tifffile")
        self.path = path
        require_file(path)
        try:
            series = tifffile.TiffFile(path).series[0]
            self.values: Any = zarr.open(series.levels[0].aszarr(), mode="r")
        except Exception as error:  # of tifffile and zarr, many kinds
            raise self._unreadable(error) from None
        shape, axes = self.values.shape, series.levels[0].axes
        if axes not in ("YX", "YXS") or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
            raise DataError(f"{path}: axes {axes} {shape}; expected one picture, grey or RGB.")
        if self.values.dtype not in (np.uint8, np.uint16):
            raise DataError(f"{path}: {self.values.dtype} pixels; expected 8 or 16 bits.")
        self.window = window
        if self.values.dtype == np.uint16 and window is None:
            try:
                some = self.values[:: max(1, shape[0] // 512), :: max(1, shape[1] // 512)]
            except Exception as error:  # see `part`
                raise self._unreadable(error) from None
            low, high = np.percentile(some, (0.1, 99.9))
            self.window = (float(low), float(high))

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(
            f"{self.path}: cannot be read as a TIFF ({str(error)[:120]}). Replace or remove it."
        )

    @property
    def shape(self) -> tuple[int, int]:
        """H, W."""
        return self.values.shape[:2]

    def part(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 height x width x 3 from row y and column x on."""
        try:
            values = np.asarray(self.values[y : y + height, x : x + width])
        except Exception as error:  # of what unpacks it, many kinds
            raise self._unreadable(error) from None
        return MemoryImage(values, str(self.path), self.window).read()


class WholePixels:
    """A picture that is read at once, see `TiledPixels`."""

    def __init__(self, picture: Pixels) -> None:
        self.values = picture.read()

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[:2]

    def part(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self.values[y : y + height, x : x + width]


def require(name: str) -> Any:
    """A package that large pictures need.

    Raises:
        ConfigError: it is missing.
    """
    try:
        return __import__(name)
    except ImportError:
        raise ConfigError(f"--window: needs {name}: pip install 'autosam[data]'") from None


def open_pixels(picture: Pixels, window: Window | None = None) -> TiledPixels | WholePixels:
    """A picture to read in pieces."""
    if picture.path.suffix.lower() in TIFFS:
        return TiledPixels(picture.path, window)
    return WholePixels(picture)


def starts(length: int, size: int, overlap: float) -> list[int]:
    """Where windows of `size` begin along a side of `length`, evenly, the last at its end."""
    if length <= size:
        return [0]
    count = 1 + int(np.ceil((length - size) / (size * (1 - overlap))))
    return np.linspace(0, length - size, count).round().astype(int).tolist()


def segment_windows(
    predictor: Predictor, pixels: TiledPixels | WholePixels, size: int, overlap: float, folder: Path
) -> Any:
    """Segment a picture window by window; where windows overlap, their logits are averaged.

    Args:
        predictor: a run that needs no rule on colours.
        pixels: the picture.
        size: side of a window, pixels of the picture.
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
            part = np.ascontiguousarray(pixels.part(y, x, high, wide))
            yield torch.from_numpy(part.copy()).permute(2, 0, 1)[None], (y, x)

    def network(parts: torch.Tensor) -> torch.Tensor:
        pictures = [part.permute(1, 2, 0).numpy() for part in parts]
        return torch.stack([torch.from_numpy(found.logits) for found in predictor(pictures)])

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
