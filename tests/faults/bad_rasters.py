"""The layout `rasters`: large TIFFs with polygons or label TIFFs."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random
from typing import Any

import geopandas
import miniature
import numpy as np
import rasterio
from affine import Affine
from corpus import Bad, Good, cause, reading
from shapely.geometry import LineString, Point, Polygon, box

from autosam.errors import DataError

UTM = Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)


def write(path: Path, values: np.ndarray, crs: str | None = "EPSG:25832", at: Affine = UTM) -> None:
    settings = {"driver": "GTiff", "height": 128, "width": 160, "count": len(values)}
    with rasterio.open(path, "w", dtype="uint8", crs=crs, transform=at, **settings) as file:
        file.write(values)


def image(folder: Path, **more: Any) -> Path:
    values = np.random.default_rng(0).integers(1, 255, (3, 128, 160), dtype=np.uint8)
    write(folder / "ortho.tif", values, **more)
    return folder / "ortho.tif"


def frame(*more: Any, east: float = 0) -> Any:
    shapes = [box(x, 5_399_945, x + 10, 5_399_990) for x in (500_005 + east, 500_040 + east)]
    table = {"kind": ["tree"] * (2 + len(more))}
    return geopandas.GeoDataFrame(table, geometry=[*shapes, *more], crs=25832)


def of(rng: Random, good: Good, folder: Path, labels: Path, named: str, *flags: str) -> Bad:
    way = "masks" if labels.suffix == ".tif" else "annotations"
    where = (f"--data.images={folder / 'ortho.tif'}", f"--data.{way}={labels}")
    return reading(rng, good, folder, "--data.layout=rasters", "--data.block=64", *where, *flags), (
        named
    )


@cause("rasters", DataError, r"a\.shp: has no coordinate reference system.*Assign it")
def polygons_without_crs(rng: Random, folder: Path, good: Good) -> Bad:
    image(folder)
    frame().to_file(folder / "a.shp")
    (folder / "a.prj").unlink()
    return of(rng, good, folder, folder / "a.shp", "a.shp")


@cause("rasters", DataError, r"ortho\.tif: has no coordinate reference system.*Assign it")
def a_raster_without_crs(rng: Random, folder: Path, good: Good) -> Bad:
    image(folder, crs=None)
    frame().to_file(folder / "a.gpkg")
    return of(rng, good, folder, folder / "a.gpkg", "ortho.tif")


@cause("rasters", DataError, r"1 of its 3 polygons are invalid; feature 2: Self-inter.*Repair")
def a_polygon_that_crosses_itself(rng: Random, folder: Path, good: Good) -> Bad:
    image(folder)
    x, y = 500_020 + rng.random(), 5_399_960
    bow = Polygon([(x, y), (x + 9, y + 9), (x + 9, y), (x, y + 9)])
    frame(bow).to_file(folder / "a.geojson")
    return of(rng, good, folder, folder / "a.geojson", "a.geojson")


@cause("rasters", DataError, r"1 of its 3 geometries are not polygons; feature 2 is a \w+. Remove")
def a_line_or_a_point(rng: Random, folder: Path, good: Good) -> Bad:
    image(folder)
    line = LineString([(500_000, 5_399_990), (500_020, 5_399_980)])
    frame(rng.choice([line, Point(500_000, 5_399_990)])).to_file(folder / "a.gpkg")
    return of(rng, good, folder, folder / "a.gpkg", "a.gpkg")


@cause("rasters", DataError, r"none of its 2 polygons touches a raster.*wrong CRS")
def polygons_elsewhere(rng: Random, folder: Path, good: Good) -> Bad:
    image(folder)
    moved = frame() if rng.random() < 0.5 else frame(east=500)
    if moved.total_bounds[0] < 500_100:
        moved = moved.set_crs(32633, allow_override=True)
    moved.to_file(folder / "a.gpkg")
    return of(rng, good, folder, folder / "a.gpkg", "a.gpkg")


@cause("rasters", DataError, r"column kind of 2 of its 2 polygons holds 'tree', which is no class")
def a_class_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    image(folder)
    frame().to_file(folder / "a.gpkg")
    classes = rng.choice(["[{name: Tree}, {name: rock}]", "[{name: house}, {name: rock}]"])
    flags = ("--data.class_column=kind", f"--data.classes={classes}")
    return of(rng, good, folder, folder / "a.gpkg", "a.gpkg", *flags)


@cause("rasters", DataError, r"--data.class_column \w+: no such column; .*a\.gpkg has kind")
def a_column_that_is_missing(rng: Random, folder: Path, good: Good) -> Bad:
    image(folder)
    frame().to_file(folder / "a.gpkg")
    column = rng.choice(["Kind", "geometry", "class"])
    return of(rng, good, folder, folder / "a.gpkg", "a.gpkg", f"--data.class_column={column}")


@cause("rasters", DataError, r"has the layers one, two; expected one\. Save the labels")
def several_layers(rng: Random, folder: Path, good: Good) -> Bad:
    image(folder)
    for name in ("one", "two"):
        frame().to_file(folder / "a.gpkg", layer=name)
    return of(rng, good, folder, folder / "a.gpkg", "a.gpkg")


@cause("rasters", DataError, r"cannot be read as vector data|holds no polygon|has no layer")
def no_vector_file(rng: Random, folder: Path, good: Good) -> Bad:
    image(folder)
    path = folder / rng.choice(["a.gpkg", "a.geojson", "a.shp"])
    if rng.random() < 0.5 and path.suffix == ".gpkg":
        sqlite3.connect(path).close()
    else:
        path.write_bytes(rng.randbytes(rng.randrange(1, 300)))
    return of(rng, good, folder, path, path.name)


@cause("rasters", DataError, r"is 128 x 160 but its mask .*labels\.tif is 40 x 56")
def labels_of_another_size(rng: Random, folder: Path, good: Good) -> Bad:
    image(folder)
    _, mask = miniature.draw_image(0)
    miniature.write(folder / "labels.tif", mask.astype(np.uint8))
    return of(rng, good, folder, folder / "labels.tif", "labels.tif")


@cause(
    "rasters", DataError, r"labels\.tif (are [\d.]+ pixels apart|in WGS 84 .*)\. Warp the labels"
)
def labels_on_another_grid(rng: Random, folder: Path, good: Good) -> Bad:
    image(folder)
    values = np.ones((1, 128, 160), np.uint8)
    if rng.random() < 0.5:
        write(folder / "labels.tif", values, "EPSG:32633")
    else:
        write(folder / "labels.tif", values, at=Affine(0.5, 0, 500_000.1, 0, -0.5, 5_400_000))
    return of(rng, good, folder, folder / "labels.tif", "labels.tif")


@cause("rasters", DataError, r"not a TIFF, and --data.layout rasters reads no other images")
def a_png(rng: Random, folder: Path, good: Good) -> Bad:
    pixels, _ = miniature.draw_image(0)
    miniature.write(folder / "a.png", pixels).rename(folder / "ortho.tif")
    frame().to_file(folder / "a.gpkg")
    return of(rng, good, folder, folder / "a.gpkg", "ortho.tif")
