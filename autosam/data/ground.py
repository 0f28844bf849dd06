"""Size of the pixels of an image on the ground."""

from __future__ import annotations

import math
import re
from pathlib import Path

import tifffile

from autosam.data.images import ImageFile, image_size
from autosam.data.pairs import Pixels
from autosam.data.readers.file_cache import FileCache
from autosam.data.readers.georeference import find_georeference
from autosam.errors import DataError

_sizes: FileCache[float] = FileCache()


def ground_size(image: Pixels) -> float:
    """Side of the pixels of an image on the ground: the square root of their area.

    Args:
        image: a file with coordinates or a slide of Aperio, a part of one (with the file as
            `file`), or a `MemoryImage` that says it.

    Returns:
        In metres: on the map of a projected CRS, on the ellipsoid, in the middle of the image, of a
        geographic one; on the slide.

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
    a, b, c, d, e, f = found.transform
    area, axes = abs(a * e - b * d), found.crs.axis_info
    if not found.crs.is_geographic:
        unit = axes[0].unit_conversion_factor if axes else 1.0
        return math.sqrt(area) * unit
    from pyproj import Geod

    assert isinstance(file, ImageFile)
    ellipsoid = found.crs.get_geod() or Geod(ellps="WGS84")
    height, width = image_size(file.path)
    x, y = a * width / 2 + b * height / 2 + c, d * width / 2 + e * height / 2 + f
    step = 1e-4  # degrees, about 10 m
    east = ellipsoid.inv(x - step / 2, y, x + step / 2, y)[2] / step
    north = ellipsoid.inv(x, y - step / 2, x, y + step / 2)[2] / step
    return math.sqrt(area * east * north)


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
