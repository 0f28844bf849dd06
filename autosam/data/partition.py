"""Seeded random partition of items into splits of given shares, or into folds.

Items are numbers 0..N-1 with a size (a group of images has the number of its images) and a level
(stratum). All draws come from one generator, so the same seed gives the same partition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TAIL = 300
"""Number of the smallest groups that are drawn jointly, so that a split is as close to its share as
possible."""
FEW, STEPS = 60, 20
"""With at most `FEW` groups, inclusion probabilities are calibrated in `STEPS` iterations. With
more groups, the condition on the sum hardly changes them."""
MOST = 1000
"""With more groups, `make_folds` is not repeated with noise: enough groups have one size."""


def partition(
    sizes: Sequence[int], levels: Sequence[int], shares: Sequence[float], rng: np.random.Generator
) -> list[list[int]]:
    """Divide items into splits of given shares.

    With items of size 1, every split is less than one item away from its share, in total and per
    level. With larger groups, each split after the first is as close to its share as sums of
    sizes allow, and each group is in it with about the probability of the share, whatever its
    size. A group larger than the share is alone in its split. A group of more than half of the
    total is always in the first split.

    Args:
        sizes: size of each item, 1 or more.
        levels: level of each item.
        shares: share of each split, with sum 1. The first split gets the rest.
        rng: random generator.

    Returns:
        The items of each split.
    """
    strata = _strata(levels, rng)
    if max(sizes) == 1:
        return _cut(strata, np.array(shares), rng)
    totals = [sum(sizes[item] for item in items) for items in strata]
    splits = []
    for i in reversed(range(1, len(shares))):
        split: list[int] = []
        target = 0.0
        for items, total in zip(strata, totals, strict=True):
            target += shares[i] * total
            chosen = [items[j] for j in sample_groups([sizes[item] for item in items], target, rng)]
            target -= sum(sizes[item] for item in chosen)
            split += chosen
        split.sort(key=lambda item: -sizes[item])
        spare = sum(map(len, strata)) - i  # the other splits need one each
        split = split[: max(1, spare)]
        splits.append(split)
        taken = set(split)
        strata = [[item for item in items if item not in taken] for items in strata]
    return [[item for items in strata for item in items], *reversed(splits)]


def make_folds(
    sizes: Sequence[int], levels: Sequence[int], count: int, rng: np.random.Generator
) -> list[list[int]]:
    """Divide items into folds of equal size.

    With items of size 1, fold sizes differ by at most one, in total and per level. Groups are
    assigned in order of decreasing size, each to the fold that has least of its level, with ties
    broken at random.

    Args:
        sizes: size of each item, 1 or more.
        levels: level of each item.
        count: number of folds, at most the number of items.
        rng: random generator.

    Returns:
        The items of each fold.
    """
    if max(sizes) == 1:
        return _cut(_strata(levels, rng), np.full(count, 1 / count), rng)
    numbers = {level: i for i, level in enumerate(sorted(set(levels)))}
    rows = np.array([numbers[level] for level in levels])
    found, least = _deal_once(sizes, rows, count, 0.0, rng)
    for noise in np.repeat([2.0, 1.0, 0.5, 0.25, 0.12], 6 if len(sizes) <= MOST else 0):
        other, spread = _deal_once(sizes, rows, count, noise, rng)
        if spread <= least:
            found, least = other, spread
        if least <= 2:  # a difference of one in total, and of one in a level
            break
    return found


def _deal_once(
    sizes: Sequence[int], rows: np.ndarray, count: int, noise: float, rng: np.random.Generator
) -> tuple[list[list[int]], int]:
    """Assign groups to folds in decreasing order of size times log-normal noise.

    Args:
        sizes: size of each group.
        rows: int N, number of each group's level.
        count: number of folds.
        noise: standard deviation of the log of the noise.
        rng: random generator.

    Returns:
        The groups of each fold, and the largest difference of fold sizes, in total plus per level.
    """
    folds: list[list[int]] = [[] for _ in range(count)]
    loads = np.zeros((rows.max() + 1, count), int)
    blurred = np.array(sizes) * np.exp(noise * rng.normal(size=len(sizes)))
    for item in np.lexsort((rng.random(len(sizes)), -blurred)):
        row = loads[rows[item]]
        best = np.lexsort((rng.random(count), loads.sum(0), row))[0]
        folds[best].append(int(item))
        row[best] += sizes[item]
    return folds, int(np.ptp(loads.sum(0))) + int(np.ptp(loads, axis=1).max())


def sample_groups(sizes: Sequence[int], target: float, rng: np.random.Generator) -> list[int]:
    """Draw groups whose sizes sum to about `target`; see `partition`.

    Each group that fits is drawn with the same probability whatever its size, on the condition
    that the sum is less than one from `target` (or as near as possible): conditional Bernoulli
    sampling, exact for the `TAIL` smallest groups; a larger group is drawn with the probability
    target / remaining size.

    Args:
        sizes: size of each group.
        target: the sum to reach.
        rng: random generator.

    Returns:
        Indices into `sizes`; empty if `target` is less than 0.5.
    """
    if target < 0.5 or not len(sizes):
        return []
    order = [int(i) for i in np.lexsort((rng.random(len(sizes)), -np.array(sizes)))]
    total = left = sum(sizes)
    while sizes[order[0]] >= target + 1:
        first = order.pop(0)
        if not order or (2 * sizes[first] <= total and rng.random() < target / left):
            return [first]
        left -= sizes[first]
    chosen: list[int] = []
    head = max(0, len(order) - TAIL)
    for i in order[:head]:
        if sizes[i] <= target and (target > left - sizes[i] or rng.random() < target / left):
            chosen.append(i)
            target -= sizes[i]
        left -= sizes[i]
    tail = order[head:]
    share = min(target / left, 0.999)
    chances, wanted = _chances([sizes[i] for i in tail], target, share, bool(chosen))
    sums = _sums([sizes[i] for i in tail], chances, len(wanted))
    wanted = wanted * sums.pop()
    want = int(rng.choice(len(wanted), p=wanted / wanted.sum()))
    for i, chance in zip(tail, chances, strict=True):
        rest = sums.pop()
        within = chance * rest[want - sizes[i]] if sizes[i] <= want else 0.0
        if rng.random() * (within + (1 - chance) * rest[want]) < within:
            chosen.append(i)
            want -= sizes[i]
    return chosen


def _chances(
    sizes: list[int], target: float, share: float, allow_none: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrate Bernoulli probabilities, so that on the condition that the sum is one of the
    accepted ones each group is drawn with probability `share`.

    Args:
        sizes: of the groups, in decreasing order.
        target: the best sum.
        share: inclusion probability of each group.
        allow_none: whether a sum of 0 is accepted.

    Returns:
        Probabilities, float N; and which sums from 0 on are accepted, bool.
    """
    length = int(target) + 2 + sizes[0]
    chances = np.full(len(sizes), share)
    reached = _sums(sizes, chances, length)[-1] > 0
    reached[0] = allow_none
    away = np.where(reached, np.abs(np.arange(length) - target), np.inf)
    wanted = away <= max(away.min(), 1 - 1e-9)
    for _ in range(STEPS if len(sizes) <= FEW else 0):
        after = _sums(sizes, chances, length)[::-1]
        before = _sums(sizes[::-1], chances[::-1], length)
        drawn = np.zeros(len(sizes))
        for want in np.flatnonzero(wanted):
            for i, size in enumerate(sizes):
                if size <= want:
                    ways = before[i][: want - size + 1] @ after[i + 1][want - size :: -1]
                    drawn[i] += chances[i] * ways
        drawn = np.clip(drawn / after[0][wanted].sum(), 1e-6, 1 - 1e-6)
        odds = chances / (1 - chances) * (share / (1 - share)) * (1 - drawn) / drawn
        chances = np.clip(odds / (1 + odds), 1e-3, 1 - 1e-3)
    return chances, wanted


def _sums(sizes: list[int], chances: np.ndarray, length: int) -> list[np.ndarray]:
    """Distribution of the sum of the last i groups, for i = 0..N, each drawn with its probability.

    Args:
        sizes: of the groups.
        chances: float N, their probabilities.
        length: number of sums, from 0.

    Returns:
        N + 1 arrays, float `length`.
    """
    found = [np.zeros(length)]
    found[0][0] = 1
    for size, chance in zip(reversed(sizes), chances[::-1], strict=True):
        found.append((1 - chance) * found[-1])
        found[-1][size:] += chance * found[-2][:-size]
    return found


def _strata(levels: Sequence[int], rng: np.random.Generator) -> list[list[int]]:
    """The items of each level in random order; the levels are in random order, too."""
    order = [int(i) for i in rng.permutation(len(levels))]
    names = rng.permutation(sorted(set(levels)))
    return [[item for item in order if levels[item] == level] for level in names]


def _cut(strata: list[list[int]], shares: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
    """Divide items of size 1 into splits; each stratum is cut in its order."""
    counts = controlled_rounding(np.outer([len(items) for items in strata], shares), rng)
    splits: list[list[int]] = [[] for _ in shares]
    for items, numbers in zip(strata, counts, strict=True):
        ends = np.cumsum(numbers)
        for split, end, number in zip(splits, ends, numbers, strict=True):
            split += items[end - number : end]
    return splits


def controlled_rounding(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Controlled rounding (Cox, 1987): unbiased random rounding to a neighbouring integer.

    Row sums stay the same; column sums are rounded to a neighbouring integer.

    Args:
        values: float L x P, 0 or more, with integer row sums.
        rng: random generator.

    Returns:
        int L x P.
    """
    sums = values.sum(0)
    work = np.vstack([values, np.ceil(sums - 1e-6) - sums])  # all sums whole
    while True:
        whole = np.abs(work - np.round(work)) < 1e-6
        work[whole] = np.round(work[whole])
        if whole.all():
            return work[:-1].astype(int)
        rows, columns = np.array(_cycle(~whole)).T
        signs = np.where(np.arange(len(rows)) % 2, -1, 1)
        fraction = work[rows, columns] % 1
        up = np.where(signs > 0, 1 - fraction, fraction).min()
        down = np.where(signs > 0, fraction, 1 - fraction).min()
        step = up if rng.random() < down / (up + down) else -down
        work[rows, columns] += signs * step


def _cycle(fractional: np.ndarray) -> list[tuple[int, int]]:
    """A cycle of fractional cells that alternately share a row and a column. Each row and column
    with a fractional cell has at least two.

    Args:
        fractional: bool L x P.

    Returns:
        (row, column) of the cells.
    """
    row, column = (int(i) for i in np.argwhere(fractional)[0])
    cells: list[tuple[int, int]] = []
    seen = {(0, row): 0}
    along_row = True
    while True:
        if along_row:
            others = np.flatnonzero(fractional[row])
            column = int(next(c for c in others if not cells or (row, c) != cells[-1]))
        else:
            others = np.flatnonzero(fractional[:, column])
            row = int(next(r for r in others if (r, column) != cells[-1]))
        cells.append((row, column))
        node = (1, column) if along_row else (0, row)
        if node in seen:
            return cells[seen[node] :]
        seen[node] = len(cells)
        along_row = not along_row
