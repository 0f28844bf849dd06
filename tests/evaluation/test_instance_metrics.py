"""Metrics of objects against values worked by hand and other implementations."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from monai.metrics import PanopticQualityMetric
from monai.metrics.panoptic_quality import compute_panoptic_quality
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.spatial import cKDTree

from autosam.errors import DataError
from autosam.evaluation.instance_matching import Matches, match_instances
from autosam.evaluation.instance_metrics import (
    IOUS,
    average_precision,
    score_instances,
    summarize_instances,
)
from autosam.types import Instances


def drawn(rows: str, classes: Sequence[int] = (), scores: Sequence[float] | None = None):
    """Instances out of rows of digits; "." is background and "?" unknown."""
    cells = [["?.123456789".index(c) - 1 for c in row] for row in rows.split()]
    ids = np.array(cells, np.int32)
    classes = classes or [1] * ids.max()
    return Instances(
        ids,
        np.array(classes, np.uint8),
        None if scores is None else np.array(scores, np.float32),
    )


def compact(ids: np.ndarray) -> np.ndarray:
    """Number the objects 1..n; -1 and 0 stay."""
    found = np.unique(ids[ids > 0])
    return np.where(ids > 0, np.searchsorted(found, ids) + 1, ids).astype(np.int32)


def predicted(ids: np.ndarray, rng: np.random.Generator, classes: int = 1) -> Instances:
    n = ids.max()
    return Instances(
        ids, rng.integers(1, classes + 1, n).astype(np.uint8), rng.random(n).astype(np.float32)
    )


def cells(rng: np.random.Generator, count: int, size: int, radius: float) -> np.ndarray:
    """Discs that touch, cut where they would overlap: int32 size x size."""
    centres = rng.uniform(0, size, (count, 2))
    distance, nearest = cKDTree(centres).query(np.moveaxis(np.mgrid[:size, :size], 0, -1))
    radii = rng.uniform(0.5, 1, count) * radius
    return compact(np.where(distance < radii[nearest], nearest + 1, 0))


def disturbed(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Objects moved by some pixels; some are missing, merged, split or false."""
    ids = np.roll(ids, rng.integers(-2, 3, 2), (0, 1))
    for k in range(2, ids.max() + 1):
        match rng.integers(10):
            case 0:
                ids[ids == k] = 0
            case 1:
                ids[ids == k] = k - 1
            case 2:
                rows, columns = np.nonzero(ids == k)
                ids[rows[::2], columns[::2]] = ids.max() + 1
    ids[:4, :4] = ids.max() + 1
    return compact(ids)


def scored(truth: Instances, prediction: Instances, classes: int = 1) -> dict[str, float]:
    return score_instances(match_instances(truth, prediction, classes))


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
    assert_equals_coco([pair], 1)
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


def coco_ap(pairs: list[tuple[Instances, Instances]], classes: int) -> np.ndarray:
    """pycocotools' average precision, 10 thresholds x K; unknown pixels are a crowd."""
    images = [{"id": i, "height": 1, "width": 1} for i in range(len(pairs))]
    truths: list[dict] = []
    found: list[dict] = []

    def rle(mask: np.ndarray) -> dict:
        return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))

    def truth_of(image: int, mask: np.ndarray, category: int, crowd: int) -> None:
        area = int(mask.sum())
        known = {"id": len(truths) + 1, "image_id": image, "category_id": category, "area": area}
        truths.append(known | {"iscrowd": crowd, "segmentation": rle(mask)})

    for image, (truth, prediction) in enumerate(pairs):
        for k, category in enumerate(truth.classes.tolist()):
            truth_of(image, truth.ids == k + 1, category, 0)
        for category in range(1, classes + 1) if (truth.ids < 0).any() else ():
            truth_of(image, truth.ids < 0, category, 1)
        assert prediction.scores is not None
        for k, (category, score) in enumerate(
            zip(prediction.classes.tolist(), prediction.scores.tolist(), strict=True)
        ):
            one = {"image_id": image, "category_id": category, "score": score}
            found.append(one | {"segmentation": rle(prediction.ids == k + 1)})
    coco = COCO()
    categories = [{"id": k + 1, "name": str(k + 1)} for k in range(classes)]
    coco.dataset = {"images": images, "annotations": truths, "categories": categories, "info": {}}
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(found), "segm")
    evaluation.params.maxDets = [100_000]
    evaluation.params.areaRng = [[0, 1e10]]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # thresholds x recalls x K
    return np.where((precision < 0).any(1), math.nan, precision.mean(1))


def assert_equals_coco(pairs: list[tuple[Instances, Instances]], classes: int) -> float:
    images = [match_instances(*pair, classes) for pair in pairs]
    pooled = Matches.cat(images)
    ours = np.stack([average_precision(pooled, k + 1, IOUS) for k in range(classes)], 1)
    theirs = coco_ap(pairs, classes)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    if not np.isnan(theirs).all():
        summary = summarize_instances({str(i): one for i, one in enumerate(images)})
        assert summary["ap50"] == pytest.approx(np.nanmean(theirs[0]), abs=1e-12)
        assert summary["ap"] == pytest.approx(np.nanmean(theirs), abs=1e-12)
    return float(np.nanmax(np.abs(ours - theirs)))


def test_ap_equals_pycocotools_with_ties_classes_and_empty_images() -> None:
    """Small images full of IoUs of exactly 0.5, scores of few values, some without objects."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        pairs = []
        for i in range(6):
            truth, other = (np.kron(rng.integers(0, 5, (3, 2)), [[1, 1]]) for _ in range(2))
            truth, changed = compact(truth), rng.random(truth.shape) < 0.3
            found = compact(np.where(changed, other, truth))
            pair = predicted(truth * (i != 1), rng, 2), predicted(found * (i not in (1, 2)), rng, 2)
            pair[1].scores = rng.choice([0.25, 0.5, 0.75], len(pair[1])).astype(np.float32)
            pairs.append(pair)
        assert_equals_coco(pairs, 2)


def test_ap_equals_pycocotools_with_crowds_on_cells() -> None:
    """Crowds cover predicted objects wholly or not at all, where both rules say the same."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        pairs = []
        for _ in range(3):
            truth = cells(rng, 60, 128, 9)
            found = disturbed(truth, rng)
            crowd = np.isin(found, rng.choice(found.max(), 12, replace=False) + 1)
            crowd |= rng.permutation((found == 0).ravel()).reshape(found.shape) & (found == 0)
            truth = compact(np.where(crowd, -1, truth))
            pairs.append((predicted(truth, rng), predicted(found, rng)))
        assert_equals_coco(pairs, 1)


def test_panoptic_quality_equals_monai() -> None:
    rng = np.random.default_rng(0)
    metric = PanopticQualityMetric(2, ("pq", "sq", "rq"))
    images = {}
    for i in range(4):
        truth = predicted(cells(rng, 50, 96, 9), rng, 2)
        found = predicted(disturbed(truth.ids, rng), rng, 2)
        found.classes[: len(truth) // 2] = truth.classes[: len(truth) // 2]
        images[str(i)] = match_instances(truth, found, 2)
        both = [
            np.stack((one.ids, np.append(0, one.classes)[one.ids])).astype(np.int64)
            for one in (found, truth)
        ]
        metric(*(torch.from_numpy(one)[None] for one in both))
        one_class = score_instances(match_instances(single(truth), single(found)))
        tp, fp, fn, iou_sum = compute_panoptic_quality(
            *(torch.from_numpy(one.ids) for one in (found, truth)), output_confusion_matrix=True
        ).tolist()
        assert one_class["dq"] == pytest.approx(tp / (tp + fp / 2 + fn / 2), rel=1e-5)
        assert one_class["sq"] == pytest.approx(iou_sum / tp, rel=1e-5)
        assert one_class["pq"] == pytest.approx(iou_sum / (tp + fp / 2 + fn / 2), rel=1e-5)
    summary = summarize_instances(images)
    pq, sq, rq = (values.mean().item() for values in metric.aggregate())
    assert 0.1 < pq < 0.9
    assert summary["pooled_pq"] == pytest.approx(pq, rel=1e-5)
    assert summary["pooled_sq"] == pytest.approx(sq, rel=1e-5)
    assert summary["pooled_dq"] == pytest.approx(rq, rel=1e-5)


def single(instances: Instances) -> Instances:
    return Instances(instances.ids, np.ones_like(instances.classes), instances.scores)


def aji_by_sets(truth: np.ndarray, found: np.ndarray) -> float:
    """Algorithm 1 of Kumar et al. 2017, on sets of pixels."""
    true_sets, sets = (
        [set(np.flatnonzero(ids == k)) for k in range(1, ids.max() + 1)] for ids in (truth, found)
    )
    shared, union, used = 0, 0, set()
    for pixels in true_sets:
        best = max(range(len(sets)), key=lambda k: len(pixels & sets[k]) / len(pixels | sets[k]))
        if pixels & sets[best]:
            shared += len(pixels & sets[best])
            union += len(pixels | sets[best])
            used.add(best)
        else:
            union += len(pixels)
    union += sum(len(pixels) for k, pixels in enumerate(sets) if k not in used)
    return shared / union


def test_aji_equals_sets_of_pixels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        truth = predicted(cells(rng, 30, 64, 9), rng)
        found = predicted(disturbed(truth.ids, rng), rng)
        aji = aji_by_sets(truth.ids, found.ids)
        assert 0.1 < aji < 0.95
        assert scored(truth, found)["aji"] == pytest.approx(aji, rel=1e-12)
    for _ in range(50):  # many ties
        truth, found = (predicted(compact(rng.integers(0, 4, (3, 4))), rng) for _ in range(2))
        assert scored(truth, found)["aji"] == pytest.approx(aji_by_sets(truth.ids, found.ids))


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
