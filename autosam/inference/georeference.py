"""Where an image lies on the earth, and masks and polygons with those coordinates."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from autosam.data.images import ImageFile
from autosam.data.pairs import Pixels
from autosam.data.readers.pillow import read_orientation
from autosam.errors import ConfigError, DataError
from autosam.utils.io import write_atomically

GEO_TAGS = (33550, 34264, 34735)
"""TIFF tags of georeferences: scale, transformation, keys of the CRS."""
BLOCK = 512
"""Side of the tiles of a GeoTIFF, pixels."""


@dataclass(frozen=True)
class Georeference:
    """The coordinates of an image."""

    crs: Any
    """pyproj.CRS."""
    transform: tuple[float, ...]
    """a, b, c, d, e, f: x = a * column + b * row + c, y = d * column + e * row + f, from the top
    left corner of the image to the CRS."""


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


def write_geotiff(
    path: Path,
    masks: Sequence[np.ndarray],
    georeference: Georeference,
    valid: Iterable[np.ndarray | None],
) -> None:
    """Write masks as a GeoTIFF: tiled, compressed, with overviews, and with a mask of the pixels
    that hold data.

    Args:
        path: the file.
        masks: uint8 or uint16 H x W, one for each band.
        georeference: that of the image.
        valid: where the image holds data, bool h x W of strips from top to bottom; None:
            everywhere.
    """
    import rasterio
    from rasterio.enums import Resampling

    height, width = masks[0].shape
    settings: dict[str, Any] = {"driver": "GTiff", "height": height, "width": width}
    settings |= {"count": len(masks), "dtype": masks[0].dtype, "compress": "deflate"}
    settings |= {"crs": georeference.crs.to_wkt(), "transform": georeference.transform}
    if min(height, width) >= BLOCK:
        settings |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    factors = [2**i for i in range(1, 12) if max(height, width) / 2**i > BLOCK / 2]

    def write(to: Path) -> None:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GTIFF_WRITE_TOWGS84=False),
            rasterio.open(to, "w", **settings) as file,
        ):
            for band, mask in enumerate(masks, 1):
                file.write(mask, band)
            known = _known_rows(height, width, valid)
            if known is not None:
                file.write_mask(known)
            file.build_overviews(factors, Resampling.nearest)

    write_atomically(path, write)


def _known_rows(height: int, width: int, valid: Iterable[np.ndarray | None]) -> np.ndarray | None:
    """Join strips of known pixels to bool H x W; None if all are known."""
    known, top = np.ones((height, width), bool), 0
    for strip in valid:
        if strip is None:  # then it is so for every strip of the image
            return None
        known[top : top + len(strip)] = strip
        top += len(strip)
    return None if known.all() else known


def frame_of(features: Sequence[dict[str, Any]], georeference: Georeference) -> Any:
    """A geopandas table of objects.

    Args:
        features: of GeoJSON, in pixels from the top left corner of the image.
        georeference: of the image.

    Returns:
        A GeoDataFrame in the image's CRS, with a column `area_m2`: the area in square metres, on
        the map of a projected CRS and on the ellipsoid of a geographic one.
    """
    import geopandas
    from pyproj import Geod
    from shapely import affinity
    from shapely.geometry import shape

    a, b, c, d, e, f = georeference.transform
    crs = georeference.crs
    steps, rows = [a, b, d, e, c, f], [feature["properties"] for feature in features]
    placed = [affinity.affine_transform(shape(one["geometry"]), steps) for one in features]
    if crs.is_geographic:
        ellipsoid = crs.get_geod() or Geod(ellps="WGS84")
        areas = [abs(ellipsoid.geometry_area_perimeter(one)[0]) for one in placed]
    else:
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        areas = [one.area * unit**2 for one in placed]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table: dict[str, Any] = {name: [row.get(name) for row in rows] for name in columns}
    table["area_m2"] = [round(area, 4) for area in areas]
    return geopandas.GeoDataFrame(table, geometry=placed, crs=crs)


def write_geopackage(path: Path, frame: Any) -> None:
    """Write a table of objects as a GeoPackage of one layer, named like the file."""

    def write(to: Path) -> None:
        to.unlink()  # GDAL opens a file that exists, and an empty one is no GeoPackage
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the temporary name has another suffix
            frame.to_file(to, driver="GPKG", layer=path.stem, engine="pyogrio")

    write_atomically(path, write)


def wgs84(frame: Any) -> dict[str, Any]:
    """A table of objects as GeoJSON in WGS 84 (longitude, latitude), as RFC 7946 requires."""
    moved = frame.to_crs(4326)
    moved.geometry = moved.geometry.orient_polygons()
    found: dict[str, Any] = moved.to_geo_dict(na="drop", drop_id=True)
    return found
