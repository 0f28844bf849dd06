"""Metrics against values worked by hand, with empty masks."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from instance_cases import drawn
from monai.metrics import (
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)
from scipy.ndimage import binary_erosion, distance_transform_edt

from autosam.data.labels import pack
from autosam.evaluation import contour_distances as contours
from autosam.evaluation.instance_matching import match_instances
from autosam.evaluation.metrics import (
    dice,
    hausdorff95,
    iou,
    mean_scores,
    precision,
    recall,
    score,
    surface_dice,
)
from autosam.evaluation.predict_batch import predict_label
from autosam.evaluation.sanity import (
    describe_images,
    sanity_warnings,
    trivial_dice,
    unfound_objects,
)
from autosam.evaluation.scores import read_scores, write_scores


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


def random_masks(seed: int) -> list[np.ndarray]:
    """Two masks of few or many objects, of which some touch the border."""
    rng = np.random.default_rng(seed)
    height, width, cells = (int(n) for n in rng.integers((1, 1, 2), (90, 90, 40)))
    found = []
    for _ in range(2):
        small = rng.normal(size=(cells, cells)).astype(np.float32)
        field = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        found.append(field >= np.quantile(field, rng.uniform(0.1, 0.95)))
    return found


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dense", [0, 10**9])  # search tree, distance transform
def test_distances_are_those_of_monai_and_of_scipy(
    dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contours, "DENSE", dense)
    for seed in range(40):
        contours._distances.cache_clear()
        masks = random_masks(seed)
        edges = [mask ^ binary_erosion(mask) for mask in masks]
        expected = [distance_transform_edt(~other)[own] for own, other in (edges, edges[::-1])]
        for ours, theirs in zip(contours.contour_distances(*masks), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        one, other = (torch.from_numpy(mask)[None, None].float() for mask in masks)
        hausdorff = compute_hausdorff_distance(one, other, include_background=True, percentile=95)
        assert hausdorff95(*masks) == pytest.approx(float(hausdorff), rel=1e-5)
        within = [0.01 * math.hypot(*masks[0].shape)]
        share = compute_surface_dice(one, other, within, include_background=True)
        assert surface_dice(*masks) == pytest.approx(float(share), abs=1e-6)


def test_distances_further_than_a_distance_transform_reaches() -> None:
    one, other = np.zeros((2, 1, 70_000), bool)
    one[0, :10_000] = True
    other[0, 69_999] = True
    assert hausdorff95(one, other) == pytest.approx(69_999 - 0.05 * 9_999)


def test_exclusive_classes_take_the_largest_and_background_wins_below_zero() -> None:
    logits = torch.tensor([[[1.0, -1.0, 3.0]], [[2.0, -2.0, 1.0]]])
    label = predict_label(logits, exclusive=True)
    assert label[:, 0].tolist() == [[False, False, True], [True, False, False]]
    both = predict_label(logits, exclusive=False)
    assert both[:, 0].tolist() == [[True, False, True], [True, False, True]]


@pytest.mark.parametrize("threshold", [0.1, 0.35, 0.5, 0.8])
def test_exclusive_classes_are_weighed_against_background_alone(threshold: float) -> None:
    """By the soft-max: the most probable class, where its share of it and background is enough."""
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (3, 40, 50))).float()
    shares = torch.softmax(torch.cat([torch.zeros(1, 40, 50), logits]), 0).numpy()
    best = shares[1:].argmax(0)
    enough = shares[1:].max(0) / (shares[1:].max(0) + shares[0]) > threshold
    expected = [enough & (best == k) for k in range(3)]
    assert np.array_equal(predict_label(logits, True, threshold), expected)
    if threshold == 0.5:
        assert np.array_equal(np.stack(expected).any(0), shares.argmax(0) > 0)


def test_score_averages_classes_and_names_each() -> None:
    label = np.zeros((6, 8), np.uint8)
    label[A] = 1
    label[5, 5] = 2
    predicted = np.stack([A, mask((5, 6))])
    row = score(predicted, label)
    assert (row["dice/1"], row["dice/2"], row["dice"]) == (1, 0, 0.5)
    assert row["hd95/2"] == 1
    assert mean_scores([{"dice": 1.0}, {"dice": 0.5}]) == {"dice": 0.75}


def labels(*values: list[int]) -> np.ndarray:
    return np.array(values, np.uint8)


def test_a_class_that_is_neither_there_nor_predicted_is_left_out() -> None:
    """Of three classes: 1 is found in half, 2 is a false alarm, 3 is nowhere."""
    label = labels([1, 1, 0, 0])
    predicted = np.array([[[1, 0, 0, 0]], [[0, 0, 0, 1]], [[0, 0, 0, 0]]], bool)
    row = score(predicted, label, ("dice", "iou"), ("one", "two", "three"))
    assert row["dice/one"] == pytest.approx(2 / 3)
    assert row["dice/two"] == 0
    assert math.isnan(row["dice/three"])
    assert row["dice"] == pytest.approx((2 / 3 + 0) / 2)  # before: 5/9
    assert row["iou"] == pytest.approx((1 / 2 + 0) / 2)
    assert (row["false_alarm/two"], row["miss/one"]) == (1, 0)
    assert math.isnan(row["false_alarm"])  # there is something in the image
    other = score(
        predicted[[0, 2, 2]], labels([1, 0, 0, 0]), ("dice", "iou"), ("one", "two", "three")
    )
    means = mean_scores([row, other])
    assert means["dice/one"] == pytest.approx((2 / 3 + 1) / 2)
    assert means["dice/two"] == 0  # of one image
    assert "dice/three" not in means
    assert means["dice"] == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.parametrize("classes", [1, 3])
def test_an_image_with_nothing_in_it_is_right_or_wrong(classes: int) -> None:
    nothing = np.zeros((classes, 2, 4), bool)
    alarm = nothing.copy()
    alarm[0, 0, 0] = True
    empty = np.zeros((2, 4), np.uint8)
    right, wrong = score(nothing, empty), score(alarm, empty)
    assert (right["dice"], right["hd95"], right["false_alarm"]) == (1, 0, 0)
    assert (wrong["dice"], wrong["hd95"], wrong["false_alarm"]) == (0, math.hypot(2, 4), 1)
    full = empty.copy()
    full[1] = 1
    missed, elsewhere = score(nothing, full), score(alarm, full)
    found = score(np.stack([full == k + 1 for k in range(classes)]), full)
    assert [row["miss"] for row in (missed, elsewhere, found)] == [1, 1, 0]
    means = mean_scores([right, wrong, wrong, missed, found])
    assert means["false_alarm"] == pytest.approx(2 / 3)
    assert means["miss"] == 1 / 2
    assert means["nonempty_dice"] == 1 / 2
    assert means["dice"] == pytest.approx(2 / 5)
    assert means["truth_share"] == pytest.approx(2 * 0.5 / 5)
    assert means["predicted_share"] == pytest.approx((1 / 8 + 1 / 8 + 1 / 2) / 5)


def test_an_image_of_which_nothing_is_known_has_no_score() -> None:
    label = np.full((2, 4), 255, np.uint8)
    row = score(np.ones((1, 2, 4), bool), label)
    assert all(math.isnan(value) for value in row.values())
    other = score(np.ones((1, 2, 4), bool), np.ones((2, 4), np.uint8))
    assert mean_scores([row, other])["dice"] == 1


def test_dice_and_iou_are_those_of_monai_where_a_class_is_there_or_predicted() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        share = rng.choice([0.0, 0.02, 0.3], (2, 4, 1, 1))
        truth, predicted = rng.random((2, 4, 5, 6)) < share
        row = score(predicted, pack(truth), ("dice", "iou"))
        ours, theirs = (torch.from_numpy(m)[None].float() for m in (predicted, truth))
        for name, metric in (("dice", compute_dice), ("iou", compute_iou)):
            values = metric(ours, theirs, ignore_empty=False)[0].numpy()
            nowhere = ~(truth | predicted).any((1, 2))
            if name == "iou":  # MONAI knows no IoU of two empty masks
                values = np.where(nowhere, 1, values)
            expected = np.where(nowhere, np.nan, values)
            found = [row[f"{name}/{k + 1}"] for k in range(4)]
            assert np.allclose(found, expected, equal_nan=True)
            mean = 1.0 if nowhere.all() else np.nanmean(expected)
            assert row[name] == pytest.approx(mean)


def test_a_class_that_covers_less_than_the_smallest_area_is_not_found() -> None:
    logits = torch.full((2, 10, 10), -1.0)
    logits[0, 0, :4] = 1  # 4 % and 5 %
    logits[1, 5, :5] = 1
    for exclusive in (True, False):
        for area, expected in ((0.0, [4, 5]), (0.04, [4, 5]), (0.045, [0, 5]), (0.06, [0, 0])):
            found = predict_label(logits, exclusive, 0.5, area)
            assert found.sum((1, 2)).tolist() == expected


def rows_of(pairs: list[tuple[float, float, float]]) -> dict[str, dict[str, float]]:
    """Scores of images by truth share, predicted share and Dice."""
    return {
        str(i): {"dice": dice, "truth_share": truth, "predicted_share": predicted,
                 "miss": math.nan if truth == 0 else float(dice == 0)}
        for i, (truth, predicted, dice) in enumerate(pairs)
    }  # fmt: skip


def test_what_means_hide_is_said() -> None:
    # Recall 1.00, precision 0.40: everything is marked.
    everything = sanity_warnings(rows_of([(0.4, 1.0, 0.571), (0.5, 0.99, 0.667)]), False)
    assert everything[0].startswith("100% of all pixels are predicted as foreground, while 45%")
    nothing = sanity_warnings(rows_of([(0.4, 0.0, 0.0), (0.2, 0.1, 0.0), (0.0, 0.0, 1.0)]), False)
    assert nothing == ["nothing is found in 100% of the images with foreground"]
    # Dice 0.5 where a mask of the whole image has 2 * 0.4 / 1.4.
    poor = sanity_warnings(rows_of([(0.4, 0.3, 0.5), (0.4, 0.5, 0.5)]), False)
    assert poor == ["the Dice of 0.500 is not above that of a mask of the whole image (0.571)"]
    mostly_empty = sanity_warnings(rows_of([(0.1, 0.1, 0.9), *[(0.0, 0.1, 0.0)] * 3]), False)
    assert mostly_empty == ["the Dice of 0.225 is not above that of an empty mask (0.750)"]
    assert sanity_warnings(rows_of([(0.4, 0.4, 0.9), (0.3, 0.3, 0.8)]), False) == []
    # Objects that do fill the images, and scores of earlier versions.
    assert sanity_warnings(rows_of([(0.97, 0.98, 0.99)]), False) == []
    assert sanity_warnings({"a": {"dice": 0.1}}, False) == []
    assert trivial_dice(rows_of([(0.4, 1.0, 0.5), (0.0, 0.0, 1.0)])) == pytest.approx(
        {"a mask of the whole image": (0.8 / 1.4 + 0) / 2, "an empty mask": 0.5}
    )


def test_objects_below_the_threshold_are_named() -> None:
    truth = drawn("11..22")
    nothing, weak = drawn("......", scores=[]), drawn("11..22", scores=[0.2, 0.14])
    missed = match_instances(truth, nothing, 1)
    assert unfound_objects([missed], 0.25) == []  # there is nothing below it either
    missed.candidates = match_instances(truth, weak, 1)
    [warning] = unfound_objects([missed, match_instances(truth, nothing, 1)], 0.25)
    assert "all 2 candidates are below the threshold of 0.25; the largest is 0.20" in warning
    assert unfound_objects([missed, match_instances(truth, weak, 1)], 0.25) == []  # some are found


def test_which_images_hold_what_is_said() -> None:
    nan = math.nan
    rows = {"a": {"miss": 0.0, "false_alarm": nan, "dice/one": 1.0, "dice/two": nan},
            "b": {"miss": nan, "false_alarm": 1.0, "dice/one": 0.0, "dice/two": nan}}  # fmt: skip
    facts = describe_images(rows, ["one", "two"])
    assert facts["images scored"] == "1 with foreground, 1 empty"
    assert "one 2, two 0 of 2" in facts["means by class"]
    assert describe_images({"a": rows["a"]}, ["one"]) == {}


def test_scores_without_a_value_are_empty_cells(tmp_path: Path) -> None:
    rows = {"a": {"dice": 0.5, "dice/two": math.nan}, "b": {"dice": 1.0, "dice/two": 0.25}}
    write_scores(tmp_path / "scores.csv", rows)
    assert (tmp_path / "scores.csv").read_text().splitlines() == [
        "image,dice,dice/two", "a,0.5,", "b,1,0.25",
    ]  # fmt: skip
    again = read_scores(tmp_path / "scores.csv")
    assert math.isnan(again["a"]["dice/two"])
    assert again["b"] == rows["b"]
