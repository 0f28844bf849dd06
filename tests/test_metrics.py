"""Metrics against values worked by hand, empty masks included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from autosam.metrics import (
    dice,
    hausdorff95,
    iou,
    mean_scores,
    precision,
    predict_label,
    recall,
    score,
    surface_dice,
)


def mask(*cells: tuple[int, int], shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    result = np.zeros(shape, bool)
    for cell in cells:
        result[cell] = True
    return result


A = mask((0, 0), (0, 1), (0, 2))
B = mask((0, 1), (0, 2), (0, 3), (0, 4))


def test_overlap() -> None:
    assert dice(A, B) == pytest.approx(4 / 7)
    assert iou(A, B) == pytest.approx(2 / 5)
    assert hausdorff95(A, A) == 0


def test_hausdorff_of_two_points() -> None:
    assert hausdorff95(mask((0, 0)), mask((3, 4))) == pytest.approx(5)


def test_empty_masks() -> None:
    empty = mask()
    assert (dice(empty, empty), iou(empty, empty), hausdorff95(empty, empty)) == (1, 1, 0)
    for pair in ((A, empty), (empty, A)):
        assert (dice(*pair), iou(*pair)) == (0, 0)
        assert hausdorff95(*pair) == math.hypot(6, 8)


def test_precision_and_recall() -> None:
    assert precision(A, B) == pytest.approx(2 / 3)
    assert recall(A, B) == pytest.approx(2 / 4)
    empty = mask()
    assert (precision(empty, empty), recall(empty, empty)) == (1, 1)
    assert (precision(A, empty), recall(A, empty)) == (0, 0)
    assert (precision(empty, A), recall(empty, A)) == (0, 0)


def test_surface_dice_counts_outlines_within_a_hundredth_of_the_diagonal() -> None:
    # 60 x 80 pixels: a diagonal of 100, so a tolerance of 1 pixel. Squares of 10, outlines of 36.
    square, beside, far = (np.zeros((60, 80), bool) for _ in range(3))
    square[10:20, 10:20] = True
    beside[10:20, 11:21] = True
    far[10:20, 13:23] = True
    assert surface_dice(square, square) == 1
    assert surface_dice(square, beside) == 1
    # Of the square's outline 8 cells of the upper and of the lower row lie within a pixel of the
    # other's, and the ends of its right column; the same of the other, mirrored.
    assert surface_dice(square, far) == pytest.approx(2 * (8 + 8 + 2) / (2 * 36))
    empty = np.zeros((60, 80), bool)
    assert (surface_dice(empty, empty), surface_dice(square, empty)) == (1, 0)
    assert surface_dice(empty, square) == 0


def test_exclusive_classes_take_the_largest_and_background_wins_below_zero() -> None:
    logits = torch.tensor([[[1.0, -1.0, 3.0]], [[2.0, -2.0, 1.0]]])
    label = predict_label(logits, exclusive=True)
    assert label[:, 0].tolist() == [[False, False, True], [True, False, False]]
    both = predict_label(logits, exclusive=False)
    assert both[:, 0].tolist() == [[True, False, True], [True, False, True]]


def test_score_averages_classes_and_names_each() -> None:
    label = np.zeros((6, 8), np.uint8)
    label[A] = 1
    label[5, 5] = 2
    predicted = np.stack([A, mask((5, 6))])
    row = score(predicted, label)
    assert (row["dice/1"], row["dice/2"], row["dice"]) == (1, 0, 0.5)
    assert row["hd95/2"] == 1
    assert mean_scores([{"dice": 1.0}, {"dice": 0.5}]) == {"dice": 0.75}
