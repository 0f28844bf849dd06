"""The permutation test: values worked by hand, and simulations with known truth."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import permutation_test

from autosam.comparison.statistics import LEVEL, MIN_GROUPS, compare, holm, seed_margin

SIMULATIONS = 600
ERROR = 3 * math.sqrt(LEVEL * (1 - LEVEL) / SIMULATIONS)
"""Three standard errors of a share of 5 % in so many jobs: 2.7 %."""


def test_differences_worked_by_hand() -> None:
    # Six positive differences: 2 of the 2^6 ways of signs are as extreme. Swapping one of them
    # leaves the others' mean; the smallest and the largest means are those of one image.
    found = compare(np.arange(1.0, 7), np.zeros(6))
    assert (found.p, found.low, found.high, found.groups) == (2 / 64, 1.0, 6.0, 6)
    # Groups of two images: sums 3, 7, 11, 15, 19, 23, each group's mean half of that.
    values = np.arange(1.0, 13)
    found = compare(values, np.zeros(12), [str(i // 2) for i in range(12)])
    assert (found.p, found.low, found.high, found.groups) == (2 / 64, 1.5, 11.5, 6)
    assert found.mean == values.mean()
    same = compare(np.ones(8), np.ones(8))
    assert (same.mean, same.low, same.high, same.p, same.significant) == (0, 0, 0, 1, False)


def test_below_six_groups_nothing_is_significant() -> None:
    for groups in range(1, 9):
        values = np.linspace(1, 2, 10 * groups)
        found = compare(values, np.zeros_like(values), [str(i // 10) for i in range(len(values))])
        assert found.p == 2 / 2**groups
        assert found.significant == (groups >= MIN_GROUPS) == math.isfinite(found.low)


def test_images_that_have_no_score_are_left_out() -> None:
    ours, theirs = np.array([*np.arange(1.0, 7), 5.0]), np.array([0.0] * 6 + [math.nan])
    assert compare(ours, theirs) == compare(ours[:6], theirs[:6])
    assert compare(np.array([math.nan]), np.array([1.0])).p == 1


def test_p_is_that_of_scipy() -> None:
    """One image for each group: the permutation test of paired samples."""
    rng = np.random.default_rng(0)
    for count in (8, 12):
        ours, theirs = rng.beta(5, 1, (2, count))
        expected = permutation_test(
            (ours, theirs), lambda x, y, axis: np.mean(x - y, axis), permutation_type="samples",
            vectorized=True, n_resamples=math.inf,
        )  # fmt: skip
        assert compare(ours, theirs).p == pytest.approx(expected.pvalue, abs=1e-9)


def test_p_and_interval_say_the_same() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        ours, theirs = rng.beta(5, 1, (2, rng.integers(6, 40))).round(2)
        ours += rng.uniform(-0.2, 0.2)
        found = compare(ours, theirs)
        assert found.significant == (found.low > 0 or found.high < 0)


Draw = Callable[[np.random.Generator], tuple[np.ndarray, list[str] | None]]


def patients(counts: Callable[[np.random.Generator], np.ndarray], between: float = 0.05) -> Draw:
    """Patients who differ from each other as much as the images of one do."""

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        sizes = counts(rng)
        patient = np.repeat(np.arange(len(sizes)), sizes)
        own = rng.normal(0, between, len(sizes))[patient]
        return own + rng.normal(0, 0.05, len(patient)), [str(p) for p in patient]

    return draw


ALIKE: dict[str, Draw] = {
    "10 patients of 20 slices": patients(lambda rng: np.full(10, 20)),
    "6 patients of 20 slices": patients(lambda rng: np.full(6, 20)),
    "12 patients of 1 to 60 slices": patients(lambda rng: np.minimum(rng.geometric(0.05, 12), 60)),
    "one patient of 200 slices, 9 of 10": patients(lambda rng: np.array([200] + [10] * 9)),
    "60 images": lambda rng: (rng.normal(0, 0.05, 60), None),
    "30 images, skewed scores": lambda rng: (rng.beta(8, 1, 30) - rng.beta(8, 1, 30), None),
    "30 images, heavy tails": lambda rng: (0.02 * rng.standard_t(2, 30), None),
    "50 images, 45 ties": lambda rng: (rng.normal(0, 0.05, 50) * (rng.random(50) < 0.1), None),
    "200 images, all or nothing": lambda rng: (
        (rng.random(200) < 0.05).astype(float) - (rng.random(200) < 0.05), None),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_runs_that_are_alike_are_told_apart_in_one_of_twenty_cases(name: str) -> None:
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(SIMULATIONS if "0 images" not in name else SIMULATIONS // 3):
        differences, groups = ALIKE[name](rng)
        wrong += compare(differences, np.zeros(len(differences)), groups).significant
    jobs = SIMULATIONS if "0 images" not in name else SIMULATIONS // 3
    print(f"{name}: {wrong / jobs:.1%} of {jobs}")
    error = ERROR * math.sqrt(SIMULATIONS / jobs)
    assert wrong / jobs < LEVEL + error
    if name.startswith(("10 patients", "12 patients", "60 images")):  # and not for lack of power
        assert wrong / jobs > LEVEL - error


def test_the_interval_holds_the_truth_in_19_of_20_cases() -> None:
    rng, held = np.random.default_rng(8), 0
    draw = ALIKE["12 patients of 1 to 60 slices"]
    for _ in range(SIMULATIONS):
        differences, groups = draw(rng)
        found = compare(differences + 0.04, np.zeros(len(differences)), groups)
        held += found.low <= 0.04 <= found.high
    assert abs(held / SIMULATIONS - (1 - LEVEL)) < ERROR


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(9)
    found = 0
    for _ in range(100):
        differences, groups = ALIKE["10 patients of 20 slices"](rng)
        found += compare(differences + 0.08, np.zeros(200), groups).significant
    assert found > 95


@pytest.mark.parametrize("seeds", [1, 3])
def test_other_seeds_are_not_taken_for_another_run(seeds: int) -> None:
    """Two runs that are alike, whose trainings differ by 0.008 from seed to seed: over 80 images
    of little noise the difference of the trainings is sure in half of the cases; that of the runs
    is not."""
    rng = np.random.default_rng(10)
    by_images = judged = 0
    jobs = 200
    for _ in range(jobs):
        # Seeds x images, of both runs.
        runs = 0.8 + rng.normal(0, 0.008, (2, seeds, 1)) + rng.normal(0, 0.02, (2, seeds, 80))
        found = compare(*runs.mean(1))
        by_images += found.significant
        judged += found.significant_beyond(seed_margin(*runs.mean(2)))
    print(f"{seeds} seeds: {by_images / jobs:.1%} by images, {judged / jobs:.1%} with seeds")
    assert by_images / jobs > 0.4
    assert judged / jobs < LEVEL + ERROR * math.sqrt(SIMULATIONS / jobs)


def test_margins_worked_by_hand() -> None:
    # One seed each: 1.96 * 0.008 * sqrt(2).
    assert seed_margin([0.5], [0.9]) == pytest.approx(0.02217, abs=1e-4)
    # Deviations of 0.01 and 0 over 3 seeds: t of 2 degrees of freedom 4.303; of 0.01 and 0.01: t of
    # 4 degrees 2.776 (Welch).
    some = [0.79, 0.80, 0.81]
    assert seed_margin(some, [0.7] * 3) == pytest.approx(4.303 * 0.01 / 3**0.5, abs=1e-5)
    assert seed_margin(some, [0.69, 0.70, 0.71]) == pytest.approx(2.776 * 0.01 * (2 / 3) ** 0.5,
                                                                  abs=1e-5)  # fmt: skip
    assert seed_margin([0.7] * 3, [0.8] * 3) == pytest.approx(0, abs=1e-12)


def test_a_margin_of_pairs_worked_by_hand() -> None:
    # Differences 0.01, 0.02 and 0.03: deviation 0.01, t of 2 degrees of freedom.
    margin = seed_margin([0.51, 0.72, 0.93], [0.50, 0.70, 0.90], paired=True)
    assert margin == pytest.approx(4.303 * 0.01 / 3**0.5, abs=1e-5)
    assert seed_margin([0.5], [0.9], paired=True) == pytest.approx(0.02217, abs=1e-4)


def test_pairs_of_the_same_images_need_a_smaller_difference() -> None:
    """Images that a seed draws move both runs by 0.05, the rest of a training each by 0.005: a true
    difference of 0.03 is found by pairs, and two equal runs differ in 5 % of cases."""
    rng, found, wrong, unpaired, jobs = np.random.default_rng(12), 0, 0, 0, 2000
    for _ in range(jobs):
        shared = rng.normal(0.7, 0.05, 3)
        one, other = (shared + rng.normal(0, 0.005, 3) for _ in range(2))
        found += (one + 0.03).mean() - other.mean() > seed_margin(list(one), list(other), True)
        unpaired += (one + 0.03).mean() - other.mean() > seed_margin(list(one), list(other))
        wrong += abs(one.mean() - other.mean()) > seed_margin(list(one), list(other), True)
    print(f"{found / jobs:.1%} found, {unpaired / jobs:.1%} unpaired, {wrong / jobs:.1%} wrong")
    assert found / jobs > 0.8 > 0.1 > unpaired / jobs
    assert wrong / jobs < LEVEL + 0.02


@pytest.mark.parametrize("spreads", [(0.01, 0.01), (0.01, 0.002), (0.01, 0.0)])
def test_margins_hold_whichever_run_the_seeds_move(spreads: tuple[float, float]) -> None:
    rng, wrong, jobs = np.random.default_rng(11), 0, 3000
    for _ in range(jobs):
        one, other = (rng.normal(0.8, spread, 3) for spread in spreads)
        wrong += abs(one.mean() - other.mean()) > seed_margin(list(one), list(other))
    print(f"{spreads}: {wrong / jobs:.1%}")
    assert wrong / jobs < LEVEL + 0.02


def test_holm_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_ten_thousand_images_in_little_memory() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.beta(8, 1, (2, 10_000))
    tracemalloc.start()
    compare(ours, theirs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
