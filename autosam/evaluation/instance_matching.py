"""Match the predicted objects of an image with its true ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from autosam.types import Instances

MATCH_IOU = 0.5
"""Smallest IoU of a match. Objects do not overlap, so above 0.5 an object has at most one
candidate; of exactly 0.5 there may be two."""


@dataclass
class Matches:
    """What the metrics need to know about the objects of an image, or of several images."""

    truth_classes: np.ndarray
    """uint8 n: the class of each true object, 1..K."""
    classes: np.ndarray
    """uint8 m: the class of each predicted object, 1..K."""
    scores: np.ndarray
    """float32 m: the score of each predicted object, 0..1."""
    ious: np.ndarray
    """float64 m: IoU of each predicted object with the true object that it matches, from
    `MATCH_IOU` to 1; 0 without a match."""
    on_unknown: np.ndarray
    """bool m: whether more than half of the predicted object lies on unknown pixels. Without a
    match such an object counts neither as right nor as wrong."""
    shared: np.ndarray
    """int64 K: pixels in the intersections of the Aggregated Jaccard Index, by class."""
    union: np.ndarray
    """int64 K: pixels in its unions, by class."""
    known: bool
    """Whether any pixel of the truth is known."""
    candidates: Matches | None = None
    """The same with the objects whose scores are below the threshold, for average precision, which
    needs none; None: there are no others."""

    @classmethod
    def cat(cls, parts: Sequence[Matches]) -> Matches:
        """The objects of several images, in their order. `parts` must not be empty."""
        return cls(
            truth_classes=np.concatenate([part.truth_classes for part in parts]),
            classes=np.concatenate([part.classes for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            ious=np.concatenate([part.ious for part in parts]),
            on_unknown=np.concatenate([part.on_unknown for part in parts]),
            shared=np.sum([part.shared for part in parts], axis=0),
            union=np.sum([part.union for part in parts], axis=0),
            known=any(part.known for part in parts),
            candidates=cls.cat([part.candidates or part for part in parts])
            if any(part.candidates for part in parts)
            else None,
        )


@dataclass
class _Pairs:
    """The q pairs of a predicted and a true object of the same class that share pixels."""

    predicted: np.ndarray
    """int q: index of the predicted object, 0..m-1."""
    truth: np.ndarray
    """int q: index of the true object, 0..n-1."""
    shared: np.ndarray
    """int64 q: pixels in both."""
    union: np.ndarray
    """int64 q: known pixels in either."""

    @property
    def iou(self) -> np.ndarray:
        return self.shared / self.union


def match_instances(truth: Instances, predicted: Instances, classes: int = 1) -> Matches:
    """Match the predicted objects of an image with true objects of the same class.

    The result is that of COCO's evaluation, where each predicted object, in the order of falling
    scores (equal ones by their number), takes the free true object of largest IoU, if that is at
    least `MATCH_IOU`. Unknown pixels of the truth are not part of any predicted object.

    Args:
        truth: the true objects; pixels of id -1 are unknown.
        predicted: the predicted objects, with scores.
        classes: K.

    Raises:
        ValueError: the sizes differ, a score is missing or outside 0..1, a class is outside 1..K,
            or the ids are not 1..n with at least one pixel each.
    """
    truth_areas = _areas(truth, classes, "truth")
    areas = _areas(predicted, classes, "prediction")
    if truth.ids.shape != predicted.ids.shape:
        raise ValueError(
            f"The truth has {truth.ids.shape} pixels, the prediction {predicted.ids.shape}; both "
            "must have the size of the image."
        )
    scores = predicted.scores
    if scores is None or scores.shape != areas.shape or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(
            f"The {len(areas)} predicted objects need a score in 0..1 each, to be ordered by; "
            f"found {scores}."
        )
    pixels = np.flatnonzero(predicted.ids.ravel() > 0)
    rows, columns = predicted.ids.ravel()[pixels] - 1, truth.ids.ravel()[pixels] + 1
    shape = (len(areas), len(truth_areas) + 2)  # the first columns: unknown, background
    table = sparse.coo_array((np.ones(len(pixels), np.int64), (rows, columns)), shape).tocsr()
    on_unknown = table[:, [0]].toarray()[:, 0]
    known_areas = areas - on_unknown
    table = table[:, 2:].tocoo()
    same = predicted.classes[table.row] == truth.classes[table.col]
    row, column, shared = table.row[same], table.col[same], table.data[same]
    union = known_areas[row] + truth_areas[column] - shared
    pairs = _Pairs(row, column, shared, union)
    ignorable = 2 * on_unknown > areas
    shared_by_class, union_by_class = np.zeros((2, classes), np.int64)
    truth_union, extra = _jaccard(pairs, truth_areas, np.where(ignorable, 0, known_areas))
    np.add.at(shared_by_class, truth.classes - 1, truth_union[0])
    np.add.at(union_by_class, truth.classes - 1, truth_union[1])
    np.add.at(union_by_class, predicted.classes - 1, extra)
    return Matches(
        truth_classes=truth.classes,
        classes=predicted.classes,
        scores=scores,
        ious=_matched_ious(pairs, scores),
        on_unknown=ignorable,
        shared=shared_by_class,
        union=union_by_class,
        known=bool((truth.ids >= 0).any()),
    )


def _areas(instances: Instances, classes: int, whose: str) -> np.ndarray:
    """Count the pixels of each object, int64 n, and check the ids and classes."""
    ids = instances.ids.ravel()
    areas = np.bincount(ids[ids > 0], minlength=1)[1:]
    if len(areas) != len(instances) or not areas.all():
        raise ValueError(
            f"The {whose} has {len(instances)} classes of objects, but {np.count_nonzero(areas)} "
            f"objects with pixels, of ids up to {len(areas)}; every id of 1..n needs a pixel."
        )
    wrong = (instances.classes < 1) | (instances.classes > classes)
    if wrong.any():
        raise ValueError(
            f"The {whose} has objects of class {instances.classes[wrong][0]}; expected 1 to "
            f"{classes}."
        )
    return areas


def _matched_ious(pairs: _Pairs, scores: np.ndarray) -> np.ndarray:
    """IoU of each predicted object with the true object that it matches, float64 m, or 0.

    Where two predicted objects are the halves of a true one, that with the higher score matches.
    Where one predicted object is exactly two true ones, it does not matter which it matches: no
    other reaches `MATCH_IOU` with either. So each true object takes its first candidate. The
    matches at a higher threshold are those of `MATCH_IOU` that reach it.
    """
    close = np.flatnonzero(pairs.iou >= MATCH_IOU)
    predicted = pairs.predicted[close]
    ranked = close[np.lexsort((predicted, -scores[predicted]))]
    _, first = np.unique(pairs.truth[ranked], return_index=True)
    best = ranked[first]
    ious = np.zeros(len(scores))
    ious[pairs.predicted[best]] = pairs.iou[best]
    return ious


def _jaccard(
    pairs: _Pairs, truth_areas: np.ndarray, areas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum up the Aggregated Jaccard Index (Kumar et al. 2017, doi 10.1109/TMI.2017.2677499).

    Each true object is compared with the predicted one of largest IoU (of several the first, as in
    the authors' code), which may be that of several true objects.

    Args:
        pairs: the objects that share pixels.
        truth_areas: int64 n.
        areas: int64 m: known pixels of the predicted objects; 0 for those that do not count.

    Returns:
        Pixels of the intersection and of the union of each true object, int64 2 x n; pixels of the
        predicted objects that no true one is compared with, 0 for the others, int64 m.
    """
    per_truth = np.stack((np.zeros_like(truth_areas), truth_areas))
    extra = areas.copy()
    order = np.lexsort((-pairs.predicted, pairs.iou, pairs.truth))
    last = np.diff(pairs.truth[order], append=-1) != 0
    best = order[last]
    per_truth[:, pairs.truth[best]] = pairs.shared[best], pairs.union[best]
    extra[pairs.predicted[best]] = 0
    return per_truth, extra
