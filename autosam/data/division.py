"""Dividing things at random into parts of given shares: whole, and no two results alike.

Things are numbers 0..N-1 with a size (a group of images has several) and a level (their stratum).
Everything is drawn from one generator, so that the same seed divides in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TAIL = 300
"""So many of the smallest groups are chosen so that a part comes as near to its share as it can."""
FEW, STEPS = 60, 20
"""Of so many groups at most, the chances of large and small ones are balanced, in so many steps; of
more, their sum says little of a single one."""
MOST = 1000
"""Of more groups many are of one size, and which of them meet in a fold is random anyhow."""


def divide(
    sizes: Sequence[int], levels: Sequence[int], shares: Sequence[float], rng: np.random.Generator
) -> list[list[int]]:
    """Divide things into parts of unequal shares.

    Of things of size 1 every part gets, in all and of each level, a number of things next to its
    share (less than one away). Where groups are larger, each part after the first comes as close
    to its share as groups can, and a group comes into it about as often as the share says whatever
    its size; but one that is larger than the share stands alone in it, and none of more than half
    of the whole does.

    Args:
        sizes: how much each thing counts, 1 or more.
        levels: of each thing.
        shares: of each part; their sum is 1. The first takes what the others leave.
        rng: source of every draw.

    Returns:
        The things of each part.
    """
    strata = _strata(levels, rng)
    if max(sizes) == 1:
        return _cut(strata, np.array(shares), rng)
    totals = [sum(sizes[thing] for thing in things) for things in strata]
    parts = []
    for i in reversed(range(1, len(shares))):
        part: list[int] = []
        due = 0.0
        for things, total in zip(strata, totals, strict=True):
            due += shares[i] * total
            chosen = [things[j] for j in pick([sizes[thing] for thing in things], due, rng)]
            due -= sum(sizes[thing] for thing in chosen)
            part += chosen
        part.sort(key=lambda thing: -sizes[thing])
        spare = sum(map(len, strata)) - i  # each of the other parts wants one
        part = part[: max(1, spare)]
        parts.append(part)
        taken = set(part)
        strata = [[thing for thing in things if thing not in taken] for things in strata]
    return [[thing for things in strata for thing in things], *reversed(parts)]


def deal(
    sizes: Sequence[int], levels: Sequence[int], count: int, rng: np.random.Generator
) -> list[list[int]]:
    """Divide things into parts of one size (folds).

    Of things of size 1 the parts differ, in all and in each level, by one at most. Groups are dealt
    large ones first, each to the part that has least of its level; which of them meet is as
    random as that leaves.

    Args:
        sizes, levels, rng: as for `divide`.
        count: how many parts, at most as many as things.

    Returns:
        The things of each part.
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
        if least <= 2:  # by one in all, by one in a level
            break
    return found


def _deal_once(
    sizes: Sequence[int], rows: np.ndarray, count: int, noise: float, rng: np.random.Generator
) -> tuple[list[list[int]], int]:
    """Deal in the order of sizes blurred by `noise`; the parts, and by how much they differ."""
    parts: list[list[int]] = [[] for _ in range(count)]
    loads = np.zeros((rows.max() + 1, count), int)
    blurred = np.array(sizes) * np.exp(noise * rng.normal(size=len(sizes)))
    for thing in np.lexsort((rng.random(len(sizes)), -blurred)):
        row = loads[rows[thing]]
        best = np.lexsort((rng.random(count), loads.sum(0), row))[0]
        parts[best].append(int(thing))
        row[best] += sizes[thing]
    return parts, int(np.ptp(loads.sum(0))) + int(np.ptp(loads, axis=1).max())


def pick(sizes: Sequence[int], due: float, rng: np.random.Generator) -> list[int]:
    """Draw groups of about `due` in all; see `divide`.

    A group that fits is drawn with one probability whatever its size, on the condition that the sum
    is less than one from `due` (or as near as sums come): conditional Bernoulli sampling, exact
    for the `TAIL` smallest groups, and by what is due still over what is left for larger ones.

    Returns:
        Indices into `sizes`; none where less than half of one is due.
    """
    if due < 0.5 or not len(sizes):
        return []
    order = [int(i) for i in np.lexsort((rng.random(len(sizes)), -np.array(sizes)))]
    total = left = sum(sizes)
    while sizes[order[0]] >= due + 1:
        first = order.pop(0)
        if not order or (2 * sizes[first] <= total and rng.random() < due / left):
            return [first]
        left -= sizes[first]
    chosen: list[int] = []
    head = max(0, len(order) - TAIL)
    for i in order[:head]:
        if sizes[i] <= due and (due > left - sizes[i] or rng.random() < due / left):
            chosen.append(i)
            due -= sizes[i]
        left -= sizes[i]
    tail = order[head:]
    share = min(due / left, 0.999)
    chances, wanted = _chances([sizes[i] for i in tail], due, share, bool(chosen))
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
    sizes: list[int], due: float, share: float, none: bool
) -> tuple[np.ndarray, np.ndarray]:
    """With which chance to draw each group, so that on the condition that the sum is as wanted it
    is drawn with probability `share`; and which sums are wanted.

    Args:
        sizes: of the groups, large ones first.
        due: the sum that is best.
        share: the probability.
        none: whether a sum of 0 will do.

    Returns:
        float N, and bool for each sum from 0.
    """
    length = int(due) + 2 + sizes[0]
    chances = np.full(len(sizes), share)
    reached = _sums(sizes, chances, length)[-1] > 0
    reached[0] = none
    away = np.where(reached, np.abs(np.arange(length) - due), np.inf)
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
    """Item i: how the sum of the last i groups is distributed, if each is drawn with its chance;
    float for each sum below `length`."""
    found = [np.zeros(length)]
    found[0][0] = 1
    for size, chance in zip(reversed(sizes), chances[::-1], strict=True):
        found.append((1 - chance) * found[-1])
        found[-1][size:] += chance * found[-2][:-size]
    return found


def _strata(levels: Sequence[int], rng: np.random.Generator) -> list[list[int]]:
    """The things of each level, in an order of their own; levels in random order, too."""
    order = [int(i) for i in rng.permutation(len(levels))]
    names = rng.permutation(sorted(set(levels)))
    return [[thing for thing in order if levels[thing] == level] for level in names]


def _cut(strata: list[list[int]], shares: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
    """Things of size 1, each stratum in its order, into parts."""
    counts = round_at_random(np.outer([len(things) for things in strata], shares), rng)
    parts: list[list[int]] = [[] for _ in shares]
    for things, numbers in zip(strata, counts, strict=True):
        ends = np.cumsum(numbers)
        for part, end, number in zip(parts, ends, numbers, strict=True):
            part += things[end - number : end]
    return parts


def round_at_random(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Controlled rounding (Cox, 1987): whole numbers next to `values`, whose sums over rows stay,
    whose sums over columns are next to what they were, and whose expectations are the values.

    Args:
        values: L x P, 0 or more; sums over rows are whole.
        rng: source of every draw.

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
        part = work[rows, columns] % 1
        up = np.where(signs > 0, 1 - part, part).min()
        down = np.where(signs > 0, part, 1 - part).min()
        step = up if rng.random() < down / (up + down) else -down
        work[rows, columns] += signs * step


def _cycle(fractional: np.ndarray) -> list[tuple[int, int]]:
    """Cells in turn in one row and one column, back to the first. Rows and columns that have such
    cells have two or more."""
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
