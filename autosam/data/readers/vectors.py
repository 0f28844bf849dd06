"""Read labelled polygons from vector files (GeoPackage, GeoJSON, Shapefile), and rasterize them."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autosam.data.readers.georeference import Georeference, require_geo
from autosam.errors import DataError
from autosam.types import Region
from autosam.utils.logging import without_warnings

log = logging.getLogger("autosam")

POLYGON, MULTIPOLYGON = 3, 6
"""shapely's numbers of geometry types."""
PIECES = 64
"""Pieces of an edge as long as a raster, when polygons are projected."""


@dataclass(frozen=True, eq=False)
class Polygons:
    """The polygons of a vector file.

    Attributes:
        frame: geopandas.GeoDataFrame of polygons and multipolygons in two dimensions, valid and not
            empty; its index is the number in the file, from 0.
        classes: uint8, the class 1..K of each.
    """

    frame: Any
    classes: np.ndarray


@dataclass(frozen=True, eq=False)
class PlacedPolygons:
    """Polygons on the grid of a raster.

    Attributes:
        shapes: shapely polygons, large ones first: x is the column and -y the row, in pixels from
            the raster's top left corner.
        classes: uint8, the class 1..K of each.
        tree: shapely.STRtree of `shapes`.
    """

    shapes: np.ndarray
    classes: np.ndarray
    tree: Any

    def draw(self, region: Region) -> tuple[np.ndarray, np.ndarray]:
        """Rasterize the polygons of a region: a pixel belongs to the last polygon that holds its
        centre.

        Args:
            region: in pixels of the raster.

        Returns:
            int32 h x w: 0, or the number of a polygon from 1; and the class 1..K of each polygon.
        """
        found = self.inside(region)
        ids = self._burn(found, range(1, len(found) + 1), region)
        return ids, self.classes[found]

    def draw_class(self, k: int, region: Region) -> np.ndarray:
        """Where polygons of a class lie in a region, bool h x w."""
        found = self.inside(region)
        found = found[self.classes[found] == k]
        return self._burn(found, [1] * len(found), region) > 0

    def inside(self, region: Region) -> np.ndarray:
        """Indices of the polygons that touch a region, in their order."""
        from shapely import box

        y, x, height, width = region
        found = self.tree.query(box(x, -y - height, x + width, -y), "intersects")
        return np.sort(found)

    def _burn(self, found: np.ndarray, values: Sequence[int], region: Region) -> np.ndarray:
        from rasterio.errors import NotGeoreferencedWarning
        from rasterio.features import rasterize
        from rasterio.transform import Affine

        y, x, height, width = region
        if not len(found):
            return np.zeros((height, width), np.int32)
        shapes = zip(self.shapes[found], values, strict=True)
        place = Affine(1, 0, x, 0, -1, -y)
        with without_warnings(NotGeoreferencedWarning):  # that of the first block
            return np.asarray(rasterize(shapes, (height, width), transform=place, dtype=np.int32))


def read_polygons(path: Path, column: str | None, names: Sequence[str]) -> Polygons:
    """Read all polygons of a file.

    Args:
        path: the file, of any vector format that GDAL reads.
        column: with the class of each polygon: its name, or its number 1..K. None: all are of
            class 1.
        names: of the K classes.

    Raises:
        ConfigError: geopandas or rasterio is missing.
        DataError: unreadable, no CRS, several layers, a geometry that is no valid polygon, or a
            value that is no class.
    """
    frame = _read(path)
    if frame.crs is None:
        raise DataError(
            f"{path}: has no coordinate reference system (CRS), so its place is unknown. Assign "
            "it: ogr2ogr -a_srs EPSG:25832 new.gpkg OLD, or add the .prj of a Shapefile."
        )
    absent = frame.geometry.isna() | frame.geometry.is_empty
    if absent.any():
        log.warning("%s: %d of its %d features have no geometry.", path, absent.sum(), len(frame))
        frame = frame[~absent]
    if not len(frame):
        raise DataError(f"{path}: holds no polygon. Draw some, or name another file.")
    _require_polygons(path, frame)
    frame = frame.set_geometry(frame.geometry.force_2d())
    return Polygons(frame, _classes(path, frame, column, names))


def _read(path: Path) -> Any:
    require_geo(f"{path}: vector labels")
    import geopandas
    import pyogrio

    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
        if len(layers) == 1:
            frame = geopandas.read_file(path, layer=layers[0], engine="pyogrio")
    except Exception as error:  # several types, from GDAL and pyogrio
        raise DataError(
            f"{path}: cannot be read as vector data ({str(error)[:160]}). Give a GeoPackage, "
            "GeoJSON or Shapefile."
        ) from None
    if len(layers) != 1:
        found = f"has the layers {', '.join(layers)}" if layers else "has no layer with geometries"
        raise DataError(f"{path}: {found}; expected one. Save the labels as a file of their own.")
    return frame.reset_index(drop=True)


def _require_polygons(path: Path, frame: Any) -> None:
    """
    Raises:
        DataError: a geometry is not a polygon, or invalid.
    """
    import shapely

    shapes = frame.geometry.to_numpy()
    other = ~np.isin(shapely.get_type_id(shapes), (POLYGON, MULTIPOLYGON))
    if other.any():
        first = int(np.flatnonzero(other)[0])
        raise DataError(
            f"{path}: {other.sum()} of its {len(frame)} geometries are not polygons; feature "
            f"{frame.index[first]} is a {shapes[first].geom_type}. Remove them, or buffer them."
        )
    broken = ~shapely.is_valid(shapes)
    if broken.any():
        first = int(np.flatnonzero(broken)[0])
        raise DataError(
            f"{path}: {broken.sum()} of its {len(frame)} polygons are invalid; feature "
            f"{frame.index[first]}: {shapely.is_valid_reason(shapes[first])}. Repair them: ogr2ogr "
            "-makevalid new.gpkg OLD, or QGIS, Fix geometries."
        )


def _classes(path: Path, frame: Any, column: str | None, names: Sequence[str]) -> np.ndarray:
    """The class of each polygon, see `read_polygons`."""
    columns = ", ".join(str(name) for name in frame.columns if name != frame.geometry.name)
    has = f"{path} has {columns or 'none'}"
    if column is None:
        if len(names) > 1:
            raise DataError(
                f"--data.class_column: there are {len(names)} classes, and the column that holds "
                f"the class of a polygon is not set. {has}."
            )
        return np.ones(len(frame), np.uint8)
    if column not in frame.columns or column == frame.geometry.name:
        raise DataError(f"--data.class_column {column}: no such column; {has}.")
    values = frame[column]
    known = {_text(name): k for k, name in enumerate(names, 1)}
    found = [known.get(_text(value)) or _number(value, len(names)) for value in values]
    if None in found:
        unknown = [value for value, k in zip(values, found, strict=True) if k is None]
        listed = ", ".join(sorted({"no value" if _is_null(v) else repr(v) for v in unknown})[:5])
        numbers = [str(k) for k in range(1, len(names) + 1)]
        expected = "" if [*names] == numbers else f"{' or '.join(names[:20])}, or "
        raise DataError(
            f"{path}: column {column} of {len(unknown)} of its {len(frame)} polygons holds "
            f"{listed}, which is no class: expected {expected}1 to {len(names)}. "
            "Set --data.classes, or fix or remove the polygons."
        )
    return np.array(found, np.uint8)


def _text(value: Any) -> str:
    """A class as text: composed characters, and no decimals of whole numbers."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return unicodedata.normalize("NFC", str(value))


def _is_null(value: Any) -> bool:
    return value is None or value != value


def _number(value: Any, most: int) -> int | None:
    """A class number 1 to `most`, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() and 1 <= number <= most else None


def _moved(
    frame: Any, georeference: Georeference, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Move polygons to the CRS of a raster: the parts of them near it, because far ones may have no
    place there, with edges in pieces, because a straight one may become a curve.

    Returns:
        Shapely polygons, and the position of each in the frame.
    """
    import shapely
    from pyproj import CRS, Transformer

    shapes, source = frame.geometry.to_numpy(), CRS.from_user_input(frame.crs)
    kept = np.arange(len(shapes))
    if source.equals(georeference.crs, ignore_axis_order=True):
        return shapes, kept
    height, width = shape
    corners = [georeference.at(y, x) for y in (0, height) for x in (0, width)]
    (left, bottom), (right, top) = np.min(corners, 0), np.max(corners, 0)
    back = Transformer.from_crs(georeference.crs, source, always_xy=True)
    box = back.transform_bounds(left, bottom, right, top)
    if np.isfinite(box).all() and box[0] < box[2]:  # else across the antimeridian
        side = max(box[2] - box[0], box[3] - box[1])
        near = shapely.box(*box).buffer(side / 10, join_style="mitre")
        kept = np.flatnonzero(shapely.intersects(shapes, near))
        shapes = shapes[kept]
        cut = ~shapely.contains_properly(near, shapes)
        shapes[cut] = [_polygonal(one) for one in shapely.intersection(shapes[cut], near)]
        shapes = shapely.segmentize(shapes, side / PIECES)
    there = Transformer.from_crs(source, georeference.crs, always_xy=True)
    moved = shapely.transform(shapes, lambda xy: np.stack(there.transform(*xy.T), 1))
    known = np.isfinite(shapely.bounds(moved)).all(1)
    if not known.all():
        log.warning("%d polygons have no place in %s.", (~known).sum(), georeference.crs.name)
    return moved[known], kept[known]


def _polygonal(shape: Any) -> Any:
    """The parts of a geometry that have an area."""
    import shapely

    parts = shapely.get_parts(shape)
    return shapely.union_all(parts[shapely.area(parts) > 0])


def place_polygons(
    polygons: Polygons, georeference: Georeference, shape: tuple[int, int]
) -> PlacedPolygons:
    """Put polygons on the grid of a raster, in its CRS. Those that do not touch it are left out.

    Args:
        polygons: in any CRS.
        georeference: of the raster.
        shape: H, W of the raster.
    """
    import shapely
    from rasterio.transform import Affine

    moved, kept = _moved(polygons.frame, georeference, shape)
    a, b, c, d, e, f = tuple(~Affine(*georeference.transform))[:6]
    turn = np.array([[a, -d], [b, -e]])
    shapes = shapely.transform(moved, lambda points: points @ turn + (c, -f))
    height, width = shape
    inside = shapely.intersects(shapes, shapely.box(0, -height, width, 0))
    shapes, kept = shapes[inside], kept[inside]
    order = np.argsort(-shapely.area(shapes), kind="stable")
    shapes, kept = shapes[order], kept[order]
    return PlacedPolygons(shapes, polygons.classes[kept], shapely.STRtree(shapes))
