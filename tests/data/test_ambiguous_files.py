"""Ambiguous files are reported or refused: MinIsWhite, no data, orientation, unknown pixels, hidden
objects."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
import torch
from PIL import Image

from autosam.check import check
from autosam.config import Config, DataConfig, TrainConfig
from autosam.config.commands import CheckConfig
from autosam.data.checks import check_pairs, check_splits
from autosam.data.labels import IGNORED_BITS
from autosam.data.layouts import load_pairs, load_splits
from autosam.data.layouts.folders import find_pairs
from autosam.data.layouts.manifest import pairs_of_manifest
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.pairs import Layers
from autosam.data.readers.pillow import read_orientation
from autosam.errors import AutosamError, DataError
from autosam.evaluation import evaluator as engine
from autosam.evaluation.metrics import by_subset, mean_scores
from autosam.train import train
from autosam.types import Batch, Decision, InputSpec, Sample

SIZE = 48
SHAPES = [np.hypot(*(np.mgrid[:SIZE, :SIZE] - 16 - i)) < 9 + i for i in range(6)]
BINARY = DataConfig()


def write(path: Path, values: np.ndarray, **how: object) -> None:
    """PNG, JPEG or TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, metadata=None, **how)
    else:
        Image.fromarray(values).save(path, **how)


def data(folder: Path, masks: list[np.ndarray], suffix: str = ".png", **how: object) -> Path:
    for i, mask in enumerate(masks):
        words = [i, *folder.name.encode()]
        image = np.random.default_rng(words).integers(0, 255, (*mask.shape, 3), dtype=np.uint8)
        write(folder / f"images/{i}.png", image)
        write(folder / f"masks/{i}{suffix}", mask, **how)
    return folder


def settings(folder: Path, **how: object) -> DataConfig:
    return DataConfig(images=str(folder / "images"), masks=str(folder / "masks"), **how)


def read(folder: Path, **how: object) -> tuple[list[np.ndarray], str, list[str]]:
    """Labels, how they were read, warnings."""
    pairs = find_pairs(folder / "images", folder / "masks")
    report = check_pairs(pairs, settings(folder, **how))
    labels = [report.encoding.read(pair.mask) for pair in pairs]
    return labels, report.encoding.description, report.warnings


def test_white_is_zero_with_a_light_border_is_refused(tmp_path: Path) -> None:
    """As tifffile writes bool, and ImageJ an inverted LUT. GDAL and OpenCV disagree about them."""
    data(tmp_path, SHAPES, ".tif")
    path = tmp_path / "masks/0.tif"
    with rasterio.open(path) as file:
        assert (file.read(1).astype(bool) == SHAPES[0]).all()
    assert (cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(bool) != SHAPES[0]).all()
    with pytest.raises(DataError, match=r"0\.tif: .*white as zero.*--data.values 0 .*values 255"):
        read(tmp_path)
    for value, inverted in (("0", False), ("255", True)):
        labels, how, warnings = read(tmp_path, values=value)
        for label, shape in zip(labels, SHAPES, strict=True):
            assert np.array_equal(label > 0, shape != inverted)
        assert "6 store white as zero" in how
        assert warnings == []
    dark = data(tmp_path / "dark", [~shape for shape in SHAPES], ".tif", photometric="miniswhite")
    labels, how, _ = read(dark)
    assert all(np.array_equal(label, shape) for label, shape in zip(labels, SHAPES, strict=True))
    assert "6 store white as zero: pixels shown light have high values" in how


def test_numbers_where_white_is_zero_are_refused(tmp_path: Path) -> None:
    data(tmp_path, [shape * np.uint8(2) for shape in SHAPES], ".tif", photometric="miniswhite")
    for how in ({"num_classes": 2}, {"instances": True}):
        with pytest.raises(DataError, match=r"0\.tif: .*white as zero.*Save it with black as zero"):
            read(tmp_path, **how)


def test_pixels_that_the_file_calls_missing_are_said(tmp_path: Path) -> None:
    for i, shape in enumerate(SHAPES):
        write(tmp_path / f"images/{i}.png", np.full((SIZE, SIZE, 3), 9, np.uint8))
        (tmp_path / "masks").mkdir(exist_ok=True)
        path = tmp_path / f"masks/{i}.tif"
        with rasterio.open(path, "w", driver="GTiff", height=SIZE, width=SIZE, count=1,
                           dtype="uint8", nodata=255) as file:  # fmt: skip
            file.write(shape * np.uint8(255 if i else 1), 1)
    _, how, _ = read(tmp_path)
    assert "5 have pixels without data (nodata value 255 in the file), which are ignored" in how
    (tmp_path / "masks/0.tif").unlink()
    (tmp_path / "images/0.png").unlink()
    found = check(CheckConfig(settings(tmp_path)))
    assert any("(nodata value 255): if these are foreground, remove" in e for e in found.errors)


def test_inverted_masks_are_asked_about_unless_the_settings_say_so(tmp_path: Path) -> None:
    some = data(tmp_path / "a", [(s != (i == 2)) * np.uint8(255) for i, s in enumerate(SHAPES)])
    assert any("In 1 of 6 masks, for example" in w and "2.png" in w for w in read(some)[2])
    every = data(tmp_path / "b", [~s * np.uint8(255) for s in SHAPES])
    assert any("are they inverted? --data.values 0" in w for w in read(every)[2])
    labels, _, warnings = read(every, values="0")
    assert warnings == []
    assert np.array_equal(labels[3], SHAPES[3])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_of_which_nothing_is_known_is_refused(tmp_path: Path, split: str) -> None:
    """By check and by train with the same words, which name the split."""
    for name in ("train", "validation", "test"):
        masks = [np.where(s, 255, 0).astype(np.uint8) for s in SHAPES[:4]]
        if name == split:
            masks = [np.full_like(mask, 77) for mask in masks]
        data(tmp_path / name, masks)
    config = DataConfig(root=str(tmp_path), ignore=77)
    message = f"Of the {split} split: No mask has a pixel whose class is known"
    assert any(message in error for error in check(CheckConfig(config)).errors)
    with pytest.raises(DataError, match=message):
        train(Config(data=config, train=TrainConfig(epochs=1), output=str(tmp_path / "run")))
    assert not list(tmp_path.glob("run/**/*.safetensors"))


def test_known_is_where_both_image_and_mask_are(tmp_path: Path) -> None:
    """The mask knows the left half, the image holds data in the right one."""
    for i in range(8):
        image = np.full((SIZE, SIZE), 100 + i, np.int16)
        image[:, : SIZE // 2] = -9999
        image[0, -1] = 3
        mask = np.where(SHAPES[0], 1, 0).astype(np.uint8)
        if i < 7:
            image[0, :9] = 7
        mask[:, SIZE // 2 :] = 9
        (tmp_path / "images").mkdir(exist_ok=True)
        write(tmp_path / f"images/{i}.tif", image)
        write(tmp_path / f"masks/{i}.png", mask)
    config = settings(tmp_path, ignore=9, nodata=-9999.0)
    report = check_splits(load_splits(config), config)
    assert any(
        "1 of 8 masks have no pixel whose class is known" in w and "7.png" in w
        for w in report.warnings
    )


def test_scores_of_nothing_are_an_error_and_not_left_out() -> None:
    nothing = {"dice": float("nan"), "iou": float("nan")}
    with pytest.raises(DataError, match="In all 2 images the class of no pixel is known"):
        mean_scores([nothing, nothing])
    assert mean_scores([nothing, {"dice": 0.5, "iou": 0.4}]) == {"dice": 0.5, "iou": 0.4}
    assert by_subset({}, []) == {}


def test_what_one_layer_does_not_know_is_unknown(tmp_path: Path) -> None:
    """Classes that have a file each."""
    mask = np.where(SHAPES[1], 255, 0).astype(np.uint8)
    mask[:5] = 77
    data(tmp_path, [mask])
    report = check_pairs(find_pairs(tmp_path / "images", tmp_path / "masks"), DataConfig(ignore=77))
    [pair] = find_pairs(tmp_path / "images", tmp_path / "masks")
    label = report.encoding.read(Layers((pair.mask, pair.mask)))
    assert (label[:5] == IGNORED_BITS).all()
    assert np.array_equal(label[5:] == 3, SHAPES[1][5:])


@pytest.mark.parametrize(("turn", "suffix"), [(3, ".jpg"), (6, ".jpg"), (3, ".png"), (3, ".tif")])
def test_an_image_turned_and_a_mask_not(tmp_path: Path, turn: int, suffix: str) -> None:
    data(tmp_path, [np.where(s, 255, 0).astype(np.uint8) for s in SHAPES])
    path = tmp_path / f"images/4{suffix}"
    exif = Image.Exif()
    exif[274] = turn
    image = Image.open(tmp_path / "images/4.png")
    image.load()
    (tmp_path / "images/4.png").unlink()
    image.save(path, **({"tiffinfo": exif} if suffix == ".tif" else {"exif": exif}))
    assert read_orientation(path) == turn
    assert (
        read_orientation(tmp_path / "images/0.png")
        == read_orientation(tmp_path / "missing.png")
        == 1
    )
    [warning] = read(tmp_path)[2]
    assert warning.startswith("1 images and their masks differ in their orientation tags")
    assert f"4{suffix}" in warning
    image.crop((0, 0, SIZE, 30)).save(path, **({"tiffinfo": exif} if suffix == ".tif" else
                                               {"exif": exif}))  # fmt: skip
    write(tmp_path / "masks/4.png", np.where(SHAPES[4], 255, 0).astype(np.uint8)[:30])
    if turn < 5:  # 30 x 48 both, so that the sizes tell nothing
        assert len(read(tmp_path)[2]) == 1
        return
    with pytest.raises(DataError, match="are swapped: often one of them is rotated by its ori"):
        read(tmp_path)
    write(tmp_path / "masks/4.png", np.rot90(np.where(SHAPES[4], 255, 0).astype(np.uint8)[:30], 3))
    assert read(tmp_path)[2] == []  # the sizes tell that the mask fits the image as it is shown


class Strip:
    """Finds two pixels, and the whole of the upper half besides."""

    num_classes, decision = 1, Decision()
    input_spec = InputSpec(8, 8, 8)

    def eval(self) -> None:
        pass

    def __call__(self, batch: Batch) -> torch.Tensor:
        found = torch.full((len(batch), 1, 8, 8), -9.0)
        found[:, :, :4] = found[:, :, 6, :2] = 9
        return found

    def segment(self, batch: Batch) -> tuple[torch.Tensor, None]:
        return self(batch), None


def test_the_smallest_area_is_taken_where_there_are_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `predict` does: what lies where the image holds no data is not found."""
    label, valid = np.zeros((8, 8), np.uint8), np.ones((8, 8), bool)
    label[:4], label[6], valid[:4] = 255, 1, False
    view = torch.zeros(3, 8, 8, dtype=torch.uint8)
    sample = Sample("a", view, (8, 8), None, (8, 8), (8, 8), label=label, valid=valid)
    seen = []
    monkeypatch.setattr(engine, "choose", lambda dice, area, *_: seen.append(area) or (0.5, 0))
    engine.calibrate(Strip(), [Batch.collate([sample])], True)  # type: ignore[arg-type]
    assert (seen[0] == 2 / 64).all()
    segmenter = Strip()
    segmenter.decision = Decision(0.5, 0.1)  # above the two pixels' share
    rows = engine.evaluate(segmenter, [Batch.collate([sample])], True)  # type: ignore[arg-type]
    assert rows["a"]["predicted_share"] == 0


def test_workbooks_are_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(AutosamError, match=r"t\.xlsx: not a text file. Save the table as CSV"):
        pairs_of_manifest(DataConfig(layout="manifest", root=str(path)))


def test_objects_that_are_lost_under_others_are_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two fruits on a plate that is listed after them, one of them three times, in both images."""
    outlines = [[[2, 2, 6, 2, 6, 6, 2, 6]], *[[[8, 2, 9, 2, 9, 6, 8, 6]]] * 3,
                [[0, 0, 20, 0, 20, 20, 0, 20]]]  # fmt: skip
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 56} for i in (1, 2)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 10 * i + k, "image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": one}
            for i in (1, 2)
            for k, one in enumerate(outlines)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    for i in (1, 2):
        write(tmp_path / f"{i}.png", np.zeros((40, 56, 3), np.uint8))
    config = DataConfig(layout="coco", images=str(tmp_path), annotations=str(tmp_path / "a.json"))
    for pair in load_pairs(config):
        assert len(MaskEncoding().read_instances(pair.mask)) == 3
    [said] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert f"{tmp_path / 'a.json'}: 2 of 5 objects lie wholly under smaller or later" in said
    assert "Remove what is listed twice." in said
