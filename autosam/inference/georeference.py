"""Masks and polygons with the coordinates of their image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autosam.data.readers.georeference import Georeference, square_metres
from autosam.utils.io import write_atomically
from autosam.utils.logging import without_warnings

if TYPE_CHECKING:
    from autosam.inference.outlines import Outlines

BLOCK = 512
"""Side of the tiles of a GeoTIFF, pixels."""


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
        if strip is None:  # of the whole image
            return None
        known[top : top + len(strip)] = strip
        top += len(strip)
    return None if known.all() else known


def frame_of(outlines: Outlines, georeference: Georeference) -> Any:
    """A geopandas table of objects.

    Args:
        outlines: their polygons.
        georeference: of the image.

    Returns:
        A GeoDataFrame in the image's CRS, with a column `area_m2`: the area of the pixels in square
        metres, on the map of a CRS that is true to scale (`keeps_scale`), on the ellipsoid of
        others.
    """
    import geopandas

    crs, rows = georeference.crs, outlines.rows
    shown = _placed(outlines.shown, georeference)
    exact = shown if outlines.shown is outlines.exact else _placed(outlines.exact, georeference)
    areas = square_metres(crs, exact)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table: dict[str, Any] = {name: [row.get(name) for row in rows] for name in columns}
    table["area_m2"] = [round(area, 4) for area in areas]
    return geopandas.GeoDataFrame(table, geometry=shown, crs=crs)


def _placed(geometries: list[Any], georeference: Georeference) -> np.ndarray:
    """Move polygons from pixels to the CRS of an image; shapely geometries."""
    import shapely

    a, b, c, d, e, f = georeference.transform
    steps = np.array([[a, d], [b, e]])
    placed: np.ndarray = shapely.transform(as_shapely(geometries), lambda xy: xy @ steps + (c, f))
    return placed


def as_shapely(geometries: list[Any]) -> np.ndarray:
    """Convert geometries of GeoJSON, or of shapely, to an array of shapely's."""
    from shapely.geometry import shape

    found = np.empty(len(geometries), object)
    for i, one in enumerate(geometries):
        found[i] = shape(one) if isinstance(one, dict) else one
    return found


def write_geopackage(path: Path, frame: Any) -> None:
    """Write a table of objects as a GeoPackage of one layer, named like the file."""

    def write(to: Path) -> None:
        to.unlink()  # GDAL opens a file that exists, and an empty one is no GeoPackage
        with without_warnings():  # the temporary name has another suffix
            frame.to_file(to, driver="GPKG", layer=path.stem, engine="pyogrio")

    write_atomically(path, write)


def wgs84(frame: Any) -> Iterator[dict[str, Any]]:
    """The features of GeoJSON of a table of objects, in WGS 84 (longitude, latitude) as RFC 7946
    requires; objects on both sides of the antimeridian are cut there."""
    import antimeridian

    # Oriented before: a ring that crosses the antimeridian seems to run the other way round.
    moved = frame.set_geometry(frame.geometry.orient_polygons()).to_crs(4326)
    reach = moved.geometry.bounds
    cut = {"Polygon": antimeridian.fix_polygon, "MultiPolygon": antimeridian.fix_multi_polygon}
    for i in moved.index[reach["maxx"] - reach["minx"] > 180]:  # so wide only if it crosses
        outline = moved.geometry[i]
        moved.loc[i, "geometry"] = cut[outline.geom_type](outline)
    yield from moved.iterfeatures(na="drop", drop_id=True)
