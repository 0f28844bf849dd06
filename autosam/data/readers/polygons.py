"""Rasterize polygons and run-length encodings (RLE)."""

from __future__ import annotations

from typing import Any

import numpy as np

from autosam.errors import DataError

FAR = 10
"""Limit of coordinates, as a multiple of the image's longer side."""


def rasterize(shape: Any, height: int, width: int, where: str) -> np.ndarray:
    """Fill polygons, or decode a run-length encoding.

    Args:
        shape: a COCO segmentation: a list of polygons [x0, y0, x1, y1, ...], of which the union is
            taken, or {"size": [h, w], "counts": list or compressed text}. x and y are in pixels
            from the image's corner, so the first pixel covers 0..1.
        height: H of the image.
        width: W of the image.
        where: file and annotation, for messages.

    Returns:
        bool H x W.

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
        return np.zeros((height, width), bool)
    return coco.decode(coco.merge(coco.frPyObjects(drawn, height, width))) > 0


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


def _unroll(code: dict[str, Any], height: int, width: int, where: str) -> np.ndarray:
    """Decode a run-length encoding to bool H x W. pycocotools is not used, because it writes out of
    bounds if the encoding is damaged."""
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
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


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
