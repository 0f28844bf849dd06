"""Whole runs on a tiny SAM: train, stop, resume, initialise, evaluate, predict."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import draw, tiny_config
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

import autosam
from autosam.config import RUNS
from autosam.config.commands import EvaluateConfig, PredictConfig
from autosam.errors import CheckpointError, ConfigError, DataError, TrainingError
from autosam.evaluate import evaluate
from autosam.evaluation.contact_sheet import contact_sheet
from autosam.evaluation.metrics import score
from autosam.evaluation.scores import read_scores
from autosam.evaluation.visualize import colours_by_class
from autosam.models import checkpoint
from autosam.models.losses import SegmentationLoss
from autosam.models.plain import PlainHead
from autosam.models.state_dict import read_weights
from autosam.predict import predict
from autosam.train import train
from autosam.training import resume
from autosam.training.data import default_epochs, open_data
from autosam.training.finalize import TrainResult
from autosam.types import Decision


def run(tiny_file: Path, folders: Path, output: Path, *flags: str) -> TrainResult:
    return train(tiny_config(tiny_file, f"--data.root={folders}", f"--output={output}", *flags))


def rows(folder: Path) -> list[dict]:
    """metrics.jsonl without the figures that depend on the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if "per_second" not in k and "wait" not in k}
        for line in lines
    ]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_everything_in_its_folder(
    tiny_file: Path, folders: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "run"
    result = run(tiny_file, folders, folder, f"--run={name}")
    epochs = 2 if RUNS[name].trainable else 0
    assert result.epochs == epochs
    assert [row["epoch"] for row in rows(folder)] == list(range(1, epochs + 1))
    for key in ("train/loss", "train/bce", "train/dice", "train/lr", "train/grad_norm",
                "validation/dice", "validation/iou", "validation/loss"):  # fmt: skip
        assert all(np.isfinite(row[key]) for row in rows(folder))
    with open(folder / "test_scores.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["image"] for row in table] == ["img09", "img10", "img11"]
    mean = np.mean([float(row["dice"]) for row in table])
    assert mean == pytest.approx(result.test["dice"], abs=1e-4)
    assert yaml.safe_load((folder / "config.yaml").read_text())["run"] == name
    assert result.scores["test"]["dice"] == result.test["dice"]
    assert repr(result) == f"TrainResult('{folder}', {epochs} epochs, test Dice {mean:.4f})"
    if name == "autosam":
        assert result.predictor(folders / "test/images/img09.png").masks.shape == (1, 40, 56)
    assert ("epoch 2" in (folder / "log.txt").read_text()) == (epochs == 2)
    cells = 7 if RUNS[name].prompter == "learned" else 3  # three maps, and without SAM
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.width == 6 + cells * 230

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    started = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    columns = parse_session_start_info_plugin_data(started).hparams
    assert columns["test dice"].number_value == pytest.approx(mean, abs=1e-4)
    assert columns["run"].string_value == name
    assert columns["data.root"].string_value == str(folders)
    assert not {"output", "augment.flip", "resume"} & set(columns)  # of the call, or defaults
    assert not [tag for tag in tags["scalars"] if len(events.Scalars(tag)) < epochs]
    if not epochs:
        return
    assert {"train/loss", "validation/dice", "train/lr", "train/data_wait"} <= set(tags["scalars"])
    assert tags["images"] == ["validation"]
    assert {"config/text_summary", "parameters/text_summary"} <= set(tags["tensors"])
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2]
    trusted = RUNS[name].prompter == "learned"
    assert ("validation/trust" in tags["scalars"]) == trusted
    assert all(("trust" in row) == trusted for row in table)


def test_the_same_seed_gives_the_same_run_and_another_does_not(
    tiny_file: Path, folders: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tiny_file, folders, tmp_path / name, f"--train.seed={seed}")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


@pytest.mark.parametrize(("resolution", "side"), [("low", 32), ("full", 64)])
def test_where_the_loss_is_taken(
    tiny_file: Path,
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resolution: str,
    side: int,
) -> None:
    forward, seen = SegmentationLoss.forward, set()

    def spy(self, logits, targets, weights):
        seen.add((*logits.shape[-2:], *targets.shape[-2:], *weights.shape[-2:]))
        return forward(self, logits, targets, weights)

    monkeypatch.setattr(SegmentationLoss, "forward", spy)
    result = run(tiny_file, folders, tmp_path / "run", f"--loss.resolution={resolution}")
    assert seen == {(32, 32, side, side, side, side)}
    assert all(np.isfinite(row["validation/loss"]) for row in rows(result.folder))


def test_epochs_where_none_are_given() -> None:
    assert [default_epochs(n) for n in (2, 60, 240, 288, 10_000)] == [50, 24, 6, 5, 5]


def test_worker_processes_give_the_same_run(tiny_file: Path, folders: Path, tmp_path: Path) -> None:
    for workers in (0, 1):
        run(tiny_file, folders, tmp_path / str(workers), f"--data.workers={workers}")
    assert rows(tmp_path / "0") == rows(tmp_path / "1")


def test_early_stopping(tiny_file: Path, folders: Path, tmp_path: Path) -> None:
    result = run(
        tiny_file, folders, tmp_path / "r", "--train.epochs=9", "--train.patience=2",
        "--train.lr=1e-12",
    )  # fmt: skip
    assert result.epochs < 9


def test_a_loss_that_is_not_finite_stops_with_the_good_checkpoint_kept(
    tiny_file: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = SegmentationLoss.forward, []

    def broken(self, *args):
        calls.append(1)
        parts = forward(self, *args)
        return parts if len(calls) <= 8 else parts | {"loss": parts["loss"] * float("nan")}

    monkeypatch.setattr(SegmentationLoss, "forward", broken)
    with pytest.raises(TrainingError, match=r"epoch 2: the loss is nan.*last good checkpoint"):
        run(tiny_file, folders, tmp_path / "r")
    assert checkpoint.load(tmp_path / "r").header["epoch"] == 1


def test_accumulated_batches_equal_a_large_one(tiny_file: Path, folders: Path, tmp_path: Path):
    """Without BatchNorm in the way (run `decoder`), 3 x 2 images give the step of 6."""
    common = ("--run=decoder", "--train.epochs=1", "--loss.dice=0", "--train.clip=1e9")
    run(tiny_file, folders, tmp_path / "a", *common, "--train.accumulate=3")
    run(tiny_file, folders, tmp_path / "b", *common, "--train.batch_size=6")
    a, b = (resume.load(tmp_path / n)[0]["model"] for n in "ab")
    weight = "sam.mask_decoder.output_upscaling.0.weight"
    start = read_weights(tiny_file)[weight.removeprefix("sam.")]
    moved = (a[weight] - start).abs().max()
    assert moved > 1e-5
    assert (a[weight] - b[weight]).abs().max() < 0.05 * moved


def test_several_classes_train_evaluate_and_predict(
    tiny_file: Path, folders: Path, tmp_path: Path
) -> None:
    for path in folders.glob("*/masks/*.png"):
        mask = np.asarray(Image.open(path)) // 255
        mask[: mask.shape[0] // 2] *= 2
        Image.fromarray(mask.astype(np.uint8)).save(path)
    for exclusive in ("true", "false"):
        folder = tmp_path / exclusive
        result = run(
            tiny_file, folders, folder, "--data.num_classes=2", f"--data.exclusive={exclusive}"
        )
        assert {"dice/1", "dice/2"} <= set(result.test)
        written = predict(
            PredictConfig(str(folder), str(folders / "test/images"), str(folder / "masks"))
        )
        assert len(written) == (3 if exclusive == "true" else 6)
        values = np.unique(np.asarray(Image.open(written[0])))
        assert set(values) <= ({0, 1, 2} if exclusive == "true" else {0, 255})


# ---- the output folder --------------------------------------------------------------------------


def test_an_existing_folder_is_never_overwritten_unasked(
    tiny_file: Path, folders: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match="exists"):
        run(tiny_file, folders, precious)
    (precious / "config.yaml").touch()
    with pytest.raises(ConfigError, match="is not a run"):
        run(tiny_file, folders, precious, "--overwrite")
    assert (precious / "thesis.txt").read_text() == "years"
    folder = tmp_path / "run"
    run(tiny_file, folders, folder, "--train.epochs=1")
    with pytest.raises(ConfigError, match="--overwrite"):
        run(tiny_file, folders, folder)
    (folder / "stale").touch()
    run(tiny_file, folders, folder, "--train.epochs=1", "--overwrite=true")
    assert not (folder / "stale").exists()
    folders.rename(folder / "data")
    with pytest.raises(ConfigError, match="which this run reads"):
        run(tiny_file, folder / "data", folder, "--overwrite")
    assert (folder / "data" / "train").is_dir()


def test_bad_input_is_found_before_anything_is_written(
    tiny_file: Path, folders: Path, tmp_path: Path
) -> None:
    (folders / "train" / "images" / "img01.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"img01\.png"):
        run(tiny_file, folders, tmp_path / "r")
    assert not (tmp_path / "r").exists()


# ---- checkpoints --------------------------------------------------------------------------------


@pytest.fixture
def trained(tiny_file: Path, folders: Path, tmp_path: Path) -> Path:
    run(tiny_file, folders, tmp_path / "trained", "--train.epochs=1")
    return tmp_path / "trained"


def test_a_checkpoint_holds_the_trained_part_alone(trained: Path, tiny_file: Path) -> None:
    loaded = checkpoint.load(trained)
    keys = set(read_weights(loaded.path))
    assert keys
    assert {key.split(".")[0] for key in keys} == {"prompter", "surrogate"}
    assert loaded.header["format"] == 2
    assert loaded.header["sam"]["name"] == "tiny"
    assert len(loaded.header["sam"]["sha256"]) == 64
    assert not loaded.segmenter.training


def test_other_sam_weights_are_refused(trained: Path, tiny_file: Path, tmp_path: Path) -> None:
    state = torch.load(tiny_file, weights_only=True)
    state["mask_decoder.iou_token.weight"] += 1
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="trained with other weights of SAM tiny"):
        checkpoint.load(trained, str(tmp_path / "other.pth"))


def test_what_is_no_checkpoint_is_refused(trained: Path, tiny_file: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match="no checkpoint there"):
        checkpoint.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="not a checkpoint of autosam"):
        checkpoint.load(tiny_file)
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="no 'autosam' header"):
        checkpoint.load(tmp_path / "plain.safetensors")
    whole = checkpoint.find(trained).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
        checkpoint.load(tmp_path / "cut.safetensors")
    tensors, header = (
        checkpoint.read_trained(checkpoint.find(trained)),
        checkpoint.load(trained).header,
    )
    changed = {
        "{": "its header is damaged",
        "[]": "its header is damaged",
        "[" * 100_000: "its header is damaged",
        '{"format": 1}': "its header is damaged",
        json.dumps(header | {"format": 3}): "written in format 3, this version reads up to 2",
        json.dumps(header | {"sam": "lite"}): "its header is damaged",
    }
    for text, message in changed.items():
        save_file(tensors, tmp_path / "x.safetensors", {"autosam": text})
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(tmp_path / "x.safetensors")
    odd = header["config"] | {"run": "rm -rf"}
    save_file(
        tensors, tmp_path / "x.safetensors", {"autosam": json.dumps(header | {"config": odd})}
    )
    with pytest.raises(CheckpointError, match=r"settings cannot be used[\s\S]*rm -rf"):
        checkpoint.load(tmp_path / "x.safetensors")
    name = "prompter.dense.project.weight"
    tensors[name] = tensors[name] * float("nan")
    save_file(tensors, tmp_path / "x.safetensors", {"autosam": json.dumps(header)})
    with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinite values"):
        checkpoint.load(tmp_path / "x.safetensors")


def test_init_starts_from_another_run_and_says_what_does_not_fit(
    trained: Path, tiny_file: Path, folders: Path, tmp_path: Path
) -> None:
    frozen = ("--train.lr=1e-12", "--train.epochs=1")
    run(tiny_file, folders, tmp_path / "h", "--run=hybrid", f"--init={trained}", *frozen)
    old, new = read_weights(checkpoint.find(trained)), read_weights(checkpoint.find(tmp_path / "h"))
    name = "prompter.dense.project.weight"
    torch.testing.assert_close(old[name], new[name], atol=1e-6, rtol=0)
    with pytest.raises(CheckpointError, match=r"not trained by this run.*(?s:.)*run 'autosam'"):
        run(tiny_file, folders, tmp_path / "d", "--run=decoder", f"--init={trained}")
    # A tuned decoder must not slip into a run that keeps SAM frozen.
    with pytest.raises(CheckpointError, match=r"sam\.mask_decoder.*run 'hybrid'"):
        run(tiny_file, folders, tmp_path / "d", f"--init={tmp_path / 'h'}")
    with pytest.raises(CheckpointError, match="another shape"):
        run(tiny_file, folders, tmp_path / "k", "--data.num_classes=2", f"--init={trained}")
    assert not (tmp_path / "d").exists()


# ---- evaluate and predict -----------------------------------------------------------------------


def test_evaluate_gives_the_test_scores_again(trained: Path, folders: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(checkpoint=str(trained), output=str(tmp_path / "scores.csv"))
    config.data.root = str(folders)
    scores = evaluate(config)
    expected = yaml.safe_load((trained / "scores.yaml").read_text())["test"]
    assert scores == pytest.approx(expected, abs=1e-6)
    assert (tmp_path / "scores.csv").read_text() == (trained / "test_scores.csv").read_text()
    with pytest.raises(ConfigError, match="exists"):
        evaluate(config)
    # The data of the training is the default, and its split is kept.
    assert evaluate(EvaluateConfig(checkpoint=str(trained))) == pytest.approx(expected, abs=1e-6)
    fast = evaluate(EvaluateConfig(checkpoint=str(trained), fast=True))
    predictor = autosam.load(trained, fast=True)
    files = sorted((folders / "test/images").iterdir())
    dices = [
        score(
            predictor(file).masks,
            np.asarray(Image.open(folders / "test/masks" / file.name)) // 255,
            ("dice",),
        )["dice"]
        for file in files
    ]
    assert fast["dice"] == pytest.approx(np.mean(dices), abs=1e-6) != scores["dice"]
    every = EvaluateConfig(checkpoint=str(trained), split="all", output=str(tmp_path / "all.csv"))
    evaluate(every)
    with open(tmp_path / "all.csv") as file:
        assert len(list(csv.DictReader(file))) == 12
    draw(tmp_path / "other", 4, start=20, size=(70, 33))
    other = EvaluateConfig(checkpoint=str(trained))
    other.data = dataclasses.replace(
        other.data,
        images=str(tmp_path / "other/images"),
        masks=str(tmp_path / "other/masks"),
    )
    assert 0 <= evaluate(other)["dice"] <= 1


def test_the_contact_sheet_shows_the_surrogate_at_its_own_threshold(trained: Path) -> None:
    loaded = checkpoint.load(trained)
    config, segmenter = loaded.config, loaded.segmenter
    test = open_data(config, segmenter.input_spec, 0).test
    classes = colours_by_class(config.data)

    def columns(threshold: float, fast_threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """The prediction, and the prompt without SAM."""
        segmenter.decision = Decision(threshold)
        segmenter.surrogate.decision = Decision(fast_threshold)
        sheet = contact_sheet(segmenter, test, [0], True, torch.device("cpu"), classes)
        return sheet[:, 466:690], sheet[:, -230:-6]

    first, other = columns(0.5, 0.999), columns(0.5, 0.001)
    assert np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])
    third = columns(0.001, 0.999)
    assert not np.array_equal(first[0], third[0])
    assert np.array_equal(first[1], third[1])


def test_images_with_nothing_in_them_are_scored_apart(
    tiny_file: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (56, 40)).save(folders / "test/masks/img09.png")
    result = run(tiny_file, folders, tmp_path / "r", "--run=head", "--train.epochs=1")
    table = read_scores(tmp_path / "r/test_scores.csv")
    alarm = table["img09"]["false_alarm"]
    full = [table[name]["dice"] for name in ("img10", "img11")]
    assert np.isnan(table["img09"]["miss"])
    assert np.isnan(table["img10"]["false_alarm"])
    saved = yaml.safe_load((tmp_path / "r/scores.yaml").read_text())["test"]
    assert saved["false_alarm"] == result.test["false_alarm"] == alarm
    assert saved["nonempty_dice"] == pytest.approx(np.mean(full), abs=1e-5)
    assert saved["dice"] == pytest.approx((1 - alarm + sum(full)) / 3, abs=1e-5)
    said = capsys.readouterr().out
    assert "false alarms" in said
    assert "images scored: 2 with foreground, 1 empty" in said
    assert evaluate(EvaluateConfig(str(tmp_path / "r"))) == pytest.approx(result.test)
    assert "images scored: 2 with foreground, 1 empty" in capsys.readouterr().out


def test_a_run_that_marks_everything_is_warned_of(
    tiny_file: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(PlainHead, "forward", lambda self, *args: 5 + 0 * original(self, *args))
    run(tiny_file, folders, tmp_path / "r", "--run=head", "--train.epochs=1")
    log = (tmp_path / "r/log.txt").read_text()
    assert "on test, 100% of all pixels are predicted as foreground" in log
    evaluate(EvaluateConfig(str(tmp_path / "r")))
    assert "warning: 100% of all pixels are predicted as foreground" in capfd.readouterr().out


original = PlainHead.forward
