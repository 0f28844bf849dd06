"""The learning curve of a comparison: Dice by number of labelled images."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from dataclasses import dataclass

from autosam.comparison.conclusion import BLANK, MIN_EPOCHS, learned_nothing, unfinished, units
from autosam.comparison.power_law import gain_of_doubling
from autosam.comparison.rows import Row
from autosam.comparison.statistics import MIN_GROUPS, holm
from autosam.comparison.table import ResultsTable
from autosam.comparison.variants import AUTOSAM, HEAD, Variant
from autosam.config import RUNS, Settings
from autosam.data.pairs import Splits
from autosam.errors import ConfigError
from autosam.evaluation.tables import TITLES
from autosam.utils.text import count_of

LEAST = 2
"""Training images, and validation images, of the smallest subset."""
FITTED = 4
"""How many of the largest numbers the power law is fitted to: it need not hold from the start."""


@dataclass(frozen=True)
class Size:
    """A number of labelled images, and what they are used for."""

    train: int
    validation: int
    whole: bool = False
    """Whether these are all there are."""

    @property
    def labelled(self) -> int:
        """Images of training and validation together."""
        return self.train + self.validation

    @property
    def title(self) -> str:
        """Name in tables."""
        return f"all {self.labelled}" if self.whole else str(self.labelled)


def sizes_of(words: list[str], splits: Splits, share: float) -> list[Size]:
    """Divide each number of labelled images into training and validation.

    Args:
        words: numbers, rising, and perhaps `all` at the end.
        splits: the whole splits.
        share: of validation.

    Raises:
        ConfigError: there are fewer images.
    """
    train, validation = len(splits["train"]), len(splits["validation"])
    sizes = []
    for word in words:
        if word == "all" or int(word) == train + validation:
            sizes.append(Size(train, validation, whole=True))
            continue
        number = int(word)
        if number > train + validation:
            raise ConfigError(
                f"--train-sizes {word}: training and validation hold {train + validation} images. "
                "Give smaller numbers, or `all`."
            )
        held = min(validation, max(LEAST, round(number * share)), number - LEAST)
        held = max(held, number - train)
        sizes.append(Size(number - held, held))
    sizes = list(dict.fromkeys(sizes))
    if len({size.train for size in sizes}) < len(sizes):
        numbers = ", ".join(f"{size.title} ({size.train} + {size.validation})" for size in sizes)
        raise ConfigError(
            f"--train-sizes {','.join(words)}: training and validation would get {numbers} images, "
            f"and some train on the same. There are {train} for training and {validation} for "
            "validation: move images to training, or give other numbers."
        )
    return sizes


def sized(settings: Settings, size: Size, whole: Size) -> Settings:
    """Limit the labelled images of a comparison.

    Args:
        settings: with `train.epochs`, those of all images.
        size: the images that are left.
        whole: all images.

    Returns:
        A copy. With fewer images an epoch has fewer steps, so there are more epochs, by the square
        root of the ratio; `patience` grows with them.
    """
    if size.whole:
        return settings
    factor = math.sqrt(whole.train / size.train)
    train = dataclasses.replace(settings.train)
    assert train.epochs is not None
    train.epochs = round(train.epochs * factor)
    if train.patience is not None:
        train.patience = round(train.patience * factor)
    data = dataclasses.replace(
        settings.data, limit_train=size.train, limit_validation=size.validation
    )
    return dataclasses.replace(settings, train=train, data=data)


@dataclass
class Curve:
    """The results with each number of labelled images, by rising number."""

    tables: dict[Size, ResultsTable]

    @property
    def measure(self) -> str:
        """The metric that runs are compared by."""
        return next(iter(self.tables.values())).measure

    @property
    def last(self) -> ResultsTable:
        """The results with the most images."""
        return [*self.tables.values()][-1]

    @property
    def variants(self) -> list[Variant]:
        """The runs, by their Dice with the most images; oracles come last."""
        return [row.variant for row in self.last.rows if row.variant.is_plain]

    def rows(self, variant: Variant) -> dict[Size, Row]:
        """A run with each number of images."""
        return {size: table[variant] for size, table in self.tables.items()}

    def points(self) -> dict[str, list[tuple[int, float, float]]]:
        """Number of labelled images, mean Dice and its standard deviation, by title of the run."""
        return {
            variant.title: [
                (size.labelled, *row.metrics[self.measure])
                for size, row in self.rows(variant).items()
            ]
            for variant in self.variants
        }

    def header(self) -> list[str]:
        """Titles of the columns."""
        return ["labelled images", *(size.title for size in self.tables)]

    def lines(self) -> list[list[str]]:
        """Title and Dice of each run, as text."""
        lines = []
        for variant in self.variants:
            rows = self.rows(variant).values()
            lines.append(
                [variant.title, *(row.format_score(row.metrics[self.measure]) for row in rows)]
            )
        return lines

    def markdown(self) -> str:
        """Format the curve as Markdown."""
        table = [self.header(), ["---"] * len(self.header()), *self.lines()]
        text = "\n".join("| " + " | ".join(cells) + " |" for cells in table)
        return f"{text}\n\n{self.conclusion()}\n"

    def csv(self) -> str:
        """Format the curve as CSV, one line for each run and number of images."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["run", "labelled", "train", "validation", self.measure, f"{self.measure}_sd", "seeds"]
        )
        for variant in self.variants:
            for size, row in self.rows(variant).items():
                dice = [f"{value:.6g}" for value in row.metrics[self.measure]]
                if len(row.scores) == 1:  # one seed has no spread
                    dice[1] = ""
                counts = [size.labelled, size.train, size.validation]
                writer.writerow([variant.title, *counts, *dice, len(row.scores)])
        return text.getvalue()

    def conclusion(self) -> str:
        """Say what follows from the curve: from how many images on each run is level with the best,
        what twice as many images would bring, and where runs that use SAM are ahead."""
        epochs = min(
            (len(one) for t in self.tables.values() for row in t.rows for one in row.curves),
            default=MIN_EPOCHS,
        )
        if epochs < MIN_EPOCHS:
            return f"No conclusion: a run was trained for {count_of(epochs, 'epoch')} only."
        ranked = [variant for variant in self.variants if not variant.is_oracle]
        doubled = [text for variant in self.variants if (text := self._doubled(variant))]
        last = self.last
        groups = last.minus(*(last[variant] for variant in ranked[:2])).groups if ranked[1:] else 0
        if not groups:
            return " ".join(doubled)
        if groups < MIN_GROUPS:
            reason = f"there are {groups} test {units(last)}, and below {MIN_GROUPS} no difference"
            return " ".join([f"The runs cannot be compared: {reason} is significant.", *doubled])
        if len(last.rows[0].scores) == 1:
            reason = "other training images can make more than the run does: use --seeds 3"
            return " ".join([f"The runs cannot be compared by one seed, {reason}.", *doubled])
        levels = [f"{self._level(variant)}." for variant in ranked]
        return " ".join([*levels, *doubled, *self._against_head()])

    def _level(self, variant: Variant) -> str:
        """From how many images on a run is not significantly worse than the best."""
        since: Size | None = None
        for size, table in self.tables.items():
            best = next(
                row for row in table.rows if row.variant.is_plain and not row.variant.is_oracle
            )
            own = table[variant]
            behind = best.variant != variant and table.sign(own, best) < 0
            since = None if behind or learned_nothing(table, own) else since or size
        first, *_, last = self.tables
        if since is None:
            failed = learned_nothing(self.last, self.last[variant])
            return f"{failed or f'{variant.title} is behind the best'} with {last.title} images"
        text = f"{variant.title} is not significantly worse than the best"
        if since == first:
            return f"{text} at any number of images"
        if since == last:
            return f"{text} with {last.title} images alone"
        return f"{text} from {since.title} images on"

    def _doubled(self, variant: Variant) -> str:
        """What twice as many images would bring to a run; "" if it uses none, or if no power law
        can be fitted."""
        own = self.last[variant]
        if not RUNS[variant.run].uses_training_images or learned_nothing(self.last, own):
            return ""
        fitted = [*self.rows(variant).items()][-FITTED:]
        numbers = [size.labelled for size, row in fitted for _ in row.scores]
        errors = [1 - mean for _, row in fitted for mean in row.means(self.measure)]
        gain = gain_of_doubling(numbers, errors)
        if gain is None:
            return ""
        return (
            f"Twice as many labelled images would bring {variant.title} {gain.best:+.3f} "
            f"{TITLES[self.measure]} [{gain.low:+.3f}, {gain.high:+.3f}] if its error goes on "
            "as a constant and a power law."
        )

    def _against_head(self) -> list[str]:
        """Where runs that use SAM are significantly ahead of `head`, and where they are behind: not
        where the one behind had not converged, or the one ahead is no better than a trivial
        prediction."""
        judged = [
            (size, table, table[variant])
            for size, table in self.tables.items()
            for variant in self.variants
            if variant.is_judged
        ]
        if HEAD not in self.variants or not judged:
            return []
        ps = holm([table.minus(row, table[HEAD]).p for _, table, row in judged])
        ahead: dict[Size, list[str]] = {}
        behind: dict[Size, int] = {}
        undecided = False
        for (size, table, row), p in zip(judged, ps, strict=True):
            sign = table.sign(row, table[HEAD], p)
            better, worse = (row, table[HEAD]) if sign > 0 else (table[HEAD], row)
            if sign and (learned_nothing(table, better) or unfinished(table, worse)):
                undecided = True
            elif sign > 0:
                ahead.setdefault(size, []).append(row.title)
            elif sign < 0:
                behind[size] = behind.get(size, 0) + 1
        text = "At no number of images is a run that uses SAM significantly better than head"
        if ahead:
            where = [f"with {size.title} images ({', '.join(own)})" for size, own in ahead.items()]
            text = f"Runs that use SAM are better than head (p by Holm) {'; '.join(where)}"
        if undecided:
            text += (
                ", leaving out where the run behind had not converged or the one ahead is no "
                "better than a trivial prediction"
            )
        texts = [f"{text}."]
        if AUTOSAM.title in [name for own in ahead.values() for name in own]:
            most = [*self.tables][-1].title
            controlled = self.last.find(BLANK) is not None
            who = f"trained with {most} images alone" if controlled else "--attribution true"
            texts.append(f"Whether SAM is the reason is for the controls to say ({who}).")
        every = sum(variant.is_judged for variant in self.variants)
        if least := [size.title for size, count in behind.items() if count == every]:
            texts.append(f"head is better than all of them with {' and '.join(least)} images.")
        return texts
