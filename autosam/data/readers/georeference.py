"""Where an image lies on the earth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from autosam.data.images import ImageFile
from autosam.data.pairs import Pixels
from autosam.data.readers.pillow import read_orientation
from autosam.errors import ConfigError, DataError
from autosam.utils.logging import without_warnings

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


def find_transform(path: Path) -> tuple[float, ...] | None:
    """The transform of a TIFF with or without a CRS, see `Georeference`; None: it has none."""
    if not _has_geo_tags(path):
        return None
    require_geo(f"{path}: its coordinates")
    import rasterio

    with without_warnings(), rasterio.open(path) as file:  # it warns where there is no transform
        return None if file.transform.is_identity else tuple(file.transform)[:6]


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


def keeps_scale(crs: Any) -> bool:
    """Whether lengths on the map of a CRS (pyproj.CRS) are about those on the ground: of projected
    ones but Mercator's, where they grow with the latitude."""
    if not crs.is_projected:
        return False
    with without_warnings():  # only the projection's name is looked at
        return crs.to_dict().get("proj") not in ("merc", "webmerc")


def square_metres(crs: Any, shapes: np.ndarray) -> list[float]:
    """Areas on the ground.

    Args:
        crs: pyproj.CRS.
        shapes: shapely polygons in it.

    Returns:
        Of each: the area on the map if the CRS is true to scale, else on the ellipsoid.
    """
    import shapely
    from pyproj import Geod, Transformer

    if keeps_scale(crs):
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        return [float(area) * unit**2 for area in shapely.area(shapes)]
    to_degrees, ellipsoid = Transformer.from_crs(crs, 4326, always_xy=True), Geod(ellps="WGS84")
    moved = shapely.transform(shapes, lambda xy: np.stack(to_degrees.transform(*xy.T), 1))
    return [abs(ellipsoid.geometry_area_perimeter(one)[0]) for one in moved]


def _has_geo_tags(path: Path) -> bool:
    try:
        with tifffile.TiffFile(path) as file:
            return any(tag in file.pages.first.tags for tag in GEO_TAGS)
    except (tifffile.TiffFileError, OSError):
        return False
