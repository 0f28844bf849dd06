"""How sure a difference between two runs is, from their scores of the same images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

FLIPS = 10_000
"""Ways of swapping the two runs that are tried, where there are too many to try all."""
BLOCK = 1 << 21
"""Swaps of single groups that are held in memory at a time."""
LEVEL = 0.05
FEWEST = 6
"""Groups below which no difference can be told from chance: with 5 even the clearest has p 2/32."""
TYPICAL = 0.008
"""Standard deviation of Dice over seeds that is usual on such data; assumed where a run has a
single seed."""


@dataclass(frozen=True)
class Difference:
    """One run minus another, over the same images."""

    mean: float
    """Over images."""
    low: float
    """The interval of the differences that the test does not reject, 95 %; infinite where there are
    fewer than `FEWEST` groups."""
    high: float
    p: float
    """Two-sided: how often swapping the two runs in a random half of the groups makes a difference
    as large; below 0.05 exactly where the interval leaves zero out."""
    groups: int
    """How many groups of images were taken as independent."""

    @property
    def sure(self) -> bool:
        """Whether the difference is more than chance in the choice of the groups."""
        return self.p < LEVEL

    def sure_beyond(self, margin: float) -> bool:
        """Whether it is more than chance in the choice of the groups and of the seeds together.

        Args:
            margin: see `seed_margin`.
        """
        reach = self.mean - self.low if self.mean > 0 else self.high - self.mean
        return self.sure and abs(self.mean) > math.hypot(reach, margin)


def compare(
    scores: np.ndarray, others: np.ndarray, groups: Sequence[str] | None = None
) -> Difference:
    """Compare paired scores by swapping the two runs, group by group.

    If both runs are alike, nothing changes when their names are swapped in some of the groups: a
    test by permutation, exact however scores are distributed and however large groups are. A
    difference m is in the interval if the test, of the scores less m, does not reject it: that is,
    m lies between the mean of the groups that are swapped and the mean of the others often enough.

    Args:
        scores, others: float N, of the same N images in the same order; images with NaN are left
            out.
        groups: the patient, slide, ... of each image; "" or None: an image by itself.
    """
    differences = np.asarray(scores, float) - np.asarray(others, float)
    names = np.asarray([""] * len(differences) if groups is None else groups, dtype=object)
    finite = np.isfinite(differences)
    differences, names = differences[finite], names[finite]
    if not len(differences):
        return Difference(math.nan, -math.inf, math.inf, 1.0, 0)
    alone = [name or i for i, name in enumerate(names)]
    place = {name: i for i, name in enumerate(dict.fromkeys(alone))}
    member = [place[name] for name in alone]
    sums = np.stack([np.bincount(member, differences), np.bincount(member)], 1)
    lows, highs = _between(sums)
    p = float(((lows <= 0) & (highs >= 0)).mean())
    last = math.ceil(LEVEL * len(lows)) - 1
    low, high = np.partition(lows, last)[last], -np.partition(-highs, last)[last]
    return Difference(float(differences.mean()), float(low), float(high), p, len(sums))


def _between(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each way of swapping, the smaller and the larger mean of the two halves.

    Args:
        sums: float G x 2, sum of the differences and number of images of each group.

    Returns:
        float R and float R; infinite where one half is empty.
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
    # What is equal but for the order of summation must count as equal.
    lows, highs = (np.concatenate(parts).round(12) for parts in zip(*found, strict=True))
    return lows, highs


def _swaps(groups: int) -> Iterator[np.ndarray]:
    """bool R x G in blocks: which groups are swapped. All ways (half of them, since
    swapping the others is the same) or `FLIPS` of them, that of swapping none included."""
    if 1 << (groups - 1) <= FLIPS:
        numbers = np.arange(1 << (groups - 1))[:, None]
        yield (numbers >> np.arange(groups)) & 1 > 0
        return
    rng = np.random.default_rng(0)
    yield np.zeros((1, groups), bool)
    left = FLIPS - 1
    while left:
        count = min(left, max(1, BLOCK // groups))
        yield rng.integers(0, 2, (count, groups), dtype=bool)
        left -= count


def seed_margin(means: Sequence[float], others: Sequence[float]) -> float:
    """Half the 95 % interval of a difference that comes from the seeds alone: two runs that are
    alike differ by less than this in 19 of 20 cases, however many test images there are.

    Args:
        means, others: mean score of each seed of the two runs. Of a single seed, `TYPICAL` is
            assumed.
    """
    variance = error = 0.0
    for values in (means, others):
        if len(values) > 1:
            own = float(np.var(values, ddof=1)) / len(values)
            error += own**2 / (len(values) - 1)
        else:
            own = TYPICAL**2
        variance += own
    # Of Welch: runs may differ in how much a seed does; one that needs no training has no spread.
    factor = student.ppf(1 - LEVEL / 2, variance**2 / error) if error else 1.96
    return float(factor) * math.sqrt(variance)


def holm(ps: Sequence[float]) -> list[float]:
    """p of several comparisons, each made larger so that one wrong finding among all of them has
    the chance that each alone had (Holm 1979)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    result, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        result[i] = largest
    return result
