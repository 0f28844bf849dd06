"""SAM on a grid of points, and the mask classifier."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from helpers import tiny_config

from autosam.config.commands import EvaluateConfig
from autosam.evaluate import evaluate
from autosam.models import checkpoint
from autosam.models.automatic import FEATURES, MaskClassifier, describe, grid_points, vote
from autosam.train import train


def test_points_lie_in_the_middle_of_the_image_s_cells() -> None:
    points = grid_points(2, torch.tensor([32, 64]))
    assert points.shape == (4, 1, 2)
    assert points[:, 0].tolist() == [[15.5, 7.5], [47.5, 7.5], [15.5, 23.5], [47.5, 23.5]]


def test_a_mask_is_described_by_its_colour_and_size() -> None:
    pixels = torch.zeros(3, 4, 4)
    pixels[0, 0, 0], pixels[1, 0, 1] = 1.0, 0.5
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0, :2] = True
    expected = [0.5, 0.25, 0, 0.5, 0.25, 0, math.log(2 / 16)]
    assert describe(mask, pixels)[0].tolist() == pytest.approx(expected)


def test_the_classifier_tells_classes_apart_and_never_takes_one_it_has_not_seen() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0] * FEATURES, [3.0] * FEATURES])
    labels = torch.arange(400) % 2
    features = centres[labels] + torch.randn(400, FEATURES)
    classifier = MaskClassifier(2)
    classifier.fit(features, labels)
    found = classifier(features)
    assert found.shape == (400, 3)
    assert torch.allclose(found.sum(1), torch.ones(400))
    assert (found.argmax(1) == labels).float().mean() > 0.99
    assert (found[:, 2] == 0).all()
    # Equal distributions: the share of each class is all that is known.
    classifier.fit(torch.ones(10, FEATURES), torch.tensor([0] * 8 + [1] * 2))
    assert classifier(torch.ones(1, FEATURES))[0].tolist() == pytest.approx([0.8, 0.2, 0], abs=1e-5)


def test_each_cell_asks_the_masks_that_cover_it() -> None:
    masks = torch.tensor([[[1, 1, 0]], [[0, 1, 0]]], dtype=torch.bool)
    probabilities = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    logits = vote(masks, probabilities, absent=-9)
    assert logits[0, 0].tolist() == pytest.approx([math.log(0.8 / 0.2), math.log(0.6 / 0.4), -9])


def test_a_run_fits_its_classifier_on_training_images_and_keeps_it(
    tiny_file: Path, folders: Path, tmp_path: Path
) -> None:
    flags = ("--run=sam-auto", "--prompt.grid=4", f"--data.root={folders}")
    result = train(tiny_config(tiny_file, *flags, f"--output={tmp_path / 'run'}"))
    loaded = checkpoint.load(result.folder).segmenter
    assert loaded.prompter.mask_classifier.mean.abs().max() > 0
    assert set(loaded.trainable_state()) == {
        "prompter.mask_classifier.mean",
        "prompter.mask_classifier.whiten",
        "prompter.mask_classifier.bias",
    }
    assert not any(p.requires_grad for p in loaded.parameters())
    scores = evaluate(EvaluateConfig(checkpoint=str(result.folder)))
    assert scores["dice"] == pytest.approx(result.test["dice"], abs=1e-6)
    # From cached embeddings: the same classifier.
    flags = (*flags, "--cache.copies=2", "--cache.dtype=fp32", f"--cache.dir={tmp_path / 'cache'}")
    train(tiny_config(tiny_file, *flags, f"--output={tmp_path / 'cached'}"))
    cached = checkpoint.load(tmp_path / "cached").segmenter
    assert torch.allclose(
        cached.prompter.mask_classifier.mean, loaded.prompter.mask_classifier.mean, atol=1e-4
    )
