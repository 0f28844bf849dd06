"""What more labelled images would bring: a power law fitted to errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from autosam.comparison.statistics import LEVEL

EXPONENTS = np.geomspace(0.01, 4, 2000)[:, None]
"""Exponents that are tried."""


@dataclass(frozen=True)
class Gain:
    """By how much twice as many images lower an error, from the largest number on."""

    best: float
    """Of the best fit."""
    low: float
    """Lower bound of the 95 % interval."""
    high: float
    """Upper bound of the interval."""


def gain_of_doubling(numbers: Sequence[float], errors: Sequence[float]) -> Gain | None:
    """Fit an error that falls by a power law to a level that is at least zero.

    The error of n images is c + a * n ** -b with c >= 0, fitted by least squares of relative
    deviations. With g, the gain of doubling the largest number N, it is c + g * x where
    x = (n / N) ** -b / (1 - 2 ** -b). The interval holds each g that, with the best b and c, an F
    test does not reject (profile likelihood).

    Args:
        numbers: number of images of each training.
        errors: error of each training, such as 1 - Dice.

    Returns:
        The gain, after which the error is between 0 and 1; None for fewer than three different
        numbers, fewer than four trainings, or an error that is not above 0.
    """
    n, y = np.asarray(numbers, float), np.asarray(errors, float)
    free = len(y) - 3
    if len(set(numbers)) < 3 or free < 1 or not (y > 0).all():
        return None
    means = {number: y[n == number].mean() for number in set(numbers)}
    weights = 1 / np.array([means[number] for number in numbers])
    x = weights * (n / n.max()) ** -EXPONENTS / (1 - 2**-EXPONENTS)
    y = weights * y
    xy, xw, xx = x @ y, x @ weights, np.square(x).sum(1)
    yy, yw, ww = y @ y, y @ weights, weights @ weights
    # With one exponent the sum of squares is rest + curve * (g - least) ** 2: one such parabola up
    # to the gain that leaves nothing for c, another one beyond it, with c = 0.
    turn = yw / xw
    curve = np.stack([xx - xw**2 / ww, xx])
    least = np.stack([xy - xw * yw / ww, xy]) / curve
    rest = np.maximum(np.stack([yy - yw**2 / ww - curve[0] * least[0] ** 2, yy - xy**2 / xx]), 0)
    side = (least[0] > turn).astype(int)  # where the minimum is
    at = side, np.arange(len(turn))
    best = rest[at].argmin()
    limit = rest[at][best] * (1 + stats.t.ppf(1 - LEVEL / 2, free) ** 2 / free)
    reach = np.sqrt(np.maximum(limit - rest, 0) / curve)
    low, high = least - reach, least + reach
    high[0], low[1] = np.minimum(high[0], turn), np.maximum(low[1], turn)
    accepted = (rest <= limit) & (low <= high)
    ends = [least[at][best], low[accepted].min(), high[accepted].max()]
    last = means[max(numbers)]
    return Gain(*np.clip(ends, last - 1, last).tolist())
