"""A run trained on crops: whole images are scored and predicted by the same tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY, draw, tiny_config, train_until_stopped
from PIL import Image

import autosam
import autosam.training.trainer
from autosam.config import Config
from autosam.config.commands import EvaluateConfig, ExportConfig, PredictConfig
from autosam.data.tiles import tile_regions
from autosam.evaluate import evaluate
from autosam.export import export
from autosam.models.sam import SAMS
from autosam.predict import predict
from autosam.train import train
from autosam.training import resume

SIZE = (100, 150)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    for start, split, count in ((0, "train", 3), (3, "validation", 2), (5, "test", 2)):
        draw(root / split, count, start, SIZE)
    return root


def flags(data: Path, output: Path) -> tuple[str, ...]:
    return (
        f"--data.root={data}",
        f"--output={output}",
        "--data.crop=64",
        "--train.epochs=3",
        "--cache.copies=0",
    )


@pytest.fixture(scope="module")
def run(data: Path, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMS, "tiny", TINY)
        output = tmp_path_factory.mktemp("crops") / "run"
        return train(tiny_config(tiny_file, *flags(data, output))).folder


def scores_of(run: Path) -> dict[str, float]:
    found: dict[str, float] = yaml.safe_load((run / "scores.yaml").read_text())["test"]
    return found


def test_scores_predictions_and_files_agree(run: Path, data: Path, tmp_path: Path) -> None:
    """The Dice of the files that `predict` writes is that of training and of `evaluate`."""
    predict(
        PredictConfig(
            checkpoint=str(run), input=str(data / "test/images"), output=str(tmp_path / "masks")
        )
    )
    dice = []
    for path in sorted((data / "test/masks").iterdir()):
        truth = np.asarray(Image.open(path)) > 0
        found = np.asarray(Image.open(tmp_path / "masks" / path.name)) > 0
        assert found.shape == SIZE
        dice.append(2 * (truth & found).sum() / max(1, truth.sum() + found.sum()))
    assert scores_of(run)["dice"] == pytest.approx(np.mean(dice), abs=1e-6)
    again = evaluate(EvaluateConfig(checkpoint=str(run), batch_size=3))
    assert again["dice"] == pytest.approx(np.mean(dice), abs=1e-6)


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_logits_are_the_mean_of_the_tiles(
    run: Path, data: Path, overlap: float, tmp_path: Path
) -> None:
    """Each tile predicted by itself, and averaged by hand."""
    predictor = autosam.load(run)
    image = np.asarray(Image.open(data / "test/images/img05.png"))
    sums, counts = np.zeros((1, *SIZE)), np.zeros(SIZE)
    for y, x, high, wide in tile_regions(SIZE, 64, overlap):
        tile = predictor(image[y : y + high, x : x + wide])
        sums[:, y : y + high, x : x + wide] += tile.logits
        counts[y : y + high, x : x + wide] += 1
    likely = 1 / (1 + np.exp(-sums / counts))
    output = str(tmp_path / "masks")
    file = str(data / "test/images/img05.png")
    predict(
        PredictConfig(
            checkpoint=str(run), input=file, output=output, overlap=overlap, probabilities=True
        )
    )
    written = np.asarray(Image.open(tmp_path / "masks/img05_probability.png")) / 65535
    assert np.abs(written - likely[0]).max() < 1e-4
    if overlap == 0.25:
        assert np.abs(predictor(image).logits - sums / counts).max() < 1e-4
        assert np.abs(predictor.explain(image).logits.numpy() - sums / counts).max() < 1e-4


def test_an_exported_file_agrees_tile_by_tile(run: Path, tmp_path: Path) -> None:
    result = export(ExportConfig(checkpoint=str(run), output=str(tmp_path / "model.pt2")))
    assert result.images == 2
    assert result.least > 0.9999


def test_a_stopped_run_resumes_to_the_same_weights(
    run: Path, data: Path, tiny_file: Path, tmp_path: Path
) -> None:
    config = tiny_config(tiny_file, *flags(data, tmp_path / "run"))
    calls = []
    real = autosam.training.trainer.Trainer._asked_to_stop

    def stop(self: autosam.training.trainer.Trainer) -> bool:
        calls.append(1)
        if len(calls) == 13:
            self.interrupt.signal = 2
        return real(self)

    train_until_stopped(config, autosam.training.trainer.Trainer, "_asked_to_stop", stop)
    train(Config(resume=str(tmp_path / "run")))
    ours, theirs = (resume.load(folder)[0] for folder in (tmp_path / "run", run))
    assert all(torch.equal(theirs["model"][key], value) for key, value in ours["model"].items())
    assert scores_of(tmp_path / "run") == scores_of(run)


@pytest.mark.parametrize(
    "more",
    [
        ("--cache.copies=2",),
        ("--embedding=shuffled",),
        ("--embedding=shuffled", "--cache.copies=2"),
        ("--run=head",),
        ("--run=decoder",),
        ("--run=sam-box",),
        ("--run=sam-auto",),
        ("--task=instances", "--cache.copies=2"),
        ("--task=instances", "--run=head"),
    ],
)
def test_other_runs_on_crops(
    data: Path, tiny_file: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Test scores by tiles equal those of `evaluate`; with a cache, too."""
    once = ("--train.epochs=1", *more)
    run = train(tiny_config(tiny_file, *flags(data, tmp_path / "run"), *once)).folder
    again = evaluate(EvaluateConfig(checkpoint=str(run)))
    for name in ("dice", "iou"):
        assert scores_of(run)[name] == pytest.approx(again[name], abs=2e-3, nan_ok=True)
