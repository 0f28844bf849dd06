"""The results table of a comparison, as values and as text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.table import Table

from autosam.comparison.rows import Row
from autosam.comparison.statistics import (
    LEVEL,
    MIN_GROUPS,
    Difference,
    compare,
    seed_margin,
)
from autosam.comparison.variants import Variant
from autosam.evaluation.tables import COLUMNS, EMPTINESS_COLUMNS, OBJECT_COLUMNS, TITLES

SHOWN_OF_OBJECTS = ("pq", "ap50", "ap", "aji", "f1", "count_abs_error", "dice")
"""Columns of a comparison of objects."""


@dataclass(frozen=True)
class Line:
    """A line of the table as text."""

    row: Row
    label: str
    """Title of the row; with the class if the line is for one class."""
    cells: list[str]
    """Text of each column after the first."""


@dataclass
class ResultsTable:
    """All rows by decreasing Dice, or PQ of objects; oracles, which use true masks as prompts, come
    last."""

    rows: list[Row]
    base: Variant
    """The row that the others are compared with."""
    facts: dict[str, str] = field(default_factory=dict)
    """Data, budget, seeds, ... by title."""
    groups: dict[str, str] = field(default_factory=dict)
    """Patient, slide, ... of each test image; images of one group are not independent."""
    trivial: dict[str, float] = field(default_factory=dict)
    """Dice of trivial predictions by name."""
    measure: str = "dice"
    """The metric that rows are compared by."""
    paired: bool = False
    """Whether each seed gives all runs the same training images, and other seeds others."""
    conclusion: str = ""
    """See `autosam.comparison.conclusion`."""

    def __post_init__(self) -> None:
        base = self[self.base]
        for row in self.rows:
            row.difference = None if row is base else self.minus(row, base)
        self.rows.sort(
            key=lambda row: (row.variant.is_oracle, -row.metrics[self.measure][0], row.title)
        )

    @property
    def measure_title(self) -> str:
        """Name of that metric."""
        return TITLES[self.measure]

    def __repr__(self) -> str:
        rows = ", ".join(f"{row.title} {row.metrics[self.measure][0]:.3f}" for row in self.rows)
        return f"ResultsTable(test {self.measure_title}: {rows})"

    def __getitem__(self, variant: Variant) -> Row:
        row = self.find(variant)
        if row is None:
            raise KeyError(variant.title)
        return row

    def find(self, variant: Variant) -> Row | None:
        """Find the row of a variant.

        Args:
            variant: the variant.

        Returns:
            The row; None if the variant was not compared.
        """
        return next((row for row in self.rows if row.variant == variant), None)

    def minus(self, one: Row, other: Row) -> Difference:
        """Compare the `measure` of two rows image by image; scores of an image are averaged over
        seeds, because seeds are not independent images.

        Args:
            one: a row.
            other: the row to subtract.
        """
        own, theirs = one.by_image(self.measure), other.by_image(self.measure)
        return compare(
            np.array([own[name] for name in theirs]),
            np.array(list(theirs.values())),
            [self.groups.get(name, "") for name in theirs],
        )

    def margin(self, one: Row, other: Row) -> float:
        """Compute the difference that seeds alone can make between two rows, see `seed_margin`.

        Args:
            one: a row.
            other: another row.

        Returns:
            A difference in `measure`.
        """
        own, theirs = one.means(self.measure), other.means(self.measure)
        return seed_margin(own, theirs, self.paired)

    def sign(self, one: Row, other: Row, p: float | None = None) -> int:
        """Sign of a significant difference in `measure`: 1 for better, -1 for worse, 0 if it is not
        significant over the groups and the seeds together.

        Args:
            one: a row.
            other: the row to subtract.
            p: corrected for several comparisons; None for the p of this comparison.
        """
        found = self.minus(one, other)
        if not found.significant_beyond(self.margin(one, other)):
            return 0
        return int(np.sign(found.mean)) if p is None or p < LEVEL else 0

    @property
    def columns(self) -> dict[str, tuple[str, str]]:
        """Title and format of each metric; with columns for empty images if there are any."""
        titles = OBJECT_COLUMNS | COLUMNS if self.measure == "pq" else COLUMNS
        shown = {name: (title, f".{max(1, n - 1)}f") for name, (title, n) in titles.items()}
        if self.measure == "pq":
            return {name: shown[name] for name in SHOWN_OF_OBJECTS}
        if any("false_alarm" in row.metrics for row in self.rows):
            shown |= EMPTINESS_COLUMNS | {
                "nonempty_dice": (EMPTINESS_COLUMNS["nonempty_dice"][0], ".3f")
            }
        return shown

    def header(self) -> list[str]:
        """Titles of the columns."""
        return [
            "run",
            *(title for title, _ in self.columns.values()),
            f"{self.measure_title} - {self.base.title} [95 %]",
            "p",
            "prompt from the truth",
            "trainable",
            "training, s",
            "images/s",
            "peak GiB",
        ]

    def lines(self) -> Iterator[Line]:
        """Format the rows as text.

        Yields:
            A line for each row; with several classes followed by a line for each class.
        """
        for row in self.rows:
            names = (name.partition("/") for name in row.metrics)
            endings = [mark + name for own, mark, name in names if own == self.measure]
            for ending in endings:  # "" for the mean, then "/CLASS"
                costs = [""] * 7 if ending else _costs(row)
                label = row.title + ending.replace("/", ": ")
                yield Line(row, label, [*self._scores(row, ending), *costs])

    def _scores(self, row: Row, ending: str) -> list[str]:
        cells, metrics = [], row.metrics
        for name, (_, form) in self.columns.items():
            score = metrics.get(name + ending, (math.nan, math.nan))
            cells.append("" if math.isnan(score[0]) else row.format_score(score, form))
        return cells

    def all_facts(self) -> dict[str, str]:
        """The facts with the conclusion, if there is one."""
        return self.facts | ({"conclusion": self.conclusion} if self.conclusion else {})

    def markdown(self) -> str:
        """Format the table and the facts as Markdown."""
        header = self.header()
        lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        lines += ["| " + " | ".join([line.label, *line.cells]) + " |" for line in self.lines()]
        lines += ["", *(f"- {name}: {value}" for name, value in self.all_facts().items())]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Format the rows as CSV with six significant digits."""
        metrics = list(dict.fromkeys(name for row in self.rows for name in row.metrics))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            [
                "run",
                *(f"{name}{end}" for name in metrics for end in ("", "_sd")),
                f"{self.measure}_difference",
                "low",
                "high",
                "p",
                "oracle",
                "trainable",
                "seconds",
                "images_per_second",
                "peak_gib",
            ]
        )
        for row in self.rows:
            scores = [v for name in metrics for v in row.metrics.get(name, (math.nan, math.nan))]
            if len(row.scores) == 1:  # one seed has no spread
                scores[1::2] = [math.nan] * len(metrics)
            d = row.difference
            differences = ["", "", "", ""]
            if d is not None:
                differences = [f"{v:.6g}" for v in (d.mean, d.low, d.high, d.p)]
            writer.writerow(
                [
                    row.title,
                    *("" if math.isnan(v) else f"{v:.6g}" for v in scores),
                    *differences,
                    row.variant.is_oracle,
                    row.trainable,
                    row.seconds,
                    f"{row.speed:.4g}",
                    row.peak_gib,
                ]
            )
        return text.getvalue()

    def print(self) -> None:
        """Print the table and the facts."""
        console = Console(soft_wrap=True, markup=False, emoji=False)
        first, *others = self.header()
        lines, scores = list(self.lines()), len(self.columns)
        # One table would be too wide.
        for columns in (slice(scores), slice(scores, scores + 3), slice(scores + 3, None)):
            table = Table(first, *others[columns])
            for line in lines:
                if any(line.cells[columns]):
                    table.add_row(line.label, *line.cells[columns])
            console.print(table)
        for name, value in self.all_facts().items():
            console.print(f"{name}: {value}", highlight=False)


def _costs(row: Row) -> list[str]:
    d = row.difference
    return [
        "" if d is None else f"{d.mean:+.3f} [{_interval(d)}]",
        "" if d is None else f"{d.p:.2g}",
        "yes" if row.variant.is_oracle else "no",
        f"{row.trainable:,}",
        "" if row.seconds is None else f"{row.seconds:.0f}",
        f"{row.speed:.1f}",
        "" if row.peak_gib is None else f"{row.peak_gib:.1f}",
    ]


def _interval(difference: Difference) -> str:
    if difference.groups < MIN_GROUPS:
        return "too few to tell"
    return f"{difference.low:+.3f}, {difference.high:+.3f}"
