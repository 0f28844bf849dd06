"""Metrics of objects against values worked by hand, and their properties."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from instance_cases import cells, compact, disturbed, drawn, predicted, scored, single

from autosam.errors import DataError
from autosam.evaluation.instance_matching import match_instances
from autosam.evaluation.instance_metrics import (
    average_precision,
    score_instances,
    summarize_instances,
)
from autosam.types import Instances

TRUTH = drawn("1111. 1111. ..... 22.33 22.33 22.33")
"""Areas 8, 6, 6."""
PREDICTION = drawn("1111. 11... 44444 22.3. ..... .....", scores=[0.9, 0.8, 0.3, 0.6])
"""1: 6 of 8 pixels, IoU 3/4. 2: 2 of 6, 1/3. 3: 1 of 6, 1/6. 4: false, 5 pixels."""


def test_one_image_by_hand() -> None:
    scores = scored(TRUTH, PREDICTION)
    # One match of three true and four predicted objects.
    assert scores["f1"] == scores["dq"] == pytest.approx(2 / 7)
    assert scores["sq"] == pytest.approx(3 / 4)
    assert scores["pq"] == pytest.approx(3 / 14)
    assert scores["aji"] == pytest.approx((6 + 2 + 1) / (8 + 6 + 6 + 5))
    # The first object is right: precision 1 up to recall 1/3, that is at 0, 0.01, ..., 0.33.
    assert scores["image_ap50"] == pytest.approx(34 / 101)
    assert (scores["true_objects"], scores["predicted_objects"]) == (3, 4)
    assert (scores["count_error"], scores["count_abs_error"]) == (1, 1)


def test_average_precision_by_hand() -> None:
    """Four true objects; right, wrong, right, wrong, right, with IoU 1, 0.6 and 1."""
    truth = drawn("11111. 22222. 33333. 44444. ......")
    prediction = drawn("11111. 333... 55555. ..2... ..4...", scores=[0.9, 0.8, 0.7, 0.6, 0.5])
    matches = match_instances(truth, prediction)
    assert matches.ious.tolist() == [1, 0, 3 / 5, 0, 1]
    # Recall 1/4: precision 1; 2/4: 2/3; 3/4: 3/5. Recalls 0..0.25, 0.26..0.50, 0.51..0.75.
    at_half = (26 + 25 * 2 / 3 + 25 * 3 / 5) / 101
    # Above 0.6 only the first and the last one match: 2/4 with precision 2/5.
    above = (26 + 25 * 2 / 5) / 101
    by_iou = average_precision(matches, 1)
    assert by_iou[0] == by_iou[2] == pytest.approx(at_half)
    assert by_iou[3] == by_iou[-1] == pytest.approx(above)
    summary = summarize_instances({"a": matches})
    assert summary["ap50"] == pytest.approx(at_half)
    assert summary["ap"] == pytest.approx((3 * at_half + 7 * above) / 10)


def test_exactly_half_matches_for_ap_and_f1_but_not_for_panoptic_quality() -> None:
    """Of two equal halves the one with the higher score is the match."""
    matches = match_instances(drawn("1111"), drawn("1122", scores=[0.3, 0.4]))
    assert matches.ious.tolist() == [0, 0.5]
    scores = score_instances(matches)
    assert scores["f1"] == pytest.approx(2 / 3)
    assert (scores["image_ap50"], scores["pq"], scores["dq"]) == (1, 0, 0)
    assert math.isnan(scores["sq"])
    pair = drawn("1111"), drawn("1122", scores=[0.4, 0.4])
    assert match_instances(*pair).ious.tolist() == [0.5, 0]
    # One predicted object cannot match two.
    both = scored(drawn("1122"), drawn("1111", scores=[1]))
    assert both["f1"] == pytest.approx(2 / 3)
    assert both["aji"] == pytest.approx((2 + 2) / (4 + 4))


def test_without_objects() -> None:
    empty, full = drawn("..."), drawn("11.", scores=[0.5])
    nothing = drawn("...", scores=[])
    perfect = scored(empty, nothing)
    for name in ("pq", "dq", "sq", "aji", "f1", "image_ap50"):
        assert perfect[name] == 1
    for scores in (scored(empty, full), scored(full, nothing)):
        assert {scores[name] for name in ("pq", "dq", "aji", "f1", "image_ap50")} == {0}
        assert math.isnan(scores["sq"])
    assert scored(empty, full)["count_error"] == 1
    assert scored(full, nothing)["count_error"] == -1


def test_objects_mostly_on_unknown_pixels_do_not_count() -> None:
    ignored = scored(drawn("11..????"), drawn("11.22222", scores=[0.5, 0.9]))
    assert {ignored[name] for name in ("pq", "sq", "aji", "f1", "image_ap50")} == {1}
    assert (ignored["predicted_objects"], ignored["count_error"]) == (1, 0)
    # Exactly half is not most of it.
    counted = scored(drawn("11..????"), drawn("112222..", scores=[0.5, 0.9]))
    assert counted["f1"] == pytest.approx(2 / 3)
    assert counted["aji"] == pytest.approx(2 / (2 + 2))
    assert counted["image_ap50"] == pytest.approx(1 / 2)


def test_a_match_counts_even_mostly_on_unknown_pixels() -> None:
    assert scored(drawn("11????"), drawn("111111", scores=[1]))["pq"] == 1
    # IoU 3/5 on known pixels: a match up to 0.6, above neither right nor wrong.
    truth = drawn("11111????? 22222.....")
    matches = match_instances(truth, drawn("..11111111 22222.....", scores=[0.9, 0.1]))
    assert matches.ious.tolist() == [3 / 5, 1]
    assert average_precision(matches, 1)[[0, 2]].tolist() == [1, 1]
    assert average_precision(matches, 1)[3] == pytest.approx(51 / 101)


def test_images_without_known_pixels_have_no_score() -> None:
    unknown = match_instances(drawn("??"), drawn("11", scores=[1]))
    assert all(math.isnan(value) for value in score_instances(unknown).values())
    right = match_instances(drawn("1."), drawn("1.", scores=[1]))
    summary = summarize_instances({"a": unknown, "b": right})
    assert (summary["pq"], summary["ap"], summary["predicted_objects"]) == (1, 1, 1)
    with pytest.raises(DataError, match="no pixel is known"):
        summarize_instances({"a": unknown})


def test_classes() -> None:
    """The second object has the wrong class, the third class is absent."""
    truth = drawn("11.22", classes=[1, 2])
    matches = match_instances(truth, drawn("11.22", [1, 1], [0.5, 0.9]), classes=3)
    scores = score_instances(matches, ("a", "b", "c"))
    assert scores["f1/a"] == pytest.approx(2 / 3)
    assert scores["f1/b"] == 0
    assert scores["f1"] == pytest.approx(1 / 3)
    assert scores["aji/a"] == pytest.approx(2 / 4)
    assert scores["aji"] == pytest.approx(1 / 4)
    assert math.isnan(scores["f1/c"])
    assert scores["image_ap50"] == pytest.approx(1 / 4)
    assert (scores["count_error"], scores["count_error/a"], scores["count_error/b"]) == (0, 1, -1)
    assert (scores["count_abs_error"], scores["true_objects/c"]) == (0, 0)
    summary = summarize_instances({"image": matches}, ("a", "b", "c"))
    assert (summary["ap50/a"], summary["ap50/b"]) == (0.5, 0)
    assert summary["ap50"] == 0.25
    assert "ap50/c" not in summary
    assert "f1/c" not in summary


def test_summary_of_two_images_by_hand() -> None:
    """One image with a single perfect object, one with three true objects and one false one."""
    images = {
        "b": match_instances(drawn("11. 22. 33."), drawn("1.. ... ..2", scores=[0.7, 0.8])),
        "a": match_instances(drawn("111"), drawn("111", scores=[0.9])),
    }
    summary = summarize_instances(images)
    assert summary["f1"] == pytest.approx((1 + 2 / 5) / 2)
    assert summary["pq"] == summary["dq"] == pytest.approx(1 / 2)  # IoU 1/2 is no match there
    assert summary["sq"] == 1
    assert summary["pooled_dq"] == pytest.approx(2 / (4 + 3))
    assert summary["pooled_pq"] == pytest.approx(2 / (4 + 3))
    assert summary["count_error"] == pytest.approx(-1 / 2)
    assert summary["count_abs_error"] == pytest.approx(1 / 2)
    # Right, wrong, right (IoU 1/2) of four: recall 1/4 with 1, 2/4 with 2/3.
    assert summary["ap50"] == pytest.approx((26 + 25 * 2 / 3) / 101)
    assert summary["ap"] == pytest.approx(((26 + 25 * 2 / 3) + 9 * 26) / 101 / 10)


def test_equal_scores_rank_by_the_names_of_the_images() -> None:
    wrong = match_instances(drawn("1.."), drawn("..1", scores=[0.5]))
    right = match_instances(drawn("1.."), drawn("1..", scores=[0.5]))
    for images in ({"a": wrong, "b": right}, {"b": right, "a": wrong}):
        assert summarize_instances(images)["ap50"] == pytest.approx(51 / 2 / 101)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (drawn("11"), drawn("11.", scores=[1]), "size of the image"),
        (drawn("11"), drawn("11"), "need a score"),
        (drawn("11"), drawn("11", scores=[1.5]), "need a score"),
        (drawn("11"), drawn("11", scores=[math.nan]), "need a score"),
        (drawn("11", [2]), drawn("11", scores=[1]), "truth has objects of class 2"),
        (drawn("1.3"), drawn("11.", scores=[1]), "every id of 1..n needs a pixel"),
        (drawn("11"), drawn("12", [1], [1]), "prediction has 1 classes of objects, but 2"),
    ],
)
def test_errors(truth: Instances, prediction: Instances, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_instances(truth, prediction)


def renumbered(instances: Instances, rng: np.random.Generator) -> Instances:
    order = rng.permutation(len(instances))
    ids = np.append(0, np.argsort(order) + 1)[instances.ids].astype(np.int32)
    assert instances.scores is not None
    return Instances(ids, instances.classes[order], instances.scores[order])


def test_properties() -> None:
    rng = np.random.default_rng(0)
    qualities = ("pq", "dq", "sq", "aji", "f1", "image_ap50")
    for _ in range(20):
        truth = predicted(cells(rng, 40, 96, 9), rng, 2)
        found = predicted(disturbed(truth.ids, rng), rng, 2)
        before = scored(truth, found, 2)
        after = scored(renumbered(truth, rng), renumbered(found, rng), 2)
        assert before == pytest.approx(after, nan_ok=True)
        assert all(0 <= before[name] <= 1 for name in qualities)
        assert before["pq"] <= before["dq"]

        perfect = scored(truth, truth, 2)
        assert all(perfect[name] == 1 for name in qualities)
        assert perfect["count_error"] == 0

        truth, found = single(truth), single(found)
        merged = compact(np.where(truth.ids == 2, 1, truth.ids))
        lower = scored(truth, predicted(merged, rng))
        assert all(lower[name] < 1 for name in ("pq", "dq", "aji", "f1"))
        assert lower["count_error"] == -1

        false = found.ids.copy()
        false.ravel()[np.flatnonzero((found.ids == 0) & (truth.ids == 0))[0]] = len(found) + 1
        extra = scored(truth, predicted(false, rng))
        without = scored(truth, found)
        assert all(extra[name] < without[name] for name in ("pq", "dq", "aji", "f1"))


def test_the_limit_of_coco_on_objects_of_an_image_does_not_apply() -> None:
    ids = np.arange(1, 301, dtype=np.int32).reshape(15, 20)
    rng = np.random.default_rng(0)
    truth, found = predicted(ids, rng), predicted(ids, rng)
    assert summarize_instances({"image": match_instances(truth, found)})["ap"] == 1


def test_speed(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:2000, :2000]
    inside = (row % 44 - 22) ** 2 + (column % 44 - 22) ** 2 < 20**2
    truth = predicted(compact(inside * (1 + row // 44 * 46 + column // 44)), rng)
    found = predicted(compact(np.roll(truth.ids, 3, 1)), rng)
    start = time.perf_counter()
    summary = summarize_instances({"image": match_instances(truth, found)})
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\n{len(truth)} objects in 2000 x 2000 px: {seconds:.2f} s, PQ {summary['pq']:.3f}")
    assert summary["f1"] > 0.9
