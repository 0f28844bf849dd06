"""Pretraining of SAM lite: it learns, it resumes, and its prompts are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autosam.data.prompts import box_from_mask, correction_point, points_from_mask
from autosam.errors import ConfigError
from autosam.models.sam import load_sam
from autosam.pretrain import PretrainConfig, draw_prompts, iou_of, mask_loss, pretrain

SMALL = {"scenes": 8, "batch_size": 2, "objects": 2, "save_every": 2, "held_out": 4}


def test_a_resumed_pretraining_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole = pretrain(PretrainConfig(str(tmp_path / "a"), steps=4, **SMALL))
    config = PretrainConfig(str(tmp_path / "b"), steps=4, **SMALL)
    config.stop_after = 2
    pretrain(config)
    config.stop_after = None
    again = pretrain(config)
    first, second = load_file(whole), load_file(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    config.seed = 1
    with pytest.raises(ConfigError, match="another --output"):
        pretrain(config)
    sam = load_sam("lite", whole)
    assert sam.width == 128


def test_mask_loss_takes_the_best_of_the_alternatives() -> None:
    truth = torch.zeros(1, 1, 8, 8)
    truth[..., :4] = 1
    good, bad = (truth * 2 - 1) * 20, (1 - truth * 2) * 20
    logits = torch.cat([good, bad, good, bad], dim=1)
    perfect = mask_loss(logits, torch.tensor([[1.0, 0, 1, 0]]), truth)
    assert perfect.item() < 1e-3
    assert mask_loss(logits, torch.zeros(1, 4), truth).item() == pytest.approx(0.5, abs=1e-3)
    worst = torch.cat([bad, good, good, good], dim=1)
    assert mask_loss(worst, torch.tensor([[0.0, 1, 1, 1]]), truth) > 10


def test_iou_by_hand() -> None:
    a = torch.tensor([[[True, True, False]], [[False, False, False]]])
    b = torch.tensor([[[False, True, True]], [[False, False, False]]])
    assert iou_of(a, b).tolist() == pytest.approx([1 / 3, 1.0])


def mask(y: slice, x: slice, size: int = 32) -> np.ndarray:
    result = np.zeros((size, size), bool)
    result[y, x] = True
    return result


def test_boxes() -> None:
    rng = np.random.default_rng(0)
    object_ = mask(slice(5, 15), slice(10, 30))
    assert box_from_mask(object_, rng).tolist() == [10, 5, 30, 15]
    for _ in range(50):
        x0, y0, x1, y1 = box_from_mask(object_, rng, jitter=0.1)
        assert abs(x0 - 10) <= 2
        assert abs(x1 - 30) <= 2
        assert abs(y0 - 5) <= 1
        assert abs(y1 - 15) <= 1
        assert 0 <= x0 < x1 <= 32


def test_points_lie_deep_inside() -> None:
    rng = np.random.default_rng(0)
    points = points_from_mask(mask(slice(4, 24), slice(4, 24)), rng, 200, erosion=0.5)
    assert points.min() >= 4 + 4
    assert points.max() <= 24 - 4
    thin = points_from_mask(mask(slice(7, 8), slice(0, 32)), rng, 20)
    assert set(thin[:, 1]) == {7.5}


def test_correction_points_lie_where_the_prediction_is_wrong() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = mask(slice(0, 8), slice(0, 8)), mask(slice(0, 8), slice(4, 12))
    for _ in range(30):
        (x, _y), label = correction_point(truth, predicted, rng)
        assert label == (1 if x < 4 else 0)
        assert x < 4 or 8 < x < 12
    assert correction_point(truth, truth, rng)[1] == 1


def test_prompts_belong_to_their_scenes() -> None:
    instances = np.zeros((2, 32, 32), np.uint8)
    instances[0, 2:8, 2:8] = 1
    instances[1, 20:30, 20:30] = 1
    drawn = draw_prompts(instances, "box", 2, 0, np.random.default_rng(0))
    assert drawn.image_index.tolist() == [0, 0, 1, 1]
    assert drawn.masks[:2, 2:8, 2:8].all()
    assert drawn.masks[2:, 20:30, 20:30].all()
    assert drawn.prompt["boxes"][2:].min() > 15
    points = draw_prompts(instances, "points", 1, 3, np.random.default_rng(0)).prompt["points"]
    assert points[0].shape == (2, 3, 2)
    assert points[1].eq(1).all()
