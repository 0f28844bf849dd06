"""Rasterize polygons and run-length encodings (RLE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from autosam.errors import DataError

FAR = 10
"""Limit of coordinates, as a multiple of the image's longer side."""


@dataclass(frozen=True)
class Patch:
    """The pixels of one object: a mask of a part of the image, which holds the whole object."""

    row: int
    """First row of the part in the image."""
    column: int
    """First column."""
    mask: np.ndarray
    """bool h x w."""

    @property
    def window(self) -> tuple[slice, slice]:
        """The part as an index into an array H x W."""
        height, width = self.mask.shape
        return slice(self.row, self.row + height), slice(self.column, self.column + width)


def rasterize(shape: Any, height: int, width: int, where: str) -> np.ndarray:
    """`rasterize_patch` as a mask of the whole image, bool H x W."""
    patch = rasterize_patch(shape, height, width, where)
    mask = np.zeros((height, width), bool)
    mask[patch.window] = patch.mask
    return mask


def rasterize_patch(shape: Any, height: int, width: int, where: str) -> Patch:
    """Fill polygons, or decode a run-length encoding. Time and memory grow with the object, not
    with the image.

    Args:
        shape: a COCO segmentation: a list of polygons [x0, y0, x1, y1, ...], of which the union is
            taken, or {"size": [h, w], "counts": list or compressed text}. x and y are in pixels
            from the image's corner, so the first pixel covers 0..1.
        height: H of the image.
        width: W of the image.
        where: file and annotation, for messages.

    Raises:
        DataError: not a COCO segmentation, coordinates far outside, or pycocotools is missing.
    """
    if isinstance(shape, dict):
        return _unroll(shape, height, width, where)
    try:
        from pycocotools import mask as coco
    except ImportError:
        raise DataError(
            f"{where}: polygons need pycocotools: pip install 'autosam[data]'"
        ) from None
    if not _is_polygons(shape):
        raise DataError(
            f"{where}: expected polygons [[x0, y0, x1, y1, ...]] or a run-length encoding. Fix or "
            "remove it."
        )
    # pycocotools walks along every edge: one that leads far outside would crash the process.
    far = FAR * max(height, width)
    if any(not -far <= value <= far for polygon in shape for value in polygon):
        raise DataError(
            f"{where}: a polygon leads far outside of the image of {width} x {height} pixels. "
            "Fix or remove it."
        )
    drawn = [[float(value) for value in polygon] for polygon in shape if len(polygon) >= 6]
    if not drawn:
        return Patch(0, 0, np.zeros((0, 0), bool))
    code = coco.merge(coco.frPyObjects(drawn, height, width))
    return _decode(_unpack(code["counts"]) or [], height)


def encloses(polygon: Any, height: int, width: int) -> bool:
    """Whether a polygon covers any pixel of an image.

    True for a damaged polygon or one that leads far outside, which `rasterize` refuses. A polygon
    of sufficient area inside the image is not rasterized.
    """
    if not _is_polygons([polygon]):
        return True
    if len(polygon) < 6:
        return False
    far = FAR * max(height, width)
    if any(not -far <= value <= far for value in polygon):
        return True
    x, y = np.array(polygon[::2], float), np.array(polygon[1::2], float)
    if x.max() <= 0 or y.max() <= 0 or x.min() >= width or y.min() >= height:
        return False
    twice = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    inside = min(x.min(), y.min()) >= 0 and x.max() <= width and y.max() <= height
    if inside and twice > 2 * (x.max() - x.min() + y.max() - y.min()):
        return True
    return bool(rasterize([polygon], height, width, "").any())


def _unroll(code: dict[str, Any], height: int, width: int, where: str) -> Patch:
    """Decode a run-length encoding. pycocotools is not used, because it writes out of bounds if the
    encoding is damaged."""
    if code.get("size") != [height, width]:
        raise DataError(
            f"{where}: run-length encoding of size {code.get('size')}, but the image is {height} x "
            f"{width}: [{height}, {width}] was expected. Fix or remove it."
        )
    counts = code.get("counts")
    if isinstance(counts, str | bytes):
        counts = _unpack(counts)
    if not isinstance(counts, list):
        raise DataError(
            f"{where}: a run-length encoding whose counts are damaged. Fix or remove it."
        )
    whole = all(isinstance(n, int) and n >= 0 for n in counts)
    if not whole or sum(counts) != height * width:
        raise DataError(
            f"{where}: run lengths must add up to {height * width} pixels, in whole numbers. Fix "
            "or remove them."
        )
    return _decode(counts, height)


def _decode(counts: list[int], height: int) -> Patch:
    """The foreground of run lengths, which go down the columns. Only the columns that hold some are
    decoded."""
    ends = np.cumsum(counts, dtype=np.int64)
    starts = ends - counts
    inside = (np.arange(len(counts)) % 2 == 1) & (ends > starts)
    if not inside.any():
        return Patch(0, 0, np.zeros((0, 0), bool))
    first = int(starts[inside][0]) // height
    columns = (int(ends[inside][-1]) - 1) // height + 1 - first
    lengths: np.ndarray = np.diff(np.clip(ends - first * height, 0, columns * height), prepend=0)
    mask = np.repeat(inside, lengths).reshape(columns, height).T
    rows = np.flatnonzero(mask.any(1))
    return Patch(int(rows[0]), first, mask[rows[0] : rows[-1] + 1])


def _unpack(text: str | bytes) -> list[int] | None:
    """Decompress COCO's run lengths: five bits per character; from the third number on, the
    difference to the last but one. None if damaged."""
    codes = text.encode() if isinstance(text, str) else text
    counts: list[int] = []
    number = bits = 0
    for letter in codes:
        value = letter - 48
        if not 0 <= value < 64 or bits > 60:
            return None
        number |= (value & 31) << bits
        bits += 5
        if value & 32:  # continues in the next character
            continue
        if value & 16:  # negative
            number -= 1 << bits
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = bits = 0
    return None if bits else counts


def _is_polygons(shape: Any) -> bool:
    return isinstance(shape, list) and all(
        isinstance(p, list)
        and len(p) % 2 == 0
        and all(isinstance(v, int | float) and v - v == 0 for v in p)  # neither NaN nor infinite
        for p in shape
    )
