"""Training on real photographs, in a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autosam.config import Config, DataConfig
from autosam.config.cli import parse
from autosam.config.commands import PredictConfig
from autosam.data.checks import check_splits
from autosam.data.layouts import load_splits
from autosam.predict import predict
from autosam.train import train
from autosam.training.tracker import read_metrics

pytestmark = pytest.mark.real


def test_kvasir_has_its_published_split_and_jpeg_masks(real_data: Path) -> None:
    config = DataConfig(root=str(real_data / "kvasir-seg"))
    splits = load_splits(config)
    assert [len(splits[p]) for p in ("train", "validation", "test")] == [800, 100, 100]
    report = check_splits({p: pairs[:40] for p, pairs in splits.items()}, config)
    assert "hold grey values, thresholded at half of white" in report.encoding.description


def test_rivers_are_two_folders_with_masks_of_0_and_1(real_data: Path) -> None:
    folder = real_data / "rivers"
    config = DataConfig(images=str(folder / "images"), masks=str(folder / "masks"))
    splits = load_splits(config)
    assert sum(map(len, splits.values())) == 292
    report = check_splits({p: pairs[:10] for p, pairs in splits.items()}, config)
    assert report.encoding.description == ""


def test_a_few_steps_on_real_images_and_a_prediction(real_data: Path, tmp_path: Path) -> None:
    """SAM lite, the default generator: training lowers the loss, masks come out at full size."""
    source = real_data / "rivers"
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for path in sorted((source / kind).iterdir())[::29][:10]:
            (tmp_path / kind / path.name).symlink_to(path)
    config = parse(
        Config,
        [
            f"--data.images={tmp_path / 'images'}",
            f"--data.masks={tmp_path / 'masks'}",
            f"--output={tmp_path / 'run'}",
            "--data.test=0.2",
            "--data.validation=0.2",
            "--train.batch_size=2",
            "--train.epochs=3",
        ],
    )
    result = train(config)
    losses = [row["train/loss"] for row in read_metrics(result.folder)]
    assert losses[-1] < losses[0] - 0.05
    written = predict(
        PredictConfig(str(result.folder), str(tmp_path / "images"), str(tmp_path / "masks_out"))
    )
    assert len(written) == 10
    for mask in written:
        image = next((tmp_path / "images").glob(mask.stem + ".*"))
        assert Image.open(mask).size == Image.open(image).size
        assert set(np.unique(np.asarray(Image.open(mask)))) <= {0, 255}
