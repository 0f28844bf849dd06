"""Properties of splits and folds: sizes, coverage, groups, strata, randomness, order."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_splits import pool

from autosam.config import DataConfig
from autosam.data.pairs import SPLITS, Pair
from autosam.data.partition import controlled_rounding, make_folds, partition, sample_groups
from autosam.data.splits import draw_splits
from autosam.errors import DataError

SEEDS = st.integers(0, 2**32 - 1)
SHARE = st.sampled_from([0.1, 0.15, 0.2, 0.25, 1 / 3])
EXAMPLES = settings(max_examples=100, deadline=None)


def names(pairs: list[Pair]) -> set[str]:
    return {pair.name for pair in pairs}


def grouped(sizes: list[int]) -> list[Pair]:
    groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    return pool([0.1] * len(groups), groups)


# --- one by one


@EXAMPLES
@given(st.integers(7, 200), SHARE, SHARE, SEEDS)
def test_shares_are_kept_to_one_image(
    count: int, validation: float, test: float, seed: int
) -> None:
    config = DataConfig(validation=validation, test=test, split_seed=seed)
    splits = draw_splits(pool([0.1] * count), config)
    assert sorted(n for split in SPLITS for n in names(splits[split])) == [
        f"{i:03d}" for i in range(count)
    ]
    for split, share in zip(SPLITS, (1 - validation - test, validation, test), strict=True):
        assert abs(len(splits[split]) - share * count) <= 1 + 1e-9


def test_the_split_of_a_seed_stays_what_it_was() -> None:
    """Figures were published with it."""
    pairs = pool([0.1] * 20)
    for seed, validation, test in ((0, "02 13 16", "04 06 19"), (7, "13 14 16", "03 08 12")):
        splits = draw_splits(pairs, DataConfig(split_seed=seed))
        assert " ".join(p.name[1:] for p in splits["validation"]) == validation
        assert " ".join(p.name[1:] for p in splits["test"]) == test
    splits = draw_splits(pairs, DataConfig(folds=5, fold=1))
    assert " ".join(p.name[1:] for p in splits["test"]) == "05 07 17 18"


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 60), st.integers(2, 10), SEEDS, st.randoms())
def test_folds_test_each_image_once(count: int, folds: int, seed: int, random) -> None:
    folds = min(folds, count)
    pairs, seen = pool([0.1] * count), Counter()
    for fold in range(folds):
        config = DataConfig(folds=folds, fold=fold, split_seed=seed)
        splits = draw_splits(random.sample(pairs, count), config)
        assert len(splits["test"]) in (count // folds, math.ceil(count / folds))
        assert not names(splits["test"]) & (names(splits["train"]) | names(splits["validation"]))
        assert not names(splits["train"]) & names(splits["validation"])
        assert sum(map(len, splits.values())) == count
        seen.update(names(splits["test"]))
    assert set(seen.values()) == {1}
    assert len(seen) == count


@pytest.mark.parametrize(("count", "folds", "stratify"), [(14, 10, False), (45, 10, True)])
def test_folds_that_rounded_badly(count: int, folds: int, stratify: bool) -> None:
    pairs = pool([0.0, 0.05, 0.1, 0.2, 0.4] * 9)[:count]
    sizes = [
        len(draw_splits(pairs, DataConfig(folds=folds, fold=i, stratify=stratify))["test"])
        for i in range(folds)
    ]
    assert sorted(sizes) == sorted([count // folds + (i < count % folds) for i in range(folds)])


@EXAMPLES
@given(st.lists(st.integers(0, 4), min_size=8, max_size=120), SHARE, SHARE, SEEDS)
def test_strata_are_kept_to_one_image(
    levels: list[int], validation: float, test: float, seed: int
) -> None:
    shares = [1 - validation - test, validation, test]
    parts = partition([1] * len(levels), levels, shares, np.random.default_rng(seed))
    assert sorted(itertools.chain(*parts)) == list(range(len(levels)))
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - share * len(levels)) < 1
        for level, total in Counter(levels).items():
            found = sum(levels[thing] == level for thing in part)
            assert abs(found - share * total) < 1


@EXAMPLES
@given(st.lists(st.integers(0, 4), min_size=10, max_size=120), st.integers(2, 10), SEEDS)
def test_strata_of_folds_differ_by_one(levels: list[int], folds: int, seed: int) -> None:
    parts = make_folds([1] * len(levels), levels, folds, np.random.default_rng(seed))
    assert sorted(itertools.chain(*parts)) == list(range(len(levels)))
    for level in [None, *set(levels)]:
        counts = [sum(level is None or levels[t] == level for t in part) for part in parts]
        assert max(counts) - min(counts) <= 1


@EXAMPLES
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.lists(st.integers(1, 20), min_size=2, max_size=12),
    SEEDS,
)
def test_controlled_rounding(rows: list[int], columns: list[int], seed: int) -> None:
    values = np.outer(rows, np.array(columns) / sum(columns))
    found = controlled_rounding(values, np.random.default_rng(seed))
    assert (np.abs(found - values) < 1).all()
    assert found.sum(1).tolist() == rows
    assert (np.abs(found.sum(0) - values.sum(0)) < 1).all()


def test_controlled_rounding_is_right_on_average() -> None:
    values = np.outer([3, 5, 7, 2], [0.7, 0.15, 0.15])
    rng = np.random.default_rng(0)
    mean = np.mean([controlled_rounding(values, rng) for _ in range(1000)], 0)
    assert np.abs(mean - values).max() < 4 * 0.5 / np.sqrt(1000)


# --- groups

SIZES = st.lists(st.integers(1, 12), min_size=4, max_size=12)


@EXAMPLES
@given(SIZES, SHARE, SEEDS)
def test_groups_stay_whole_and_near_the_share(sizes: list[int], share: float, seed: int) -> None:
    """By every sum that groups up to the share can come to, two groups left for the other splits:
    none is nearer than what was drawn, unless one group that is larger than the share stands
    alone."""
    assume(share * sum(sizes) >= 0.5)  # else there is nothing for a split
    config = DataConfig(validation=share, test=share, split_seed=seed)
    pairs = grouped(sizes)
    try:
        splits = draw_splits(pairs, config)
    except DataError:
        assert max(sizes) == 1  # of single images a split gets its share, rounded up or down
        assert share * sum(sizes) < 1
        return
    homes = [{p.group for p in splits[split]} for split in SPLITS]
    assert sum(map(len, homes)) == len(sizes) == len(set.union(*homes))
    assert sum(len(splits[split]) for split in SPLITS) == sum(sizes)
    due, found = share * sum(sizes), len(splits["test"])
    sums = {(0, 0)}
    for size in sizes:
        if size < due + 1:
            sums |= {(n + 1, s + size) for n, s in sums if n < len(sizes) - 2}
    nearest = min((abs(s - due) for n, s in sums if n), default=0)
    alone = len(homes[2]) == 1 and found > due
    assert abs(found - due) <= max(1, nearest) + 1e-9 or alone


@settings(max_examples=50, deadline=None)
@given(SIZES, st.integers(2, 4), SEEDS)
def test_groups_over_folds(sizes: list[int], folds: int, seed: int) -> None:
    parts = make_folds(sizes, [0] * len(sizes), folds, np.random.default_rng(seed))
    assert sorted(itertools.chain(*parts)) == list(range(len(sizes)))
    loads = [sum(sizes[thing] for thing in part) for part in parts]
    # The largest has no more than the smallest could take on: one group, the smallest in it.
    fullest = max(range(folds), key=loads.__getitem__)
    assert len(parts[fullest]) == 1 or max(loads) - min(loads) <= max(sizes)


def test_two_hundred_seeds_test_every_group_as_often() -> None:
    """12 groups of 1 to 12 images, 15 % for test: each is tested in 15 % of all seeds."""
    sizes = list(range(1, 13))
    pairs, tested, drawn = grouped(sizes), Counter(), set()
    for seed in range(200):
        splits = draw_splits(pairs, DataConfig(split_seed=seed))
        groups = {pair.group for pair in splits["test"]}
        assert abs(len(splits["test"]) - 0.15 * 78) <= 1
        tested.update(groups)
        drawn.add(frozenset(groups))
    assert len(drawn) > 15
    worst = max(abs(tested[f"g{i}"] / 200 - 0.15) for i in range(12))
    print(f"shares of 200 seeds: {sorted(tested.values())}, furthest from 0.15 by {worst:.3f}")
    assert worst < 0.09


def test_twenty_patients_of_many_sizes_are_drawn_alike() -> None:
    """Of 500 draws, as often as the share says; chance gives 0.016."""
    sizes = np.random.default_rng(3).integers(1, 40, 20).tolist()
    count = np.zeros(20)
    for seed in range(500):
        chosen = sample_groups(sizes, 0.15 * sum(sizes), np.random.default_rng(seed))
        assert abs(sum(sizes[i] for i in chosen) - 0.15 * sum(sizes)) < 1
        count[chosen] += 1
    off = np.abs(count / 500 - 0.15).max()
    print(f"frequencies of 20 groups in 500 draws: at most {off:.3f} from 0.15")
    assert off < 0.06


def test_a_group_larger_than_the_share_is_tested_too() -> None:
    """And one of more than half of all never is."""
    seen = Counter()
    for seed in range(200):
        splits = draw_splits(grouped([30, 10, 10, 10, 10, 10, 10, 10]), DataConfig(split_seed=seed))
        seen.update({pair.group for pair in splits["test"]})
        assert "g0" not in {p.group for p in splits["test"]} or len(splits["test"]) == 30
    assert 0.05 < seen["g0"] / 200 < 0.25
    for seed in range(50):
        splits = draw_splits(grouped([30, 2, 2, 2, 2, 2]), DataConfig(split_seed=seed))
        assert len(splits["train"]) >= 30


@settings(max_examples=20, deadline=None)
@given(SIZES, SEEDS, st.booleans(), st.randoms())
def test_the_order_of_files_does_not_matter(
    sizes: list[int], seed: int, stratify: bool, random
) -> None:
    config = DataConfig(split_seed=seed, stratify=stratify, validation=0.25, test=0.25)
    pairs = grouped([3, 3, *sizes])
    splits = draw_splits(pairs, config)
    other = draw_splits(random.sample(pairs, len(pairs)), config)
    assert {k: [p.name for p in v] for k, v in splits.items()} == {
        k: [p.name for p in v] for k, v in other.items()
    }


def test_strata_of_groups_are_near_their_shares() -> None:
    """20 patients with little and 20 with much foreground, 3 to 7 images each."""
    rng = np.random.default_rng(0)
    levels, sizes = [0] * 20 + [1] * 20, rng.integers(3, 8, 40).tolist()
    for seed in range(50):
        parts = partition(sizes, levels, [0.6, 0.2, 0.2], np.random.default_rng(seed))
        folds = make_folds(sizes, levels, 5, np.random.default_rng(seed))
        for part, share in zip([*parts, *folds], [0.6, 0.2, 0.2, *[0.2] * 5], strict=True):
            for level in (0, 1):
                total = sum(s for s, own in zip(sizes, levels, strict=True) if own == level)
                found = sum(sizes[thing] for thing in part if levels[thing] == level)
                assert abs(found - share * total) < 4  # a group is 5 on average


def test_folds_of_groups_meet_others_with_another_seed() -> None:
    sizes = list(range(1, 16))
    drawn = set()
    for seed in range(40):
        parts = make_folds(sizes, [0] * 15, 3, np.random.default_rng(seed))
        loads = [sum(sizes[t] for t in part) for part in parts]
        assert max(loads) - min(loads) <= 1
        drawn.add(frozenset(map(frozenset, parts)))
    assert len(drawn) > 20


def test_fewer_groups_than_folds_is_an_error() -> None:
    with pytest.raises(DataError, match=r"--data.folds 5: 4 groups \(of 40 images\) are fewer"):
        draw_splits(grouped([10] * 4), DataConfig(folds=5))
    with pytest.raises(DataError, match=r"--data.folds 10: 7 images are fewer than folds"):
        draw_splits(pool([0.1] * 7), DataConfig(folds=10))


def test_a_hundred_thousand_images_of_ten_thousand_patients() -> None:
    sizes = np.random.default_rng(0).integers(1, 20, 10_000).tolist()
    parts = partition(sizes, [0] * 10_000, [0.7, 0.15, 0.15], np.random.default_rng(0))
    for part, share in zip(parts, (0.7, 0.15, 0.15), strict=True):
        assert abs(sum(sizes[t] for t in part) - share * sum(sizes)) <= 2
