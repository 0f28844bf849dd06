"""The rows of a comparison, computed from its finished trainings."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import numpy as np

from autosam.comparison.jobs import Job
from autosam.comparison.scores import gather, images_per_second, pooled_of, scores_of
from autosam.comparison.statistics import Difference
from autosam.comparison.variants import Variant
from autosam.evaluation.metrics import mean_known
from autosam.evaluation.scores import Scores


@dataclass
class Row:
    """Scores and costs of a variant, over its seeds."""

    variant: Variant
    scores: list[Scores]
    """Scores of each seed."""
    trainable: int = 0
    """Number of trainable parameters."""
    seconds: float | None = None
    """Mean duration of a training; None if nothing was trained for this row."""
    speed: float = 0.0
    """Predicted images per second, one at a time."""
    peak_gib: float | None = None
    """Peak memory of training, GiB."""
    curves: list[list[float]] = field(default_factory=list)
    """Validation Dice by epoch of each training."""
    pooled: list[dict[str, float]] = field(default_factory=list)
    """Scores over the objects of all images, of each training; see `Job.pooled`."""
    difference: Difference | None = None
    """Difference in Dice to the base row; set by the table."""

    @property
    def title(self) -> str:
        return self.variant.title

    @property
    def metrics(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over seeds by metric; with several classes also by
        `metric/class`."""
        names = dict.fromkeys(name for seed in self.scores for row in seed.values() for name in row)
        found = {}
        for name in names:
            means = [mean for mean in self.means(name) if not math.isnan(mean)]
            spread = float(np.std(means, ddof=1)) if len(means) > 1 else 0.0
            if means:
                found[name] = (float(np.mean(means)), spread)
        for name in dict.fromkeys(name for own in self.pooled for name in own):
            values = [own[name] for own in self.pooled if name in own]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            found[name] = (float(np.mean(values)), spread)
        return found

    def format_score(self, score: tuple[float, float], form: str = ".3f") -> str:
        """A value of `metrics` as text: its standard deviation only if there are several seeds."""
        mean, spread = score
        return f"{mean:{form}} ± {spread:{form}}" if len(self.scores) > 1 else f"{mean:{form}}"

    def means(self, metric: str) -> list[float]:
        """Average a metric over the images for which it is not NaN.

        Args:
            metric: name of the metric.

        Returns:
            The mean of each seed; NaN if no image has the metric.
        """
        return [
            mean_known([row.get(metric, math.nan) for row in seed.values()]) for seed in self.scores
        ]

    def over_seeds(self) -> Scores:
        """Average each score of each image over the seeds for which it is not NaN."""
        return {
            image: {
                name: mean_known([seed[image].get(name, math.nan) for seed in self.scores])
                for name in row
            }
            for image, row in self.scores[0].items()
        }

    def by_image(self, metric: str = "dice") -> dict[str, float]:
        """Average a metric of each image over the seeds.

        Args:
            metric: name of the metric.

        Returns:
            Means by image; NaN if it is for any seed.
        """
        return {
            image: float(np.mean([seed[image].get(metric, math.nan) for seed in self.scores]))
            for image in sorted(self.scores[0])
        }


def jobs_by_variant(jobs: list[Job], ablated: list[Variant]) -> dict[Variant, list[Job]]:
    """Group trainings by the rows that are scored from them.

    Args:
        jobs: see `plan`.
        ablated: ablations of the run `autosam`, which use its trainings.

    Returns:
        Trainings by row.
    """
    found: dict[Variant, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.variant, []).append(job)
    return found | {variant: found[Variant(variant.run)] for variant in ablated}


def make_row(variant: Variant, jobs: list[Job], timed: bool = True) -> Row:
    """Collect the scores and costs of a variant.

    Args:
        variant: the variant.
        jobs: its trainings, for all seeds and folds.
        timed: whether to measure the speed of prediction.

    Raises:
        CheckpointError: a run folder is damaged.
    """
    costs = [job.facts() for job in jobs]
    row = Row(
        variant,
        gather(jobs, functools.partial(scores_of, ablation=variant.ablation)),
        trainable=int(costs[0]["trainable"]),
        speed=images_per_second(jobs[0], variant.ablation) if timed else 0.0,
        pooled=[pooled_of(job, variant.ablation) for job in jobs],
    )
    if variant.learns:
        row.seconds = sum(cost["seconds"] for cost in costs) / len(costs)
        row.peak_gib = max(cost["peak_gib"] for cost in costs)
        row.curves = [curve for job in jobs if (curve := job.curve())]
    return row
