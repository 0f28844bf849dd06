"""Types and helpers shared by the readers of image files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autosam.errors import DataError
from autosam.types import Region

MAX_PIXELS = 300_000_000
"""Limit of H x W. Larger images are refused before they are decoded."""
MAX_VALUES = 10 * MAX_PIXELS
"""Limit of H x W x bands."""


@dataclass(frozen=True)
class StoredMask:
    """A mask file as stored, with its orientation applied. Its encoding is inferred elsewhere."""

    values: np.ndarray
    """Stored values: H x W, or H x W x 3 if some pixel is not grey. Palette images: the indices.
    One bit: 0 and 255. Grey of 2 or 4 bits is not scaled."""
    palette: np.ndarray | None = None
    """uint8 N x 3: RGB of each index, for palette images."""
    alpha: np.ndarray | None = None
    """H x W: opacity, 0 transparent; palette images: of transparent indices. None: none."""
    missing: np.ndarray | None = None
    """bool H x W: pixels that the file declares as without data (a TIFF's nodata value other than
    0, NaN, or its mask page); None: none."""
    lossy: bool = False
    """Whether the file has lossy compression (JPEG)."""
    nodata: float = math.nan
    """The file's nodata value; NaN if `missing` has another origin."""
    min_is_white: bool = False
    """Whether the file stores white as zero (MinIsWhite). `values` are inverted already."""


class Raster(Protocol):
    """An opened image file, read by region as an image or as a whole as a mask."""

    shape: tuple[int, int]
    """H, W, with the orientation applied."""

    def colors(self, region: Region, nodata: float | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Read a region of the image.

        Args:
            region: in pixels of the image with its orientation applied.
            nodata: stored value of pixels without data, in addition to the file's own.

        Returns:
            values: h x w x C, C 1 (grey) or 3 (RGB): uint8, or another type that is to be
                stretched.
            missing: bool h x w x C; None if neither file nor `nodata` marks pixels as missing.
        """

    def mask(self) -> StoredMask:
        """Read the whole image as a mask."""


def refuse_large(name: str, width: int, height: int, bands: int = 1) -> None:
    """Refuse a large image before it is decoded: a small file may hold one.

    Raises:
        DataError: the image is larger than `MAX_PIXELS` or `MAX_VALUES`.
    """
    if width * height > MAX_PIXELS or width * height * bands > MAX_VALUES:
        of, values = "", ""
        if bands > 1:
            of, values = f" of {bands} bands", f" ({MAX_VALUES} values)"
        raise DataError(
            f"{name}: {width} x {height} pixels{of}, more than the limit of {MAX_PIXELS}{values}. "
            "Cut it into tiles."
        )


def orientation_steps(value: object) -> tuple[bool, bool, bool]:
    """Steps that apply an EXIF or TIFF orientation.

    Args:
        value: 1 to 8; anything else counts as 1.

    Returns:
        Whether to swap rows and columns, then to reverse the rows, then to reverse the columns.
    """
    table = {2: "x", 3: "yx", 4: "y", 5: "t", 6: "tx", 7: "tyx", 8: "ty"}
    steps = table.get(value, "") if isinstance(value, int) else ""
    return "t" in steps, "y" in steps, "x" in steps


def orient(array: np.ndarray, steps: tuple[bool, bool, bool]) -> np.ndarray:
    """Apply the steps of `orientation_steps` to an array H x W x ..."""
    swap, flip_y, flip_x = steps
    if swap:
        array = np.swapaxes(array, 0, 1)
    return array[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def stored_region(region: Region, shape: tuple[int, int], steps: tuple[bool, bool, bool]) -> Region:
    """The region of the stored image that becomes a region of the oriented image.

    Args:
        region: in pixels of the oriented image.
        shape: H, W of the oriented image.
        steps: see `orientation_steps`.
    """
    (y, x, height, width), (swap, flip_y, flip_x) = region, steps
    y = shape[0] - y - height if flip_y else y
    x = shape[1] - x - width if flip_x else x
    return (x, y, width, height) if swap else (y, x, height, width)


def cut(array: np.ndarray, region: Region) -> np.ndarray:
    """The region of an array H x W (x C)."""
    y, x, height, width = region
    return array[y : y + height, x : x + width]


def equals(values: np.ndarray, nodata: float) -> np.ndarray:
    """Where values equal the nodata value, rounded to their dtype; bool of the same shape."""
    if values.dtype.kind == "f":
        same = np.isnan(values) if np.isnan(nodata) else values == values.dtype.type(nodata)
    else:
        same = values == nodata if np.isfinite(nodata) and nodata == int(nodata) else False
    return np.broadcast_to(np.asarray(same), values.shape)
