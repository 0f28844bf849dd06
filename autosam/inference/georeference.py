"""Where an image lies on the earth, and masks and polygons with those coordinates."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
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


def require_geo(option: str) -> tuple[Any, Any]:
    """Import what georeferenced outputs need.

    Returns:
        rasterio and geopandas.

    Raises:
        ConfigError: a package is missing.
    """
    try:
        import geopandas
        import rasterio
    except ImportError as error:
        raise ConfigError(f"{option}: needs {error.name}: pip install 'autosam[geo]'") from None
    return rasterio, geopandas


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
    rasterio, _ = require_geo(f"{image.path}: its coordinates")
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
    known, top, all_known = np.ones((height, width), bool), 0, True
    for strip in valid:
        if strip is None:  # then it is so for every strip of the image
            return None
        known[top : top + len(strip)] = strip
        all_known = all_known and bool(strip.all())
        top += len(strip)
    return None if all_known else known


def shapes_of(mask: np.ndarray) -> Iterator[tuple[Any, int]]:
    """Outlines of the 4-connected components of each value above 0, along the edges of pixels.

    Args:
        mask: uint8 or uint16 H x W.

    Yields:
        A shapely polygon in pixels from the top left corner, and its value.
    """
    from rasterio.features import shapes
    from shapely.geometry import shape

    for outline, value in shapes(mask, mask > 0, connectivity=4):
        yield shape(outline), int(value)


def frame_of(
    outlines: Sequence[Any], rows: Sequence[dict[str, Any]], georeference: Georeference
) -> Any:
    """A geopandas table of objects.

    Args:
        outlines: shapely polygons, in pixels from the top left corner of the image.
        rows: columns of each object.
        georeference: of the image.

    Returns:
        A GeoDataFrame in the image's CRS, with a column `area_m2`: the area in square metres, on
        the map of a projected CRS and on the ellipsoid of a geographic one.
    """
    import geopandas
    from pyproj import Geod
    from shapely import affinity

    a, b, c, d, e, f = georeference.transform
    crs = georeference.crs
    placed = [affinity.affine_transform(outline, [a, b, d, e, c, f]) for outline in outlines]
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
    from shapely.geometry import mapping
    from shapely.geometry.polygon import orient

    def oriented(outline: Any) -> Any:
        parts = getattr(outline, "geoms", None)
        if parts is None:
            return orient(outline)
        return type(outline)([orient(part) for part in parts])

    moved = frame.to_crs(4326)
    names = [name for name in moved.columns if name != "geometry"]
    features = [
        {
            "type": "Feature",
            "properties": {name: row[name] for name in names if row[name] is not None},
            "geometry": json.loads(json.dumps(mapping(oriented(row["geometry"])))),
        }
        for row in moved.to_dict("records")
    ]
    return {"type": "FeatureCollection", "features": features}
