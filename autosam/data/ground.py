"""Size of the pixels of an image on the ground."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import tifffile

from autosam.data.images import ImageFile, image_size
from autosam.data.pairs import Pixels
from autosam.data.readers.file_cache import FileCache
from autosam.data.readers.georeference import find_georeference, square_metres
from autosam.errors import DataError

SQUARE = 16
"""Side of the square in the middle of an image that is measured, pixels."""
_sizes: FileCache[float] = FileCache()


def ground_size(image: Pixels) -> float:
    """Side of the pixels of an image on the ground: the square root of their area.

    Args:
        image: a file with coordinates or a slide of Aperio, a part of one (with the file as
            `file`), or a `MemoryImage` that says it.

    Returns:
        In metres: on the map of a CRS that is true to scale, of others on the ellipsoid in the
        middle of the image (see `square_metres`); on the slide.

    Raises:
        DataError: it is not known.
    """
    if (known := getattr(image, "ground", None)) is not None:
        return float(known)
    file = getattr(image, "file", image)
    if isinstance(file, ImageFile):
        return _sizes.get(file.path, file.path, lambda: _size_of(file))
    return _size_of(image)


def _size_of(file: Pixels) -> float:
    """See `ground_size`."""
    if isinstance(file, ImageFile) and (microns := _microns_of(file.path)) is not None:
        return microns * 1e-6
    found = find_georeference(file)
    if found is None:
        raise DataError(
            f"{file}: has no coordinate reference system, so that the size of its pixels on the "
            "ground, which --data.resolution needs, is not known. Use a GeoTIFF with one (or an "
            ".svs slide with its microns per pixel), or leave --data.resolution out."
        )
    from shapely import Polygon

    assert isinstance(file, ImageFile)
    height, width = image_size(file.path)
    corners = [(y, x) for y, x in ((0, 0), (0, SQUARE), (SQUARE, SQUARE), (SQUARE, 0))]
    middle = Polygon([found.at(height / 2 + y, width / 2 + x) for y, x in corners])
    return math.sqrt(square_metres(found.crs, np.array([middle]))[0]) / SQUARE


def _microns_of(path: Path) -> float | None:
    """Microns per pixel that a slide of Aperio (.svs) states; None: it does not, or is none."""
    try:
        with tifffile.TiffFile(path) as file:
            if not file.is_svs:
                return None
            stated = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", file.pages.first.description)
        value = float(stated[1]) if stated else 0.0
    except (tifffile.TiffFileError, OSError, ValueError):
        return None
    return value or None
