"""How sure a difference between two runs is, from their scores of the same pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

RESAMPLES = 10_000
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """One run minus another, over the same pictures."""

    mean: float
    low: float
    """2.5 % and 97.5 % quantiles of the mean over bootstrap samples of the pictures."""
    high: float
    p: float
    """Wilcoxon's signed-rank test, two-sided; 1 where no picture differs."""

    @property
    def sure(self) -> bool:
        """Whether the interval leaves zero out, and the test agrees: the mean may hang on few
        pictures."""
        return (self.low > 0 or self.high < 0) and self.p < LEVEL


def compare(scores: np.ndarray, others: np.ndarray) -> Difference:
    """Compare paired scores.

    Args:
        scores, others: float N, of the same N pictures in the same order.
    """
    differences = scores - others
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.quantile(differences[drawn].mean(1), [0.025, 0.975])
    p = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
    return Difference(float(differences.mean()), float(low), float(high), p)
