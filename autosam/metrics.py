"""Scores of one prediction at the image's own size; what empty masks score is decided here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from torch import Tensor

from autosam.losses import with_background


def predict_label(logits: Tensor, exclusive: bool) -> np.ndarray:
    """Logits at full size -> classes.

    Args:
        logits: float K x H x W.
        exclusive: arg-max with background, or each class against 0.5.

    Returns:
        bool K x H x W; with exclusive classes at most one is True per pixel.
    """
    if not exclusive:
        return (logits > 0).cpu().numpy()
    best = with_background(logits[None])[0].argmax(0)
    classes = torch.arange(1, len(logits) + 1, device=logits.device)[:, None, None]
    return (best == classes).cpu().numpy()


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
    ours, theirs = (torch.from_numpy(mask)[None, None].float() for mask in (predicted, truth))
    with warnings.catch_warnings():  # MONAI warns of an argument that MONAI itself passes
        warnings.simplefilter("ignore", FutureWarning)
        distance = compute_hausdorff_distance(ours, theirs, include_background=True, percentile=95)
    return float(distance)


METRICS = {"dice": dice, "iou": iou, "hd95": hausdorff95}


def score(
    predicted: np.ndarray, label: np.ndarray, names: Sequence[str] = ("dice", "iou", "hd95")
) -> dict[str, float]:
    """Score one image, averaged over classes.

    Args:
        predicted: bool K x H x W.
        label: uint8 H x W, 0..K.
        names: keys of `METRICS`.

    Returns:
        The mean over classes by name; for several classes each as `name/class` too.
    """
    result: dict[str, float] = {}
    for name in names:
        values = [METRICS[name](mask, label == k + 1) for k, mask in enumerate(predicted)]
        result[name] = float(np.mean(values))
        if len(values) > 1:
            result |= {f"{name}/{k + 1}": value for k, value in enumerate(values)}
    return result


def mean_scores(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each score over images."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
