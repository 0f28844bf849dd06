"""Metrics of predicted objects: of an image, and of a split.

Rules for images without objects, of each class by itself: neither true nor predicted objects is
perfect (1), objects in one of the two alone score 0. Predicted objects without a match that lie
mostly on unknown pixels do not count, see `instance_matching`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autosam.errors import DataError
from autosam.evaluation.instance_matching import MATCH_IOU, Matches
from autosam.evaluation.metrics import mean_known

IOUS = np.linspace(0.5, 0.95, 10)
"""COCO's thresholds of the IoU of a match."""
RECALLS = np.linspace(0, 1, 101)
"""COCO's recalls at which precision is averaged."""

POOLED = ("ap50", "ap", "pooled_pq", "pooled_dq", "pooled_sq")
"""Scores over the objects of all images of a split."""

QUALITIES = ("pq", "dq", "sq", "aji", "f1", "image_ap50")
"""Scores of an image in [0, 1], higher is better."""


def score_instances(matches: Matches, classes: Sequence[str] = ()) -> dict[str, float]:
    """Score the objects of one image.

    With several classes, a class of which there is neither a true nor a predicted object is NaN
    and left out of the mean. If there is no object of any class, the image scores 1.

    Args:
        matches: the objects of the image.
        classes: names of the K classes; empty for "1" to "K".

    Returns:
        Means over classes by score, and for several classes also `score/class`. All are NaN if no
        pixel of the image is known.

        - pq: panoptic quality (Kirillov et al. 2019, arXiv 1801.00868), dq times sq.
        - dq: detection quality (there "recognition quality"), the F1 of matches with an IoU above
          0.5.
        - sq: segmentation quality, the mean IoU of those matches; NaN without a match, where MONAI
          returns 0.
        - aji: Aggregated Jaccard Index (Kumar et al. 2017, doi 10.1109/TMI.2017.2677499).
        - f1: F1 of matches with an IoU of at least 0.5, 2 TP / (2 TP + FP + FN).
        - image_ap50: average precision at an IoU of 0.5 of this image alone, see
          `average_precision`.
        - true_objects, predicted_objects: how many there are; over all classes their sum.
        - count_error: predicted minus true.
        - count_abs_error: its absolute value.
    """
    count = len(matches.union)
    titles = list(classes) or [str(k + 1) for k in range(count)]
    rows = [_score_class(matches, k + 1) for k in range(count)]
    present = [bool(row["true_objects"] or row["predicted_objects"]) for row in rows]
    shown = [row for row, there in zip(rows, present, strict=True) if there] or rows
    result = {name: mean_known([row[name] for row in shown]) for name in QUALITIES}
    result |= _counts(*(sum(row[f"{w}_objects"] for row in rows) for w in ("true", "predicted")))
    if count > 1:
        for title, row, there in zip(titles, rows, present, strict=True):
            hidden = {} if there else dict.fromkeys(QUALITIES, math.nan)
            result |= {f"{name}/{title}": value for name, value in (row | hidden).items()}
    return result if matches.known else dict.fromkeys(result, math.nan)


def _counts(true: float, predicted: float) -> dict[str, float]:
    return {
        "true_objects": true,
        "predicted_objects": predicted,
        "count_error": predicted - true,
        "count_abs_error": abs(predicted - true),
    }


def pooled_scores(scores: dict[str, float]) -> dict[str, float]:
    """Those of `POOLED` among the scores of a split, and those of each class (`ap50/class`)."""
    return {name: value for name, value in scores.items() if name.partition("/")[0] in POOLED}


def _score_class(matches: Matches, k: int) -> dict[str, float]:
    """Compute the scores of `score_instances` for class `k`, of one image or of several."""
    true = int((matches.truth_classes == k).sum())
    own = matches.classes == k
    ious, on_unknown = matches.ious[own], matches.on_unknown[own]
    predicted = int(((ious > 0) | ~on_unknown).sum())
    counts = _counts(true, predicted)
    if true:
        precision = float(average_precision(matches, k, IOUS[:1])[0])
    else:
        found = matches.candidates or matches
        precision = float(not ((found.classes == k) & ~found.on_unknown).any())
    if not true and not predicted:
        return dict.fromkeys(QUALITIES, 1.0) | counts | {"image_ap50": precision}
    above = ious[ious > MATCH_IOU]
    counted = int((~on_unknown | (ious > MATCH_IOU)).sum())
    dq, sq = _f1(len(above), true, counted), float(above.mean()) if len(above) else math.nan
    return {
        "pq": dq * sq if len(above) else 0.0,
        "dq": dq,
        "sq": sq,
        "aji": matches.shared[k - 1] / max(1, matches.union[k - 1]),
        "f1": _f1(int((ious > 0).sum()), true, predicted),
        "image_ap50": precision,
    } | counts


def _f1(matched: int, true: int, predicted: int) -> float:
    return 2 * matched / max(1, true + predicted)


def average_precision(matches: Matches, k: int, ious: np.ndarray = IOUS) -> np.ndarray:
    """Compute COCO's average precision of masks, without its limit of 100 objects an image: of all
    objects that were found, whatever threshold was chosen.

    Args:
        matches: the objects of an image, or of a split (`Matches.cat`): equal scores rank in the
            order of the images, then of the objects.
        k: the class, 1..K.
        ious: float T: the smallest IoU of a match, from `MATCH_IOU` to 1.

    Returns:
        float T: the precision at each of 101 recalls, averaged; NaN without a true object.
    """
    matches = matches.candidates or matches
    true = int((matches.truth_classes == k).sum())
    if not true:
        return np.full(len(ious), math.nan)
    own = np.flatnonzero(matches.classes == k)
    own = own[np.argsort(-matches.scores[own], kind="stable")]
    result = []
    for threshold in ious:
        found = matches.ious[own] >= min(threshold, 1 - 1e-10)
        found = found[found | ~matches.on_unknown[own]]
        hits = found.cumsum()
        precision = hits / np.arange(1, len(found) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a larger one
        at = np.searchsorted(hits / true, RECALLS)
        result.append(np.append(best, 0)[at].mean())
    return np.array(result)


def summarize_instances(
    images: Mapping[str, Matches], classes: Sequence[str] = ()
) -> dict[str, float]:
    """Score a split.

    Args:
        images: the objects of each image, by its name. Must not be empty.
        classes: names of the K classes; empty for "1" to "K".

    Returns:
        Scores by name, without those that are NaN:

        - the scores of `score_instances`, each averaged over the images for which it is not NaN.
        - ap50, ap: average precision at an IoU of 0.5, and the mean of those at 0.5, 0.55, ...,
          0.95, over the objects of all images, as COCO defines them. The mean over the classes
          that have a true object; for several classes also `ap50/class` and `ap/class`. Missing
          if there is no true object at all.
        - pooled_pq, pooled_dq, pooled_sq: the panoptic quality over the objects of all images, as
          published; of the scores above each image counts the same, however many objects it has.

    Raises:
        DataError: no pixel of any image is known.
    """
    known = [images[name] for name in sorted(images) if images[name].known]
    if not known:
        raise DataError(
            f"In all {len(images)} images the class of no pixel is known (ignored values, no "
            "data), so they have no score. Check --data.ignore and --data.nodata, or choose other "
            "images."
        )
    rows = [score_instances(matches, classes) for matches in known]
    result = {name: mean_known([row[name] for row in rows]) for name in rows[0]}
    pooled = Matches.cat(known)
    count = len(pooled.union)
    titles = list(classes) or [str(k + 1) for k in range(count)]
    by_class = np.array([average_precision(pooled, k + 1) for k in range(count)])
    for name, array in (("ap50", by_class[:, 0]), ("ap", by_class.mean(1))):
        values: list[float] = array.tolist()
        result[name] = mean_known(values)
        if count > 1:
            result |= {f"{name}/{c}": value for c, value in zip(titles, values, strict=True)}
    whole = score_instances(pooled, classes)
    result |= {f"pooled_{name}": whole[name] for name in ("pq", "dq", "sq")}
    return {name: value for name, value in result.items() if not math.isnan(value)}
