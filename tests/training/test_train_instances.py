"""`--task instances` from training to files, on drawn discs."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import nibabel
import numpy as np
import pytest
import torch
import yaml
from helpers import TINY, build_reference_tiny, tiny_config, train_until_stopped
from instance_cases import cell_folders
from PIL import Image

import autosam
from autosam.config import RUNS, Config
from autosam.config.commands import EvaluateConfig, ExportConfig, PredictConfig
from autosam.errors import CheckpointError, ConfigError, DataError
from autosam.evaluate import evaluate
from autosam.evaluation.instance_metrics import POOLED
from autosam.evaluation.scores import read_scores
from autosam.export import export
from autosam.inference import label_image, writers
from autosam.inference.app import threshold_slider
from autosam.inference.label_image import write_label_image
from autosam.models import checkpoint
from autosam.models.build import build_segmenter
from autosam.models.losses import SegmentationLoss
from autosam.models.sam import SAMS
from autosam.predict import predict
from autosam.train import train
from autosam.training import finalize
from autosam.training.finalize import TrainResult

LEARNED = ("autosam", "hybrid", "autosam-lora")
ALL = (*LEARNED, "decoder", "head", "sam-box", "sam-auto")


@pytest.fixture(scope="module")
def confident(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny SAM, which estimates an IoU of about 0.9 for each of its masks."""
    torch.manual_seed(0)
    state = build_reference_tiny().state_dict()
    state["mask_decoder.iou_prediction_head.layers.2.weight"] *= 0.1
    state["mask_decoder.iou_prediction_head.layers.2.bias"].fill_(0.9)
    path = tmp_path_factory.mktemp("sam") / "sam.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cell_folders(tmp_path_factory.mktemp("discs"))


def config_of(confident: Path, data: Path, output: Path, *flags: str) -> Config:
    return tiny_config(
        confident, "--task=instances", "--data.instances=true", f"--data.root={data}",
        f"--output={output}", "--data.workers=0", "--train.lr=0.01", "--train.epochs=3",
        *flags,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(
    confident: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrainResult]:
    """Short trainings, whose networks are not sure of anything: the threshold is 0.1."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMS, "tiny", TINY)
        chosen = {"threshold": 0.1, "min_area": 0.0}
        patch.setattr(finalize, "choose_thresholds", lambda trainer: chosen)
        for run in ALL:
            found[run] = train(config_of(confident, data, root / run, f"--run={run}"))
    return found


@pytest.mark.parametrize("run", ALL)
def test_training_scores_objects(results: dict[str, TrainResult], run: str) -> None:
    result = results[run]
    shown = yaml.safe_load((result.folder / "scores.yaml").read_text())
    whole = {*POOLED} - {"pooled_sq"}  # which needs a match
    assert {"pq", "dq", "aji", "f1", "count_abs_error", "dice", *whole} <= shown["test"].keys()
    assert shown["test"] == pytest.approx(result.test)
    rows = read_scores(result.folder / "test_scores.csv")
    assert [rows[f"img{i}"]["true_objects"] > 0 for i in (10, 11, 12, 13)] == [1, 0, 1, 1]
    for name in ("pq", "aji", "count_error", "dice"):
        mean = np.mean([row[name] for row in rows.values()])
        assert result.test[name] == pytest.approx(mean, abs=1e-5)
    assert run == "sam-auto" or sum(row["predicted_objects"] for row in rows.values()) > 0
    sheet = np.asarray(Image.open(result.folder / "contact_sheet.png"))
    assert sheet.std() > 0
    config = yaml.safe_load((result.folder / "config.yaml").read_text())
    assert config["task"] == "instances"


@pytest.mark.parametrize("run", ALL)
def test_evaluate_scores_what_training_scored(
    results: dict[str, TrainResult], tmp_path: Path, run: str
) -> None:
    result, table = results[run], tmp_path / "scores.csv"
    found = evaluate(EvaluateConfig(checkpoint=str(result.folder), output=str(table)))
    assert found.keys() == result.test.keys()
    assert found == pytest.approx(result.test, abs=1e-4)
    rows, expected = read_scores(table), read_scores(result.folder / "test_scores.csv")
    assert rows.keys() == expected.keys()
    for name, row in rows.items():
        assert row == pytest.approx(expected[name], abs=1e-4, nan_ok=True)


def test_oracle_boxes_draw_every_object(results: dict[str, TrainResult]) -> None:
    """But for those that SAM's random masks hide: none is added."""
    rows = read_scores(results["sam-box"].folder / "test_scores.csv")
    for row in rows.values():
        assert row["predicted_objects"] <= row["true_objects"]
    assert results["sam-box"].epochs == 0


@pytest.mark.parametrize("run", [run for run in ALL if not RUNS[run].needs_truth])
def test_predicted_files_hold_the_objects_of_the_prediction(
    results: dict[str, TrainResult], data: Path, tmp_path: Path, run: str
) -> None:
    source, output = data / "test/images", tmp_path / "out"
    predict(PredictConfig(str(results[run].folder), str(source), str(output), geojson=True))
    predictor = autosam.load(results[run].folder)
    assert predictor.by_object == (run not in ("decoder", "head"))
    images = sorted(source.iterdir())
    counts = {}
    for path, found in zip(images, predictor(images), strict=True):
        objects = found.instances
        assert objects is not None
        assert objects.scores is not None
        assert objects.ids.dtype == np.int32
        assert objects.ids.shape == Image.open(path).size[::-1]
        assert len(objects.classes) == len(objects.scores) == objects.ids.max()
        assert np.array_equal(found.masks[0], objects.ids > 0)
        # However many images are predicted together.
        assert np.array_equal(predictor(path).instances.ids, objects.ids)
        if predictor.by_object:
            sam = predictor.segmenter.sam
            assert sam is not None
            with patch.object(sam, "encode_fixed", wraps=sam.encode_fixed) as encode:
                explained = predictor.explain(path)
            assert encode.call_count == 1
            assert list(explained.heatmaps) == ([] if run == "sam-auto" else ["centres"])
            assert explained.decide is not None
            assert np.array_equal(explained.decide(predictor.threshold)[1].ids, objects.ids)
        [saved] = found.save(tmp_path / path.name)
        assert np.array_equal(np.asarray(Image.open(saved)), objects.ids)
        again = write_label_image(tmp_path / "again.tif", objects.ids)
        assert np.array_equal(np.asarray(Image.open(again)), objects.ids)
        written = np.asarray(Image.open(output / path.name))
        assert np.array_equal(written, objects.ids)
        counts[path.name] = len(objects)
    with open(output / "objects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(counts.values())
    assert rows or run == "sam-auto"  # whose masks of a random SAM are of no class


def test_runs_with_oracles_predict_nothing(results: dict[str, TrainResult]) -> None:
    with pytest.raises(CheckpointError, match="takes its prompts from true masks"):
        autosam.load(results["sam-box"].folder)


def test_no_average_of_objects(results: dict[str, TrainResult], data: Path) -> None:
    folder = results["autosam"].folder
    with pytest.raises(ConfigError, match=r"flips: the run autosam .*Leave flips out"):
        autosam.load(folder, flips=True)
    images = sorted((data / "test/images").iterdir())
    with pytest.raises(ConfigError, match=r"smooth: the run autosam .*Leave it out"):
        list(autosam.load(folder).stream(images, smooth=0.5))
    assert autosam.load(results["head"].folder, flips=True)(images[0]).instances is not None


def test_a_lower_threshold_finds_more(results: dict[str, TrainResult], data: Path) -> None:
    counts = []
    for threshold in (0.1, 0.2, 0.9):
        predictor = autosam.load(results["hybrid"].folder, threshold=threshold)
        found = [one.instances for one in predictor(sorted((data / "test/images").iterdir()))]
        assert all((one.scores >= threshold).all() for one in found)
        counts.append(sum(map(len, found)))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] == 0


def test_large_images_are_predicted_in_tiles(
    results: dict[str, TrainResult], data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    images = [np.asarray(Image.open(p)) for p in sorted((data / "test/images").iterdir())]
    Image.fromarray(np.vstack([np.hstack(images), np.hstack(images)])).save(folder / "a.png")
    for run in ("hybrid", "head"):
        output = tmp_path / run
        predict(PredictConfig(str(results[run].folder), str(folder), str(output), tile=48))
        ids = np.asarray(Image.open(output / "a.png"))
        assert ids.shape == (80, 224)
        assert np.array_equal(np.unique(ids[ids > 0]), np.arange(1, ids.max() + 1))
        with open(output / "objects.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == ids.max() > 0


def test_a_label_image_of_32_bits_is_found_again(
    results: dict[str, TrainResult],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As if 16 bits held no more objects than the image with the fewest has."""
    predictor = autosam.load(results["head"].folder)
    images = sorted((data / "test/images").iterdir())
    counts = [len(found.instances or ()) for found in predictor(images)]
    assert min(counts) < max(counts)
    monkeypatch.setattr(label_image, "MOST_IN_16_BITS", min(counts))
    config = PredictConfig(
        str(results["head"].folder), str(data / "test/images"), str(tmp_path / "out")
    )
    written = predict(config)
    assert {path.suffix for path in written} == {".png", ".tif"}
    assert all(path.is_file() for path in written)
    assert len(list((tmp_path / "out").glob("img*"))) == len(written) == 4
    capsys.readouterr()
    assert predict(config) == written
    assert "4 of 4 are done already" in capsys.readouterr().out


def test_volumes_and_videos_are_not_done_again(
    results: dict[str, TrainResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, rng = tmp_path / "in", np.random.default_rng(0)
    source.mkdir()
    values = rng.integers(0, 900, (20, 24, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), source / "v.nii.gz")
    video = cv2.VideoWriter(str(source / "m.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (64, 48))
    for _ in range(2):
        video.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    video.release()
    checkpoint = str(results["autosam"].folder)
    config = PredictConfig(checkpoint, str(source), str(tmp_path / "out"))
    first = predict(config)
    capsys.readouterr()
    assert predict(config) == first
    assert "2 of 2 are done already" in capsys.readouterr().out
    config = PredictConfig(checkpoint, str(source), str(tmp_path / "smooth"), smooth=0.5)
    with pytest.raises(ConfigError, match=r"--smooth: the run autosam .*Leave it out"):
        predict(config)
    assert not (tmp_path / "smooth").exists()


def test_an_image_too_large_to_be_divided_is_refused(
    results: dict[str, TrainResult],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In place of its objects the masks of classes would be written."""
    monkeypatch.setattr(writers, "MAX_LOGITS", 1000)
    image = data / "test/images/img10.png"
    config = PredictConfig(str(results["head"].folder), str(image), str(tmp_path / "out"), tile=32)
    with pytest.raises(DataError, match="1 of 1 were skipped"):
        predict(config)
    assert re.search(r"img10\.png: 56 x 40 pixels: .* not divided .*Cut", capsys.readouterr().err)
    assert not (tmp_path / "out/img10.png").exists()


def test_settings_without_a_meaning_for_objects(
    results: dict[str, TrainResult], confident: Path, data: Path, tmp_path: Path
) -> None:
    folder = results["autosam"].folder
    with pytest.raises(ConfigError, match=r"min_area 0\.1: the run autosam .*Leave it out"):
        autosam.load(folder, min_area=0.1)
    assert autosam.load(results["head"].folder, min_area=0.1).min_area == 0.1
    slider = threshold_slider(0, "a", autosam.load(folder))
    assert slider.minimum == 0.1  # lower scores are not looked for
    config = config_of(confident, data, tmp_path, "--task=semantic", f"--init={folder}")
    with pytest.raises(CheckpointError, match=r"of --task instances .*keep its task"):
        train(config)


@pytest.mark.parametrize(("run", "threshold"), [("autosam", 0.25), ("head", 0.5)])
def test_before_a_threshold_is_chosen(
    confident: Path, data: Path, tmp_path: Path, run: str, threshold: float
) -> None:
    """The best checkpoint of a training that has not ended: that of its validation."""
    config = config_of(confident, data, tmp_path, f"--run={run}")
    segmenter = build_segmenter(config)
    assert segmenter.decision.threshold == threshold
    checkpoint.save(tmp_path / "best.safetensors", segmenter, config, epoch=1)
    assert autosam.load(tmp_path / "best.safetensors").threshold == threshold


@pytest.mark.parametrize("loss", [2, 5])
def test_a_stopped_training_goes_on_bit_for_bit(
    confident: Path, data: Path, tmp_path: Path, loss: int
) -> None:
    """Within the first epoch, and in its evaluation."""
    flags = ("--run=hybrid", "--train.epochs=2")
    whole = train(config_of(confident, data, tmp_path / "whole", *flags))
    config = config_of(confident, data, tmp_path / "again", *flags)
    forward, calls = SegmentationLoss.forward, []

    def counted(self: SegmentationLoss, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == loss:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *args)

    train_until_stopped(config, SegmentationLoss, "forward", counted)
    again = train(Config(resume=str(config.output)))
    assert again.test == pytest.approx(whole.test, abs=0, nan_ok=True)
    ours, theirs = (checkpoint.read_trained(one.folder / checkpoint.BEST) for one in (again, whole))
    assert ours.keys() == theirs.keys()
    odd = {k: (ours[k], theirs[k]) for k in ours if not torch.equal(ours[k], theirs[k])}
    assert not odd
    texts = [(one.folder / "test_scores.csv").read_text() for one in (again, whole)]
    assert texts[0] == texts[1]


def test_cached_embeddings_and_a_batch_that_fits(
    confident: Path, data: Path, tmp_path: Path
) -> None:
    flags = ("--cache.copies=2", f"--cache.dir={tmp_path / 'cache'}", "--auto-batch=true")
    result = train(config_of(confident, data, tmp_path / "run", *flags, "--train.epochs=1"))
    assert result.test.keys() >= {"pq", "ap50"}


def test_exported_files_and_the_example_of_the_docs_find_the_same_objects(
    results: dict[str, TrainResult], data: Path, tmp_path: Path
) -> None:
    """With onnxruntime, numpy and OpenCV alone."""
    folder, images = results["autosam"].folder, data / "test/images"
    output = tmp_path / "nuclei.onnx"
    export(ExportConfig(str(folder), str(output), images=str(images), count=4))
    write_example(tmp_path)
    predictor = autosam.load(folder)
    for path in sorted(images.iterdir()):
        Image.open(path).save(tmp_path / "image.png")
        subprocess.run([sys.executable, "-I", "example.py"], cwd=tmp_path, check=True)
        found, expected = np.load(tmp_path / "found.npz")["ids"], predictor(path).instances
        assert expected is not None
        assert len(np.unique(found)) - 1 == len(expected)
        assert np.mean((found > 0) == (expected.ids > 0)) > 0.999


def write_example(folder: Path) -> None:
    """The example of the docs, which also writes what it finds."""
    docs = (Path(__file__).parents[2] / "docs/instances.md").read_text()
    [example] = [b for b in re.findall(r"```python\n(.*?)```", docs, re.DOTALL) if "onnx" in b]
    example += "np.savez('found.npz', ids=ids, classes=classes)\n"
    (folder / "example.py").write_text(example)


@torch.no_grad()
@pytest.mark.parametrize("likely", [1, 2])
def test_the_example_of_the_docs_tells_classes_apart(
    confident: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, likely: int
) -> None:
    """A network of random weights, whose centres of one class are the higher ones."""
    monkeypatch.setitem(SAMS, "tiny", TINY)
    config = tiny_config(confident, "--task=instances", "--data.num_classes=2")
    torch.manual_seed(0)
    segmenter = build_segmenter(config).eval()
    project = segmenter.prompter.center.project
    project.weight[:] = torch.randn_like(project.weight[:4]).tile(2, 1, 1, 1)  # 2 x 2 cells each
    project.bias[:] = -1
    project.bias[4 * likely - 4 : 4 * likely] = 0
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    checkpoint.save(tmp_path / "run" / checkpoint.BEST, segmenter, config, epoch=0)
    images = data / "test/images"
    output = tmp_path / "nuclei.onnx"
    export(ExportConfig(str(tmp_path / "run"), str(output), images=str(images), count=4))
    write_example(tmp_path)
    predictor = autosam.load(tmp_path / "run")
    for path in sorted(images.iterdir()):
        Image.open(path).save(tmp_path / "image.png")
        subprocess.run([sys.executable, "-I", "example.py"], cwd=tmp_path, check=True)
        found, expected = np.load(tmp_path / "found.npz"), predictor(path).instances
        assert expected is not None
        assert len(expected) == len(found["classes"]) > 0
        assert np.mean((found["ids"] > 0) == (expected.ids > 0)) > 0.999
        assert {*found["classes"]} == {*expected.classes} == {likely}


@pytest.mark.parametrize("run", ["sam-auto", "head"])
def test_what_is_exported_of_other_runs(
    results: dict[str, TrainResult], data: Path, tmp_path: Path, run: str
) -> None:
    config = ExportConfig(
        str(results[run].folder), str(tmp_path / "m.onnx"), images=str(data / "test/images")
    )
    if run == "sam-auto":
        with pytest.raises(CheckpointError, match="no centres"):
            export(config)
        return
    assert export(config).agreement > 0.999
