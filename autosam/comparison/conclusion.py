"""Derive a conclusion on what SAM contributes from the results table."""

from __future__ import annotations

import numpy as np

from autosam.comparison.rows import Row
from autosam.comparison.statistics import LEVEL, MIN_GROUPS, holm
from autosam.comparison.table import ResultsTable
from autosam.comparison.variants import AUTOSAM, CONTROLS, HEAD, NO_SAM, Variant
from autosam.evaluation.evaluator import format_gates
from autosam.utils.text import count_of

MAX_RISE = 0.02
"""Gain in validation Dice over the last quarter of the epochs above which a training counts as
unfinished."""

MIN_EPOCHS = 3
"""Epochs below which a training counts as unfinished."""

BLANK = Variant(AUTOSAM.run, control="blank")

REPLACED = {"blank": "a blank embedding", "shuffled": "embeddings of other images"}
"""What the mask decoder gets in each control, in words."""


def judge(results: ResultsTable, one: Row, other: Row, p: float | None = None) -> str:
    """State whether a row is better or worse than another, with the figures.

    Args:
        results: the table of both rows.
        one: the row to judge.
        other: the row to compare with.
        p: corrected for several comparisons; None for the p of this comparison.

    Returns:
        A phrase: "better (...)", "worse (...)", "neither ..." or "not comparable (...)".
    """
    found = results.minus(one, other)
    gain = f"{found.mean:+.3f} {results.measure_title}"
    if found.groups < MIN_GROUPS:
        return f"not comparable ({gain}, too few {units(results)})"
    figures = (
        f"{gain}, 95 % interval {found.low:+.3f} to {found.high:+.3f}, "
        f"p = {found.p if p is None else p:.2g}"
    )
    sign = results.sign(one, other, p)
    if sign:
        return f"{'better' if sign > 0 else 'worse'} ({figures})"
    note = ""
    if (found.p if p is None else p) < LEVEL:
        note = (
            f"; other seeds alone can make a difference of {results.margin(one, other):.3f}, so "
            "more seeds are needed"
        )
    return f"neither significantly better nor significantly worse ({figures}{note})"


def conclusion(results: ResultsTable) -> str:
    """Write the conclusion.

    Args:
        results: the table.

    Returns:
        One paragraph on what SAM contributes to the runs that use it; "" if no run uses SAM.
    """
    own = [row for row in results.rows if row.variant.is_judged]
    if not own:
        return ""
    seeds = len(own[0].scores)
    images = int(np.isfinite(list(own[0].by_image(results.measure).values())).sum())
    groups = results.minus(own[0], own[0]).groups
    in_groups = f" of {groups} groups" if groups < images else ""
    best = ", the best of those that use SAM" if len(own) > 1 else ""
    parts = [
        f"On {images} test images{in_groups} and {count_of(seeds, 'seed')}, {own[0].title} scores "
        f"{own[0].metrics[results.measure][0]:.3f} {results.measure_title}{best}."
    ]
    last = "Whether SAM helps at all can only be judged with the run head for comparison."
    head, autosam = results.find(HEAD), results.find(AUTOSAM)
    if head is not None:
        text, last = _against_head(results, own, head)
        parts.append(text)
    if autosam is not None:
        parts += _controls(results, autosam)
    return " ".join([*parts, last])


def units(results: ResultsTable) -> str:
    """What is taken as independent."""
    return "groups" if any(results.groups.values()) else "images"


def _against_head(results: ResultsTable, own: list[Row], head: Row) -> tuple[str, str]:
    """Compare every run that uses SAM with the run `head`.

    Returns:
        A sentence with the comparisons, and the conclusion.
    """
    found = [results.minus(row, head) for row in own]
    ps = holm([one.p for one in found])
    corrected = f" (p of {len(own)} comparisons, by Holm)" if len(own) > 1 else ""
    judged = "; ".join(
        f"{row.title} is {judge(results, row, head, p)}" for row, p in zip(own, ps, strict=True)
    )
    text = f"Against the same backbone with a plain head and no SAM{corrected}: {judged}."
    if found[0].groups < MIN_GROUPS:
        return text, (
            f"No conclusion: there are {found[0].groups} test {units(results)}, and below "
            f"{MIN_GROUPS} no difference is significant."
        )
    if reason := unfinished(results, head):
        return text, f"No conclusion: {reason}."
    signs = {row.title: results.sign(row, head, p) for row, p in zip(own, ps, strict=True)}
    reasons = [reason for row in own if (reason := unfinished(results, row))]
    better = [name for name, sign in signs.items() if sign > 0]
    if better:
        return text, _helps(results, better)
    if reasons:
        return text, f"No conclusion: {'; '.join(reasons)}."
    if all(sign < 0 for sign in signs.values()):
        return text, "So SAM does not help here: the same backbone without it is better."
    return text, (
        "So there is no evidence that SAM helps here: the same backbone without it is as good."
    )


def _helps(results: ResultsTable, better: list[str]) -> str:
    """Name the runs that are better than `head`, and what of SAM contributes to `autosam`."""
    text = f"So SAM helps here, in {', '.join(better)}"
    blank = results.find(BLANK)
    if AUTOSAM.title not in better or blank is None:
        return f"{text}."
    own, alone = results[AUTOSAM], results.find(NO_SAM)
    for row in _controls_of(results):
        if reason := unfinished(results, row):
            return f"{text}; whether its image encoder contributes: no conclusion, {reason}."
    encoder, controls = _against_controls(results, own)
    if encoder > 0:
        return f"{text}."
    if alone is None or results.sign(own, alone) > 0:
        doubt = "there is no evidence that its image encoder contributes"
        if encoder < 0:
            doubt = "its image embedding does harm"
        return f"{text}, but {doubt}: {controls}."
    others = ", ".join(name for name in better if name != AUTOSAM.title)
    helped = f"SAM helps here, in {others}, and " if others else ""
    return (
        f"So {helped}autosam is better than the plain head, but there is no evidence that SAM is "
        f"the reason: {controls}, and the mask of its prompt alone is not worse."
    )


def _controls_of(results: ResultsTable) -> list[Row]:
    """The rows of the run `autosam` trained with another embedding."""
    found = [results.find(Variant(AUTOSAM.run, control=control)) for control in CONTROLS]
    return [row for row in found if row is not None]


def _against_controls(results: ResultsTable, own: Row) -> tuple[int, str]:
    """Compare the run `autosam` with all its trained controls.

    SAM's image encoder contributes only if its embedding of the image is better than a blank one
    *and* than that of another image: a blank one lacks what is the same in every embedding, too.

    Returns:
        1 if it is better than every control, -1 if it is worse than one of them, else 0; and the
        controls that are as good or better, as a clause.
    """
    signs = {
        f"with {REPLACED[row.variant.control]}": results.sign(own, row)
        for row in _controls_of(results)
    }
    least = min(signs.values())
    found = " and ".join(name for name, sign in signs.items() if sign == least)
    return least, f"autosam is {'as good' if least == 0 else 'better'} {found}"


def _controls(results: ResultsTable, own: Row) -> list[str]:
    """Compare the run `autosam` with its controls and ablations."""
    parts = []
    for trained in _controls_of(results):
        parts.append(
            f"Against the same run trained and tested with {REPLACED[trained.variant.control]}, "
            f"autosam is {judge(results, own, trained)}."
        )
    for control in CONTROLS:
        if (row := results.find(Variant(AUTOSAM.run, ablation=control))) is not None:
            change = -results.minus(own, row).mean
            parts.append(
                f"Only at test time, {control} embeddings change its {results.measure_title} by "
                f"{change:+.3f}."
            )
    if (row := results.find(NO_SAM)) is not None:
        parts.append(f"Against the mask of the prompt alone, SAM's is {judge(results, own, row)}.")
    if gates := format_gates({name: mean for name, (mean, _) in own.metrics.items()}):
        parts.append(f"The learned gates pass {gates} of SAM's image embedding.")
    if (summary := contribution_of_sam(results, own)) is not None:
        parts.append(summary)
    return parts


def contribution_of_sam(results: ResultsTable, own: Row) -> str | None:
    """State which part of SAM improves the masks of `autosam`.

    Args:
        results: the table.
        own: the row of `autosam`.

    Returns:
        A sentence; None without the blank control, or if nothing can be concluded. Without the
        surrogate decoder (sparse prompts) it is on the image encoder alone.
    """
    blank, alone = results.find(BLANK), results.find(NO_SAM)
    if blank is None:
        return None
    if any(unfinished(results, row) for row in (own, *_controls_of(results))):
        return None
    if results.minus(own, blank).groups < MIN_GROUPS:
        return None
    encoder, without = _against_controls(results, own)
    if encoder > 0:
        return "In short: SAM's image encoder improves the masks of autosam."
    harm = f"its image embedding does harm ({without})" if encoder < 0 else ""
    if alone is None:
        if harm:
            return f"In short: SAM's image embedding does harm to autosam ({without})."
        return f"In short: there is no evidence that SAM's image encoder contributes: {without}."
    if results.sign(own, alone) > 0:
        doubt = f"there is no evidence that it needs SAM's image encoder: {without}"
        return f"In short: SAM's mask decoder improves on the prompt alone, but {harm or doubt}."
    alone_decides = "the learned prompt alone determines the mask"
    return (
        "In short: there is no evidence that SAM contributes; "
        f"{f'{harm}, and ' if harm else ''}{alone_decides}."
    )


def unfinished(results: ResultsTable, row: Row) -> str:
    """Explain why nothing can be concluded from a row.

    Args:
        results: the table.
        row: a row of it.

    Returns:
        The reason, as a clause; "" if there is none, as for rows without a training.
    """
    if not row.curves:
        return ""
    shortest = min(map(len, row.curves))
    if shortest < MIN_EPOCHS:
        return f"{row.title} was trained for {count_of(shortest, 'epoch')} only"
    gain = rise(row.curves)
    if gain > MAX_RISE:
        return (
            f"{row.title} had not converged (its validation {results.measure_title} rose by "
            f"{gain:.3f} over the last quarter of the epochs; increase --train.epochs)"
        )
    return learned_nothing(results, row)


def learned_nothing(results: ResultsTable, row: Row) -> str:
    """State that a row is no better than a trivial prediction, as a clause; "" if it is."""
    dice = row.metrics["dice"][0]
    best = max(results.trivial, key=lambda name: results.trivial[name], default=None)
    if best is not None and dice <= results.trivial[best]:
        return (
            f"{row.title} has learned nothing (Dice {dice:.3f}; {best} has "
            f"{results.trivial[best]:.3f})"
        )
    return ""


def rise(curves: list[list[float]]) -> float:
    """Compute how much curves still rise at their end.

    Args:
        curves: values by epoch, at least two each.

    Returns:
        By how much the best value of the last quarter exceeds the best value before, at least 0:
        the mean over the curves.
    """
    gains = []
    for curve in curves:
        last = max(1, len(curve) // 4)
        gains.append(max(0.0, max(curve[-last:]) - max(curve[:-last])))
    return float(np.mean(gains))
