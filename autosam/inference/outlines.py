"""The objects of an image as polygons, as they are written: along the edges of pixels, or
simplified."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from autosam.data.readers.georeference import require_geo
from autosam.inference.georeference import as_shapely


@dataclass(frozen=True)
class Outlines:
    """Polygons in pixels from the top left corner of the image; geometries of GeoJSON or shapely.

    Attributes:
        rows: properties of each object; `pixels` is its area.
        exact: along the edges of pixels.
        shown: as they are written.
    """

    rows: list[dict[str, Any]]
    exact: list[Any]
    shown: list[Any]

    def features(self) -> Iterator[dict[str, Any]]:
        """The features of GeoJSON, in pixels."""
        for row, one in zip(self.rows, self.shown, strict=True):
            geometry = one if isinstance(one, dict) else one.__geo_interface__
            yield {"type": "Feature", "properties": row, "geometry": geometry}


def outlines_of(
    rows: list[dict[str, Any]], exact: list[Any], simplify: float, disjoint: bool
) -> Outlines:
    """Simplify the polygons of the objects of an image, if that is asked for.

    Args:
        rows: properties of each object, with its `class`.
        exact: geometries along the edges of pixels, see `Outlines`.
        simplify: tolerance, pixels; 0 for none. See `simplified`.
        disjoint: no pixel has two objects. Otherwise those of one class have no pixel in common.

    Raises:
        ConfigError: `simplify` without shapely.
    """
    if not simplify or not rows:
        return Outlines(rows, exact, exact)
    groups = [0 if disjoint else row["class"] for row in rows]
    return Outlines(rows, exact, simplified(exact, groups, simplify))


def simplified(geometries: list[Any], groups: Iterable[Any], tolerance: float) -> list[Any]:
    """Leave out points of polygons by the algorithm of Visvalingam and Whyatt, which drops corners
    whose triangle with the two points beside them is smaller than tolerance^2. Edges that objects
    share stay shared, so that no gaps or overlaps arise within a group.

    Args:
        geometries: see `Outlines`.
        groups: of each; the polygons of a group have no pixel in common.
        tolerance: pixels.

    Returns:
        Valid shapely geometries, oriented as RFC 7946 requires with y upwards.

    Raises:
        ConfigError: a package is missing.
    """
    require_geo("--simplify")
    import shapely

    found, group_of = as_shapely(geometries), np.array(list(groups))
    for group in np.unique(group_of):
        own = group_of == group
        shapes = found[own]
        one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
        meet = np.unique(one[one != other])
        # With a point at each pixel corner, objects that meet have the same ones there.
        shapes[meet] = shapely.segmentize(shapes[meet], 1.0)
        found[own] = shapely.coverage_simplify(shapes, tolerance)
    return list(shapely.orient_polygons(found))
