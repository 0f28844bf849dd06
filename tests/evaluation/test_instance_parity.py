"""Metrics of objects against pycocotools, MONAI, and sets of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from instance_cases import cells, compact, disturbed, drawn, predicted, scored, single
from monai.metrics import PanopticQualityMetric
from monai.metrics.panoptic_quality import compute_panoptic_quality
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from autosam.evaluation.instance_matching import Matches, match_instances
from autosam.evaluation.instance_metrics import (
    IOUS,
    average_precision,
    score_instances,
    summarize_instances,
)
from autosam.types import Instances


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


def test_equal_scores_of_two_halves_equal_pycocotools() -> None:
    assert_equals_coco([(drawn("1111"), drawn("1122", scores=[0.4, 0.4]))], 1)
