"""What SAM contributes to the runs that were compared, in words that follow from the figures."""

from __future__ import annotations

import numpy as np

from autosam.comparison.rows import Row
from autosam.comparison.statistics import FEWEST, LEVEL, Difference, holm
from autosam.comparison.table import ResultsTable
from autosam.comparison.variants import CONTROLS, Variant
from autosam.evaluation.evaluator import format_gates

STEEP = 0.02
"""Gain in validation Dice over the last quarter of the epochs above which a training counts as
unfinished."""

SHORT = 3
"""Epochs below which nobody can tell whether a training was finished."""

AUTOSAM, HEAD = Variant("autosam"), Variant("head")
BLANK = Variant("autosam", control="blank")
NO_SAM = Variant("autosam", ablation="surrogate")


def judge(results: ResultsTable, one: Row, other: Row, p: float | None = None) -> str:
    """Better, worse, or that it cannot be told, with the figures.

    Args:
        results: the table of both rows.
        one: what is judged.
        other: what it is judged against.
        p: corrected for several comparisons; None: that of this comparison alone.
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
    """1: better, -1: worse, 0: cannot be told."""
    sure = found.sure_beyond(results.margin(one, other)) and (p is None or p < LEVEL)
    return int(np.sign(found.mean)) if sure else 0


def conclusion(results: ResultsTable) -> str:
    """One paragraph on what SAM contributes to the runs that use it; "" if there is none."""
    own = [row for row in results.rows if row.variant.is_judged]
    if not own:
        return ""
    seeds = len(own[0].scores)
    images = int(np.isfinite(list(own[0].by_image().values())).sum())
    groups = results.minus(own[0], own[0]).groups
    of_groups = f" of {groups} groups" if groups < images else ""
    best = ", the best of those that use SAM" if len(own) > 1 else ""
    parts = [
        f"On {images} test images{of_groups} and {_count(seeds, 'seed')}, {own[0].title} scores "
        f"{own[0].metrics['dice'][0]:.3f} Dice{best}."
    ]
    last = "Whether SAM helps at all needs the run head beside it."
    head, autosam = results.find(HEAD), results.find(AUTOSAM)
    if head is not None:
        said, last = _against_head(results, own, head)
        parts.append(said)
    if autosam is not None:
        parts += _controls(results, autosam)
    return " ".join([*parts, last])


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _against_head(results: ResultsTable, own: list[Row], head: Row) -> tuple[str, str]:
    """How every run that uses SAM compares with the run that does not, and what follows."""
    found = [results.minus(row, head) for row in own]
    ps = holm([one.p for one in found])
    several = f" (p of {len(own)} comparisons, by Holm)" if len(own) > 1 else ""
    said = "; ".join(
        f"{row.title} is {judge(results, row, head, p)}" for row, p in zip(own, ps, strict=True)
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
        row.title: _sign(results, row, head, one, p)
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
    """The runs by which SAM helps, and whether its image encoder takes part in that."""
    text = f"So SAM helps here, by {', '.join(better)}"
    blank = results.find(BLANK)
    if better == [AUTOSAM.title] and blank is not None:
        own = results[AUTOSAM]
        if reason := unfinished(results, blank):
            return f"{text}; whether by what its image encoder sees: no conclusion, {reason}."
        if _sign(results, own, blank, results.minus(own, blank)) <= 0:
            return (
                f"{text}, but there is no sign that it is by what its image encoder sees: its mask "
                "decoder does as well without."
            )
    return f"{text}."


def _controls(results: ResultsTable, own: Row) -> list[str]:
    """How the run `autosam` compares with its controls and ablations."""
    parts = []
    for control in CONTROLS:
        if (row := results.find(Variant("autosam", control=control))) is not None:
            what = "no image at all" if control == "blank" else "another image"
            parts.append(
                f"With SAM's embedding of the image autosam is {judge(results, own, row)} than "
                f"when trained and tested with that of {what}."
            )
    for control in CONTROLS:
        if (row := results.find(Variant("autosam", ablation=control))) is not None:
            change = -results.minus(own, row).mean
            parts.append(
                f"Only at test time, {control} embeddings change its Dice by {change:+.3f}."
            )
    if (row := results.find(NO_SAM)) is not None:
        parts.append(f"SAM's mask is {judge(results, own, row)} than what the prompt alone says.")
    if trusted := format_gates({name: mean for name, (mean, _) in own.metrics.items()}):
        parts.append(
            f"Of SAM's image embedding the learned gates let {trusted} through (its "
            "levels, coarse to fine)."
        )
    if (said := who_draws(results, own)) is not None:
        parts.append(said)
    return parts


def who_draws(results: ResultsTable, own: Row) -> str | None:
    """Whether SAM matters to `autosam`, or its prompt draws the mask by itself; None where the
    controls are missing or nothing can be concluded."""
    blank, alone = results.find(BLANK), results.find(NO_SAM)
    if blank is None or alone is None:
        return None
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
    """Why nothing can be concluded from a row; "" where something can, as always from rows that
    were not trained."""
    if not row.curves:
        return ""
    shortest = min(map(len, row.curves))
    if shortest < SHORT:
        return f"{row.title} was trained for {_count(shortest, 'epoch')} only"
    gain = rise(row.curves)
    if gain > STEEP:
        return (
            f"{row.title} had not come to its end (its validation Dice rose by {gain:.3f} over the "
            "last quarter of the epochs; give more --train.epochs)"
        )
    dice = row.metrics["dice"][0]
    best = max(results.trivial, key=lambda name: results.trivial[name], default=None)
    if best is not None and dice <= results.trivial[best]:
        return (
            f"{row.title} has learnt nothing (Dice {dice:.3f}, where {best} has "
            f"{results.trivial[best]:.3f})"
        )
    return ""


def rise(curves: list[list[float]]) -> float:
    """By how much the best value of the last quarter of a curve exceeds the best before it (0 where
    it does not), the mean over curves of at least two epochs."""
    gains = []
    for curve in curves:
        last = max(1, len(curve) // 4)
        gains.append(max(0.0, max(curve[-last:]) - max(curve[:-last])))
    return float(np.mean(gains))
