"""Georeferenced outputs, read again by rasterio, geopandas and shapely alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import tifffile
from affine import Affine
from PIL import Image
from pyproj import Geod, Transformer
from rasterio.features import rasterize
from scipy import ndimage
from shapely import Polygon, box, segmentize
from shapely.geometry import shape
from shapely.ops import transform as moved

import autosam
from autosam.config import DataConfig
from autosam.config.commands import PredictConfig
from autosam.data.images import ImageFile
from autosam.data.readers.georeference import require_georeference
from autosam.errors import DataError
from autosam.inference.georeference import wgs84, write_geotiff
from autosam.inference.strips import _valid_strips
from autosam.predict import predict

UTM = ("EPSG:25832", Affine(0.2, 0, 500_000.1, 0, -0.2, 5_400_000.3))
"""Pixels of 20 cm."""
DEGREES = ("EPSG:4326", Affine(2e-6, 0, 9.001, 0, -2e-6, 48.7))
FEET = ("EPSG:2263", Affine(0.5, 0, 985_000, 0, -0.5, 195_000))
"""New York, US survey feet."""
TURNED = ("EPSG:25832", Affine(0.2, 0.05, 500_000, 0.05, -0.2, 5_400_000))


def write(path: Path, where: tuple[str, Affine], nodata: int | None = None) -> np.ndarray:
    """An image of several bright squares, with a corner without data."""
    rng = np.random.default_rng(3)
    image = rng.integers(1, 90, (150, 230, 3), dtype=np.uint8)
    for y, x in ((10, 20), (60, 100), (100, 180), (40, 30)):
        image[y : y + 18, x : x + 22] += 140
    if nodata is not None:
        image[:30, :40] = nodata
    crs, place = where
    settings = {"driver": "GTiff", "height": 150, "width": 230, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=crs, transform=place, nodata=nodata, **settings) as file:
        file.write(image.transpose(2, 0, 1))
    return image


def segment(trained: Path, source: Path, out: Path, **settings: object) -> None:
    settings = {"geotiff": True, "geopackage": True, "geojson": True, **settings}
    predict(PredictConfig(str(trained), str(source), str(out), **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [10**9, 10])
@pytest.mark.parametrize("where", [UTM, DEGREES, FEET, TURNED])
def test_rasters_and_polygons_lie_where_the_image_does(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[str, Affine],
    most: int,
) -> None:  # fmt: skip
    """In memory, and in strips as for very large images."""
    monkeypatch.setattr("autosam.inference.writers.MAX_LOGITS", most)
    monkeypatch.setattr("autosam.inference.strips.CHUNK", 64)
    crs, place = where
    source, out = tmp_path / "ortho.tif", tmp_path / "out"
    write(source, where)
    segment(trained, source, out, tile=60)
    mask = np.asarray(Image.open(out / "ortho.png"))
    assert 0 < (mask > 0).mean() < 1
    with rasterio.open(out / "ortho_mask.tif") as file:
        assert file.crs == rasterio.CRS.from_string(crs)
        assert file.transform.almost_equals(place, 1e-9)
        assert np.array_equal(file.read(1), mask)
        assert file.dataset_mask().all()
    table = geopandas.read_file(out / "ortho.gpkg")
    assert table.crs.to_epsg() == int(crs.split(":")[1])
    assert table.is_valid.all()
    # Burnt by GDAL onto the image's grid, the polygons are the mask.
    again = rasterize(table.geometry, mask.shape, transform=place)
    assert np.array_equal(again > 0, mask > 0)
    assert len(table) == ndimage.label(mask)[1]
    assert table["pixels"].sum() == (mask > 0).sum()
    content = json.loads((out / "ortho.geojson").read_text())
    to_degrees = Transformer.from_crs(crs, 4326, always_xy=True).transform
    ellipsoid = Geod(ellps="WGS84")
    assert len(content["features"]) == len(table)
    for feature, (_, row) in zip(content["features"], table.iterrows(), strict=True):
        outline = shape(feature["geometry"])
        assert outline.exterior.is_ccw  # RFC 7946
        assert outline.equals_exact(moved(to_degrees, row.geometry), 1e-9, normalize=True)
        area = abs(ellipsoid.geometry_area_perimeter(outline)[0])
        assert row["area_m2"] == pytest.approx(area, rel=2e-3)  # maps of a CRS stretch
        assert feature["properties"]["area_m2"] == row["area_m2"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("crs", "outline", "parts"),
    [  # UTM 60S around 180 degrees, with a hole; the same, off the edge of the map; the South Pole
        (32760, box(815000, 7900000, 845000, 7930000) - box(816000, 7901000, 844000, 7929000), 2),
        (32601, box(170000, 3000000, 210000, 3040000), 2),
        (32760, box(500000, 7900000, 510000, 7910000), 1),
        (3031, box(-50000, -900000, 50000, -800000), 2),
        (3031, segmentize(box(-50000, -50000, 50000, 60000), 1000), 1),
    ],
)
def test_objects_on_the_antimeridian_are_cut(crs: int, outline: Polygon, parts: int) -> None:
    frame = geopandas.GeoDataFrame({"a": [1, 2]}, geometry=[outline, outline], crs=crs)
    for feature in wgs84(frame):
        found = shape(feature["geometry"])
        assert found.is_valid
        pieces = getattr(found, "geoms", [found])
        assert len(pieces) == parts
        ellipsoid = Geod(ellps="WGS84")
        area = sum(ellipsoid.geometry_area_perimeter(piece)[0] for piece in pieces)
        # Maps stretch areas by a few per cent; a wrong side of the globe is 100 times as large.
        assert area == pytest.approx(outline.area, rel=0.07)
        assert all(piece.exterior.is_ccw for piece in pieces)
    assert geopandas.GeoDataFrame(frame).geometry[0].equals(outline)


def test_a_prediction_is_saved_with_coordinates(trained: Path, tmp_path: Path) -> None:
    write(tmp_path / "ortho.tif", UTM)
    found = autosam.load(trained)(tmp_path / "ortho.tif")
    assert found.save(tmp_path / "new.tif") == [tmp_path / "new.tif"]
    with rasterio.open(tmp_path / "new.tif") as file:
        assert file.crs.to_epsg() == 25832
        assert np.array_equal(file.read(1) > 0, found.masks[0])


def test_pixels_without_data_are_marked(trained: Path, tmp_path: Path) -> None:
    source = tmp_path / "ortho.tif"
    write(source, UTM, nodata=0)
    segment(trained, source, tmp_path / "out")
    with rasterio.open(source) as image, rasterio.open(tmp_path / "out/ortho_mask.tif") as file:
        assert np.array_equal(file.dataset_mask(), image.dataset_mask())
        assert not file.read(1)[:30, :40].any()


def test_overviews_and_tiles(tmp_path: Path) -> None:
    """GDAL's own reading of what was written."""
    from pyproj import CRS

    from autosam.data.readers.georeference import Georeference
    from autosam.inference.georeference import write_geotiff

    mask = np.zeros((1500, 1300), np.uint8)
    mask[200:900, 300:1000] = 255
    write_geotiff(tmp_path / "a.tif", [mask], Georeference(CRS(25832), tuple(UTM[1])[:6]), [None])
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.overviews(1) == [2, 4]
        assert file.profile["tiled"]
        assert file.compression.name == "deflate"
        assert np.array_equal(file.read(1, out_shape=(750, 650)), mask[::2, ::2])


def test_images_without_coordinates(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GeoJSON stays in pixels; what needs coordinates says so."""
    image = write(tmp_path / "ortho.tif", UTM)
    tifffile.imwrite(tmp_path / "plain.tif", image)
    Image.fromarray(image).save(tmp_path / "plain.png")
    for name in ("plain.tif", "plain.png"):
        out = tmp_path / f"out-{name}"
        source = tmp_path / name
        segment(trained, source, out, geotiff=False, geopackage=False, tile=60)
        content = json.loads((out / "plain.geojson").read_text())
        assert max(y for f in content["features"] for _, y in f["geometry"]["coordinates"][0]) > 90
        for option in ("geotiff", "geopackage"):
            with pytest.raises(DataError, match="1 of 1 were skipped"):
                predict(
                    PredictConfig(str(trained), str(source), str(out / option), **{option: True})
                )
            assert f"has no coordinate reference system, which --{option} needs" in (
                capsys.readouterr().err
            )
            left = {path.name for path in (out / option).iterdir()}
            assert left == {
                "predictions.jsonl",
                "areas.csv",
            }  # nothing of an image that was skipped


def test_coordinates_with_an_orientation_are_ambiguous(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "ortho.tif"
    write(source, UTM)
    with tifffile.TiffFile(source) as file:
        tags = file.pages.first.tags
        extra = [
            (tag.code, tag.dtype, tag.count, tag.value, True)
            for tag in tags
            if tag.code in (33550, 33922, 34735, 34736, 34737)
        ]
        image = file.asarray()
    extra.append((274, 3, 1, 6, True))
    tifffile.imwrite(source, image, extratags=extra, metadata=None)
    with pytest.raises(DataError):
        segment(trained, source, tmp_path / "out")
    assert "coordinates and an orientation tag" in capsys.readouterr().err


@pytest.mark.parametrize("most", [10**9, 10])
def test_simplified_outlines(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Fewer points, as many objects, the areas of the masks; another tolerance is written again."""
    monkeypatch.setattr("autosam.inference.writers.MAX_LOGITS", most)
    source, out = tmp_path / "ortho.tif", tmp_path / "out"
    write(source, UTM)
    tables = []
    for tolerance in (0, 1.5, 1.5, 0):
        segment(trained, source, out, tile=60, simplify=tolerance)
        tables.append(geopandas.read_file(out / "ortho.gpkg"))
        content = json.loads((out / "ortho.geojson").read_text())
        points = [len(one["geometry"]["coordinates"][0]) for one in content["features"]]
        assert points == shapely.get_num_coordinates(
            shapely.get_exterior_ring(tables[-1].geometry)
        ).tolist()  # fmt: skip
    exact, simple, again, back = tables
    assert exact.equals(back)
    assert simple.equals(again)
    assert simple.is_valid.all()
    for column in ("pixels", "area_m2"):
        assert simple[column].equals(exact[column])
    assert simple.count_coordinates().sum() < 0.8 * exact.count_coordinates().sum()
    apart = simple.symmetric_difference(exact).area / exact.length  # mean distance, m
    assert 0 < apart.max() < 1.5 * 0.2


def test_neighbours_that_are_simplified_share_their_edges() -> None:
    """A random map of instances that fills the image: a coverage before and after."""
    from autosam.inference.outlines import simplified
    from autosam.inference.polygons import polygons_of

    rng = np.random.default_rng(0)
    seeds = rng.uniform(0, 60, (12, 2))
    y, x = np.mgrid[:60, :60]
    number = np.argmin([np.hypot(y - a, x - b) + 2 * np.sin(x / 3) for a, b in seeds], 0)
    exact = [
        {"type": "MultiPolygon", "coordinates": polygons_of(number == i)} for i in range(12)
    ]  # fmt: skip
    found = simplified(exact, [0] * 12, 3.0)
    assert shapely.coverage_is_valid(found)
    assert shapely.is_valid(found).all()
    whole = shapely.union_all(found)
    assert sum(one.area for one in found) == pytest.approx(whole.area)
    assert whole.equals(shapely.box(0, 0, 60, 60))  # no gap
    before = shapely.get_num_coordinates([shape(one) for one in exact]).sum()
    assert shapely.get_num_coordinates(found).sum() < before / 3
    # Overlapping classes are simplified each by itself.
    square = shapely.box(0, 0, 8, 8)
    assert shapely.equals(simplified([square, square], [1, 2], 2.0), square).all()


def test_outlines_of_masks_that_touch_at_corners() -> None:
    """By GDAL, for images of any size, against those in memory."""
    from autosam.inference.formats import geojson
    from autosam.inference.prediction import Prediction
    from autosam.inference.strips import _outlines_of

    rng = np.random.default_rng(0)
    for share in (0.3, 0.5, 0.7):
        masks = rng.random((2, 40, 50)) < share
        data = DataConfig(num_classes=2, exclusive=False)
        likely = masks.astype(np.float32)
        features = geojson(Prediction(likely, masks, likely), data)["features"]
        found = _outlines_of(masks * np.array([1, 2], np.uint8)[:, None, None], data)
        assert shapely.is_valid(found.exact).all()
        assert len(found.exact) == sum(ndimage.label(mask)[1] for mask in masks) == len(features)

        def facts(features: Iterable[dict[str, Any]]) -> list[Any]:
            return sorted(
                (one["properties"]["class"], one["properties"]["pixels"], outline.normalize().wkt)
                for one in features
                for outline in [shape(one["geometry"])]
            )

        assert facts(found.features()) == facts(features)
        for one in found.exact:
            assert one.exterior.is_ccw


def test_strips_of_pixels_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first strip has some, the second none: the mask that rasterio reads has them all."""
    monkeypatch.setattr("autosam.inference.strips.CHUNK", 16)
    values = np.full((3, 40, 30), 9, np.uint8)
    values[:, :5, :7] = 0
    place = Affine(1, 0, 500_000, 0, -1, 5_500_000)
    facts = {"driver": "GTiff", "count": 3, "height": 40, "width": 30, "dtype": "uint8"}
    facts |= {"crs": "EPSG:25832", "transform": place, "nodata": 0}
    with rasterio.open(tmp_path / "a.tif", "w", **facts) as file:
        file.write(values)
    image = ImageFile(tmp_path / "a.tif")
    strips = _valid_strips(image, 40, 30)
    georeference = require_georeference(image, "test")
    write_geotiff(tmp_path / "m.tif", [np.zeros((40, 30), np.uint8)], georeference, strips)
    with rasterio.open(tmp_path / "m.tif") as file:
        assert np.array_equal(file.read_masks(1) > 0, values[0] > 0)
