"""What more labelled images would bring, against errors of a known law."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from autosam.comparison.power_law import gain_of_doubling


@pytest.mark.parametrize("level", [0.0, 0.08])
def test_exact_errors(level: float) -> None:
    numbers = np.repeat([8, 16, 32, 64], 2)
    found = gain_of_doubling(list(numbers), list(level + 0.5 * numbers**-0.3))
    assert found is not None
    gain = 0.5 * 64**-0.3 - 0.5 * 128**-0.3
    assert (found.best, found.low, found.high) == pytest.approx((gain, gain, gain), abs=5e-4)


def test_too_few_figures() -> None:
    assert gain_of_doubling([8, 8, 16, 16], [0.5, 0.5, 0.4, 0.4]) is None
    assert gain_of_doubling([8, 16, 32], [0.5, 0.4, 0.3]) is None
    assert gain_of_doubling([8, 16, 32, 64], [0.5, 0.4, 0.0, 0.1]) is None
    assert gain_of_doubling([8, 16, 32, 64], [0.5, 0.4, float("nan"), 0.1]) is None


@pytest.mark.filterwarnings("error")
def test_possible_errors_alone() -> None:
    """One seed of four numbers, without order: a wide interval, but the error stays in 0 to 1."""
    for errors in ([0.3, 0.5, 0.2, 0.4], [0.9, 0.5, 0.95, 0.99], [0.01, 0.3, 0.02, 0.001]):
        found = gain_of_doubling([4, 5, 6, 7], errors)
        assert found is not None
        assert errors[-1] - 1 <= found.low <= found.best <= found.high <= errors[-1]


def test_the_best_fit_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    numbers = np.repeat([16, 32, 64, 128], 3)
    errors = 0.1 + 0.9 * numbers**-0.6 + rng.normal(0, 0.004, 12)
    means = np.repeat(errors.reshape(4, 3).mean(1), 3)
    found = gain_of_doubling(list(numbers), list(errors))
    (level, scale, exponent), _ = curve_fit(
        lambda n, c, a, b: c + a * n**-b, numbers, errors, (0.1, 1, 0.5), means,
        bounds=(0, (1, 9, 4)),
    )  # fmt: skip
    assert found is not None
    assert level > 0
    gain = scale * 128**-exponent * (1 - 2**-exponent)
    assert found.best == pytest.approx(gain, abs=4e-4)


@pytest.mark.parametrize("first", [8, 32])
@pytest.mark.parametrize("level", [0.0, 0.03, 0.1])
@pytest.mark.parametrize("scatter", [0.06, 0.02])
def test_the_interval_holds_the_truth(first: int, level: float, scatter: float) -> None:
    """Three seeds of four numbers, an error that falls to zero or levels off: about 19 of 20."""
    numbers = np.repeat(first * 2 ** np.arange(4), 3)
    truth = 0.9 * (8 * first) ** -0.5 * (1 - 0.5**0.5)
    rng, held, jobs = np.random.default_rng(0), 0, 200
    for _ in range(jobs):
        errors = (level + 0.9 * numbers**-0.5) * np.exp(rng.normal(0, scatter, 12))
        found = gain_of_doubling(list(numbers), list(errors))
        assert found is not None
        held += found.low <= truth <= found.high
    print(f"{held / jobs:.1%}")
    assert held / jobs >= 0.9
