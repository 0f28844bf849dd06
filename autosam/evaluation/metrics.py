"""Scores of one prediction at the image's own size; what empty masks score is decided here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from torch import Tensor

from autosam.data.labels import class_masks, known
from autosam.data.pairs import Pair
from autosam.errors import DataError

TOLERANCE = 0.01
"""How far apart outlines may lie and count as the same, as a share of the image's diagonal."""


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of bool H x W; 1 where both are empty."""
    total = int(predicted.sum()) + int(truth.sum())
    return 1.0 if total == 0 else 2 * int((predicted & truth).sum()) / total


def iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """|A and B| / |A or B| of bool H x W; 1 where both are empty."""
    either = int((predicted | truth).sum())
    return 1.0 if either == 0 else int((predicted & truth).sum()) / either


def hausdorff95(predicted: np.ndarray, truth: np.ndarray) -> float:
    """95 % Hausdorff distance in pixels of bool H x W.

    0 where both are empty; the image's diagonal where one is. (MONAI gives NaN there.)
    """
    if not predicted.any() and not truth.any():
        return 0.0
    if not predicted.any() or not truth.any():
        return math.hypot(*truth.shape)
    return _monai(compute_hausdorff_distance, predicted, truth, percentile=95)


def surface_dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Normalised surface distance of bool H x W: the share of both outlines that lies within
    `TOLERANCE` of the other (Nikolov et al. 2021, arXiv 1809.04430, "surface Dice").

    1 where both are empty, 0 where one is. (MONAI gives NaN there.)
    """
    if not predicted.any() or not truth.any():
        return float(predicted.any() == truth.any())
    within = TOLERANCE * math.hypot(*truth.shape)
    return _monai(compute_surface_dice, predicted, truth, class_thresholds=[within])


def _monai(
    metric: Callable[..., Tensor], predicted: np.ndarray, truth: np.ndarray, **settings: Any
) -> float:
    """A metric of MONAI of two bool H x W."""
    ours, theirs = (torch.from_numpy(mask)[None, None].float() for mask in (predicted, truth))
    with warnings.catch_warnings():  # MONAI warns of an argument that MONAI itself passes
        warnings.simplefilter("ignore", FutureWarning)
        return float(metric(ours, theirs, include_background=True, **settings))


def precision(predicted: np.ndarray, truth: np.ndarray) -> float:
    """|A and B| / |A| of a prediction A, bool H x W; for empty A: 1 where B is empty, else 0."""
    found = int(predicted.sum())
    return float(not truth.any()) if found == 0 else int((predicted & truth).sum()) / found


def recall(predicted: np.ndarray, truth: np.ndarray) -> float:
    """|A and B| / |B| of a truth B, bool H x W; for empty B: 1 where A is empty, else 0."""
    return precision(truth, predicted)


METRICS = {
    "dice": dice,
    "iou": iou,
    "hd95": hausdorff95,
    "nsd": surface_dice,
    "precision": precision,
    "recall": recall,
}


def score(
    predicted: np.ndarray,
    label: np.ndarray,
    names: Sequence[str] = tuple(METRICS),
    classes: Sequence[str] = (),
) -> dict[str, float]:
    """Score one image, averaged over classes.

    Of several classes, one that is neither in the truth nor predicted is left out (NaN): it says
    nothing of the others. An image with nothing in it, where nothing is predicted, is right: 1.

    Args:
        predicted: bool K x H x W.
        label: H x W, see `autosam.data.labels`; pixels of unknown class do not count.
        names: keys of `METRICS`.
        classes: names of the K classes; unset: 1..K.

    Returns:
        The mean over classes by name, and what `contents` says; for several classes each as
        `name/class` too. All of it NaN where no pixel's class is known.
    """
    result: dict[str, float] = {}
    seen = known(label)
    truth, predicted = class_masks(label, len(predicted)), predicted & seen
    titles = list(classes) or [str(k + 1) for k in range(len(truth))]
    there = (truth | predicted).any((1, 2))
    for name in names:
        values = [METRICS[name](*masks) for masks in zip(predicted, truth, strict=True)]
        counted = np.where(there | (not there.any()), values, np.nan)
        result[name] = float(np.nanmean(counted))
        if len(values) > 1:
            values = [v if k else math.nan for v, k in zip(values, there, strict=True)]
            result |= {f"{name}/{c}": value for c, value in zip(titles, values, strict=True)}
    result |= contents(predicted, truth, result.get("dice", math.nan), int(seen.sum()))
    for k, title in enumerate(titles if len(titles) > 1 else []):
        one = slice(k, k + 1)
        own = contents(predicted[one], truth[one], result.get(f"dice/{title}", math.nan), 1)
        result |= {f"{name}/{title}": own[name] for name in APART}
    return result if seen.any() else dict.fromkeys(result, math.nan)


APART = ("nonempty_dice", "miss", "false_alarm")
"""Scores of images with something in them apart from those of the others."""


def contents(
    predicted: np.ndarray, truth: np.ndarray, dice: float, pixels: int
) -> dict[str, float]:
    """What an image's masks hold.

    Args:
        predicted, truth: bool K x H x W.
        dice: the image's.
        pixels: whose class is known.

    Returns:
        `nonempty_dice`: Dice, and `miss`: 1 where nothing of the truth is found, else 0; both NaN
        where there is nothing in the truth. `false_alarm`: 1 where something is predicted, else 0;
        NaN where there is something in the truth. `truth_share` and `predicted_share`: of the
        pixels, those of any class.
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
    """Mean scores of each named test set; nothing where there are none, or no pixel is known.

    Args:
        rows: scores by image.
        pairs: the images.
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
    """See that each image has its scores: a mean over fewer would be of other images.

    Raises:
        DataError: naming images without scores, or scores without an image.
    """
    names = {pair.name for pair in pairs}
    if wrong := sorted(names ^ rows.keys())[:3]:
        raise DataError(
            f"{len(pairs)} images, but {len(rows)} scores (for example {', '.join(wrong)}). This "
            "is a fault of autosam: report it, with the command."
        )


def mean_scores(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each score over the images that have it, see `score`; scores that none has are left
    out.

    Raises:
        DataError: no image has a Dice, because no pixel's class is known.
    """
    means = {name: mean_known([row.get(name, math.nan) for row in rows]) for name in rows[0]}
    if math.isnan(means.get("dice", 0.0)):
        raise DataError(
            f"Of all {len(rows)} images no pixel's class is known (ignored values, no data): they "
            "have no score. Look at --data.ignore and --data.nodata, or choose other images."
        )
    return {name: mean for name, mean in means.items() if not math.isnan(mean)}


def mean_known(values: Sequence[float]) -> float:
    """The mean of what is not NaN; NaN where all is."""
    found = [value for value in values if not math.isnan(value)]
    return float(np.mean(found)) if found else math.nan
