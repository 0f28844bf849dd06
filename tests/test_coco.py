"""COCO files, and what is wrong with them named."""

from __future__ import annotations

import json
from pathlib import Path

import miniature
import numpy as np
import pytest

from autosam.config import ClassConfig, DataConfig
from autosam.data.labels import class_masks
from autosam.data.pairs import PARTS
from autosam.data.polygons import rasterize
from autosam.data.sources import load_pairs, load_split
from autosam.errors import DataError


def sizes(config: DataConfig) -> list[int]:
    split = load_split(config)
    return [len(split[part]) for part in PARTS]


def test_coco_by_root(tmp_path: Path) -> None:
    config = DataConfig(layout="coco", root=str(miniature.coco(tmp_path)), num_classes=2)
    pairs = load_pairs(config)
    assert len(pairs) == 8
    _, mask = miniature.picture(0)
    expected = mask.astype(np.uint8)
    expected[2:8, 2:10] = 2  # the square is the smaller and lies on top
    assert np.array_equal(pairs[0].mask.read(), expected)
    assert not pairs[-1].mask.read().any()
    assert sizes(config) == [6, 1, 1]
    binary = DataConfig(layout="coco", root=config.root)
    assert np.array_equal(load_pairs(binary)[0].mask.read(), expected > 0)


def test_coco_classes_by_name_and_overlapping(tmp_path: Path) -> None:
    root = str(miniature.coco(tmp_path))
    one = DataConfig(layout="coco", root=root, classes=[ClassConfig("square")])
    assert load_pairs(one)[0].mask.read().sum() == 6 * 8
    both = DataConfig(layout="coco", root=root, num_classes=2, exclusive=False)
    masks = class_masks(load_pairs(both)[0].mask.read(), 2)
    assert np.array_equal(masks[0], miniature.picture(0)[1])
    assert masks[1].sum() == 6 * 8
    with pytest.raises(DataError, match=r"has no category cat, which --data.classes names; it has"):
        load_pairs(DataConfig(layout="coco", root=root, classes=[ClassConfig("cat")]))
    with pytest.raises(DataError, match=r"has 2 categories \(blob, square\)"):
        load_pairs(DataConfig(layout="coco", root=root, num_classes=5))


def test_coco_as_other_tools_write_it(tmp_path: Path) -> None:
    miniature.coco(tmp_path)
    file = tmp_path / "annotations/instances_train2017.json"
    one = DataConfig(layout="coco", images=str(tmp_path / "train2017"), annotations=str(file))
    assert len(load_pairs(one)) == 8
    for name, path in (("train", tmp_path / "r/train"), ("valid", tmp_path / "r/valid")):
        content = json.loads(file.read_text())
        number = 3 if name == "train" else 5
        content["images"] = content["images"][:number] if name == "train" else content["images"][5:]
        known = {entry["id"] for entry in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in known]
        path.mkdir(parents=True)
        for entry in content["images"]:
            source = tmp_path / "train2017" / entry["file_name"]
            (path / entry["file_name"]).write_bytes(source.read_bytes())
        (path / "_annotations.coco.json").write_text(json.dumps(content))
    parts = [pair.part for pair in load_pairs(DataConfig(layout="coco", root=str(tmp_path / "r")))]
    assert parts == ["train"] * 3 + ["validation"] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("image_id", 99), "annotation 1: its image 99 is not in the list of images"),
        (("category_id", 4), "annotation 1: its category 4 is not listed"),
        (("segmentation", []), "annotation 1: has no segmentation"),
        (("segmentation", {"size": [1, 1], "counts": [1]}), r"annotation 1: .*size \[1, 1\], but"),
        (("segmentation", {"size": [40, 56], "counts": [7]}), "must add up to 2240 pixels"),
        (("segmentation", [[1, 2, "x"]]), "expected polygons"),
        (("segmentation", [[float("nan")] * 6]), "expected polygons"),
        (("image_id", None), "annotation 1: its image None"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, change: tuple, message: str) -> None:
    miniature.coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0][change[0]] = change[1]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_pairs(DataConfig(layout="coco", root=str(tmp_path)))[0].mask.read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": "../../secret.png"}, r"secret\.png leads out of"),
        ({"file_name": "/etc/secret.png"}, r"secret\.png leads out of"),
        ({"width": 10**6, "height": 10**6}, "1000000 x 1000000 pixels; expected at least one"),
        ({"width": -5}, "-5 x 40 pixels; expected at least one"),
        ({"width": "many"}, "lacks or mistypes .*many"),
        ({"width": float("inf")}, "lacks or mistypes .*infinity"),
        ({"file_name": None}, "lacks or mistypes"),
    ],
)
def test_bad_entries_of_pictures_are_named(tmp_path: Path, change: dict, message: str) -> None:
    miniature.coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_pairs(DataConfig(layout="coco", root=str(tmp_path)))


def test_broken_coco_files(tmp_path: Path) -> None:
    miniature.coco(tmp_path)
    path, config = (
        tmp_path / "annotations/instances_train2017.json",
        DataConfig(layout="coco", root=str(tmp_path)),
    )
    content = json.loads(path.read_text())
    for text, message in (
        ('{"images": [],\n  nonsense', r"json:2: not JSON"),
        ("[]", "not a COCO file"),
        ('{"images": [3], "annotations": [], "categories": []}', "not a COCO file"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            load_pairs(config)
    content["images"][0]["file_name"] = "../../secret.png"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"image 10: ../../secret.png leads out of"):
        load_pairs(config)
    del content["images"][0]["file_name"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"lacks or mistypes 'file_name'"):
        load_pairs(config)


@pytest.mark.parametrize("size", [(1, 1), (40, 56), (7, 90)])
def test_run_length_codes_are_unrolled_as_pycocotools_does(size: tuple[int, int]) -> None:
    from pycocotools import mask as coco

    for seed in range(20):
        rng = np.random.default_rng(seed)
        mask = rng.random(size) < rng.random()
        mask = np.kron(mask, np.ones((1 + seed % 3, 1 + seed % 5), bool))
        code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        for counts in (code["counts"], code["counts"].decode()):
            shape = {"size": list(mask.shape), "counts": counts}
            assert np.array_equal(rasterize(shape, *mask.shape, "x"), mask)


@pytest.mark.parametrize(
    "shape",
    [
        [[2, 2, 1e9, 2, 1e9, 8, 2, 8]],
        [[2, 2, -1e300, 2, 9, 8]],
        {"size": [40, 56], "counts": "o" * 500},
        {"size": [40, 56], "counts": "00000000"},
        {"size": [40, 56], "counts": [2**32, 2240]},
    ],
)
def test_outlines_that_would_end_the_process(shape: object) -> None:
    with pytest.raises(DataError, match=r"^x: .*[Mm]end or remove"):
        rasterize(shape, 40, 56, "x")
