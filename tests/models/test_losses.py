"""Losses against values worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import MaskedDiceLoss
from torch.nn import functional as F

from autosam.config import LossConfig
from autosam.data.geometry import cell_weight, class_shares
from autosam.data.labels import known
from autosam.models.losses import SegmentationLoss, probabilities

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


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_loss_over_cells_is_that_over_their_known_pixels(exclusive: bool) -> None:
    """Cells that are partly padding or unlabelled count as many pixels as are known, and those
    pixels alone: the same logits, repeated for each pixel, have the same cross entropy and Dice."""
    rng = np.random.default_rng(0)
    full = {"bce": 1.0, "dice": 1.0, "mse": 0.0}
    for height, width in ((12, 12), (7, 12), (12, 5), (1, 12), (3, 3)):
        label = rng.choice([0, 1, 255], (height, width), p=[0.4, 0.4, 0.2]).astype(np.uint8)
        label[0, 0] = 1
        shares, weight = class_shares(label, 1, 12, 3), cell_weight(known(label), 12, 3)
        pixels, valid = class_shares(label, 1, 12, 12), cell_weight(known(label), 12, 12)
        logits = torch.randn(1, 1, 3, 3)
        criterion = SegmentationLoss(LossConfig(**full), exclusive)
        cells = criterion(logits, shares[None], weight[None])
        each = criterion(logits.repeat_interleave(4, 2).repeat_interleave(4, 3), pixels[None],
                         valid[None])  # fmt: skip
        assert cells["bce"].item() == pytest.approx(each["bce"].item(), abs=1e-5)
        # Of the 1 that smooths Dice a cell's share counts as one of its 16 pixels.
        probability = logits.sigmoid()
        both = (weight * probability * shares).sum().item()
        whole = (weight * (probability + shares)).sum().item()
        assert cells["dice"].item() == pytest.approx(1 - (2 * both + 1) / (whole + 1), abs=1e-5)
        assert each["dice"].item() == pytest.approx(
            1 - (2 * 16 * both + 1) / (16 * whole + 1), abs=1e-5
        )


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3]))
@settings(max_examples=25, deadline=None)
def test_dice_is_monai_s_where_weights_are_0_or_1(seed: int, hidden: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 5, 5, generator=generator)
    targets = torch.rand(2, 3, 5, 5, generator=generator)
    weights = (torch.rand(2, 1, 5, 5, generator=generator) >= hidden).float()
    ours = SegmentationLoss(LossConfig(bce=0, dice=1), exclusive=False)(logits, targets, weights)
    theirs = MaskedDiceLoss(smooth_nr=1.0, smooth_dr=1.0)(logits.sigmoid(), targets, weights)
    assert ours["dice"].item() == pytest.approx(theirs.item(), abs=1e-5)


def test_an_image_without_a_known_pixel_has_no_cross_entropy() -> None:
    parts = loss([0.3, 5.0], [0.0, 0.0], torch.zeros(1, 1, 1, 2), bce=1.0, dice=1.0, focal=1.0)
    assert [parts[name].item() for name in ("bce", "focal", "dice", "loss")] == [0, 0, 0, 0]


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
