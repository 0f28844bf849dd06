"""Thresholds and scores of objects, with networks that know the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_config
from instance_cases import cells, compact, of_ids, scored

from autosam.data.geometry import object_shares, resize_label
from autosam.data.instances import from_label, label_of, without_objects
from autosam.data.labels import without
from autosam.data.sample import make_sample
from autosam.errors import DataError
from autosam.evaluation import evaluator
from autosam.evaluation import predict_instances as predicting
from autosam.evaluation.evaluator import calibrate, evaluate
from autosam.evaluation.instance_matching import Matches
from autosam.evaluation.instance_metrics import summarize_instances
from autosam.evaluation.predict_instances import masks_of, predict_instances
from autosam.models.base import SegmentationModel
from autosam.models.build import build_segmenter
from autosam.models.find_objects import FoundObjects, crop_masks
from autosam.types import Batch, Decision, InputSpec, Instances

SPEC = InputSpec(64, 64, 64, "square", needs_image=False)


class Told(SegmentationModel):
    """Predicts the classes of the truth: 3 where it is, -3 elsewhere."""

    input_spec = SPEC

    def segment(self, batch: Batch) -> tuple[torch.Tensor, None]:
        assert batch.targets is not None
        return torch.where(batch.targets > 0.5, 3.0, -3.0), None


def batches(
    count: int, classes: int = 1, empty: tuple[int, ...] = (), valid: np.ndarray | None = None
) -> list[Batch]:
    """Discs on images of the size of the square, two images a batch."""
    samples = []
    for i in range(count):
        rng = np.random.default_rng(i)
        ids = cells(rng, 5, 64, 14) * (i not in empty)
        ids[:8, :8] = 0  # for the false one
        ids = np.where(np.bincount(ids.ravel())[ids] < 40, 0, ids)
        truth = of_ids(compact(ids), rng, classes)
        label = without(label_of(truth), valid)
        truth = without_objects(truth, valid)
        image = np.zeros((64, 64, 3), np.uint8)
        sample = make_sample(f"img{i}", image, SPEC, label, classes, instances=truth)
        sample.valid = valid
        samples.append(sample)
    return [Batch.collate(samples[i : i + 2]) for i in range(0, count, 2)]


def objects_of(truth: Instances, score: float) -> FoundObjects:
    chosen = np.arange(1, len(truth) + 1)
    shares = object_shares(resize_label(truth.ids, (64, 64)), chosen, (64, 64), 64)
    scores = np.full(len(truth), score, np.float32)
    return FoundObjects(crop_masks(20 * shares - 10), truth.classes, scores)


def finds(monkeypatch: pytest.MonkeyPatch, true: float, false: float) -> None:
    """True objects are found with one score, and a false one in a corner with another."""

    def find(segmenter: SegmentationModel, batch: Batch, least: float) -> list[FoundObjects]:
        found = []
        for truth in batch.instances:
            assert truth is not None
            one = objects_of(truth, true)
            one.masks.append((0, 0, np.full((6, 6), 5.0, np.float32)))
            one.classes = np.append(one.classes, np.uint8(1))
            one.scores = np.append(one.scores, np.float32(false))
            order = np.argsort(-one.scores, kind="stable")
            found.append(
                FoundObjects([one.masks[i] for i in order], one.classes[order], one.scores[order])
            )
        return found

    monkeypatch.setattr(predicting, "find_objects", find)
    for module in (predicting, evaluator):
        monkeypatch.setattr(module, "draws_objects", lambda segmenter: True)


@pytest.mark.parametrize(
    ("true", "false", "threshold"),
    [(0.9, 0.3, 0.5), (0.9, 0.6, 0.65), (0.9, 0.72, 0.75), (0.42, 0.2, 0.4), (0.32, 0.23, 0.3)],
)
def test_the_threshold_is_chosen_by_the_panoptic_quality(
    monkeypatch: pytest.MonkeyPatch, true: float, false: float, threshold: float
) -> None:
    """The closest to 0.5 that keeps the true objects and drops the false ones."""
    finds(monkeypatch, true, false)
    data = batches(12, classes=2, empty=(3,))
    found, area = calibrate(Told(2), data, True, how="watershed")
    assert found == pytest.approx(threshold)
    assert area == 0


def test_with_few_images_no_threshold_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    finds(monkeypatch, 0.9, 0.7)
    assert calibrate(Told(1), batches(6), True, how="watershed") == (0.5, 0.0)
    told = Told(1)
    told.decision = Decision(0.25)  # as that of a run that draws objects
    assert calibrate(told, batches(6), True, how="watershed") == (0.25, 0.0)


def test_average_precision_of_an_image_without_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """A false object below the threshold counts against it, as in that of all images."""
    finds(monkeypatch, 0.9, 0.2)
    data, segmenter = batches(3, empty=(0,)), Told(1)
    segmenter.decision = Decision(0.5)
    rows = evaluate(segmenter, data, True, how="watershed", matches={})
    assert [row["image_ap50"] for row in rows.values()] == [0, 1, 1]
    assert [row["pq"] for row in rows.values()] == pytest.approx([1, 1, 1], abs=0.02)


def test_scores_of_true_objects_and_a_false_one(monkeypatch: pytest.MonkeyPatch) -> None:
    finds(monkeypatch, 0.9, 0.7)
    data, matches = batches(6, classes=2, empty=(3,)), dict[str, Matches]()
    segmenter = Told(2)
    rows = evaluate(segmenter, data, True, classes=("a", "b"), how="watershed", matches=matches)
    truths = {f"img{i}": truth for i, truth in enumerate(t for b in data for t in b.instances)}
    assert rows.keys() == matches.keys() == truths.keys()
    for name, truth in truths.items():
        assert truth is not None
        n = len(truth)
        assert rows[name]["true_objects"] == n
        assert rows[name]["count_error"] == 1
        assert rows[name]["sq"] > 0.99 if n else np.isnan(rows[name]["sq"])
    assert rows["img3"]["pq"] == 0
    segmenter.decision = Decision(0.8)
    rows = evaluate(segmenter, data, True, classes=("a", "b"), how="watershed", matches=matches)
    assert [row["pq"] > 0.99 for row in rows.values()] == [True] * 6
    assert [row["dice"] > 0.99 for row in rows.values()] == [True] * 6
    whole = summarize_instances(matches, ("a", "b"))
    assert whole["ap50"] == whole["ap50/a"] == whole["ap50/b"] == 1
    assert whole["pooled_pq"] > 0.99


def test_average_precision_counts_every_object_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """n true objects below the threshold and a false one above: at the recall of all of them n of
    n + 1 are right, and COCO takes the best precision at a recall or a larger one."""
    finds(monkeypatch, 0.3, 0.9)
    data, matches = batches(6), dict[str, Matches]()
    segmenter = Told(1)
    segmenter.decision = Decision(0.5)
    rows = evaluate(segmenter, data, True, how="watershed", matches=matches)
    counts = [len(matches[name].truth_classes) for name in rows]
    assert [row["predicted_objects"] for row in rows.values()] == [1] * 6
    assert [row["pq"] for row in rows.values()] == [0] * 6
    expected = pytest.approx([n / (n + 1) for n in counts])
    assert [row["image_ap50"] for row in rows.values()] == expected
    n = sum(counts)
    assert summarize_instances(matches)["ap50"] == pytest.approx(n / (n + 6))
    plain = evaluate(segmenter, data, True, how="watershed")  # during a training: the rest is free
    assert [row["image_ap50"] for row in plain.values()] == [0] * 6


def test_masks_of_classes_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connected components of the truth itself are the objects of a network that knows it."""
    data = batches(8, classes=2, empty=(2,))
    matches: dict[str, Matches] = {}
    rows = evaluate(Told(2), data, True, classes=("a", "b"), how="components", matches=matches)
    for batch in data:
        for name, truth, label in zip(batch.names, batch.instances, batch.labels, strict=True):
            assert truth is not None
            assert label is not None
            parts = from_label(label)
            parts.scores = np.ones(len(parts), np.float32)
            expected = scored(truth, parts, 2)
            for key in ("pq", "aji", "f1", "count_error"):
                assert rows[name][key] == pytest.approx(expected[key], nan_ok=True), key
            assert rows[name]["dice"] == 1
    # The threshold is a probability here: all between those of 3 and -3 do the same.
    assert calibrate(Told(1), batches(10), True, how="components") == (0.5, 0.0)


@pytest.mark.parametrize("by_object", [True, False])
def test_pixels_without_data_belong_to_no_object(
    monkeypatch: pytest.MonkeyPatch, by_object: bool
) -> None:
    valid = np.ones((64, 64), bool)
    valid[:, :20] = False
    data = batches(4, classes=2, valid=valid)
    if by_object:
        finds(monkeypatch, 0.9, 0.8)  # the false one lies where there is no data
    for batch in data:
        for decide, truth in zip(
            predict_instances(Told(2), batch, True, "components"), batch.instances, strict=True
        ):
            logits, objects = decide(0.5)
            assert truth is not None
            assert not objects.ids[~valid].any()
            assert len(objects) == objects.ids.max() > 0
            shown = masks_of(objects, 2)
            assert np.array_equal(shown.any(0), truth.ids > 0)
            assert (logits[shown] > 0).all()
            assert not (logits[:, ~valid] > 0).any() or not by_object


def test_masks_of_classes_by_hand() -> None:
    ids = np.array([[1, 2, 0, -1], [3, 3, 1, 0]], np.int32)
    masks = masks_of(Instances(ids, np.array([2, 1, 2], np.uint8)), 3)
    assert masks.dtype == bool
    assert masks.astype(int).tolist() == [
        [[0, 1, 0, 0], [0, 0, 0, 0]],
        [[1, 0, 0, 0], [1, 1, 1, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0]],
    ]
    assert not masks_of(Instances(ids * 0, np.zeros(0, np.uint8)), 2).any()


def test_images_of_unknown_pixels_have_no_score_and_choose_no_threshold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finds(monkeypatch, 0.9, 0.6)
    data, matches = batches(4, valid=np.zeros((64, 64), bool)), dict[str, Matches]()
    assert calibrate(Told(1), data, True, how="watershed") == (0.5, 0.0)
    rows = evaluate(Told(1), data, True, how="watershed", matches=matches)
    assert all(np.isnan(value) for row in rows.values() for value in row.values())
    with pytest.raises(DataError, match="the class of no pixel is known"):
        summarize_instances(matches)


@torch.no_grad()
@pytest.mark.parametrize("run", ["sam-box", "sam-points", "sam-auto", "autosam"])
def test_each_run_finds_objects_at_any_threshold(tiny_file: Path, run: str) -> None:
    """Fewer at a higher one, all of a score of at least that, and none that it had not below."""
    segmenter = build_segmenter(tiny_config(tiny_file, "--task=instances", f"--run={run}")).eval()
    estimate = segmenter.sam.mask_decoder.iou_prediction_head.layers[-1]
    estimate.bias.fill_(0.6)
    rng = np.random.default_rng(0)
    truth = of_ids(cells(rng, 6, 56, 12)[:40], rng)
    image = rng.integers(0, 200, (40, 56, 3), dtype=np.uint8)
    config = tiny_config(tiny_file).prompt
    samples = [
        make_sample(str(i), image, segmenter.input_spec, label_of(one), prompting=config,
                    instances=one)
        for i, one in enumerate((truth, Instances(truth.ids * 0, np.zeros(0, np.uint8)), truth))
    ]  # fmt: skip
    decisions = predict_instances(segmenter, Batch.collate(samples), True, "watershed")
    counts = []
    for decide in decisions:
        own = []
        for threshold in (0.1, 0.5, 0.9):
            logits, objects = decide(threshold)
            assert logits.shape == (1, 40, 56)
            assert objects.scores is not None
            assert objects.ids.max() == len(objects) == len(objects.scores)
            given = run in ("sam-box", "sam-points")  # no score removes what a prompt asks for
            assert given or (objects.scores >= threshold).all()
            assert (logits[0][objects.ids > 0] > 0).all()
            own.append(len(objects))
        assert own == sorted(own, reverse=True)
        counts.append(own)
    assert counts[0] == counts[2]
    if run in ("sam-box", "sam-points"):
        assert counts[0][0] > 0
        assert counts[1] == [0, 0, 0]
