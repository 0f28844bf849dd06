"""Runs whose prompt generator reads more than SAM sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import timm
import torch
import yaml
from helpers import TINY, tiny_config, train_until_stopped
from PIL import Image

import autosam
import autosam.training.trainer
from autosam.config import Config
from autosam.config.commands import EvaluateConfig, ExportConfig, PredictConfig
from autosam.errors import ConfigError, DataError
from autosam.evaluate import evaluate
from autosam.export import export
from autosam.models.backbones.timm import BUNDLED, Backbone
from autosam.models.checkpoint import load
from autosam.models.sam import SAMS
from autosam.predict import predict
from autosam.train import train
from autosam.training import resume

SIZE = (48, 64)
BANDS = ("--data.bands=[3,2,1]", "--data.generator_bands=1-5")


def draw_scene(folder: Path, name: str, seed: int) -> None:
    """A disc that only the fifth of five bands shows; the first corner holds no data."""
    rng = np.random.default_rng(seed)
    values = rng.normal(1000, 60, (5, *SIZE))
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    y, x = rng.integers(16, 32, 2)
    disc = (rows - y) ** 2 + (columns - x) ** 2 < 12**2
    values[4][disc] += 400
    values[:, :6, :6] = 0
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    facts = {"driver": "GTiff", "count": 5, "height": SIZE[0], "width": SIZE[1], "nodata": 0}
    with rasterio.open(folder / f"images/{name}.tif", "w", dtype="uint16", **facts) as file:
        file.write(values.clip(0, 65535).astype(np.uint16))
    Image.fromarray(disc.astype(np.uint8) * 255).save(folder / f"masks/{name}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bands")
    for start, split, count in ((0, "train", 8), (8, "validation", 3), (11, "test", 3)):
        for i in range(start, start + count):
            draw_scene(root / split, f"s{i:02d}", i)
    return root


def config_of(data: Path, tiny_file: Path, output: Path, *flags: str) -> Config:
    general = ("--train.epochs=12", "--cache.copies=0", "--augment.rotate=0", "--augment.scale=0")
    return tiny_config(
        tiny_file, f"--data.root={data}", f"--output={output}", *BANDS, *general, *flags
    )


@pytest.fixture(scope="module")
def run(data: Path, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMS, "tiny", TINY)
        output = tmp_path_factory.mktemp("runs") / "run"
        return train(config_of(data, tiny_file, output)).folder


def dice_of(run: Path) -> float:
    return float(yaml.safe_load((run / "scores.yaml").read_text())["test"]["dice"])


def test_a_band_that_rgb_does_not_show(
    run: Path, data: Path, tiny_file: Path, tmp_path: Path
) -> None:
    """With the bands the disc is found, with SAM's three it cannot be."""
    blind = config_of(data, tiny_file, tmp_path / "rgb", "--data.generator_bands=1-3")
    assert dice_of(run) > 0.8
    assert dice_of(train(blind).folder) < 0.6


def test_the_checkpoint_holds_what_was_measured(run: Path, data: Path, tmp_path: Path) -> None:
    windows = load(run).config.data.generator_window
    assert windows is not None
    stored = []
    for path in sorted((data / "train/images").iterdir()):
        with rasterio.open(path) as file:
            stored.append(file.read(masked=True))
    for band, (low, high) in enumerate(windows):
        known = np.concatenate([image[band].compressed() for image in stored])
        assert (low + high) / 2 == pytest.approx(known.mean(), rel=0.002)
    assert len(windows) == 5
    output = tmp_path / "masks"
    predict(PredictConfig(checkpoint=str(run), input=str(data / "test/images"), output=str(output)))
    dice = []
    for path in sorted((data / "test/masks").iterdir()):
        truth = np.asarray(Image.open(path)) > 0
        truth[:6, :6] = False
        found = np.asarray(Image.open(output / path.name)) > 0
        assert not found[:6, :6].any()
        dice.append(2 * (truth & found).sum() / (truth.sum() + found.sum()))
    assert dice_of(run) == pytest.approx(np.mean(dice), abs=1e-6)
    again = evaluate(EvaluateConfig(checkpoint=str(run)))
    assert again["dice"] == pytest.approx(np.mean(dice), abs=1e-6)


def test_tiles_hold_all_bands(run: Path, data: Path, tmp_path: Path) -> None:
    """Tiles as large as the image give the same masks."""
    pytest.importorskip("zarr")
    for name, tile in (("whole", None), ("tiles", 64)):
        predict(
            PredictConfig(
                checkpoint=str(run),
                input=str(data / "test/images"),
                output=str(tmp_path / name),
                tile=tile,
            )
        )
    for path in (tmp_path / "whole").glob("*.png"):
        assert np.array_equal(
            np.asarray(Image.open(path)), np.asarray(Image.open(tmp_path / "tiles" / path.name))
        )


def test_other_images_are_refused(run: Path, tmp_path: Path) -> None:
    predictor = autosam.load(run)
    with pytest.raises(DataError, match="generator_bands"):
        predictor(np.zeros((*SIZE, 3), np.uint8))
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png"):
        predictor(tmp_path / "a.png")


def test_a_stopped_run_resumes_to_the_same_weights(
    run: Path, data: Path, tiny_file: Path, tmp_path: Path
) -> None:
    calls = []
    real = autosam.training.trainer.Trainer._asked_to_stop

    def stop(self: autosam.training.trainer.Trainer) -> bool:
        calls.append(1)
        if len(calls) == 5:
            self.interrupt.signal = 2
        return real(self)

    config = config_of(data, tiny_file, tmp_path / "run")
    train_until_stopped(config, autosam.training.trainer.Trainer, "_asked_to_stop", stop)
    train(Config(resume=str(tmp_path / "run")))
    ours, theirs = (resume.load(folder)[0] for folder in (tmp_path / "run", run))
    assert all(torch.equal(theirs["model"][key], value) for key, value in ours["model"].items())


def test_exported(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    result = export(ExportConfig(checkpoint=str(run), output=str(tmp_path / "run.onnx")))
    assert result.least > 0.999


def test_runs_without_a_network_of_their_own_are_refused(data: Path, tiny_file: Path) -> None:
    with pytest.raises(ConfigError, match="no network of its own"):
        train(config_of(data, tiny_file, data / "x", "--run=sam-auto"))


def test_the_first_layer_starts_from_that_of_rgb() -> None:
    """As timm's own: kernels repeated, and scaled to the same sum over channels."""
    rgb = Backbone(BUNDLED, "auto", 64).net.conv_stem.weight
    more = Backbone(BUNDLED, "auto", 64, channels=5).net.conv_stem.weight
    assert torch.allclose(more, torch.cat([rgb, rgb[:, :2]], 1) * 3 / 5)
    assert timm.create_model(BUNDLED, in_chans=5).conv_stem.weight.shape == more.shape
    images = torch.full((2, 5, 64, 64), 128, dtype=torch.uint8)
    net = Backbone(BUNDLED, "none", 64, channels=5)
    assert net.mean == (127.5,) * 5
    assert net.std == (42.5,) * 5
    assert net.eval()(images, torch.full((2, 2), 64))[0].isfinite().all()
