"""What means cannot say by themselves: runs that mark everything or nothing, images with nothing in
them, classes that no image has."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autosam.evaluation.metrics import mean_known
from autosam.evaluation.scores import Scores

COVER, NOTHING = "a mask that covers every image", "no mask at all"

ALMOST_ALL = 0.95
"""Share of the images' pixels from which on a run marks everything, if the truth is below
`OBJECTS`."""
OBJECTS = 0.8
MOST = 0.95
"""Share of the images with something in them of which nothing is found, from which on a run finds
nothing."""


def cautions(rows: Scores, several: bool) -> list[str]:
    """What to know before the means are believed, a sentence each; nothing of scores of earlier
    versions, which do not say what the masks hold.

    Args:
        rows: scores by image.
        several: whether there are several classes.
    """
    found = []

    def mean(name: str) -> float:
        return mean_known([row.get(name, math.nan) for row in rows.values()])

    predicted, truth, missed = mean("predicted_share"), mean("truth_share"), mean("miss")
    if predicted >= ALMOST_ALL and truth <= OBJECTS:
        found.append(
            f"it marks nearly everything: {predicted:.0%} of all pixels, where {truth:.0%} are "
            "foreground. Such a mask needs no network"
        )
    if missed >= MOST:
        found.append(f"it finds nothing in {missed:.0%} of the images that hold something")
    if not found and not several and (trivial := trivial_dice(rows)):
        what, best = max(trivial.items(), key=lambda entry: entry[1])
        if (own := mean("dice")) <= best:
            found.append(f"its Dice of {own:.3f} is not above that of {what} ({best:.3f})")
    return found


def trivial_dice(rows: Scores) -> dict[str, float]:
    """Mean Dice of masks that need no network, of one class, by what they are; nothing of scores of
    earlier versions."""
    shares = [row["truth_share"] for row in rows.values() if "truth_share" in row]
    shares = [share for share in shares if not math.isnan(share)]
    if not shares:
        return {}
    return {
        COVER: mean_known([2 * s / (1 + s) for s in shares]),
        NOTHING: mean_known([float(s == 0) for s in shares]),
    }


def contents_of(rows: Scores, classes: Sequence[str]) -> dict[str, str]:
    """What the images hold, as facts to print: how many hold something, and which classes."""
    empty = sum(not math.isnan(row.get("false_alarm", math.nan)) for row in rows.values())
    full = sum(not math.isnan(row.get("miss", math.nan)) for row in rows.values())
    facts = {}
    if empty and full:
        facts["images scored"] = f"{full} with something in them, {empty} with nothing"
    if len(classes) > 1:
        counts = {
            name: sum(not math.isnan(row.get(f"dice/{name}", math.nan)) for row in rows.values())
            for name in classes
        }
        if min(counts.values()) < len(rows):
            facts["means by class"] = (
                "over the images that hold it or where it is predicted: "
                + ", ".join(f"{name} {count}" for name, count in counts.items())
                + f" of {len(rows)}; elsewhere it has no part in the image's mean"
            )
    return facts
