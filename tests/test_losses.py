"""Losses against values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from autosam.config import LossConfig
from autosam.losses import SegmentationLoss, probabilities

ALL = torch.ones(1, 1, 1, 2)


def loss(logits: list, targets: list, weights: torch.Tensor = ALL, exclusive: bool = True, **parts):
    """Logits and targets as 1 x K x 1 x 2."""
    config = LossConfig(**({"bce": 0.0, "focal": 0.0, "dice": 0.0} | parts))
    shape = (1, -1, 1, 2)
    return SegmentationLoss(config, exclusive)(
        torch.tensor(logits, dtype=torch.float32).view(shape),
        torch.tensor(targets, dtype=torch.float32).view(shape),
        weights,
    )


@pytest.mark.parametrize("exclusive", [True, False])
def test_cross_entropy_of_one_class(exclusive: bool) -> None:
    value = loss([0.0, math.log(3)], [1.0, 0.0], bce=1.0, exclusive=exclusive)["bce"]
    # -log 0.5 and -log(1 - 0.75)
    assert value.item() == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-6)


def test_cross_entropy_of_two_exclusive_classes() -> None:
    # logits (0 background, log 2, log 5): probabilities 1/8, 2/8, 5/8 in both cells
    logits = [math.log(2)] * 2 + [math.log(5)] * 2
    targets = [1.0, 0.0, 0.0, 0.0]  # first cell class 1, second cell background
    value = loss(logits, targets, bce=1.0)["bce"]
    assert value.item() == pytest.approx((math.log(4) + math.log(8)) / 2, abs=1e-6)


def test_dice_by_hand() -> None:
    # probabilities 0.5, 0.75; truth 1, 0; smooth 1: 1 - (2*0.5 + 1) / (1.25 + 1 + 1)
    value = loss([0.0, math.log(3)], [1.0, 0.0], dice=1.0)["dice"]
    assert value.item() == pytest.approx(1 - 2 / 3.25, abs=1e-6)


def test_dice_of_an_empty_mask_falls_with_the_prediction() -> None:
    high = loss([2.0, 2.0], [0.0, 0.0], dice=1.0)["dice"]
    low = loss([-9.0, -9.0], [0.0, 0.0], dice=1.0)["dice"]
    assert high > 0.6
    assert low < 1e-3


def test_focal_by_hand() -> None:
    # gamma 2: (1 - p)^2 * -log p with p = 0.5 and 0.25
    value = loss([0.0, math.log(3)], [1.0, 0.0], focal=1.0)["focal"]
    expected = (0.25 * math.log(2) + 0.5625 * math.log(4)) / 2
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_weights_multiply_and_add_up() -> None:
    parts = loss([0.0, 1.0], [1.0, 0.0], bce=0.5, dice=2.0)
    assert parts["loss"].item() == pytest.approx(
        0.5 * parts["bce"].item() + 2 * parts["dice"].item(), abs=1e-6
    )


def test_padding_changes_nothing() -> None:
    weights = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    one = loss([0.3, 5.0], [1.0, 0.0], weights, bce=1.0, dice=1.0, focal=1.0)
    other = loss([0.3, -7.0], [1.0, 1.0], weights, bce=1.0, dice=1.0, focal=1.0)
    for name in one:
        assert one[name].item() == pytest.approx(other[name].item(), abs=1e-7)


def test_probabilities() -> None:
    logits = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(probabilities(logits, True), logits.sigmoid())
    several = torch.randn(2, 3, 4, 4)
    full = F.softmax(torch.cat([torch.zeros(2, 1, 4, 4), several], 1), 1)
    torch.testing.assert_close(probabilities(several, True), full[:, 1:])
    torch.testing.assert_close(probabilities(several, False), several.sigmoid())


def test_all_zero_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="all of"):
        SegmentationLoss(LossConfig(0, 0, 0))


def test_logits_are_interpolated_to_targets_of_another_size() -> None:
    logits = torch.tensor([[[[-1.0, 1.0], [-1.0, 1.0]]]])
    targets, weights = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    targets[..., 2:] = 1
    loss = SegmentationLoss(LossConfig(bce=1, dice=0))(logits, targets, weights)["loss"]
    # Bilinear, half-pixel centres: each row is -1, -0.5, 0.5, 1.
    by_hand = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-0.5))) / 2
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)
