"""COCO files, and the messages about invalid ones."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

import miniature
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autosam.config import ClassConfig, Config, DataConfig
from autosam.config.cli import parse
from autosam.data.checks import check_pairs
from autosam.data.labels import class_masks
from autosam.data.layouts import load_pairs, load_splits
from autosam.data.pairs import SPLITS
from autosam.data.readers.polygons import rasterize
from autosam.errors import DataError


def sizes(config: DataConfig) -> list[int]:
    splits = load_splits(config)
    return [len(splits[split]) for split in SPLITS]


def test_coco_by_root(tmp_path: Path) -> None:
    config = DataConfig(layout="coco", root=str(miniature.coco(tmp_path)), num_classes=2)
    pairs = load_pairs(config)
    assert len(pairs) == 8
    _, mask = miniature.draw_image(0)
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
    assert np.array_equal(masks[0], miniature.draw_image(0)[1])
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
    given = [pair.split for pair in load_pairs(DataConfig(layout="coco", root=str(tmp_path / "r")))]
    assert given == ["train"] * 3 + ["validation"] * 3


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
        ({"file_name": "../../secret.png"}, r"secret\.png is outside of"),
        ({"file_name": "/etc/secret.png"}, r"secret\.png is outside of"),
        ({"width": 10**6, "height": 10**6}, "1000000 x 1000000 pixels; expected at least one"),
        ({"width": -5}, "-5 x 40 pixels; expected at least one"),
        ({"width": "many"}, "is incomplete or mistyped .*many"),
        ({"width": float("inf")}, "is incomplete or mistyped .*infinity"),
        ({"file_name": None}, "is incomplete or mistyped"),
    ],
)
def test_bad_entries_of_images_are_named(tmp_path: Path, change: dict, message: str) -> None:
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
    with pytest.raises(DataError, match=r"image 10: ../../secret.png is outside of"):
        load_pairs(config)
    del content["images"][0]["file_name"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"is incomplete or mistyped .'file_name'"):
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
    with pytest.raises(DataError, match=r"^x: .*[Ff]ix or remove"):
        rasterize(shape, 40, 56, "x")


# ---- other ways to write it ----------------------------------------------------------------------


def changed(tmp_path: Path, change: Callable[[dict], object]) -> DataConfig:
    """A COCO file of two categories, changed."""
    miniature.coco(tmp_path)
    file = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    images = str(tmp_path / "train2017")
    return DataConfig(layout="coco", images=images, annotations=str(file), num_classes=2)


def masks_of(config: DataConfig) -> list[np.ndarray]:
    return [pair.mask.read() for pair in load_pairs(config)]


def set_ids(kind: Callable[[int], object], *keys: tuple[str, str]) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        for what, key in keys:
            for entry in content[what]:
                entry[key] = kind(entry[key])

    return change


IMAGE, OF_IMAGE = ("images", "id"), ("annotations", "image_id")
CATEGORY, OF_CATEGORY = ("categories", "id"), ("annotations", "category_id")


@pytest.mark.parametrize("kind", [str, float, lambda i: f"{i:05d}", lambda i: f"{i}.0"])
@pytest.mark.parametrize("keys", [[OF_IMAGE], [IMAGE], [OF_CATEGORY], [CATEGORY],
                                  [IMAGE, OF_IMAGE, CATEGORY, OF_CATEGORY]])  # fmt: skip
def test_ids_as_text_or_float(tmp_path: Path, kind: Callable, keys: list) -> None:
    expected = masks_of(changed(tmp_path / "a", lambda content: None))
    found = masks_of(changed(tmp_path / "b", set_ids(kind, *keys)))
    assert all(np.array_equal(x, y) for x, y in zip(found, expected, strict=True))


def test_ids_that_are_words(tmp_path: Path) -> None:
    expected = masks_of(changed(tmp_path / "a", lambda content: None))
    named = changed(tmp_path / "b", set_ids(lambda i: f"image {i}", IMAGE, OF_IMAGE))
    assert all(np.array_equal(x, y) for x, y in zip(masks_of(named), expected, strict=True))

    def ambiguous(content: dict) -> None:
        content["images"][0]["id"], content["images"][1]["id"] = "1", "01"
        content["annotations"][0]["image_id"] = 1

    with pytest.raises(DataError, match="annotation 1: its image 1 is not in the list"):
        load_pairs(changed(tmp_path / "c", ambiguous))


def test_names_that_would_be_lost_are_listed_with_the_flag_that_keeps_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(content: dict) -> None:
        content["categories"][0]["name"] = "blob: the 1st's"

    root = changed(tmp_path / "b", change)
    with caplog.at_level("WARNING", "autosam"):
        first = load_pairs(root)
        load_pairs(root)
    [said] = (line for line in caplog.messages if "1st's, square are the classes 1 to 2" in line)
    words = shlex.split(said[said.index("--data.classes") :])
    files = f"--data.images={root.images}", f"--data.annotations={root.annotations}"
    config = parse(Config, ["--data.layout=coco", *files, *words])
    assert config.data.class_names == ["blob: the 1st's", "square"]
    for one, other in zip(first, load_pairs(config.data), strict=True):
        assert np.array_equal(one.mask.read(), other.mask.read())


def test_categories_of_text_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    def change(content: dict) -> None:
        names = {3: "9", 7: "10"}  # as text, 10 comes first
        set_ids(names.__getitem__, CATEGORY, OF_CATEGORY)(content)

    first = masks_of(changed(tmp_path / "b", change))[0]
    assert first[5, 5] == 2  # the square of the second category
    assert set(np.unique(first)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("polygon", "nothing"),
    [
        ([10, 10, 50, 10, 10, 10, 50, 10], True),  # a line there and back
        ([1, 1, 20, 20, 30, 30], True),
        ([7, 7] * 4, True),
        ([100, 5, 140, 5, 140, 30], True),  # right of the image
        ([-50, -50, -3, -50, -3, -3], True),
        ([10, 10, 10.2, 10, 10.2, 10.2], True),  # between the middles of pixels
        ([60, -20, 90, 20, 90, -20], True),  # beside the corner, its box is not
        ([5, 5, 30, 25, 30, 5, 5, 25], False),  # two triangles of opposite turn
        ([-30, -30, 100, -30, 100, 100, -30, 100], False),
        ([3, 3, 9, 3, 9, 9, 3, 9], False),
    ],
)
def test_outlines_that_cover_no_pixel(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, polygon: list[float], nothing: bool
) -> None:
    """They are counted, and are those of which pycocotools draws nothing."""
    assert rasterize([polygon], 40, 56, "").any() != nothing

    def change(content: dict) -> None:
        content["annotations"][1]["segmentation"] = [polygon]

    with caplog.at_level("WARNING", "autosam"):
        masks_of(changed(tmp_path, change))
    said = "1 of 14 annotations have polygons that enclose no pixel" in caplog.text
    assert said == nothing


def test_polygons_of_two_points_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def some(content: dict) -> None:
        content["annotations"][1]["segmentation"] = [[10, 10, 60, 60]]
        content["annotations"][3]["segmentation"].append([1, 2])

    config = changed(tmp_path / "a", some)
    with caplog.at_level("WARNING", "autosam"):
        masks = masks_of(config)
    assert "2 of 14 annotations have polygons that enclose no pixel" in caplog.text
    assert "for example annotation 2. These polygons are ignored" in caplog.text
    assert set(np.unique(masks[0])) == {0, 1}
    assert set(np.unique(masks[1])) == {0, 1, 2}

    def every(content: dict) -> None:
        for entry in content["annotations"]:
            entry["segmentation"] = [[10, 10, 60, 60]]

    with pytest.raises(DataError, match=r"14 of 14 annotations .* Export polygons of three points"):
        load_pairs(changed(tmp_path / "b", every))


def test_coordinates_from_0_to_1_are_refused(tmp_path: Path) -> None:
    def change(content: dict) -> None:
        for entry in content["annotations"]:
            entry["segmentation"] = [[0.1, 0.1, 0.9, 0.1, 0.9, 0.8]]

    with pytest.raises(DataError, match=r"coordinates .* are from 0 to 1.*Multiply x by the width"):
        load_pairs(changed(tmp_path, change))


@pytest.mark.parametrize("way", ["sub", "sub\\", "absolute"])
def test_file_names_with_folders(tmp_path: Path, way: str) -> None:
    def change(content: dict) -> None:
        (tmp_path / "train2017" / "sub").mkdir()
        for entry in content["images"]:
            name = entry["file_name"]
            path = tmp_path / "train2017" / "sub" / name
            (tmp_path / "train2017" / name).rename(path)
            new = {"sub": f"sub/{name}", "sub\\": f"sub\\{name}", "absolute": str(path)}
            entry["file_name"] = new[way]

    pairs = load_pairs(changed(tmp_path, change))
    assert [pair.name for pair in pairs] == [f"sub-{i:012d}" for i in range(8)]
    assert pairs[3].image.read().shape == (40, 56, 3)


def test_an_image_twice_and_other_sizes_are_refused(tmp_path: Path) -> None:
    def twice(content: dict) -> None:
        content["images"].append(content["images"][0] | {"id": 99})

    with pytest.raises(DataError, match="a duplicate name"):
        load_pairs(changed(tmp_path / "a", twice))

    def size(content: dict) -> None:
        content["images"][2] |= {"width": 40, "height": 56}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 12]

    config = changed(tmp_path / "b", size)
    with pytest.raises(DataError, match=r"2\.jpg is 40 x 56 but its mask .* is 56 x 40"):
        check_pairs(load_pairs(config), config)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_masks_are_those_of_pycocotools(seed: int) -> None:
    """Polygons of any form, inside and beyond the image, and run lengths, plain, packed and of
    crowds, against annToMask."""
    from pycocotools import mask as rle
    from pycocotools.coco import COCO

    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(3, 60, 2))
    annotations = []
    for i in range(1, int(rng.integers(2, 7))):
        kind, crowd = rng.integers(4), 0
        blob = np.kron(rng.random((height, width)) > 0.6, np.ones((1, 1), bool))
        if kind < 2:
            counts = [2 * int(n) for n in rng.integers(3, 9, 1 + kind)]
            shape = [rng.uniform(-5, max(height, width) + 5, n).round(2).tolist() for n in counts]
        elif kind == 2:
            shape, crowd = {"size": [height, width], "counts": miniature.run_lengths(blob)}, 1
        else:
            shape = rle.encode(np.asfortranarray(blob.astype(np.uint8)))
            shape["counts"] = shape["counts"].decode()
        annotations.append({"id": i, "image_id": 1, "category_id": int(rng.integers(1, 3)),
                            "iscrowd": crowd, "segmentation": shape})  # fmt: skip
    annotations.append({"id": 9, "image_id": 1, "category_id": 1, "iscrowd": 0,
                        "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]})  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
    }
    with tempfile.TemporaryDirectory() as folder:
        miniature.write(Path(folder) / "a.png", np.zeros((height, width, 3), np.uint8))
        file = Path(folder) / "a.json"
        file.write_text(json.dumps(content))
        config = DataConfig(layout="coco", images=folder, annotations=str(file))
        binary = load_pairs(config)[0].mask.read()
        both = dataclasses.replace(config, num_classes=2, exclusive=False)
        classes = class_masks(load_pairs(both)[0].mask.read(), 2)
        with contextlib.redirect_stdout(io.StringIO()):
            reference = COCO(str(file))
    masks = [reference.annToMask(entry) > 0 for entry in reference.anns.values()]
    assert np.array_equal(binary > 0, np.any(masks, 0))
    for k in (1, 2):
        of_class = [m for m, a in zip(masks, annotations, strict=True) if a["category_id"] == k]
        expected = np.any(of_class, 0) if of_class else np.zeros((height, width), bool)
        assert np.array_equal(classes[k - 1], expected)
