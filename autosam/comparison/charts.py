"""The charts of a comparison, as self-contained SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

matplotlib.rcParams["svg.hashsalt"] = "autosam"  # makes the files reproducible


def learning_curves(curves: dict[str, list[list[float]]]) -> str:
    """Draw validation Dice by epoch.

    Args:
        curves: for each run the validation Dice of each of its trainings, by epoch.

    Returns:
        SVG: for each run a line of the mean over the trainings that reached the epoch, and a faint
        line for each training.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab20"]
    for i, (name, runs) in enumerate(curves.items()):
        length = max(map(len, runs))
        mean = [np.mean([run[e] for run in runs if len(run) > e]) for e in range(length)]
        axes.plot(range(1, length + 1), mean, color=colours(i % 20), label=name, marker="o", ms=3)
        for run in runs if len(runs) > 1 else []:
            axes.plot(range(1, len(run) + 1), run, color=colours(i % 20), alpha=0.25, lw=0.8)
    axes.set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right", fontsize="small", framealpha=0.7)
    return _svg(figure, axes)


def by_labels(lines: dict[str, list[tuple[int, float, float]]]) -> str:
    """Draw Dice by number of labelled images, on a logarithmic axis.

    Args:
        lines: for each run the number of images, the mean Dice and its standard deviation.

    Returns:
        SVG: a line for each run, with a band of one standard deviation to each side.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10"]
    for i, (name, points) in enumerate(lines.items()):
        numbers, mean, spread = (np.array(values) for values in zip(*points, strict=True))
        axes.plot(numbers, mean, color=colours(i % 10), label=name, marker="o", ms=4)
        axes.fill_between(numbers, mean - spread, mean + spread, color=colours(i % 10), alpha=0.15)
    axes.set(xscale="log", xlabel="labelled images", ylabel="test Dice")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.legend(loc="lower right", fontsize="small", framealpha=0.7)
    return _svg(figure, axes)


def distributions(scores: dict[str, Sequence[float]]) -> str:
    """Draw the Dice of all test images, one line for each run: a box plot and a point per image.

    Args:
        scores: Dice of each test image, by run.

    Returns:
        SVG.
    """
    names = list(scores)[::-1]
    figure = Figure(figsize=(8, 0.6 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.boxplot(
        [list(scores[name]) for name in names],
        orientation="horizontal",
        tick_labels=names,
        showfliers=False,
        widths=0.6,
    )
    rng = np.random.default_rng(0)
    for i, name in enumerate(names, 1):
        heights = i + rng.uniform(-0.2, 0.2, len(scores[name]))
        axes.plot(scores[name], heights, ".", ms=3, alpha=0.4, color="#2277cc")
    axes.set(xlabel="Dice of a test image", xlim=(-0.02, 1.02))
    return _svg(figure, axes)


def _svg(figure: Figure, axes: Axes) -> str:
    axes.grid(alpha=0.3)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
