"""Dice and IoU over whole volumes, from the pixels counted in each slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autosam.data.labels import class_masks, known
from autosam.data.layouts.volumes import volume_of
from autosam.data.pairs import Pair
from autosam.evaluation.metrics import mean_of_classes, mean_scores
from autosam.evaluation.scores import Scores

Counts = dict[str, np.ndarray]
"""Counted pixels by image, see `count_pixels`."""


def count_pixels(predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Count the pixels of each class.

    Args:
        predicted: bool K x H x W.
        label: H x W, see `autosam.data.labels`; pixels of unknown class are left out.

    Returns:
        int64 4 x K: pixels that are predicted and true, that are predicted, that are true; and all
        whose class is known.
    """
    seen = known(label)
    truth, predicted = class_masks(label, len(predicted)), predicted & seen
    found = [mask.sum((1, 2)) for mask in (predicted & truth, predicted, truth)]
    return np.array([*found, np.full(len(predicted), seen.sum())], np.int64)


def score_volumes(
    counts: Mapping[str, np.ndarray], pairs: list[Pair], classes: Sequence[str]
) -> Scores:
    """Score each volume as one image of all its slices, by the rules of `metrics.score` for absent
    classes.

    Args:
        counts: of each image, see `count_pixels`.
        pairs: the images.
        classes: names of the K classes.

    Returns:
        `dice` and `iou` by volume, for several classes also `dice/class` and `iou/class`; NaN if
        the class of no pixel is known. Empty if the images are not slices of volumes.
    """
    sums: Counts = {}
    for pair in pairs:
        if (volume := volume_of(pair)) is not None:
            sums[volume] = sums.get(volume, 0) + counts[pair.name]
    rows: Scores = {}
    for volume, (both, predicted, true, seen) in sums.items():
        either = predicted + true - both
        present = either > 0
        values = {
            "dice": np.where(present, 2 * both / np.maximum(1, predicted + true), 1.0),
            "iou": np.where(present, both / np.maximum(1, either), 1.0),
        }
        rows[volume] = {
            key: value if seen.any() else math.nan
            for name in values
            for key, value in mean_of_classes(name, values[name].tolist(), present, classes).items()
        }
    return rows


def mean_over_volumes(rows: Scores) -> dict[str, float]:
    """Average the scores of volumes, as `volume_dice`, ...; empty without volumes."""
    means = mean_scores(list(rows.values())) if rows else {}
    return {f"volume_{name}": mean for name, mean in means.items()}


def describe_volumes(rows: Scores) -> dict[str, str]:
    """A line to print below the scores; empty without volumes."""
    if not rows:
        return {}
    means = mean_scores(list(rows.values()))
    return {"whole volumes": f"{len(rows)}, Dice {means['dice']:.4f}, IoU {means['iou']:.4f}"}
