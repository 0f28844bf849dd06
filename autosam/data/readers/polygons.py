"""Outlines and run-length codes as masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from autosam.errors import DataError

FAR = 10
"""Outlines may lead so many times the image's longer side outside."""


def rasterize(shape: Any, height: int, width: int, where: str) -> np.ndarray:
    """Fill polygons, or decode a run-length code.

    Args:
        shape: as in COCO: a list of polygons [x0, y0, x1, y1, ...] whose union is meant, or
            {"size": [h, w], "counts": list or compressed text}. x and y are measured from the
            image's corner, so that the first pixel covers 0..1.
        height, width: of the image.
        where: what a message should name.

    Returns:
        bool H x W.

    Raises:
        DataError: not such a shape.
    """
    if isinstance(shape, dict):
        return _unroll(shape, height, width, where)
    try:
        from pycocotools import mask as coco
    except ImportError:
        raise DataError(
            f"{where}: outlines are drawn by pycocotools: pip install 'autosam[data]'"
        ) from None
    if not _is_polygons(shape):
        raise DataError(
            f"{where}: expected polygons [[x0, y0, x1, y1, ...]] or a run-length code. Fix or "
            "remove it."
        )
    # pycocotools counts every step along an edge: of one far outside it would end the process.
    far = FAR * max(height, width)
    if any(not -far <= value <= far for polygon in shape for value in polygon):
        raise DataError(
            f"{where}: an outline leads far outside of the image of {width} x {height} pixels. "
            "Fix or remove it."
        )
    drawn = [[float(value) for value in polygon] for polygon in shape if len(polygon) >= 6]
    if not drawn:
        return np.zeros((height, width), bool)
    return coco.decode(coco.merge(coco.frPyObjects(drawn, height, width))) > 0


def encloses(polygon: Any, height: int, width: int) -> bool:
    """Whether an outline as in `rasterize` covers any pixel of an image; True where it is damaged
    or leads far outside, which `rasterize` refuses. Those of some size in the image are not
    drawn to find out."""
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


def _unroll(code: dict[str, Any], height: int, width: int, where: str) -> np.ndarray:
    """A run-length code -> bool H x W. Not by pycocotools, which writes beyond its memory where a
    code is damaged."""
    if code.get("size") != [height, width]:
        raise DataError(
            f"{where}: run-length code of size {code.get('size')}, but the image is {height} x "
            f"{width}: [{height}, {width}] was expected. Fix or remove it."
        )
    counts = code.get("counts")
    if isinstance(counts, str | bytes):
        counts = _unpack(counts)
    if not isinstance(counts, list):
        raise DataError(f"{where}: a run-length code whose counts are damaged. Fix or remove it.")
    whole = all(isinstance(n, int) and n >= 0 for n in counts)
    if not whole or sum(counts) != height * width:
        raise DataError(
            f"{where}: run lengths must add up to {height * width} pixels, in whole numbers. Fix "
            "or remove them."
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def _unpack(text: str | bytes) -> list[int] | None:
    """COCO's compressed run lengths: five bits a letter, from the third on as differences from the
    last but one; None where that is not what it is."""
    codes = text.encode() if isinstance(text, str) else text
    counts: list[int] = []
    number = bits = 0
    for letter in codes:
        value = letter - 48
        if not 0 <= value < 64 or bits > 60:
            return None
        number |= (value & 31) << bits
        bits += 5
        if value & 32:  # goes on in the next letter
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
