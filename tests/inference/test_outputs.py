"""Outputs of `predict` as read by shapely, pycocotools and csv; and what is skipped."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import dicom_files
import nibabel
import numpy as np
import pytest
import shapely
from helpers import tiny_config
from PIL import Image
from pycocotools.coco import COCO
from rich.progress import Progress
from shapely.geometry import shape

import autosam
from autosam.config import ClassConfig, DataConfig
from autosam.config.commands import PredictConfig
from autosam.data.checks import check_pairs
from autosam.data.images import ImageFile, MaskFile
from autosam.data.pairs import Pair
from autosam.errors import DataError
from autosam.inference.formats import geojson
from autosam.inference.mask_values import mask_arrays
from autosam.inference.predictor import Prediction
from autosam.predict import predict
from autosam.train import train


def run(trained: Path, source: Path, output: Path, **settings: Any) -> list[Path]:
    return predict(PredictConfig(str(trained), str(source), str(output), **settings))


def prediction(masks: np.ndarray) -> Prediction:
    likely = np.where(masks, 0.75, 0.25).astype(np.float32)
    return Prediction(likely, masks, likely)


def test_outlines_are_valid_polygons_that_run_the_right_way() -> None:
    """By shapely: outer rings counter-clockwise, holes clockwise, and as many pixels inside."""
    rng = np.random.default_rng(0)
    holes = 0
    for sigma in (0.1, 0.6, 1.0, 2.0) * 15:
        mask = cv2.GaussianBlur(rng.random((30, 40)), (0, 0), sigma) > 0.5
        found = geojson(prediction(mask[None]), DataConfig())["features"]
        polygons = [shape(json.loads(json.dumps(one["geometry"]))) for one in found]
        assert all(map(shapely.is_valid, polygons))
        assert all(shapely.is_ccw(polygon.exterior) for polygon in polygons)
        assert not any(shapely.is_ccw(hole) for one in polygons for hole in one.interiors)
        assert [one.area for one in polygons] == [one["properties"]["pixels"] for one in found]
        y, x = np.nonzero(mask)
        centres = shapely.union_all(polygons)
        assert centres.area == mask.sum()
        assert shapely.contains_xy(centres, x + 0.5, y + 0.5).all()
        holes += sum(len(polygon.interiors) for polygon in polygons)
    assert holes > 100


def classes(*values: Any) -> dict[str, Any]:
    return {"classes": [ClassConfig(f"c{k}", None, v) for k, v in enumerate(values)]}


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, [0, 255]),
    ({"values": 2}, [0, 2]),
    ({"values": "1,3"}, [0, 1]),
    ({"values": "128-255"}, [0, 255]),
    ({"values": 0}, [255, 0]),
    ({"values": 700}, [0, 700]),
    (classes([10, 20]), [0, 10]),
    ({"num_classes": 3}, [0, 1, 2, 3]),
    (classes(None, None), [0, 1, 2]),
    (classes([10, 20], [30]), [0, 10, 30]),
    (classes([300], [7]), [0, 300, 7]),
    (classes([0], [255]), [254, 0, 255]),
])  # fmt: skip
def test_masks_hold_the_values_of_the_user(
    tmp_path: Path, settings: dict[str, Any], expected: list[int]
) -> None:
    """And are read back as what was predicted, by the same settings."""
    data = DataConfig(**settings)
    label = np.random.default_rng(0).integers(0, data.num_classes + 1, (20, 30))
    masks = label[None] == np.arange(1, data.num_classes + 1)[:, None, None]
    (written,) = mask_arrays(prediction(masks), data)
    assert np.array_equal(written, np.array(expected)[label])
    assert written.dtype == (np.uint16 if max(expected) > 255 else np.uint8)
    Image.fromarray(written).save(tmp_path / "mask.png")
    if settings.get("classes") and expected[0]:
        return  # background has no value there
    mask = MaskFile(tmp_path / "mask.png")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "image.png")
    pair = Pair("a", ImageFile(tmp_path / "image.png"), mask)
    assert np.array_equal(check_pairs([pair], data).encoding.read(mask), label)


NAME = 'Größe "x", 日本'


@pytest.fixture
def named(tmp_path: Path, tiny_file: Path, trained: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A run of two classes with names and mask values of the user's own, and what its progress bar
    was told."""
    folder = tmp_path / "named"
    for kind in ("images", "masks"):
        shutil.copytree(trained.parent / "data/train" / kind, folder / kind)
    for path in (folder / "masks").iterdir():
        mask = np.asarray(Image.open(path)) > 0
        values = np.where(np.arange(mask.shape[1]) < 28, 188, 40) * mask
        Image.fromarray(values.astype(np.uint8)).save(path)
    listed = json.dumps([{"name": NAME, "values": [40]}, {"name": "b", "values": [188, 7]}])
    flags = [f"--data.root={folder}", f"--data.classes={listed}", f"--output={tmp_path / 'run'}"]
    kept = {name: getattr(Progress, name) for name in ("add_task", "update")}
    with (
        patch.object(Progress, "add_task", autospec=True, side_effect=kept["add_task"]) as added,
        patch.object(Progress, "update", autospec=True, side_effect=kept["update"]) as updated,
    ):
        result = train(tiny_config(tiny_file, "--train.epochs=2", *flags))
    calls = [*added.call_args_list, *updated.call_args_list]
    return result.folder, [call.kwargs for call in calls]


def test_names_and_values_stand_in_every_output(
    named: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    trained, shown = named
    assert shown[0]["loss"] == "-"
    said = [fields["description"] for fields in shown if "description" in fields]
    assert said == ["epoch 1/2", "epoch 1/2 scoring", "epoch 2/2", "epoch 2/2 scoring"]
    assert all(float(fields["loss"]) > 0 for fields in shown[1:] if "loss" in fields)
    source = next((tmp_path / "named/images").iterdir())
    (tmp_path / "in").mkdir()
    shutil.copy(source, tmp_path / "in/größe_日本.png")
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 99, (40, 40, 2)).astype(
        np.int16), np.eye(4)), tmp_path / "in/v.nii")  # fmt: skip
    out = tmp_path / "out"
    run(trained, tmp_path / "in", out, coco="rle", geojson=True)
    found = autosam.load(trained)(tmp_path / "in/größe_日本.png")
    label = np.array([0, 40, 188])[found.label]
    assert np.array_equal(np.asarray(Image.open(out / "größe_日本.png")), label)
    assert len(np.unique(label)) > 1
    assert set(np.unique(np.asarray(nibabel.load(out / "v.nii.gz").dataobj))) <= {0, 40, 188}
    with open(out / "areas.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["class"], row["value"]) for row in rows} == {(NAME, "40"), ("b", "188")}
    assert {row["file"] for row in rows} == {"größe_日本", "v slice 0", "v slice 1"}
    for row in rows[:2]:
        assert int(row["pixels"]) == (label == int(row["value"])).sum()
    features = json.loads((out / "größe_日本.geojson").read_text(encoding="utf-8"))["features"]
    named_so = {(one["properties"]["class"], one["properties"]["value"]) for one in features}
    assert named_so <= {(NAME, 40), ("b", 188)}
    coco = COCO(str(out / "coco.json"))
    categories = coco.loadCats(coco.getCatIds())
    assert [(one["name"], one["value"]) for one in categories] == [(NAME, 40), ("b", 188)]
    (image,) = coco.loadImgs(coco.getImgIds())
    assert image["file_name"] == "größe_日本.png"
    drawn = np.zeros(label.shape, int)
    for one in coco.loadAnns(coco.getAnnIds()):
        drawn += coco.annToMask(one) * coco.loadCats(one["category_id"])[0]["value"]
    assert np.array_equal(drawn, label)


# ---- what is done already --------------------------------------------------------------------


@pytest.fixture
def images(trained: Path, tmp_path: Path) -> list[Path]:
    """Three images of one size."""
    return sorted((trained.parent / "data/test/images").iterdir())


def mask_is_of(trained: Path, mask: Path, image: Path) -> bool:
    found = autosam.load(trained)(image).masks[0]
    return np.array_equal(np.asarray(Image.open(mask)) > 0, found)


def test_other_images_of_the_same_names_are_done_again(
    trained: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, out = tmp_path / "one", tmp_path / "other", tmp_path / "out"
    for folder, chosen in ((one, images[:2]), (other, images[1:])):
        folder.mkdir()
        for name, path in zip(("a", "b"), chosen, strict=True):
            Image.open(path).save(folder / f"{name}.bmp")  # all as large
    run(trained, one, out)
    run(trained, other, out)
    assert "2 were made from other files of the same names: done again" in capsys.readouterr().out
    assert mask_is_of(trained, out / "a.png", other / "a.bmp")
    before = (out / "a.png").stat().st_mtime_ns
    assert "predicted" not in capsys.readouterr().out
    moved = other.rename(tmp_path / "moved")
    run(trained, moved, out)
    assert "2 of 2 are done already" in capsys.readouterr().out
    assert (out / "a.png").stat().st_mtime_ns == before
    seen = (moved / "a.bmp").stat()
    shutil.copy(one / "a.bmp", moved / "a.bmp")  # as large, and its time put back
    os.utime(moved / "a.bmp", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    run(trained, moved, out)
    said = capsys.readouterr().out
    assert "1 of 2 are done already" in said
    assert "1 were made from other files" in said
    assert mask_is_of(trained, out / "a.png", one / "a.bmp")
    os.utime(moved / "b.bmp")  # a later time alone changes nothing
    run(trained, moved, out)
    assert "2 of 2 are done already" in capsys.readouterr().out


def test_volumes_videos_and_formats_that_changed_are_done_again(
    trained: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    values = np.random.default_rng(0).integers(0, 900, (3, 40, 56)).astype(np.int16)
    dicom_files.series(source / "ct", values)
    colours = np.stack([np.asarray(Image.open(path).resize((56, 40))) for path in images])
    dicom_files.save(dicom_files.cine(colours), source / "clip.dcm")
    shutil.copy(images[0], source / "a.png")
    run(trained, source, out, coco="polygon")
    capsys.readouterr()
    (out / "clip/000001.png").unlink()
    dicom_files.series(source / "ct", values[::-1])
    run(trained, source, out, coco="polygon")
    said = capsys.readouterr().out
    assert "1 of 3 are done already" in said
    assert "1 were made from other files" in said
    assert (out / "clip/000001.png").is_file()
    run(trained, source, out, coco="rle")
    coco = json.loads((out / "coco.json").read_text(encoding="utf-8"))
    assert all(isinstance(one["segmentation"], dict) for one in coco["annotations"])


def test_a_log_of_an_earlier_version(
    trained: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, log = tmp_path / "out", tmp_path / "out/predictions.jsonl"
    (tmp_path / "in").mkdir()
    shutil.copy(images[0], tmp_path / "in/a.png")
    run(trained, tmp_path / "in", out)
    head, line = map(json.loads, log.read_text().splitlines())
    del line["source"]
    log.write_text(f"{json.dumps(head)}\n{json.dumps(line)}\n")
    capsys.readouterr()
    run(trained, tmp_path / "in", out)
    assert "1 were noted by an earlier version of autosam" in capsys.readouterr().out
    run(trained, tmp_path / "in", out)
    assert "1 of 1 are done already" in capsys.readouterr().out


# ---- names -----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(trained: Path, images: list[Path], tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(images[0], source / "a.png")
    odd = os.fsdecode(os.fsencode(source) + b"/gr\xf6sse.png")
    shutil.copy(images[1], odd)
    with pytest.raises(DataError, match=r"gr\\xf6sse\.png: a file name that is not UTF-8\. Rename"):
        run(trained, source, out)
    assert not out.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always use UTF-8")
def test_an_ascii_locale(trained: Path, images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(images[0], tmp_path / "in/größe_日本.png")
    line = [sys.executable, "-m", "autosam.predict", f"--checkpoint={trained}",
            f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]  # fmt: skip
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(line, env=os.environ | locale, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"this system reads names as ascii. Set PYTHONUTF8=1" in done.stderr
    assert not (tmp_path / "out").exists()
