"""The charts of a comparison, in two layouts: wide, and narrow for telephones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "autosam",  # makes the files reproducible
    "svg.fonttype": "none",  # text stays text
    "figure.dpi": 72,  # so that lengths are in CSS pixels
    "figure.constrained_layout.use": True,
    "font.size": 12.5,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
COLOURS = ["#0072b2", "#b85000", "#228833", "#aa3377", "#7a5c00", "#222222", "#0a8080", "#c2384c"]
"""Of the runs; as text they are legible on white."""
DASHES = ["-", "--", ":"]
MARKERS = "os^DvPX*<>"
WIDE, NARROW = 800, 360
"""Widths in CSS pixels."""
LINE = 0.055
"""Least distance of the labels at the ends of lines, as a share of the height."""
RASTERIZED = 3000
"""Number of points from which on they are an image instead of shapes."""


class Styles:
    """Colour, dashes and marker of each run, the same in all charts.

    Args:
        names: all runs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.index = {name: i for i, name in enumerate(names)}

    def colour(self, name: str) -> str:
        return COLOURS[self.index[name] % len(COLOURS)]

    def line(self, name: str) -> dict[str, Any]:
        """Arguments of `Axes.plot`."""
        i = self.index[name]
        return {
            "color": self.colour(name),
            "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
            "marker": MARKERS[i % len(MARKERS)],
            "label": name,
        }


@matplotlib.rc_context(STYLE)
def learning_curves(
    curves: dict[str, list[list[float]]], styles: Styles, measure: str, width: int
) -> Figure:
    """Draw a validation score by epoch.

    Args:
        curves: for each run the validation score of each of its trainings, by epoch.
        styles: of the runs.
        measure: title of the score.
        width: CSS pixels.

    Returns:
        For each run a line of the mean over the trainings that reached the epoch, and a faint line
        for each training.
    """
    figure = _figure(width, _height(len(curves)))
    axes = figure.subplots()
    ends: dict[str, tuple[float, float]] = {}
    for name, runs in curves.items():
        length = max(map(len, runs))
        mean = [float(np.mean([run[e] for run in runs if len(run) > e])) for e in range(length)]
        axes.plot(range(1, length + 1), mean, **styles.line(name), ms=3)
        ends[name] = (length, mean[-1])
        for run in runs if len(runs) > 1 else []:
            axes.plot(range(1, len(run) + 1), run, color=styles.colour(name), alpha=0.25, lw=0.8)
    values = [score for runs in curves.values() for run in runs for score in run]
    # The first epochs of some runs would press the others together.
    last = [run[-1] for runs in curves.values() for run in runs]
    _limit(axes, min(float(np.quantile(values, 0.1)), *last), max(values))
    axes.set(xlabel="epoch", ylabel=f"validation {measure}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _name_lines(figure, axes, ends, styles, width)
    return figure


@matplotlib.rc_context(STYLE)
def by_labels(
    lines: dict[str, list[tuple[int, float, float]]], styles: Styles, measure: str, width: int
) -> Figure:
    """Draw a test score by number of labelled images, on a logarithmic axis.

    Args:
        lines: for each run the number of images, the mean score and its standard deviation.
        styles: of the runs.
        measure: title of the score.
        width: CSS pixels.

    Returns:
        A line for each run, with a band of one standard deviation to each side.
    """
    figure = _figure(width, _height(len(lines)))
    axes = figure.subplots()
    ends: dict[str, tuple[float, float]] = {}
    for name, points in lines.items():
        numbers, mean, spread = np.array(points).T
        axes.plot(numbers, mean, **styles.line(name), ms=5)
        axes.fill_between(
            numbers, mean - spread, mean + spread, color=styles.colour(name), alpha=0.12, lw=0
        )
        ends[name] = points[-1][:2]
    every = [point for points in lines.values() for point in points]
    _limit(axes, min(m - s for _, m, s in every), max(m + s for _, m, s in every))
    axes.set(xscale="log", xlabel="labelled images", ylabel=f"test {measure}")
    ticks = sorted({number for number, _, _ in every})
    axes.set_xticks(ticks, _apart(ticks))
    axes.minorticks_off()
    _name_lines(figure, axes, ends, styles, width)
    return figure


def _apart(numbers: list[int]) -> list[str]:
    """Numbers as text; "" for those that would collide with the next on a logarithmic axis."""
    least = 0.1 * np.log(numbers[-1] / numbers[0])
    texts, last = [str(numbers[-1])], numbers[-1]
    for number in numbers[-2::-1]:
        if np.log(last / number) < least:
            texts.append("")
        else:
            texts.append(str(number))
            last = number
    return texts[::-1]


@matplotlib.rc_context(STYLE)
def distributions(scores: dict[str, Sequence[float]], measure: str, width: int) -> Figure:
    """Draw a score of all test images, one line for each run: a box plot and a point per image.

    Args:
        scores: the score of each test image, by run.
        measure: title of the score.
        width: CSS pixels.
    """
    names = list(scores)[::-1]
    narrow = width < WIDE
    figure = _figure(width, 60 + (54 if narrow else 40) * len(names))
    axes = figure.subplots()
    axes.boxplot(
        [list(scores[name]) for name in names],
        orientation="horizontal",
        tick_labels=names,
        showfliers=False,
        widths=0.5,
        medianprops={"color": COLOURS[1], "linewidth": 2},
    )
    rng = np.random.default_rng(0)
    many = sum(map(len, scores.values())) > RASTERIZED
    for i, name in enumerate(names, 1):
        heights = i + rng.uniform(-0.2, 0.2, len(scores[name]))
        axes.plot(scores[name], heights, ".", ms=4, alpha=0.4, color=COLOURS[0], rasterized=many)
        if narrow:  # the name above its box instead of left of it
            at = ("axes fraction", "data")
            axes.annotate(name, (0, i + 0.3), (2, 1), at, "offset points")
    if narrow:
        axes.set_yticks([])
        axes.set_ylim(0.5, len(names) + 0.8)
    least = min((min(values) for values in scores.values() if len(values)), default=0.0)
    axes.set(xlabel=f"{measure} of a test image", xlim=(np.floor(least * 10) / 10 - 0.02, 1.02))
    return figure


@matplotlib.rc_context(STYLE)
def svg(figure: Figure) -> str:
    """Format a chart as SVG."""
    text = io.StringIO()
    figure.savefig(text, format="svg", dpi=144, metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width / 72, height / 72))


def _height(lines: int) -> float:
    """Height of a chart of lines, with room for their names."""
    return 450 * max(1.0, LINE * lines)


def _limit(axes: Axes, low: float, high: float) -> None:
    """Limit scores to the range of the values, at most 0 to 1, at least 0.1 high."""
    margin = max(0.05 * (high - low), (0.1 - (high - low)) / 2)
    axes.set_ylim(max(-0.01, low - margin), min(1.01, high + margin))


def _name_lines(
    figure: Figure, axes: Axes, ends: dict[str, tuple[float, float]], styles: Styles, width: int
) -> None:
    """Write the names: at the ends of the lines, or below where there is no room beside them."""
    if width < WIDE:
        columns = 1 if max(map(len, ends)) > 18 else 2
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
        )
        return
    names = sorted(ends, key=lambda name: ends[name][1])
    low, high = axes.get_ylim()
    own = [min(max((ends[name][1] - low) / (high - low), 0.0), 1.0) for name in names]
    for name, y, place in zip(names, own, spread_out(own), strict=True):
        colour = styles.colour(name)
        axes.annotate(
            name,
            (ends[name][0], low + y * (high - low)),
            (1.04, place),
            "data",
            "axes fraction",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "relpos": (0, 0.5)},
            color=colour,
            verticalalignment="center",
        )


def spread_out(places: Sequence[float]) -> list[float]:
    """Move places on [0, 1] apart to a distance of `LINE`, or less if there are too many, and each
    as little as possible.

    Args:
        places: rising.
    """
    step = min(LINE, 1 / max(1, len(places) - 1))

    def start(block: list[float]) -> float:
        """The lowest place of a block, which is centred on its mean."""
        length = step * (len(block) - 1)
        return min(max(float(np.mean(block)) - length / 2, 0.0), 1 - length)

    blocks: list[list[float]] = []  # of places that touch each other
    for place in places:
        blocks.append([place])
        while len(blocks) > 1 and start(blocks[-2]) + step * len(blocks[-2]) > start(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    return [start(block) + step * i for block in blocks for i in range(len(block))]
