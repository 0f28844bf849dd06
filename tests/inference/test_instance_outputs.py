"""Outputs of instances as read by pycocotools, shapely, scikit-image, pandas and others."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import patch

import numpy as np
import pandas
import pytest
import shapely
import skimage
import tifffile
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO
from shapely.geometry import shape

from autosam.config import ClassConfig, DataConfig
from autosam.config.commands import OutputOptions
from autosam.data.readers.memory import MemoryImage
from autosam.errors import ConfigError
from autosam.evaluation.visualize_instances import overlay_instances
from autosam.inference.formats import FORMATS, geojson
from autosam.inference.label_image import label_path, write_label_image
from autosam.inference.mask_values import named_classes
from autosam.inference.measurements import measure_objects
from autosam.inference.objects import objects_of, rows_of
from autosam.inference.prediction import Prediction
from autosam.inference.predictor import Predictor
from autosam.inference.progress import ProgressLog
from autosam.inference.sources import Source
from autosam.inference.writers import files_of, write_image
from autosam.types import Instances

NAMES = DataConfig(classes=[ClassConfig("round"), ClassConfig("long")])


def random_instances(seed: int, shape: tuple[int, int] = (37, 52), count: int = 25) -> Instances:
    """Cells of a Voronoi diagram that touch each other and the border, some with holes (one of
    them filled by another object), in several parts, one pixel large, or unknown in part."""
    rng = np.random.default_rng(seed)
    seeds = rng.random((count, 2)) * shape
    grid = np.stack(np.mgrid[: shape[0], : shape[1]], -1) + 0.5
    ids = np.linalg.norm(grid[:, :, None] - seeds, axis=-1).argmin(-1) + 1
    ids[rng.random(shape) < 0.1] = 0  # holes of one pixel, some at corners of each other
    ids[ids == 3] = 2  # two parts, or one that is not convex
    ids[ids == 5] = 0
    ids[5:8, 5:8] = 6
    ids[6, 6] = 3
    ids[20:24, :] = 0
    ids[21, 30], ids[22, 31], ids[0, 0], ids[-1, -1] = 5, 5, count + 1, count + 2
    ids[rng.random(shape) < 0.03] = -1
    numbers = np.unique(ids[ids > 0])
    compact = np.full(ids.max() + 2, -1)
    compact[[0, *numbers]] = np.arange(len(numbers) + 1)
    n = len(numbers)
    classes = rng.integers(1, 3, n).astype(np.uint8)
    return Instances(compact[ids].astype(np.int32), classes, rng.random(n).astype(np.float32))


def predicted(instances: Instances) -> Prediction:
    rng = np.random.default_rng(0)
    likely = rng.random((2, *instances.ids.shape)).astype(np.float32)
    of_pixels = np.append(instances.classes, [0, 0])[instances.ids - 1]  # last two: -1 and 0
    masks = np.stack([of_pixels == 1, of_pixels == 2])
    return Prediction(likely, masks, likely, NAMES, instances=instances)


@pytest.mark.parametrize("seed", range(4))
def test_coco_and_geojson_hold_the_pixels_of_each_object(seed: int) -> None:
    """By pycocotools and shapely, against the ids; one entry for each object."""
    instances = random_instances(seed)
    ids, found = instances.ids, predicted(instances)
    assert instances.scores is not None
    exact, outlined = objects_of(found, rle=True), objects_of(found, rle=False)
    features = geojson(found, NAMES)["features"]
    assert len(exact) == len(outlined) == len(features) == len(instances)
    y, x = np.indices(ids.shape) + 0.5
    kinds = set()
    for i, (one, other, feature) in enumerate(zip(exact, outlined, features, strict=True)):
        mask = ids == i + 1
        assert one["segmentation"] == {
            "size": list(ids.shape),
            "counts": coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode(),
        }
        assert one["bbox"] == coco.toBbox(one["segmentation"]).tolist()
        rest = {key: value for key, value in one.items() if key != "segmentation"}
        assert rest == {key: value for key, value in other.items() if key != "segmentation"}
        assert (rest["area"], rest["object"]) == (mask.sum(), i + 1)
        assert rest["category_id"] == instances.classes[i]
        assert rest["score"] == pytest.approx(instances.scores[i], abs=5e-5)

        properties = feature["properties"]
        assert properties["class"] == ("round", "long")[instances.classes[i] - 1]
        assert (properties["object"], properties["pixels"]) == (i + 1, mask.sum())
        drawn = shape(json.loads(json.dumps(feature["geometry"])))
        assert shapely.is_valid(drawn)
        assert drawn.area == mask.sum()
        assert np.array_equal(shapely.contains_xy(drawn, x, y), mask)
        parts = list(drawn.geoms) if drawn.geom_type == "MultiPolygon" else [drawn]
        assert len(parts) == skimage.measure.label(mask, connectivity=1).max()
        assert all(shapely.is_ccw(part.exterior) for part in parts)
        kinds.add((drawn.geom_type, any(part.interiors for part in parts)))

        rings = [np.reshape(ring, (-1, 2)) for ring in other["segmentation"]]
        assert len(rings) == len(parts)
        for ring, part in zip(rings, parts, strict=True):
            assert shapely.Polygon(ring).equals(shapely.Polygon(part.exterior))
    assert {kind for kind, _ in kinds} == {"Polygon", "MultiPolygon"}
    assert any(with_holes for _, with_holes in kinds)


def test_coco_json_opens_in_pycocotools(tmp_path: Path) -> None:
    instances = random_instances(9)
    objects = objects_of(predicted(instances), rle=True)
    log = ProgressLog(tmp_path, {}, {}, True)
    size = {"height": 37, "width": 52}
    log.add({"name": "a", "rows": [], "size": size, "objects": objects})
    log.coco(named_classes(NAMES))
    file = COCO(str(tmp_path / "coco.json"))
    drawn = np.zeros(instances.ids.shape, int)
    for one in file.loadAnns(file.getAnnIds()):
        drawn += file.annToMask(one) * one["object"]
        assert file.annToMask(one).sum() == one["area"]
    assert np.array_equal(drawn, instances.ids.clip(0))
    names = {k: one["name"] for k, one in file.cats.items()}
    assert names == {1: "round", 2: "long"}
    again = file.loadRes([one | {"image_id": 1} for one in objects])  # as the results of a detector
    assert len(again.getAnnIds()) == len(instances)


def test_run_lengths_go_on_from_column_to_column() -> None:
    """Objects as high as the image: their runs join, and the last may end with the image."""
    ids = np.zeros((3, 5), np.int32)
    ids[:, 0] = ids[:, 1] = ids[0, 2] = 1
    ids[2, 2] = 2
    ids[:, 3:] = 2
    found = predicted(Instances(ids, np.array([1, 1], np.uint8)))
    for one, number in zip(objects_of(found, rle=True), (1, 2), strict=True):
        assert np.array_equal(coco.decode(one["segmentation"]), ids == number)
        packed = coco.encode(np.asfortranarray(ids == number).astype(np.uint8))
        assert one["segmentation"]["counts"] == packed["counts"].decode()
        assert "score" not in one  # the truth has none


@pytest.mark.parametrize("seed", range(3))
def test_objects_csv_opens_in_pandas(seed: int, tmp_path: Path) -> None:
    """Against scikit-image object by object, shapely for the centroid, and numpy for the mean."""
    instances = random_instances(seed)
    found = predicted(instances)
    log = ProgressLog(tmp_path, {}, {}, True)
    rows = measure_objects("a", instances, NAMES, found.probabilities)
    log.add({"name": "a", "rows": rows_of("a", found, NAMES), "measured": rows})
    log.table()
    table = pandas.read_csv(tmp_path / "objects.csv")
    assert list(table.columns) == [
        "file", "object", "class", "score", "area", "centroid_x", "centroid_y", "box_x", "box_y",
        "box_width", "box_height", "perimeter", "longest_axis", "probability",
    ]  # fmt: skip
    assert table["object"].tolist() == list(range(1, len(instances) + 1))
    assert table["score"].to_numpy() == pytest.approx(instances.scores, abs=5e-5)
    features = geojson(found, NAMES)["features"]
    boxes = [one["bbox"] for one in objects_of(found, rle=False)]
    assert table[["box_x", "box_y", "box_width", "box_height"]].to_numpy().tolist() == boxes
    for i, (row, feature) in enumerate(zip(table.to_dict("records"), features, strict=True)):
        mask = instances.ids == i + 1
        (alone,) = skimage.measure.regionprops(mask.astype(np.uint8))
        assert row["class"] == feature["properties"]["class"]
        assert row["area"] == mask.sum() == alone.area
        assert row["perimeter"] == pytest.approx(alone.perimeter, abs=5.1e-3)
        assert row["longest_axis"] == pytest.approx(alone.axis_major_length, abs=5.1e-3)
        centre = shape(feature["geometry"]).centroid
        assert (row["centroid_x"], row["centroid_y"]) == pytest.approx(centre.coords[0], abs=5.1e-3)
        mean = found.probabilities[instances.classes[i] - 1][mask].mean()
        assert row["probability"] == pytest.approx(mean, abs=5.1e-5)
    counts = {row["class"]: row["objects"] for row in rows_of("a", found, NAMES)}
    assert counts == table["class"].value_counts().to_dict()
    # What a damaged log may hold is done again, not written.
    log.add({"name": "b", "rows": [], "measured": [{"colour": 1}]})
    assert set(ProgressLog(tmp_path, {}, {}, False).done) == {"a"}


def test_measurements_by_hand() -> None:
    """A square of 4 x 4 with its corner at (2, 1), and a pixel: moments of a square of pixel
    centres, 4 sqrt((4^2 - 1) / 12) by scikit-image's definition of the axis."""
    ids = np.zeros((8, 9), np.int32)
    ids[1:5, 2:6], ids[7, 8], ids[0, 0] = 1, 2, -1
    square, dot = measure_objects("x", Instances(ids, np.array([2, 1], np.uint8)), NAMES)
    assert square == {
        "file": "x", "object": 1, "class": "long", "score": "", "area": 16,
        "centroid_x": 4.0, "centroid_y": 3.0, "box_x": 2, "box_y": 1, "box_width": 4,
        "box_height": 4, "perimeter": 12.0, "longest_axis": 4.47, "probability": "",
    }  # fmt: skip
    assert (dot["class"], dot["centroid_x"], dot["centroid_y"]) == ("round", 8.5, 7.5)
    assert (dot["area"], dot["perimeter"], dot["longest_axis"]) == (1, 0.0, 0.0)


def test_an_image_without_objects(tmp_path: Path) -> None:
    none = Instances(np.zeros((5, 7), np.int32), np.zeros(0, np.uint8), np.zeros(0, np.float32))
    found = predicted(none)
    assert objects_of(found, rle=True) == geojson(found, NAMES)["features"] == []
    assert measure_objects("a", none, NAMES, found.probabilities) == []
    assert [row["objects"] for row in rows_of("a", found, NAMES)] == [0, 0]
    image = np.full((5, 7, 3), 9, np.uint8)
    assert np.array_equal(overlay_instances(image, none.ids), image)
    log = ProgressLog(tmp_path, {}, {}, True)
    log.add({"name": "a", "rows": [], "measured": []})
    log.table()
    assert pandas.read_csv(tmp_path / "objects.csv").empty
    (file,) = found.save(tmp_path / "a.png")
    assert not np.asarray(Image.open(file)).any()


def test_scikit_image_is_asked_for() -> None:
    found = predicted(random_instances(0))
    assert found.instances is not None
    with (
        patch.dict(sys.modules, {"skimage": None}),
        pytest.raises(ConfigError, match=r"objects\.csv: .* pip install 'autosam\[instances\]'"),
    ):
        measure_objects("a", found.instances, NAMES)


def test_pycocotools_is_asked_for_before_there_are_objects() -> None:
    empty = predicted(Instances(np.zeros((5, 7), np.int32), np.zeros(0, np.uint8)))
    with (
        patch.dict(sys.modules, {"pycocotools": None}),
        pytest.raises(ConfigError, match=r"--coco rle: needs pycocotools"),
    ):
        objects_of(empty, rle=True)
    assert objects_of(empty, rle=False) == []


# ---- label images ------------------------------------------------------------------------------


def test_label_images_of_16_bits(tmp_path: Path) -> None:
    ids = np.arange(-1, 65535, dtype=np.int32).reshape(256, 256) + 1
    ids[ids == 700] = -1
    expected = ids.clip(0)
    png = write_label_image(tmp_path / "a.png", ids)
    assert Image.open(png).mode == "I;16"
    assert np.array_equal(np.asarray(Image.open(png)), expected)
    assert np.array_equal(skimage.io.imread(png), expected)
    tif = write_label_image(tmp_path / "a.tif", ids)
    stored = tifffile.imread(tif)
    assert stored.dtype == np.uint16
    assert np.array_equal(stored, expected)
    assert np.array_equal(np.asarray(Image.open(tif)), expected)
    assert (png.name, tif.name) == ("a.png", "a.tif")
    with pytest.raises(ConfigError, match=r"a\.jpg: unknown suffix .* Expected \.png or \.tif"):
        write_label_image(tmp_path / "a.jpg", ids)


def test_more_objects_than_16_bits_hold_are_written_as_tiff(tmp_path: Path) -> None:
    ids = np.arange(65536, dtype=np.int32).reshape(256, 256) + 1
    file = write_label_image(tmp_path / "a.png", ids)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    assert file == label_path(tmp_path / "a.png", 65536) == tmp_path / "a.tif"
    stored = tifffile.imread(file)
    assert stored.dtype == np.uint32
    for read in (stored, np.asarray(Image.open(file)), skimage.io.imread(file)):
        assert np.array_equal(read, ids)
    assert label_path(tmp_path / "a.png", 65535) == tmp_path / "a.png"


def test_a_prediction_of_instances_is_drawn_and_saved(tmp_path: Path) -> None:
    instances = random_instances(2)
    image = np.random.default_rng(0).integers(0, 255, (37, 52, 3)).astype(np.uint8)
    found = replace(predicted(instances), image=MemoryImage(image))
    assert np.array_equal(found.overlay(), overlay_instances(image, instances.ids))
    for name in ("x.png", "x.tif", "x.tiff"):
        assert found.save(tmp_path / name) == [tmp_path / name]
        assert np.array_equal(skimage.io.imread(tmp_path / name), instances.ids.clip(0))
    (outlines,) = found.save(tmp_path / "x.geojson")
    assert len(json.loads(outlines.read_text())["features"]) == len(instances)
    FORMATS["masks"].write([tmp_path / "y.png"], found, NAMES)
    assert np.array_equal(skimage.io.imread(tmp_path / "y.png"), instances.ids.clip(0))


def test_predict_writes_every_file_of_instances(tmp_path: Path) -> None:
    """Counts and areas agree between all files of two images."""
    options = OutputOptions(overlay=True, coco="polygon", geojson=True)
    log = ProgressLog(tmp_path, {}, {}, True)
    truth = {}
    for seed, name in enumerate(("a", "b")):
        image = np.random.default_rng(seed).integers(0, 255, (37, 52, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"{name}.bmp")
        truth[name] = random_instances(seed)
        found = replace(predicted(truth[name]), image=MemoryImage(image))

        class Fixed:
            loaded, tile = SimpleNamespace(config=SimpleNamespace(data=NAMES)), None

            def __call__(self, image: object, found: Prediction = found) -> Prediction:
                return found

        source = Source(tmp_path / f"{name}.bmp", name, "image")
        files = files_of(source, tmp_path, options, NAMES)
        entry = write_image(source, files, cast(Predictor, Fixed()), options)
        assert all(file.is_file() for file in files)
        log.add({"name": source.key, **entry})
    log.table()
    log.coco(named_classes(NAMES))
    table = pandas.read_csv(tmp_path / "objects.csv")
    file = COCO(str(tmp_path / "coco.json"))
    for number, (name, instances) in enumerate(truth.items(), 1):
        ids = np.asarray(Image.open(tmp_path / f"{name}.png"))
        assert np.array_equal(ids, instances.ids.clip(0))
        areas = np.bincount(ids.ravel())[1:].tolist()
        assert table[table["file"] == name]["area"].tolist() == areas
        annotations = file.loadAnns(file.getAnnIds(imgIds=number))
        assert [one["area"] for one in annotations] == areas
        features = json.loads((tmp_path / f"{name}.geojson").read_text())["features"]
        assert [shape(one["geometry"]).area for one in features] == areas
        assert Image.open(tmp_path / f"{name}_overlay.png").size == (52, 37)
    objects = pandas.read_csv(tmp_path / "areas.csv").groupby("file")["objects"].sum()
    assert objects.to_dict() == {name: len(instances) for name, instances in truth.items()}
