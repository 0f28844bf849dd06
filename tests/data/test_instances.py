"""Objects read from masks, against other libraries' reading of the same files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import miniature
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from skimage.draw import polygon2mask
from skimage.measure import label as components

from autosam.config import ClassConfig, DataConfig
from autosam.data.checks import check_pairs
from autosam.data.images import MaskFile
from autosam.data.instances import change, compact, from_label, from_numbers, without_objects
from autosam.data.labels import IGNORED, IGNORED_BITS, pack
from autosam.data.layouts import load_pairs
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.pairs import Layers
from autosam.errors import DataError
from autosam.types import Instances


def read(config: DataConfig) -> list[Instances]:
    """The objects of every image of a data set."""
    pairs = load_pairs(config)
    encoding = check_pairs(pairs, config).encoding
    found = [encoding.read_instances(pair.mask, pair.regions) for pair in pairs]
    for instances, pair in zip(found, pairs, strict=True):
        require_sound(instances)
        label = encoding.read(pair.mask)
        assert np.array_equal(instances.ids == -1, label == IGNORED)
    return found


def require_sound(instances: Instances) -> None:
    """What `Instances` promises."""
    assert instances.ids.dtype == np.int32
    assert instances.classes.dtype == np.uint8
    numbers = np.unique(instances.ids[instances.ids > 0])
    assert np.array_equal(numbers, np.arange(1, len(instances) + 1))
    assert instances.ids.min() >= -1
    assert (instances.classes > 0).all()


def same_partition(ids: np.ndarray, reference: np.ndarray) -> bool:
    """Whether two numberings are the same but for the numbers; 0 is background in both."""
    pairs = np.unique(np.stack([ids.ravel(), reference.ravel()]), axis=1)
    one_to_one = all(len(np.unique(row)) == pairs.shape[1] for row in pairs)
    return one_to_one and np.array_equal(ids == 0, reference == 0)


def numbered(rng: np.random.Generator, most: int, shape: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Rectangles with large gaps in their numbers, some in two parts, some hidden."""
    values = np.zeros(shape, np.int64)
    for number in [most, *rng.integers(1, most + 1, 20)]:
        y, x = rng.integers(0, shape[0] - 8), rng.integers(0, shape[1] - 8)
        values[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = number
    values[:3, :3] = values[-3:, -3:] = most
    return values


# ---- label images -------------------------------------------------------------------------------


WIDE = [
    (np.uint8, 255, "png"), (np.uint16, 65535, "png"), (np.uint8, 255, "bmp"),
    (np.uint8, 255, "tif"), (np.uint16, 65535, "tif"), (np.uint32, 2**32 - 1, "tif"),
    (np.int32, 2**31 - 1, "tif"), (np.float32, 2**24, "tif"), (np.int64, 70_000, "tif"),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "most", "suffix"), WIDE)
def test_label_images(tmp_path: Path, dtype: type, most: int, suffix: str) -> None:
    rng = np.random.default_rng(most % 1000)
    written = []
    for i in range(6):
        miniature.write(tmp_path / "images" / f"{i}.png", miniature.draw_image(i)[0])
        values = numbered(rng, most).astype(dtype) if i else np.zeros((40, 56), dtype)
        path = tmp_path / "masks" / f"{i}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        if suffix == "tif":
            tifffile.imwrite(path, values)
        else:
            Image.fromarray(values).save(path)
        written.append(values)
    found = read(DataConfig(root=str(tmp_path), instances=True))
    for instances, values in zip(found, written, strict=True):
        assert same_partition(instances.ids, values)
        numbers = np.unique(values[values > 0])
        assert np.array_equal(numbers[instances.ids[values > 0] - 1], values[values > 0])
        assert set(instances.classes) <= {1}


def test_ignored_numbers_and_missing_pixels_are_unknown(tmp_path: Path) -> None:
    values = numbered(np.random.default_rng(0), 300).astype(np.uint16)
    values[10:20, 10:20] = 9999
    tifffile.imwrite(tmp_path / "a.tif", values)
    encoding = MaskEncoding(1, 9999, ((0, 0),), 1, numbered=True)
    found = encoding.read_instances(MaskFile(tmp_path / "a.tif"))
    require_sound(found)
    assert np.array_equal(found.ids == -1, values == 9999)
    assert len(found) == len(np.unique(values)) - 2
    nodata = [(42113, "s", 5, "9999", True)]  # GDAL's tag
    tifffile.imwrite(tmp_path / "b.tif", values, extratags=nodata)
    without = MaskEncoding(1, None, ((0, 0),), 1, numbered=True)
    assert np.array_equal(without.read_instances(MaskFile(tmp_path / "b.tif")).ids, found.ids)


def test_numbers_above_16_bits_need_the_setting(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((9, 9), 70_000, np.uint32))
    with pytest.raises(DataError, match=r"whole numbers from 0 to 65535.*--data\.instances true"):
        MaskEncoding(1, None, ((0, 0),), 1).read(MaskFile(tmp_path / "a.tif"))


def test_glas(tmp_path: Path) -> None:
    root = miniature.glas(tmp_path)
    values = numbered(np.random.default_rng(3), 200).astype(np.uint8)
    Image.fromarray(values).save(root / "testA_1_anno.bmp")
    config = DataConfig(layout="glas", root=str(root), instances=True)
    found = dict(zip([p.name for p in load_pairs(config)], read(config), strict=True))
    assert same_partition(found["testA/testA_1"].ids, values)


def test_a_file_of_numbers_for_each_class(tmp_path: Path) -> None:
    one, two = np.zeros((2, 9, 9), np.uint8)
    one[1:5, 1:5], one[6, 6] = 7, 9
    two[3:8, 3:8] = 7
    files = []
    for name, values in (("one", one), ("two", two)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        files.append(MaskFile(tmp_path / f"{name}.png"))
    encoding = MaskEncoding(1, None, ((0, 0),), 1, numbered=True)
    found = encoding.read_instances(Layers(tuple(files)))
    assert found.classes.tolist() == [1, 2]  # object 9 of the first is hidden
    assert np.array_equal(found.ids, np.where(two > 0, 2, np.where(one == 7, 1, 0)))


# ---- COCO ---------------------------------------------------------------------------------------


def blob(rng: np.random.Generator, height: int, width: int) -> list[float]:
    """An outline of a random place and size, in COCO's order, partly outside the image."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
    radius = rng.uniform(2, 12) * rng.uniform(0.7, 1.3, len(angles))
    centre = rng.uniform((-2, -2), (width + 2, height + 2))
    return (
        (centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)).ravel().tolist()
    )


def coco_entry(rng: np.random.Generator, height: int, width: int) -> tuple[Any, np.ndarray]:
    """A segmentation of a random kind, and the mask that pycocotools makes of it."""
    polygons = [blob(rng, height, width) for _ in range(rng.integers(1, 4))]
    code = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    mask = coco_mask.decode(code) > 0
    kind = rng.integers(3)
    if kind == 0:
        return polygons, mask
    if kind == 1:
        return {"size": [height, width], "counts": code["counts"].decode()}, mask
    return {"size": [height, width], "counts": miniature.run_lengths(mask)}, mask


@pytest.mark.parametrize("seed", range(12))
def test_coco_against_pycocotools(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 61, 83
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "categories": [
            {"id": 4, "name": "cell"},
            {"id": 2, "name": "dust"},
            {"id": 9, "name": "x"},
        ],
        "annotations": [],
    }
    ids, classes, masks = np.zeros((height, width), int), [], []
    crowd = np.zeros((height, width), bool)
    for number in range(1, 25):
        shape, mask = coco_entry(rng, height, width)
        category, is_crowd = int(rng.choice([2, 4, 9])), int(rng.random() < 0.15)
        content["annotations"].append({
            "id": 100 - number, "image_id": 1, "category_id": category, "segmentation": shape,
            "iscrowd": is_crowd,
        })  # fmt: skip
        if category == 9:
            continue
        if is_crowd:
            crowd |= mask
        else:
            classes.append({4: 1, 2: 2}[category])
            masks.append(mask)
    for i in sorted(range(len(masks)), key=lambda i: -masks[i].sum()):  # small ones on top
        ids[masks[i]] = i + 1
    ids[crowd & (ids == 0)] = -1
    miniature.write(tmp_path / "a.png", np.zeros((height, width, 3), np.uint8))
    (tmp_path / "a.json").write_text(json.dumps(content))
    config = DataConfig(layout="coco", images=str(tmp_path), annotations=str(tmp_path / "a.json"),
                        classes=[ClassConfig("cell"), ClassConfig("dust")])  # fmt: skip
    [pair] = load_pairs(config)
    found = MaskEncoding(2).read_instances(pair.mask)
    require_sound(found)
    assert np.array_equal(found.ids == -1, ids == -1)
    seen = np.unique(ids[ids > 0])
    assert np.array_equal(np.concatenate([[0], seen, [-1]])[found.ids], ids)
    assert found.classes.tolist() == [classes[number - 1] for number in seen]


def test_overlap_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "autosam")
    root = miniature.objects(tmp_path)
    for i in (0, 1):
        miniature.write(root / f"cell{i}/masks/c.png", np.full(miniature.SIZE, i * 255, np.uint8))
    found = read(DataConfig(layout="objects", root=str(root)))
    assert [len(instances) for instances in found] == [2, 3, 2, 2, 2, 2, 2, 0]
    said = [r.getMessage() for r in caplog.records if "overlap;" in r.getMessage()]
    text = "objects overlap; where they do, the smaller one lies on top."
    assert said == [f"{tmp_path}: {text}"]
    odd = {r.getMessage() for r in caplog.records if r.levelno == logging.WARNING}
    assert odd == {
        f"{root}/cell0/masks/c.png: no pixel belongs to the object. Is this its mask?",
        f"{root}/cell1/masks/c.png: every pixel belongs to the object. Is this its mask?",
    }


def test_a_background_that_is_not_0_is_asked_about(tmp_path: Path) -> None:
    """As some tools write it: 1 is background, objects are 2 and up."""
    for i in range(4):
        ids = np.ones((40, 50), np.uint16)
        for k in range(3):
            ids[4 + 10 * k : 9 + 10 * k, 5 + i : 15 + i] = k + 2
        miniature.write(tmp_path / f"images/{i}.png", np.zeros((40, 50, 3), np.uint8))
        miniature.write(tmp_path / f"masks/{i}.png", ids)
    config = DataConfig(root=str(tmp_path), instances=True)
    [warning] = check_pairs(load_pairs(config), config).warnings
    assert "In 4 of 4 label images" in warning
    assert "save it as 0" in warning
    assert "--data.values" not in warning


# ---- other layouts ------------------------------------------------------------------------------


def test_monuseg_against_scikit_image(tmp_path: Path) -> None:
    """Small regions lie on top; holes are background."""
    rng = np.random.default_rng(0)
    shape = (300, 260)
    expected, holes = np.zeros(shape, int), np.zeros(shape, bool)
    polygons, masks = [], {}
    for i in range(60):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        centre, radius = rng.uniform((0, 0), (260, 300)), rng.uniform(6, 24)
        points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        mask = polygon2mask(shape, points[:, ::-1])
        hole = i % 10 == 9
        if hole:
            holes |= mask
        else:
            masks[i + 1] = mask
        polygons.append((hole, [(float(x), float(y)) for x, y in points]))
    for number in sorted(masks, key=lambda number: -masks[number].sum()):
        expected[masks[number]] = number
    expected[holes] = 0
    (tmp_path / "TCGA-1.xml").write_text(miniature.aperio(polygons), encoding="utf-8")
    miniature.write(tmp_path / "TCGA-1.tif", np.zeros((*shape, 3), np.uint8))
    [found] = read(DataConfig(layout="monuseg", root=str(tmp_path)))
    numbers = np.unique(expected[expected > 0])
    assert len(found) == len(numbers)
    restored = np.concatenate([[0], numbers])[found.ids]
    assert (restored != expected).mean() < 0.01  # pixels that an outline runs through
    for number in numbers:
        both = ((restored == number) & (expected == number)).sum()
        assert both / ((restored == number) | (expected == number)).sum() > 0.6


def test_objects_against_pillow(tmp_path: Path) -> None:
    config = DataConfig(layout="objects", root=str(miniature.objects(tmp_path)))
    for i, instances in enumerate(read(config)):
        expected = np.zeros(miniature.SIZE, int)
        files = sorted((tmp_path / f"cell{i}/masks").iterdir())
        masks = [np.asarray(Image.open(path)) > 0 for path in files]
        for k in sorted(range(len(masks)), key=lambda k: -masks[k].sum()):
            expected[masks[k]] = k + 1
        assert np.array_equal(instances.ids, expected)


def test_stamps_are_their_regions(tmp_path: Path) -> None:
    found = read(DataConfig(layout="stamps", root=str(miniature.stamps(tmp_path))))
    for i, instances in enumerate(found):
        mask = miniature.draw_image(i, (56, 40))[1].copy()
        mask[:, ::4] = False
        assert np.array_equal(instances.ids, mask)  # one stamp of many letters


def test_hugging_face_columns(tmp_path: Path) -> None:
    import datasets

    rng = np.random.default_rng(5)
    masks = [[rng.random((40, 56)) < 0.05 for _ in range(n)] for n in (3, 0, 1, 2, 5, 4)]
    classes = [[int(k) for k in rng.integers(0, 3, len(of))] for of in masks]
    stored = [numbered(rng, 4000).astype(np.uint16) for _ in masks]
    columns = {
        "image": [Image.fromarray(miniature.draw_image(i)[0]) for i in range(6)],
        "instances": [[Image.fromarray(m.astype(np.uint8) * 255) for m in of] for of in masks],
        "categories": classes,
        "numbers": [Image.fromarray(values) for values in stored],
    }
    features = datasets.Features({
        "image": datasets.Image(),
        "instances": datasets.Sequence(datasets.Image()),
        "categories": datasets.Sequence(datasets.Value("int64")),
        "numbers": datasets.Image(),
    })  # fmt: skip
    datasets.Dataset.from_dict(columns, features).save_to_disk(str(tmp_path))

    def config(column: str, **others: Any) -> DataConfig:
        return DataConfig(layout="huggingface", root=str(tmp_path), mask_column=column, **others)

    for num_classes in (1, 3):
        found = read(config("instances", num_classes=num_classes))
        for instances, of, numbers in zip(found, masks, classes, strict=True):
            expected = np.zeros((40, 56), int)
            for i in sorted(range(len(of)), key=lambda i: -of[i].sum()):
                expected[of[i]] = i + 1
            assert np.array_equal(instances.ids, expected)
            assert instances.classes.tolist() == [k + 1 if num_classes > 1 else 1 for k in numbers]
    for instances, values in zip(read(config("numbers", instances=True)), stored, strict=True):
        assert same_partition(instances.ids, values)
    with pytest.raises(DataError, match=r"class 2, but --data\.num_classes is 2: expected 0 to 1"):
        MaskEncoding(2).read_instances(load_pairs(config("instances", num_classes=2))[4].mask)
    columns["categories"] = [[], *classes[1:]]
    folder = tmp_path / "short"
    datasets.Dataset.from_dict(columns, features).save_to_disk(str(folder))
    short = DataConfig(
        layout="huggingface", root=str(folder), mask_column="instances", num_classes=3
    )
    with pytest.raises(DataError, match=r"row 0 column categories: expected a list of 3 classes"):
        load_pairs(short)[0].mask.read()


# ---- components and arrays ----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([0.3, 0.6, 0.9]))
def test_components_against_scikit_image(seed: int, classes: int, filled: float) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(1, classes + 1, rng.integers(1, 30, 2)).astype(np.uint8)
    label[rng.random(label.shape) > filled] = 0
    label[rng.random(label.shape) < 0.1] = IGNORED
    found = from_label(label)
    require_sound(found)
    expected = components(np.where(label == IGNORED, 0, label), background=0, connectivity=1)
    assert same_partition(np.maximum(found.ids, 0), expected)
    assert np.array_equal(found.ids == -1, label == IGNORED)
    on = found.ids > 0
    assert np.array_equal(found.classes[found.ids[on] - 1], label[on])


def test_components_of_overlapping_classes() -> None:
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:5, 1:5], masks[1, 2:6, 3:8], masks[0, 3, 6] = True, True, True
    label = pack(masks)
    label[0, 0] = IGNORED_BITS
    found = from_label(label)
    expected = np.where(masks[1], 2, masks[0])  # the part of class 1 inside class 2 is hidden
    expected[0, 0] = -1
    assert np.array_equal(found.ids, expected)
    assert found.classes.tolist() == [1, 2]


def test_plain_masks_merge_what_touches(tmp_path: Path) -> None:
    root = miniature.folders(tmp_path)
    for i, instances in enumerate(read(DataConfig(root=str(root)))):
        mask = miniature.draw_image(i)[1]
        assert same_partition(instances.ids, components(mask, connectivity=1))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([5, 300, 2**30]), st.booleans())
def test_arrays(seed: int, most: int, negative: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-most if negative else 0, most + 1, rng.integers(1, 12, 2))
    values[rng.random(values.shape) < 0.5] = rng.integers(0, 3)
    unknown = rng.random(values.shape) < 0.2
    found = from_numbers(values, unknown, 3)
    require_sound(found)
    assert same_partition(np.where(unknown, 0, found.ids), np.where(unknown, 0, values))
    assert np.array_equal(found.ids == -1, unknown)
    assert set(found.classes) <= {3}


def test_arrays_of_other_kinds_are_refused() -> None:
    for values in (np.zeros((3, 3)), np.zeros((3, 3, 3), int), np.zeros((3, 3), bool)):
        with pytest.raises(DataError, match="expected whole numbers H x W"):
            from_numbers(values)


def test_compact_and_unknown() -> None:
    ids = np.array([[0, 3, 3], [-1, 1, 5]], np.int32)
    scores = np.arange(5, dtype=np.float32) / 10
    found = compact(Instances(ids, np.array([4, 9, 2, 9, 1], np.uint8), scores))
    assert found.ids.tolist() == [[0, 2, 2], [-1, 1, 3]]
    assert found.classes.tolist() == [4, 2, 1]
    assert found.scores is not None
    assert np.allclose(found.scores, [0.0, 0.2, 0.4])
    assert compact(found) is found
    valid = np.array([[True, True, True], [True, False, True]])
    hidden = without_objects(found, valid)
    assert hidden.ids.tolist() == [[0, 1, 1], [-1, -1, 2]]
    assert hidden.classes.tolist() == [2, 1]
    assert without_objects(found, None) is found
    assert len(change(found, lambda ids: ids[:1])) == 1
