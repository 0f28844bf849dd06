"""Where an image lies on the earth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile

from autosam.data.images import ImageFile
from autosam.data.pairs import Pixels
from autosam.data.readers.pillow import read_orientation
from autosam.errors import ConfigError, DataError

GEO_TAGS = (33550, 34264, 34735)
"""TIFF tags of georeferences: scale, transformation, keys of the CRS."""


@dataclass(frozen=True)
class Georeference:
    """The coordinates of an image."""

    crs: Any
    """pyproj.CRS."""
    transform: tuple[float, ...]
    """a, b, c, d, e, f: x = a * column + b * row + c, y = d * column + e * row + f, from the top
    left corner of the image to the CRS."""

    def at(self, row: float, column: float) -> tuple[float, float]:
        """x, y of a place in the image, in pixels from its top left corner."""
        a, b, c, d, e, f = self.transform
        return a * column + b * row + c, d * column + e * row + f


def require_geo(option: str) -> None:
    """Refuse what needs coordinates where the packages for them are missing.

    Raises:
        ConfigError: with the command that installs them.
    """
    try:
        import geopandas  # noqa: F401
        import rasterio  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{option}: needs {error.name}: pip install 'autosam[geo]'") from None


def find_georeference(image: Pixels | None) -> Georeference | None:
    """Find the coordinates of an image.

    Args:
        image: where it is read from.

    Returns:
        None if the image is not a file with a CRS.

    Raises:
        ConfigError: it has one, and a package that reads it is missing.
        DataError: its CRS cannot be read, or it is also rotated by an orientation tag.
    """
    if not isinstance(image, ImageFile) or not _has_geo_tags(image.path):
        return None
    require_geo(f"{image.path}: its coordinates")
    import rasterio
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        with rasterio.open(image.path) as file:
            if file.crs is None:
                return None
            georeference = Georeference(CRS.from_user_input(file.crs), tuple(file.transform)[:6])
    except (rasterio.errors.RasterioError, CRSError) as error:
        raise DataError(
            f"{image.path}: its coordinates cannot be read ({error}). Assign a CRS again "
            "(gdal_edit.py -a_srs), or remove it."
        ) from None
    if read_orientation(image.path) != 1:
        raise DataError(
            f"{image.path}: has coordinates and an orientation tag, and it is ambiguous whether "
            "they are of the rotated image. Remove the tag (Orientation, 274)."
        )
    return georeference


def require_georeference(image: Pixels | None, option: str) -> Georeference:
    """Find the coordinates of an image that must have some, see `find_georeference`.

    Raises:
        DataError: it has none.
    """
    require_geo(option)
    found = find_georeference(image)
    if found is None:
        raise DataError(
            f"{image}: has no coordinate reference system, which {option} needs. Use a GeoTIFF "
            "with one, or leave the option out."
        )
    return found


def _has_geo_tags(path: Path) -> bool:
    try:
        with tifffile.TiffFile(path) as file:
            return any(tag in file.pages.first.tags for tag in GEO_TAGS)
    except (tifffile.TiffFileError, OSError):
        return False
