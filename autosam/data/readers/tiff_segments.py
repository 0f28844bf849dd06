"""Read a region of a TIFF page; only the strips or tiles that overlap it are decoded."""

from __future__ import annotations

from typing import Any

import numpy as np

from autosam.data.readers.codestreams import JPEG, pixels_in
from autosam.data.readers.raster import MAX_VALUES
from autosam.types import Region


def read_stored(page: Any, region: Region) -> np.ndarray:
    """Read a region of a page as stored, without its orientation.

    Args:
        page: a `tifffile.TiffPage`.
        region: in stored pixels.

    Returns:
        h x w x samples, with separate planes joined.

    Raises:
        Exception: damaged data; several types, from tifffile and its codecs.
    """
    y, x, height, width = region
    planes, _, rows, columns, samples = page.shaped
    if page.is_memmappable and page.fillorder == 1:
        number = np.dtype(page.parent.byteorder + page.dtype.char)
        whole = page.parent.filehandle.memmap_array(number, page.shaped, page.dataoffsets[0])
        values = whole[:, 0, y : y + height, x : x + width]
        return np.moveaxis(values, 0, 2).reshape(height, width, -1).astype(page.dtype)
    result = np.empty((planes, height, width, samples), page.dtype)
    for index in _touched(page, region):
        data = _data(page, index)
        inside = None
        if (
            data is not None and page.jpegheader is None
        ):  # with one, decoding stops at the tile's size
            inside = pixels_in(data, page.compression)
        if inside is not None and inside > 4 * _area(page):
            raise ValueError("a strip or tile that holds a larger image")
        arguments: dict[str, Any] = {}
        if page.compression in JPEG:
            arguments = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        part, (plane, _, top, left, _), shape = page.decode(data, index, **arguments)
        bottom, right = min(top + shape[1], rows), min(left + shape[2], columns)
        y0, y1, x0, x1 = max(top, y), min(bottom, y + height), max(left, x), min(right, x + width)
        if y0 >= y1 or x0 >= x1:
            continue
        to = result[plane, y0 - y : y1 - y, x0 - x : x1 - x]
        if part is None:
            to[...] = page.nodata
        else:
            to[...] = part[0, y0 - top : y1 - top, x0 - left : x1 - left]
    return np.moveaxis(result, 0, 2).reshape(height, width, -1)


def _size(page: Any) -> tuple[int, int]:
    """Rows and columns of a strip or tile."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.shaped[2]), page.shaped[3]


def _area(page: Any) -> int:
    high, wide = _size(page)
    return high * wide


def _touched(page: Any, region: Region) -> list[int]:
    """Indices of the strips or tiles that overlap the region."""
    y, x, height, width = region
    planes, _, rows, columns, samples = page.shaped
    high, wide = _size(page)
    if high < 1 or wide < 1 or high * wide * samples > MAX_VALUES:
        raise ValueError(f"strips or tiles of {wide} x {high} pixels")
    down, across = -(-rows // high), -(-columns // wide)
    return [
        (plane * down + row) * across + column
        for plane in range(planes)
        for row in range(y // high, -(-(y + height) // high))
        for column in range(x // wide, -(-(x + width) // wide))
    ]


def _data(page: Any, index: int) -> bytes | None:
    """The bytes of a strip or tile; None if a sparse file omits it."""
    if index >= len(page.dataoffsets):
        raise ValueError("strips or tiles are missing")
    offset, count = page.dataoffsets[index], page.databytecounts[index]
    if count == 0:
        return None
    handle = page.parent.filehandle
    with handle.lock:
        handle.seek(offset)
        data = handle.read(count)
    if len(data) != count:
        raise ValueError(f"{len(data)} of {count} bytes of a strip or tile")
    return bytes(data)
