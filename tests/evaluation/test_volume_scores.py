"""Scores of whole volumes, against MONAI's of the stacked slices."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou

from autosam.data.pairs import Pair
from autosam.data.readers.volumes import Slice
from autosam.evaluation.metrics import score
from autosam.evaluation.volume_scores import count_pixels, mean_over_volumes, score_volumes


def pair(volume: str, i: int) -> Pair:
    image = Slice(Path(f"{volume}.nii"), 2, i)
    return Pair(f"{volume}-{i}", image, image, group="patient")


@pytest.mark.parametrize("classes", [1, 3])
def test_dice_and_iou_of_stacked_slices(classes: int) -> None:
    """Random masks with unknown pixels, empty slices, absent classes and empty volumes."""
    rng = np.random.default_rng(classes)
    counts, pairs, stacks = {}, [], {}
    for v in range(12):
        shown = [0, *rng.permutation(classes)[: v % (classes + 1)] + 1]  # classes of this volume
        truth = rng.choice(shown, (5, 9, 7)).astype(np.uint8)
        predicted = rng.choice(shown if v % 2 else [0, classes], (5, 9, 7))
        truth[v % 5] = 0
        if v == 0:
            predicted[:] = 0
        if v % 3 == 0:
            truth[:, :2] = 255
        masks = np.stack([predicted == k + 1 for k in range(classes)], 1)
        for i in range(5):
            pairs.append(pair(f"case{v}", i))
            counts[f"case{v}-{i}"] = count_pixels(masks[i], truth[i])
        true = np.stack([truth == k + 1 for k in range(classes)], 1)
        stacks[f"case{v}"] = (masks & (truth != 255)[:, None], true)
    found = score_volumes(counts, pairs, [f"c{k}" for k in range(classes)])
    assert list(found) == list(stacks)
    absent = 0
    for name, (masks, true) in stacks.items():
        a, b = (torch.from_numpy(one).float().permute(1, 0, 2, 3)[None] for one in (masks, true))
        for metric, monai in (("dice", compute_dice), ("iou", compute_iou)):
            each = monai(a, b, include_background=True, ignore_empty=False)[0].numpy().copy()
            gone = ~(masks | true).any((0, 2, 3))
            absent += gone.sum()
            mean = 1.0 if gone.all() else each[~gone].mean()
            assert found[name][metric] == pytest.approx(mean, abs=1e-6)
            for k in range(classes if classes > 1 else 0):
                own = found[name][f"{metric}/c{k}"]
                assert math.isnan(own) if gone[k] else own == pytest.approx(each[k], abs=1e-6)
    assert absent > 1
    means = mean_over_volumes(found)
    assert means["volume_dice"] == pytest.approx(np.mean([row["dice"] for row in found.values()]))


def test_a_volume_of_one_slice_is_that_image() -> None:
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 2, 255], (8, 9)).astype(np.uint8)
    masks = rng.random((2, 8, 9)) < 0.4
    expected = score(masks, label, ("dice", "iou"))
    found = score_volumes({"a-0": count_pixels(masks, label)}, [pair("a", 0)], ["1", "2"])
    assert found["a"] == pytest.approx({name: expected[name] for name in found["a"]})


def test_unknown_volumes_and_other_images() -> None:
    masks, label = np.ones((1, 4, 4), bool), np.full((4, 4), 255, np.uint8)
    counts = {"a-0": count_pixels(masks, label), "b-0": count_pixels(masks, label * 0 + 1)}
    found = score_volumes(counts, [pair("a", 0), pair("b", 0)], ["1"])
    assert math.isnan(found["a"]["dice"])
    assert mean_over_volumes(found) == {"volume_dice": 1.0, "volume_iou": 1.0}
    assert mean_over_volumes(score_volumes({}, [Pair("x-0", None, None)], ["1"])) == {}  # type: ignore[arg-type]
