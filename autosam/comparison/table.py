"""The table of a comparison: one line for each way of segmenting, as plain values and as text."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field

import numpy as np

from autosam.comparison.scores import Scores
from autosam.comparison.statistics import FEWEST, Difference, compare, seed_margin
from autosam.evaluation.metrics import mean_known
from autosam.evaluation.tables import APART, COLUMNS


@dataclass
class Row:
    """One line: a way of segmenting, over its seeds."""

    name: str
    scores: list[Scores]
    """Of each seed."""
    oracle: bool = False
    """Whether prompts were taken from the truth of the test images."""
    trainable: int = 0
    seconds: float | None = None
    """Of one training; None where nothing was trained for this line."""
    speed: float = 0.0
    """Images per second, one at a time."""
    peak_gib: float | None = None
    """Of training."""
    difference: Difference | None = None
    """Dice minus that of the line that all are compared with."""
    uses_sam: bool = False
    """Whether it is a run of its own that uses SAM, neither oracle nor control: what the
    conclusion is about."""
    curves: list[list[float]] = field(default_factory=list)
    """Validation Dice by epoch, of each of its trainings."""

    @property
    def metrics(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over seeds, by metric; `metric/CLASS` where there are several
        classes."""
        names = dict.fromkeys(name for seed in self.scores for row in seed.values() for name in row)
        found = {}
        for name in names:
            means = [mean for mean in self.means(name) if not math.isnan(mean)]
            spread = float(np.std(means, ddof=1)) if len(means) > 1 else 0.0
            if means:
                found[name] = (float(np.mean(means)), spread)
        return found

    def means(self, metric: str) -> list[float]:
        """The mean over the images that have it, of each seed; NaN where none has."""
        return [
            mean_known([row.get(metric, math.nan) for row in seed.values()]) for seed in self.scores
        ]

    def over_seeds(self) -> Scores:
        """Every score of each image, the mean over the seeds that have it."""
        return {
            image: {
                name: mean_known([seed[image].get(name, math.nan) for seed in self.scores])
                for name in row
            }
            for image, row in self.scores[0].items()
        }

    def by_image(self, metric: str = "dice") -> dict[str, float]:
        """The mean over seeds, of each image."""
        return {
            image: float(np.mean([seed[image].get(metric, math.nan) for seed in self.scores]))
            for image in sorted(self.scores[0])
        }


@dataclass
class ResultsTable:
    """All lines: those that need no truth first, best Dice first; then the oracles."""

    rows: list[Row]
    base: str
    """The line that all are compared with."""
    facts: dict[str, str] = field(default_factory=dict)
    """What was compared: data, budget, seeds."""
    groups: dict[str, str] = field(default_factory=dict)
    """Patient, slide, ... of each test image; images of one group are not independent."""
    trivial: dict[str, float] = field(default_factory=dict)
    """Dice of masks that need no network, by what they are."""

    def __post_init__(self) -> None:
        base = self[self.base]
        for row in self.rows:
            row.difference = None if row is base else self.minus(row, base)
        self.rows.sort(key=lambda row: (row.oracle, -row.metrics["dice"][0], row.name))

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def __contains__(self, name: str) -> bool:
        return any(row.name == name for row in self.rows)

    def minus(self, one: Row, other: Row) -> Difference:
        """Dice of one line minus another's, image by image (each the mean over seeds: other seeds
        are no further images), tested over groups."""
        own, theirs = one.by_image(), other.by_image()
        return compare(
            np.array([own[name] for name in theirs]),
            np.array(list(theirs.values())),
            [self.groups.get(name, "") for name in theirs],
        )

    def margin(self, one: Row, other: Row) -> float:
        """What other seeds alone could do to the difference of two lines, see `seed_margin`."""
        return seed_margin(*(row.means("dice") for row in (one, other)))

    @property
    def columns(self) -> dict[str, tuple[str, str]]:
        """Title and format of each metric that is shown; images with nothing in them are told apart
        where there are some."""
        shown = {name: (title, f".{max(1, n - 1)}f") for name, (title, n) in COLUMNS.items()}
        if any("false_alarm" in row.metrics for row in self.rows):
            shown |= APART | {"nonempty_dice": (APART["nonempty_dice"][0], ".3f")}
        return shown

    def header(self) -> list[str]:
        """Titles of the columns."""
        return [
            "run",
            *(title for title, _ in self.columns.values()),
            f"Dice - {self.base} [95 %]",
            "p",
            "prompt from the truth",
            "trainable",
            "training, s",
            "images/s",
            "peak GiB",
        ]

    def cells(self) -> list[list[str]]:
        """The lines as text; below one of several classes a line for each of them."""
        lines = []
        for row in self.rows:
            metrics, several = row.metrics, len(row.scores) > 1
            ends = [name.removeprefix("dice") for name in metrics if name.startswith("dice")]
            for end in ends:
                shown = []
                for name, (_, form) in self.columns.items():
                    mean, spread = metrics.get(name + end, (math.nan, math.nan))
                    text = f"{mean:{form}}" + f" ± {spread:{form}}" * several
                    shown.append("" if math.isnan(mean) else text)
                rest = [""] * 7 if end else self._rest(row)
                lines.append([row.name + end.replace("/", ": "), *shown, *rest])
        return lines

    def _rest(self, row: Row) -> list[str]:
        d = row.difference
        return [
            "" if d is None else f"{d.mean:+.3f} [{_interval(d)}]",
            "" if d is None else f"{d.p:.2g}",
            "yes" if row.oracle else "no",
            f"{row.trainable:,}",
            "" if row.seconds is None else f"{row.seconds:.0f}",
            f"{row.speed:.1f}",
            "" if row.peak_gib is None else f"{row.peak_gib:.1f}",
        ]

    def markdown(self) -> str:
        """The table, the facts below it."""
        header = self.header()
        lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in self.cells()]
        lines += ["", *(f"- {name}: {value}" for name, value in self.facts.items())]
        return "\n".join(lines) + "\n"

    def table_csv(self) -> str:
        """One line for each run with every figure in full."""
        metrics = list(dict.fromkeys(name for row in self.rows for name in row.metrics))
        none = (math.nan, math.nan)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["run", *(f"{name}{end}" for name in metrics for end in ("", "_sd")),
             "dice_difference", "low", "high", "p", "oracle", "trainable", "seconds",
             "images_per_second", "peak_gib"]
        )  # fmt: skip
        for row in self.rows:
            d = row.difference
            writer.writerow(
                [row.name, *("" if math.isnan(v) else f"{v:.6g}"
                             for name in metrics for v in row.metrics.get(name, none)),
                 *(["", "", "", ""] if d is None else
                   [f"{v:.6g}" for v in (d.mean, d.low, d.high, d.p)]),
                 row.oracle, row.trainable, row.seconds, f"{row.speed:.4g}", row.peak_gib]
            )  # fmt: skip
        return text.getvalue()


def _interval(difference: Difference) -> str:
    if difference.groups < FEWEST:
        return "too few to tell"
    return f"{difference.low:+.3f}, {difference.high:+.3f}"
