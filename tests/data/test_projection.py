"""Polygons and sizes in coordinate systems that are not true to scale, or far from the raster."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from pyproj import Geod, Transformer
from rasterio.transform import from_origin
from shapely.geometry import Polygon, box

from autosam.data.ground import ground_size
from autosam.data.images import ImageFile
from autosam.data.readers.georeference import (
    Georeference,
    keeps_scale,
    require_georeference,
    square_metres,
)
from autosam.data.readers.vectors import place_polygons, read_polygons

SIZE = 200


def raster(path: Path, crs: str, left: float, top: float, pixel: float) -> ImageFile:
    facts = {"driver": "GTiff", "count": 3, "height": SIZE, "width": SIZE, "dtype": "uint8"}
    place = from_origin(left, top, pixel, pixel)
    with rasterio.open(path, "w", crs=crs, transform=place, **facts) as file:
        file.write(np.ones((3, SIZE, SIZE), np.uint8))
    return ImageFile(path)


def covered(tmp_path: Path, shape: Polygon, crs: str | int) -> float:
    """The share of a raster of 200 m in UTM 32 that a polygon covers."""
    image = raster(tmp_path / "a.tif", "EPSG:25832", 500_000, 5_500_000, 1.0)
    file = tmp_path / "labels.gpkg"
    geopandas.GeoDataFrame(geometry=[shape], crs=crs).to_file(file)
    placed = place_polygons(
        read_polygons(file, None, ["a"]), require_georeference(image, "test"), (SIZE, SIZE)
    )
    return float((placed.draw((0, 0, SIZE, SIZE))[0] > 0).mean())


@pytest.mark.parametrize(
    ("shape", "crs"),
    [
        (box(-180, -90, 180, 90), 4326),
        (box(-100, 0, 100, 90), 4326),
        (box(-20_037_508, -20_037_508, 20_037_508, 20_037_508), 3857),
        (box(8.9, 49.6, 9.1, 49.7), 4326),
    ],
)
def test_polygons_that_reach_beyond_a_projection(tmp_path: Path, shape: Polygon, crs: int) -> None:
    assert covered(tmp_path, shape, crs) == 1


@pytest.mark.parametrize("wide", [0.01, 0.2, 1.0, 5.0])
def test_a_parallel_is_a_curve(tmp_path: Path, wide: float) -> None:
    """A polygon that ends at the parallel through the middle of the raster covers half of it."""
    to_degrees = Transformer.from_crs(25832, 4326, always_xy=True)
    longitude, latitude = to_degrees.transform(500_100, 5_499_900)
    shape = box(longitude - wide / 2, latitude, longitude + wide / 2, latitude + 0.1)
    assert covered(tmp_path, shape, 4326) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("crs", "true_to_scale"),
    [
        ("EPSG:25832", True),
        ("EPSG:31467", True),
        ("EPSG:2263", True),
        ("EPSG:3857", False),
        ("EPSG:3395", False),
        ("EPSG:3832", False),
        ("ESRI:102100", False),
        ("EPSG:4326", False),
        ("EPSG:4807", False),
        ("EPSG:25832+5783", True),
        ("EPSG:3857+5773", False),
    ],
)
def test_sizes_on_the_ground(tmp_path: Path, crs: str, true_to_scale: bool) -> None:
    """A square of 200 m at the middle of the area of use, measured by PROJ's geodesics."""
    from pyproj import CRS

    system = CRS(crs)
    assert keeps_scale(system) == true_to_scale
    center = {"EPSG:2263": (-74.0, 40.7), "EPSG:4807": (2.3, 48.9), "EPSG:3832": (178.0, -17.8)}
    longitude, latitude = center.get(crs, (9.5, 60.0 if "3857" in crs or "102" in crs else 50.0))
    geod, ring = Geod(ellps="WGS84"), []
    for azimuth in (45, 135, 225, 315):
        ring.append(geod.fwd(longitude, latitude, azimuth, 100 * 2**0.5)[:2])
    truth = abs(geod.polygon_area_perimeter(*zip(*ring, strict=True))[0])
    there = Transformer.from_crs(4326, system, always_xy=True)
    shape = Polygon([there.transform(*corner) for corner in ring])
    assert square_metres(system, np.array([shape]))[0] == pytest.approx(truth, rel=2e-3)


def test_pixels_of_a_web_map(tmp_path: Path) -> None:
    """One metre of the map is half a metre of the ground at 60 degrees north."""
    x, y = Transformer.from_crs(4326, 3857, always_xy=True).transform(10.0, 60.0)
    image = raster(tmp_path / "web.tif", "EPSG:3857", x, y, 1.0)
    assert ground_size(image) == pytest.approx(0.5, rel=5e-3)
    assert isinstance(require_georeference(image, "test"), Georeference)
