"""Choose the probability threshold and the smallest mask area on the validation images."""

from __future__ import annotations

import numpy as np

THRESHOLDS = tuple(step / 20 for step in range(2, 19))
"""Candidates, 0.1 to 0.9 in steps of 0.05."""
MIDDLE = THRESHOLDS.index(0.5)
MIN_IMAGES = 8
"""Non-empty images below which nothing is chosen: the threshold is the default, the smallest area
0."""
TOLERANCE = 0.5
"""Largest difference of mean scores that counts as equal, in standard errors."""


def choose(
    dice: np.ndarray,
    area: np.ndarray,
    empty: np.ndarray,
    image: np.ndarray | None = None,
    default: float = 0.5,
) -> tuple[float, float]:
    """Choose the threshold and the smallest area.

    The threshold is the one closest to 0.5 whose mean Dice is within `TOLERANCE` standard errors
    (of the paired difference) of the best mean. Empty masks count as the others do, so a threshold
    that removes false alarms can win. The smallest area removes the small false positives that are
    left: it is half the smallest predicted area with a Dice above 0, if there are empty masks. (The
    area of the best mean Dice would depend on the few false positives of the validation images.)

    Args:
        dice: float N x T, Dice of each true mask (of one image and class) at each of `THRESHOLDS`.
        area: float N x T, share of the image that is predicted, in [0, 1].
        empty: bool N, whether the true mask is empty.
        image: int N, index of the image of each mask: the masks of one image are averaged, because
            they are not independent. None: one mask for each image.
        default: threshold with fewer than `MIN_IMAGES` non-empty images.

    Returns:
        threshold: one of `THRESHOLDS`, or `default`.
        min_area: share of the image, in [0, 1); 0 for none.
    """
    image = np.arange(len(dice)) if image is None else image
    if len(np.unique(image[~empty])) < MIN_IMAGES:
        return default, 0.0
    loss, error = _loss_to_best(_mean_by_image(dice, image))
    near = np.flatnonzero(loss <= TOLERANCE * error + 1e-9)
    index = int(near[np.abs(near - MIDDLE).argmin()])
    return THRESHOLDS[index], smallest_area(dice[:, index], area[:, index], empty)


def smallest_area(dice: np.ndarray, area: np.ndarray, empty: np.ndarray) -> float:
    """Choose the smallest area at the chosen threshold, see `choose`.

    Args:
        dice: float N.
        area: float N, shares of the image.
        empty: bool N.

    Returns:
        A share of the image, in [0, 1).
    """
    found = area[~empty & (dice > 0)]
    return float(found.min()) / 2 if len(found) and empty.any() else 0.0


def _mean_by_image(scores: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Average scores of masks, float N x C, by image: float I x C."""
    _, index = np.unique(image, return_inverse=True)
    sums = np.zeros((int(index.max(initial=-1)) + 1, scores.shape[1]))
    np.add.at(sums, index, scores)
    return sums / np.bincount(index, minlength=len(sums))[:, None]


def _loss_to_best(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the mean of each column of float N x C from that of the best column.

    Returns:
        The differences, and their standard errors: float C each.
    """
    best = int(scores.mean(0).argmax())
    differences = scores[:, [best]] - scores
    return differences.mean(0), differences.std(0, ddof=1) / np.sqrt(len(scores))
