"""What a decoded image file is, whatever its format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autosam.errors import DataError

MAX_PIXELS = 300_000_000
"""Larger images are refused before they are decoded."""
MAX_VALUES = 10 * MAX_PIXELS
"""The same for all bands together."""

Region = tuple[int, int, int, int]
"""First row, first column, rows, columns."""


@dataclass(frozen=True)
class StoredMask:
    """A mask file as it is stored, upright, before anyone decides what its values mean."""

    values: np.ndarray
    """Numbers as stored: H x W; or H x W x 3 where it holds colours that are not all grey. Of a
    palette image the indices; of one bit 0 and 255; grey of 2 or 4 bits is not scaled."""
    palette: np.ndarray | None = None
    """uint8 N x 3: the colour of each index, for palette images."""
    alpha: np.ndarray | None = None
    """H x W: opacity, 0 transparent, where the file holds it (of a palette image from its
    transparent entries)."""
    missing: np.ndarray | None = None
    """bool H x W: pixels that the file itself says hold no data (a TIFF's nodata value other than
    0, NaN, or its mask page); None: none."""
    lossy: bool = False
    """Whether values may have changed when it was saved, as in JPEG."""
    nodata: float = math.nan
    """The value that the file says is `missing`; NaN where another sign says so."""
    white_0: bool = False
    """Whether the file says that white is zero; `values` are inverted already."""


class Raster(Protocol):
    """An opened image file: its colours in pieces, or the mask in it."""

    shape: tuple[int, int]
    """H, W, upright."""

    def colors(self, region: Region, nodata: float | None) -> tuple[np.ndarray, np.ndarray | None]:
        """A piece of the image.

        Args:
            region: the piece, in upright pixels.
            nodata: stored value of pixels without data, besides what the file says itself.

        Returns:
            h x w x C colours, C 1 (grey) or 3 (RGB): uint8 as shown, any other number type to be
            stretched; and where they are missing, bool h x w x C, or None where no file or setting
            names such values.
        """

    def mask(self) -> StoredMask:
        """The whole image as a mask."""


def refuse_large(name: str, width: int, height: int, bands: int = 1) -> None:
    """Before anything is decoded: a small file may hold a large image.

    Raises:
        DataError: it is larger than the limit.
    """
    if width * height > MAX_PIXELS or width * height * bands > MAX_VALUES:
        of, values = "", ""
        if bands > 1:
            of, values = f" of {bands} bands", f" ({MAX_VALUES} values)"
        raise DataError(
            f"{name}: {width} x {height} pixels{of}, more than the limit of {MAX_PIXELS}{values}. "
            "Cut it into tiles."
        )


def orientation_of(value: object) -> tuple[bool, bool, bool]:
    """EXIF or TIFF orientation, 1 to 8 (anything else counts as 1) -> whether rows and columns
    change places, and whether rows and then columns are reversed after that."""
    table = {2: "x", 3: "yx", 4: "y", 5: "t", 6: "tx", 7: "tyx", 8: "ty"}
    steps = table.get(value, "") if isinstance(value, int) else ""
    return "t" in steps, "y" in steps, "x" in steps


def upright(array: np.ndarray, steps: tuple[bool, bool, bool]) -> np.ndarray:
    """H x W x ... turned as `orientation_of` says."""
    swap, flip_y, flip_x = steps
    if swap:
        array = np.swapaxes(array, 0, 1)
    return array[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def stored_region(region: Region, shape: tuple[int, int], steps: tuple[bool, bool, bool]) -> Region:
    """Where an upright piece lies in the image as stored.

    Args:
        region: the piece, in upright pixels.
        shape: H, W, upright.
        steps: see `orientation_of`.
    """
    (y, x, height, width), (swap, flip_y, flip_x) = region, steps
    y = shape[0] - y - height if flip_y else y
    x = shape[1] - x - width if flip_x else x
    return (x, y, width, height) if swap else (y, x, height, width)


def equals(values: np.ndarray, nodata: float) -> np.ndarray:
    """bool: where stored numbers are the nodata value, as their own number type holds it."""
    if values.dtype.kind == "f":
        same = np.isnan(values) if np.isnan(nodata) else values == values.dtype.type(nodata)
    else:
        same = values == nodata if np.isfinite(nodata) and nodata == int(nodata) else False
    return np.broadcast_to(np.asarray(same), values.shape)
