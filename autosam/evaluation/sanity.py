"""Checks of scores that a mean does not show: trivial predictions, empty images, absent classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autosam.evaluation.instance_matching import Matches
from autosam.evaluation.metrics import mean_known
from autosam.evaluation.scores import Scores

FULL_MASK, EMPTY_MASK = "a mask of the whole image", "an empty mask"
"""Names of the trivial predictions."""

PREDICTED_ALL = 0.95
"""Share of all pixels that is predicted as foreground, from which on a run is warned about."""
TRUE_ALL = 0.8
"""Share of all pixels that is foreground, above which that warning is left out."""
MISSED_ALL = 0.95
"""Share of the non-empty images without any true positive, from which on a run is warned about."""


def sanity_warnings(rows: Scores, multiclass: bool) -> list[str]:
    """Warn about scores that a trivial prediction would reach.

    Args:
        rows: scores by image, see `metrics.score`. Those of earlier versions do not hold what the
            checks need: no warning.
        multiclass: whether there are several classes.

    Returns:
        One sentence for each warning, without a full stop.
    """
    found = []

    def mean(name: str) -> float:
        return mean_known([row.get(name, math.nan) for row in rows.values()])

    predicted, truth, missed = mean("predicted_share"), mean("truth_share"), mean("miss")
    if predicted >= PREDICTED_ALL and truth <= TRUE_ALL:
        found.append(
            f"{predicted:.0%} of all pixels are predicted as foreground, while {truth:.0%} are. "
            "Such a mask needs no network"
        )
    if missed >= MISSED_ALL:
        found.append(f"nothing is found in {missed:.0%} of the images with foreground")
    if not found and not multiclass and (trivial := trivial_dice(rows)):
        name, best = max(trivial.items(), key=lambda entry: entry[1])
        if (own := mean("dice")) <= best:
            found.append(f"the Dice of {own:.3f} is not above that of {name} ({best:.3f})")
    return found


def unfound_objects(matches: Sequence[Matches], threshold: float) -> list[str]:
    """Warn where no object reaches the threshold, though some are below it.

    Args:
        matches: the matched objects of each image, with candidates.
        threshold: smallest score of an object.

    Returns:
        One sentence for each warning, without a full stop.
    """
    every = Matches.cat(matches)
    if len(every.scores) or every.candidates is None or not len(every.candidates.scores):
        return []
    scores = every.candidates.scores
    return [
        f"no object is found, because the scores of all {len(scores)} candidates are below the "
        f"threshold of {threshold:g}; the largest is {scores.max():.2f}. Train longer, or predict "
        "with a lower --threshold"
    ]


def trivial_dice(rows: Scores) -> dict[str, float]:
    """Compute the Dice of the trivial predictions for one class.

    Args:
        rows: scores by image.

    Returns:
        Mean Dice by name; empty for scores of earlier versions.
    """
    shares = [row["truth_share"] for row in rows.values() if "truth_share" in row]
    shares = [share for share in shares if not math.isnan(share)]
    if not shares:
        return {}
    return {
        FULL_MASK: mean_known([2 * s / (1 + s) for s in shares]),
        EMPTY_MASK: mean_known([float(s == 0) for s in shares]),
    }


def describe_images(rows: Scores, classes: Sequence[str]) -> dict[str, str]:
    """Count the empty images, and the images that each class's mean is over.

    Args:
        rows: scores by image.
        classes: names of the classes.

    Returns:
        Lines to print, by title. A line is left out if no image is empty, or if every image has
        every class.
    """
    empty = sum(not math.isnan(row.get("false_alarm", math.nan)) for row in rows.values())
    full = sum(not math.isnan(row.get("miss", math.nan)) for row in rows.values())
    facts = {}
    if empty and full:
        facts["images scored"] = f"{full} with foreground, {empty} empty"
    if len(classes) > 1:
        counts = {
            name: sum(not math.isnan(row.get(f"dice/{name}", math.nan)) for row in rows.values())
            for name in classes
        }
        if min(counts.values()) < len(rows):
            facts["means by class"] = (
                "over the images in which the class is present or predicted: "
                + ", ".join(f"{name} {count}" for name, count in counts.items())
                + f" of {len(rows)}"
            )
    return facts
