"""From which probability on a pixel counts, and how small a mask counts as none: chosen on
validation, by a threshold that stays next to 0.5 where the difference may be chance."""

from __future__ import annotations

import numpy as np

THRESHOLDS = tuple(step / 20 for step in range(2, 19))
"""0.1 to 0.9."""
MIDDLE = THRESHOLDS.index(0.5)
FEWEST = 8
"""Images with something in them that a choice needs, at least: below, 0.5 and no smallest area."""
CHANCE = 0.5
"""Standard errors by which mean scores may differ and still count as equal."""


def choose(
    dice: np.ndarray, area: np.ndarray, empty: np.ndarray, image: np.ndarray | None = None
) -> tuple[float, float]:
    """The threshold and the smallest area.

    The threshold is the one next to 0.5 whose mean Dice, over all masks, is within half a standard
    error (of the paired difference) of the best one's. Empty masks count as the others do: where a
    run finds something in most of them, that is worth more than the last percent of Dice elsewhere,
    and the threshold is what removes it. The smallest area removes specks that are left: half of
    the smallest mask that found something, where there are empty masks at all. (The area of best
    mean Dice hangs on the few specks that validation happens to hold.)

    Args:
        dice: float N x T, of each true mask (of an image and class) at each of `THRESHOLDS`.
        area: float N x T, share of the image that is predicted.
        empty: bool N, whether there is nothing in the true mask.
        image: int N, which image a mask is of: the classes of one are no further images. None: each
            is of its own.

    Returns:
        A threshold of `THRESHOLDS`, and a share of the image, 0 for none.
    """
    image = np.arange(len(dice)) if image is None else image
    if len(np.unique(image[~empty])) < FEWEST:
        return 0.5, 0.0
    lost, error = _behind(_by_image(dice, image))
    near = np.flatnonzero(lost <= CHANCE * error + 1e-9)
    index = int(near[np.abs(near - MIDDLE).argmin()])
    return THRESHOLDS[index], smallest_area(dice[:, index], area[:, index], empty)


def smallest_area(dice: np.ndarray, area: np.ndarray, empty: np.ndarray) -> float:
    """See `choose`, at its threshold: float N, float N, bool N -> a share of the image."""
    found = area[~empty & (dice > 0)]
    return float(found.min()) / 2 if len(found) and empty.any() else 0.0


def _by_image(scores: np.ndarray, image: np.ndarray) -> np.ndarray:
    """float N x C of masks -> float I x C, the mean over those of each image."""
    _, of = np.unique(image, return_inverse=True)
    sums = np.zeros((int(of.max(initial=-1)) + 1, scores.shape[1]))
    np.add.at(sums, of, scores)
    return sums / np.bincount(of, minlength=len(sums))[:, None]


def _behind(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float N x C -> by how much the mean of each column is behind the best one's, and the standard
    error of that: float C each."""
    best = int(scores.mean(0).argmax())
    behind = scores[:, [best]] - scores
    return behind.mean(0), behind.std(0, ddof=1) / np.sqrt(len(scores))
