"""What SAM contributes, in words that follow from the figures alone."""

from __future__ import annotations

import numpy as np

from autosam.comparison.statistics import FEWEST, LEVEL, Difference, holm
from autosam.comparison.table import ResultsTable, Row
from autosam.evaluation.evaluator import trust_in_words

STEEP = 0.02
"""Gain in validation Dice over the last quarter of the epochs from which on a training has not come
to its end."""
SHORT = 3
"""Epochs below which nobody can tell whether a training has come to its end."""
HEAD = "head"


def judge(results: ResultsTable, one: Row, other: Row, p: float | None = None) -> str:
    """Better, worse, or that it cannot be told, with the figures.

    Args:
        results: of both lines.
        one, other: what is judged, and against what.
        p: of the difference, where several are judged at once.
    """
    found = results.minus(one, other)
    if found.groups < FEWEST:
        return f"not to be told apart ({found.mean:+.3f} Dice, too few groups)"
    figures = (
        f"{found.mean:+.3f} Dice, 95 % interval {found.low:+.3f} to {found.high:+.3f}, "
        f"p = {found.p if p is None else p:.2g}"
    )
    sign = _sign(results, one, other, found, p)
    if sign:
        return f"{'better' if sign > 0 else 'worse'} ({figures})"
    doubt = ""
    if (found.p if p is None else p) < LEVEL:
        doubt = (
            f"; other seeds alone can make a difference of {results.margin(one, other):.3f}, so "
            "more seeds are needed"
        )
    return f"neither clearly better nor clearly worse ({figures}{doubt})"


def _sign(
    results: ResultsTable, one: Row, other: Row, found: Difference, p: float | None = None
) -> int:
    """1 better, -1 worse, 0 not to be told."""
    sure = found.sure_beyond(results.margin(one, other)) and (p is None or p < LEVEL)
    return int(np.sign(found.mean)) if sure else 0


def conclusion(results: ResultsTable) -> str:
    """One paragraph on what SAM does for the runs that use it; empty where none is there."""
    own = [row for row in results.rows if row.uses_sam]
    if not own:
        return ""
    seeds = len(own[0].scores)
    images = int(np.isfinite(list(own[0].by_image().values())).sum())
    groups = results.minus(own[0], own[0]).groups
    parts = [
        f"On {images} test images{f' of {groups} groups' * (groups < images)} and {seeds} "
        f"seed{'s' * (seeds > 1)}, {own[0].name} scores {own[0].metrics['dice'][0]:.3f} Dice"
        f"{', the best of those that use SAM' * (len(own) > 1)}."
    ]
    conclusion = "Whether SAM helps at all needs the run head beside it."
    if HEAD in results:
        found, conclusion = _against_head(results, own)
        parts.append(found)
    if "autosam" in results:
        parts += _controls(results, results["autosam"])
    return " ".join([*parts, conclusion])


def _against_head(results: ResultsTable, own: list[Row]) -> tuple[str, str]:
    """How every run that uses SAM does against the one that does not, and what follows."""
    head = results[HEAD]
    found = [results.minus(row, head) for row in own]
    ps = holm([one.p for one in found])
    several = f" (p of {len(own)} comparisons, by Holm)" * (len(own) > 1)
    said = "; ".join(
        f"{row.name} is {judge(results, row, head, p)}" for row, p in zip(own, ps, strict=True)
    )
    text = f"Against the same backbone with a plain head and no SAM{several}: {said}."
    if found[0].groups < FEWEST:
        return text, (
            f"No conclusion: the test images are of {found[0].groups} groups, and below {FEWEST} "
            "nothing can be told from chance."
        )
    if reason := unfinished(results, head):
        return text, f"No conclusion: {reason}."
    signs = {
        row.name: _sign(results, row, head, one, p)
        for row, one, p in zip(own, found, ps, strict=True)
    }
    doubts = [reason for row in own if (reason := unfinished(results, row))]
    better = [name for name, sign in signs.items() if sign > 0]
    if better:
        return text, _helps(results, better)
    if doubts:
        return text, f"No conclusion: {'; '.join(doubts)}."
    if all(sign < 0 for sign in signs.values()):
        return text, "So SAM does not help here: without it the same backbone does better."
    return text, (
        "So there is no sign that SAM helps here: without it the same backbone does as well."
    )


def _helps(results: ResultsTable, better: list[str]) -> str:
    """The runs by which SAM helps, and whether it does by what its encoder sees."""
    text = f"So SAM helps here, by {', '.join(better)}"
    blank = "autosam, blank"
    if better == ["autosam"] and blank in results:
        own, other = results["autosam"], results[blank]
        if reason := unfinished(results, other):
            return f"{text}; whether by what its image encoder sees: no conclusion, {reason}."
        if _sign(results, own, other, results.minus(own, other)) <= 0:
            return (
                f"{text}, but there is no sign that it is by what its image encoder sees: its mask "
                "decoder does as well without."
            )
    return f"{text}."


def _controls(results: ResultsTable, own: Row) -> list[str]:
    """What becomes of the run `autosam` without what SAM sees."""
    parts = []
    for name in ("blank", "shuffled"):
        if f"autosam, {name}" in results:
            what = "no image at all" if name == "blank" else "another image"
            found = judge(results, own, results[f"autosam, {name}"])
            parts.append(
                f"With SAM's embedding of the image autosam is {found} than when trained and "
                f"tested with that of {what}."
            )
    for name in ("blank", "shuffled"):
        if f"autosam, {name} at test" in results:
            change = -results.minus(own, results[f"autosam, {name} at test"]).mean
            parts.append(f"Only at test time, {name} embeddings change its Dice by {change:+.3f}.")
    if "autosam, no SAM" in results:
        found = judge(results, own, results["autosam, no SAM"])
        parts.append(f"SAM's mask is {found} than what the prompt alone says.")
    if trusted := trust_in_words({name: mean for name, (mean, _) in own.metrics.items()}):
        parts.append(
            f"Of SAM's image embedding the learned gates let {trusted} through (its "
            "levels, coarse to fine)."
        )
    if (said := who_draws(results, own)) is not None:
        parts.append(said)
    return parts


def who_draws(results: ResultsTable, own: Row) -> str | None:
    """Whether SAM still matters to `autosam`, or its prompt draws the mask by itself; None where
    the controls are missing or nothing can be concluded."""
    names = ("autosam, blank", "autosam, no SAM")
    if any(name not in results for name in names):
        return None
    blank, alone = (results[name] for name in names)
    if unfinished(results, own) or unfinished(results, blank):
        return None
    if results.minus(own, blank).groups < FEWEST:
        return None
    sees, draws = (
        _sign(results, own, other, results.minus(own, other)) > 0 for other in (blank, alone)
    )
    if sees:
        return "In plain words: what SAM's image encoder sees improves the masks of autosam."
    if draws:
        return (
            "In plain words: SAM's mask decoder improves on what the prompt says, but there is no "
            "sign that it needs what SAM's image encoder sees: the prompt brings that along."
        )
    return (
        "In plain words: there is no sign that SAM contributes; the learned prompt draws the mask "
        "by itself."
    )


def unfinished(results: ResultsTable, row: Row) -> str:
    """Why nothing can be concluded from a line; empty where nothing speaks against it. What learns
    nothing is what it is."""
    if not row.curves:
        return ""
    shortest = min(map(len, row.curves))
    if shortest < SHORT:
        return f"{row.name} was trained for {shortest} epoch{'s' * (shortest > 1)} only"
    gain = rise(row.curves)
    if gain > STEEP:
        return (
            f"{row.name} had not come to its end (its validation Dice rose by {gain:.3f} over the "
            "last quarter of the epochs; give more --train.epochs)"
        )
    dice = row.metrics["dice"][0]
    best = max(results.trivial, key=lambda name: results.trivial[name], default=None)
    if best is not None and dice <= results.trivial[best]:
        return (
            f"{row.name} has learnt nothing (Dice {dice:.3f}, where {best} has "
            f"{results.trivial[best]:.3f})"
        )
    return ""


def rise(curves: list[list[float]]) -> float:
    """By how much the best of the last quarter of a curve is above the best before it, 0 where it
    is not: the mean over curves of at least two epochs."""
    gains = []
    for curve in curves:
        last = max(1, len(curve) // 4)
        gains.append(max(0.0, max(curve[-last:]) - max(curve[:-last])))
    return float(np.mean(gains))
