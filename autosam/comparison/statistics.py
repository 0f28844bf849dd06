"""Test the difference between two runs by their scores on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

PERMUTATIONS = 10_000
"""Number of permutations, if there are too many to enumerate."""
BLOCK = 1 << 21
"""Largest number of elements of a block of permutations in memory."""
LEVEL = 0.05
"""Significance level."""
MIN_GROUPS = 6
"""Groups below which no difference is significant: with 5 the smallest p is 2/32."""
TYPICAL_SEED_SD = 0.008
"""Standard deviation of Dice over seeds that is assumed for a run with a single seed."""


@dataclass(frozen=True)
class Difference:
    """The difference of one run minus another over the same images."""

    mean: float
    """Mean over images."""
    low: float
    """Lower bound of the 95 % interval: the differences that the test does not reject. Infinite
    below `MIN_GROUPS` groups."""
    high: float
    """Upper bound of the interval."""
    p: float
    """Two-sided p of the permutation test; below 0.05 exactly if the interval excludes zero."""
    groups: int
    """Number of independent groups of images."""

    @property
    def significant(self) -> bool:
        """Whether the difference is significant over the groups."""
        return self.p < LEVEL

    def significant_beyond(self, margin: float) -> bool:
        """Whether the difference is significant over the groups and the seeds together.

        Args:
            margin: see `seed_margin`.
        """
        reach = self.mean - self.low if self.mean > 0 else self.high - self.mean
        return self.significant and abs(self.mean) > math.hypot(reach, margin)


def compare(
    scores: np.ndarray, others: np.ndarray, groups: Sequence[str] | None = None
) -> Difference:
    """Compare paired scores by a permutation test over groups.

    Under the null hypothesis the two runs can be swapped in any of the groups. The test is exact
    for any distribution of the scores and any group sizes. A difference m is in the interval if the
    test does not reject it for the scores minus m: that is, if m is between the mean of the swapped
    groups and that of the others in enough permutations.

    Args:
        scores: float N, scores of the first run.
        others: float N, scores of the second run on the same images in the same order; images with
            a NaN are left out.
        groups: patient, slide, ... of each image; "" or None for an image of its own group.
    """
    differences = np.asarray(scores, float) - np.asarray(others, float)
    names = np.asarray([""] * len(differences) if groups is None else groups, dtype=object)
    finite = np.isfinite(differences)
    differences, names = differences[finite], names[finite]
    if not len(differences):
        return Difference(math.nan, -math.inf, math.inf, 1.0, 0)
    keys = [name or i for i, name in enumerate(names)]
    index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    member = [index[key] for key in keys]
    sums = np.stack([np.bincount(member, differences), np.bincount(member)], 1)
    lows, highs = _half_means(sums)
    p = float(((lows <= 0) & (highs >= 0)).mean())
    last = math.ceil(LEVEL * len(lows)) - 1
    low, high = np.partition(lows, last)[last], -np.partition(-highs, last)[last]
    return Difference(float(differences.mean()), float(low), float(high), p, len(sums))


def _half_means(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the means of the swapped and of the other groups for each permutation.

    Args:
        sums: float G x 2, sum of the differences and number of images of each group.

    Returns:
        The smaller and the larger of the two means, float R each; infinite if one half is empty.
    """
    total, found = sums.sum(0), []
    for swapped in _swaps(len(sums)):
        halves = swapped.astype(float) @ sums
        means = []
        for half in (halves, total - halves):
            with np.errstate(divide="ignore", invalid="ignore"):
                means.append(half[:, 0] / half[:, 1])
        low, high = np.minimum(*means), np.maximum(*means)
        empty = np.isnan(low)
        low[empty], high[empty] = -math.inf, math.inf
        found.append((low, high))
    # Rounding makes means equal that differ by the order of summation only.
    lows, highs = (np.concatenate(parts).round(12) for parts in zip(*found, strict=True))
    return lows, highs


def _swaps(groups: int) -> Iterator[np.ndarray]:
    """Yield permutations in blocks, bool R x G: which groups are swapped.

    These are all permutations up to swapping every group, or `PERMUTATIONS` random ones and the
    identity among them.
    """
    if 1 << (groups - 1) <= PERMUTATIONS:
        numbers = np.arange(1 << (groups - 1))[:, None]
        yield (numbers >> np.arange(groups)) & 1 > 0
        return
    rng = np.random.default_rng(0)
    yield np.zeros((1, groups), bool)
    left = PERMUTATIONS - 1
    while left:
        count = min(left, max(1, BLOCK // groups))
        yield rng.integers(0, 2, (count, groups), dtype=bool)
        left -= count


def seed_margin(means: Sequence[float], others: Sequence[float], paired: bool = False) -> float:
    """Compute half the 95 % interval of the difference that seeds alone make: two equal runs differ
    by less in 19 of 20 cases, for any number of test images.

    Args:
        means: mean score of each seed of the first run; `TYPICAL_SEED_SD` is assumed for a single
            seed.
        others: mean score of each seed of the second run.
        paired: whether each seed gives both runs the same training images (paired t test; Welch's
            otherwise).

    Returns:
        A difference of scores, at least 0.
    """
    if paired and len(means) == len(others) > 1:
        seeds = len(means)
        spread = float(np.std(np.subtract(means, others), ddof=1))
        return float(stats.t.ppf(1 - LEVEL / 2, seeds - 1)) * spread / math.sqrt(seeds)
    variance = error = 0.0
    for values in (means, others):
        if len(values) > 1:
            own = float(np.var(values, ddof=1)) / len(values)
            error += own**2 / (len(values) - 1)
        else:
            own = TYPICAL_SEED_SD**2
        variance += own
    # A run without training has the same score for every seed: no error, a normal distribution.
    factor = stats.t.ppf(1 - LEVEL / 2, variance**2 / error) if error else 1.96
    return float(factor) * math.sqrt(variance)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons (Holm 1979).

    Args:
        ps: p of each comparison.

    Returns:
        Corrected p-values in the same order.
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    result, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        result[i] = largest
    return result
