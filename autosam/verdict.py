"""What SAM contributes, in words that follow from the figures alone."""

from __future__ import annotations

from autosam.significance import Difference
from autosam.standings import Row, Standings

TYPICAL = 0.008
"""Standard deviation of Dice over seeds that is usual on such data: smaller differences of single
seeds mean nothing."""


def judge(difference: Difference, seeds: int) -> str:
    """better, worse, or that it cannot be told, with the figures."""
    figures = (
        f"{difference.mean:+.3f} Dice, 95 % interval {difference.low:+.3f} to "
        f"{difference.high:+.3f}, p = {difference.p:.2g}"
    )
    if not difference.sure:
        return f"neither clearly better nor clearly worse ({figures})"
    weak = seeds < 3 and abs(difference.mean) < 2 * TYPICAL
    doubt = "; less than two typical deviations between seeds, so more seeds are needed" * weak
    return f"{'better' if difference.mean > 0 else 'worse'} ({figures}{doubt})"


def verdict(standings: Standings) -> str:
    """One paragraph on what SAM does for the run `autosam`; empty where it is not there."""
    if "autosam" not in standings:
        return ""
    own = standings["autosam"]
    seeds, pictures = len(own.scores), len(own.scores[0])
    parts = [
        f"On {pictures} test pictures and {seeds} seed{'s' * (seeds > 1)}, autosam scores "
        f"{own.metrics['dice'][0]:.3f} Dice."
    ]
    if "head" in standings:
        found = judge(own.minus(standings["head"]), seeds)
        parts.append(f"Against the same backbone with a plain head and no SAM it is {found}.")
    blind = [name for name in ("autosam, blank", "autosam, shuffled") if name in standings]
    for name in blind:
        what = "no picture at all" if name.endswith("blank") else "another picture"
        found = judge(own.minus(standings[name]), seeds)
        parts.append(
            f"With SAM's embedding of the picture it is {found} than when trained and tested with "
            f"that of {what}."
        )
    for name in ("blank", "shuffled"):
        row = f"autosam, {name} at test"
        if row in standings:
            change = -own.minus(standings[row]).mean
            parts.append(f"Only at test time, {name} embeddings change its Dice by {change:+.3f}.")
    if "autosam, no SAM" in standings:
        found = judge(own.minus(standings["autosam, no SAM"]), seeds)
        parts.append(f"SAM's mask is {found} than what the prompt alone says.")
    parts.append(_conclusion(standings, own))
    return " ".join(part for part in parts if part)


def _conclusion(standings: Standings, own: Row) -> str:
    """Whether SAM helps, and whether it is by what its encoder sees, where the controls that decide
    it are there."""
    if "head" not in standings:
        return "Whether SAM helps at all needs the run head beside it."
    against = own.minus(standings["head"])
    if against.sure and against.mean < 0:
        return "So SAM does not help here: without it the same backbone does better."
    if not against.sure:
        return "So there is no sign that SAM helps here: without it the same backbone does as well."
    if "autosam, blank" in standings:
        seen = own.minus(standings["autosam, blank"])
        if not (seen.sure and seen.mean > 0):
            return (
                "So SAM helps here, but there is no sign that it is by what its image encoder "
                "sees: its mask decoder does as well without."
            )
    return "So SAM helps here."
