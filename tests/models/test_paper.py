"""Switches that reproduce the published code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import TINY, make_batch, tiny_config

from autosam.config import LossConfig, PaperConfig
from autosam.errors import ConfigError
from autosam.models import checkpoint
from autosam.models.build import build_segmenter
from autosam.models.losses import SegmentationLoss
from autosam.models.normalize import normalise
from autosam.models.paper import MinMaxSegmenter, PaddedLoss, min_max, normalised_twice
from autosam.models.sam import SAMS
from autosam.train import train
from autosam.training.data import open_data
from autosam.training.embedding_cache import facts_of


def test_an_image_normalised_twice_is_almost_black() -> None:
    """The red channel then reaches the encoder between -2.15 and -2.08."""
    images = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 255)]).to(torch.uint8)
    valid = torch.tensor([[4, 4], [4, 4]])
    twice = normalised_twice(TINY)
    pixels = normalise(images, valid, twice.pixel_mean, twice.pixel_std)
    assert pixels[0, 0].max() == pytest.approx(-2.154, abs=1e-3)
    assert pixels[1, 0].max() == pytest.approx(-2.079, abs=1e-3)
    once = normalise(images, valid, TINY.pixel_mean, TINY.pixel_std)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (TINY.pixel_mean, TINY.pixel_std))
    assert torch.allclose(pixels, (once - mean) / std, atol=1e-6)
    with pytest.raises(ConfigError, match="medsam has no mean"):
        normalised_twice(SAMS["medsam"])


def test_stretched_logits_run_from_0_to_1_and_cannot_be_empty() -> None:
    logits = torch.tensor([-9.0, -7.0, -5.0]).view(1, 1, 1, 3)
    assert min_max(logits).sigmoid().flatten().tolist() == pytest.approx([0, 0.5, 1], abs=1e-5)


def test_the_loss_on_padding_by_hand() -> None:
    logits, targets = torch.zeros(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    logits[..., 1] = 100.0  # wrong, on padding
    weights = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    only = LossConfig(dice=0)
    inside = SegmentationLoss(only)(logits, targets, weights)["loss"]
    everywhere = PaddedLoss(only)(logits, targets, weights)["loss"]
    assert inside.item() == pytest.approx(0.693147, abs=1e-5)
    assert everywhere.item() == pytest.approx((0.693147 + 100) / 2, abs=1e-4)


def test_embeddings_of_images_normalised_twice_have_a_cache_of_their_own(
    tiny_file: Path, folders: Path
) -> None:
    facts = []
    for flag in ("false", "true"):
        config = tiny_config(
            tiny_file, f"--data.root={folders}", f"--paper.double_normalisation={flag}"
        )
        data = open_data(config, build_segmenter(config).input_spec, 1)
        facts.append(facts_of(config, data.train, torch.device("cpu")))
    differ = {key for key in facts[0] if facts[0][key] != facts[1][key]}
    assert differ == {"pixel_mean", "pixel_std"}


def test_a_run_says_what_it_is_and_keeps_it(
    tiny_file: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [f"--paper.{name}=true" for name in vars(PaperConfig())]
    config = tiny_config(
        tiny_file, f"--data.root={folders}", f"--output={tmp_path / 'run'}", *flags
    )
    result = train(config)
    title = "autosam+double_normalisation+min_max_logits+loss_on_padding+select_on_test"
    assert f"run: {title}, SAM tiny" in capsys.readouterr().out
    rows = (result.folder / "metrics.jsonl").read_text().splitlines()
    assert "test/dice" in json.loads(rows[0])
    assert "validation/dice" not in json.loads(rows[0])
    loaded = checkpoint.load(result.folder)
    assert loaded.config.title == title
    assert isinstance(loaded.segmenter, MinMaxSegmenter)
    batch = make_batch(loaded.segmenter.input_spec)
    with torch.no_grad():
        shares = loaded.segmenter(batch).sigmoid()
    assert shares.amin((2, 3)).flatten().tolist() == pytest.approx([0, 0], abs=1e-5)
    assert shares.amax((2, 3)).flatten().tolist() == pytest.approx([1, 1], abs=1e-5)
    assert loaded.segmenter.sam.spec == normalised_twice(TINY)
    with pytest.raises(ConfigError, match="min_max_logits: the run head has no SAM"):
        build_segmenter(tiny_config(tiny_file, "--run=head", "--paper.min_max_logits=true"))
