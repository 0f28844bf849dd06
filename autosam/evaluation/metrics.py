"""Metrics of one prediction at the image's own size, with their values for empty masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autosam.data.labels import class_masks, known
from autosam.data.pairs import Pair
from autosam.errors import DataError
from autosam.evaluation.contour_distances import contour_distances

TOLERANCE = 0.01
"""Largest distance of matching contours for `surface_dice`, as a share of the image's diagonal."""


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Compute the Dice coefficient, 2 |A and B| / (|A| + |B|).

    Args:
        predicted: bool H x W.
        truth: bool H x W.

    Returns:
        In [0, 1]; 1 if both masks are empty.
    """
    total = int(predicted.sum()) + int(truth.sum())
    return 1.0 if total == 0 else 2 * int((predicted & truth).sum()) / total


def iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Compute the intersection over union, |A and B| / |A or B|.

    Args:
        predicted: bool H x W.
        truth: bool H x W.

    Returns:
        In [0, 1]; 1 if both masks are empty.
    """
    either = int((predicted | truth).sum())
    return 1.0 if either == 0 else int((predicted & truth).sum()) / either


def hausdorff95(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Compute the 95th percentile of the Hausdorff distance.

    Args:
        predicted: bool H x W.
        truth: bool H x W.

    Returns:
        In pixels, as MONAI computes it. 0 if both masks are empty, the image's diagonal if one is,
        where MONAI returns NaN.
    """
    if not predicted.any() and not truth.any():
        return 0.0
    if not predicted.any() or not truth.any():
        return math.hypot(*truth.shape)
    distances = contour_distances(predicted, truth)
    return max(float(np.percentile(each, 95)) for each in distances)


def surface_dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Compute the normalised surface distance ("surface Dice", Nikolov et al. 2021, arXiv
    1809.04430), as MONAI computes it: the share of both contours that is within `TOLERANCE` of the
    other.

    Args:
        predicted: bool H x W.
        truth: bool H x W.

    Returns:
        In [0, 1]. 1 if both masks are empty, 0 if one is, where MONAI returns NaN.
    """
    if not predicted.any() or not truth.any():
        return float(predicted.any() == truth.any())
    within = TOLERANCE * math.hypot(*truth.shape)
    return float((np.concatenate(contour_distances(predicted, truth)) <= within).mean())


def precision(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Compute the precision, |A and B| / |A| of a prediction A.

    Args:
        predicted: bool H x W.
        truth: bool H x W.

    Returns:
        In [0, 1]. For an empty prediction 1 if the truth is empty, else 0.
    """
    positives = int(predicted.sum())
    if positives == 0:
        return float(not truth.any())
    return int((predicted & truth).sum()) / positives


def recall(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Compute the recall, |A and B| / |B| of a true mask B.

    Args:
        predicted: bool H x W.
        truth: bool H x W.

    Returns:
        In [0, 1]. For an empty truth 1 if the prediction is empty, else 0.
    """
    return precision(truth, predicted)


METRICS = {
    "dice": dice,
    "iou": iou,
    "hd95": hausdorff95,
    "nsd": surface_dice,
    "precision": precision,
    "recall": recall,
}
"""Metrics by name: (predicted, truth), bool H x W each -> float."""


def score(
    predicted: np.ndarray,
    label: np.ndarray,
    names: Sequence[str] = tuple(METRICS),
    classes: Sequence[str] = (),
) -> dict[str, float]:
    """Score one image.

    With several classes, a class that is neither in the truth nor predicted is NaN and left out of
    the mean. If no class is in either, the image scores 1.

    Args:
        predicted: bool K x H x W.
        label: H x W, see `autosam.data.labels`; pixels of unknown class are left out.
        names: keys of `METRICS`.
        classes: names of the K classes; empty for "1" to "K".

    Returns:
        The mean over classes by metric, and the values of `mask_statistics`; for several classes
        also `metric/class`. All are NaN if the class of no pixel is known.
    """
    result: dict[str, float] = {}
    seen = known(label)
    truth, predicted = class_masks(label, len(predicted)), predicted & seen
    titles = list(classes) or [str(k + 1) for k in range(len(truth))]
    present = (truth | predicted).any((1, 2))
    for name in names:
        values = [METRICS[name](*masks) for masks in zip(predicted, truth, strict=True)]
        result |= mean_of_classes(name, values, present, titles)
    result |= mask_statistics(predicted, truth, result.get("dice", math.nan), int(seen.sum()))
    for k, title in enumerate(titles if len(titles) > 1 else []):
        one = slice(k, k + 1)
        own = mask_statistics(predicted[one], truth[one], result.get(f"dice/{title}", math.nan), 1)
        result |= {f"{name}/{title}": own[name] for name in BY_EMPTINESS}
    return result if seen.any() else dict.fromkeys(result, math.nan)


def mean_of_classes(
    name: str, values: Sequence[float], present: np.ndarray, titles: Sequence[str]
) -> dict[str, float]:
    """Average a metric over the classes of an image.

    Args:
        name: of the metric.
        values: of each class.
        present: whether a class is in the truth or predicted, bool K. The others are NaN, and left
            out of the mean unless no class is present.
        titles: names of the classes.

    Returns:
        The mean by `name`; for several classes also `name/class`.
    """
    counted = np.where(present | (not present.any()), values, np.nan)
    result = {name: float(np.nanmean(counted))}
    if len(values) > 1:
        values = [v if k else math.nan for v, k in zip(values, present, strict=True)]
        result |= {f"{name}/{c}": value for c, value in zip(titles, values, strict=True)}
    return result


BY_EMPTINESS = ("nonempty_dice", "miss", "false_alarm")
"""Scores that are defined for non-empty or for empty images only."""


def mask_statistics(
    predicted: np.ndarray, truth: np.ndarray, dice: float, pixels: int
) -> dict[str, float]:
    """Compute scores that treat empty and non-empty images separately, and foreground shares.

    Args:
        predicted: bool K x H x W.
        truth: bool K x H x W.
        dice: Dice of the image.
        pixels: number of pixels whose class is known.

    Returns:
        nonempty_dice: `dice`; NaN for an empty truth.
        miss: 1 without a true positive pixel, else 0; NaN for an empty truth.
        false_alarm: 1 if anything is predicted, else 0; NaN for a non-empty truth.
        truth_share: share of the known pixels that is foreground, in [0, 1].
        predicted_share: share of the known pixels that is predicted as foreground, in [0, 1].
    """
    full, any_truth, any_predicted = truth.any(), truth.any(0), predicted.any(0)
    return {
        "nonempty_dice": dice if full else math.nan,
        "miss": float(not (predicted & truth).any()) if full else math.nan,
        "false_alarm": math.nan if full else float(any_predicted.any()),
        "truth_share": int(any_truth.sum()) / max(1, pixels),
        "predicted_share": int(any_predicted.sum()) / max(1, pixels),
    }


def by_subset(rows: dict[str, dict[str, float]], pairs: list[Pair]) -> dict[str, dict[str, float]]:
    """Compute the mean scores of each named subset, such as one of several test sets.

    Args:
        rows: scores by image.
        pairs: the images.

    Returns:
        Mean scores by subset, without those in which the class of no pixel is known.
    """
    sets: dict[str, list[dict[str, float]]] = {}
    for pair in pairs:
        if pair.subset:
            sets.setdefault(pair.subset, []).append(rows[pair.name])
    known = {
        name: found
        for name, found in sets.items()
        if not all(math.isnan(row.get("dice", 0.0)) for row in found)
    }
    return {name: mean_scores(found) for name, found in known.items()}


def require_all(rows: dict[str, dict[str, float]], pairs: list[Pair]) -> None:
    """Check that every image has scores, and only images do.

    Args:
        rows: scores by image.
        pairs: the images.

    Raises:
        DataError: images without scores, or scores without an image.
    """
    names = {pair.name for pair in pairs}
    if wrong := sorted(names ^ rows.keys())[:3]:
        raise DataError(
            f"{len(pairs)} images, but {len(rows)} scores (for example {', '.join(wrong)}). This "
            "is a bug of autosam: please report it, with the command."
        )


def mean_scores(rows: list[dict[str, float]]) -> dict[str, float]:
    """Average each score over the images for which it is not NaN.

    Args:
        rows: scores of each image, see `score`.

    Returns:
        Means by score, without those that are NaN for every image.

    Raises:
        DataError: Dice is NaN for every image, because the class of no pixel is known.
    """
    means = {name: mean_known([row.get(name, math.nan) for row in rows]) for name in rows[0]}
    if math.isnan(means.get("dice", 0.0)):
        raise DataError(
            f"In all {len(rows)} images the class of no pixel is known (ignored values, no data), "
            "so they have no score. Check --data.ignore and --data.nodata, or choose other images."
        )
    return {name: mean for name, mean in means.items() if not math.isnan(mean)}


def mean_known(values: Sequence[float]) -> float:
    """Average the values that are not NaN; NaN if there are none."""
    finite = [value for value in values if not math.isnan(value)]
    return float(np.mean(finite)) if finite else math.nan
