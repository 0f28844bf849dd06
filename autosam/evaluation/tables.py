"""Print scores as tables, and reports on the data."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from autosam.data.checks import Report

COLUMNS = {
    "dice": ("Dice", 4),
    "iou": ("IoU", 4),
    "hd95": ("HD95, px", 1),
    "nsd": ("NSD", 4),
    "precision": ("precision", 4),
    "recall": ("recall", 4),
}
"""Title and decimals of each metric: HD95 is the 95 % Hausdorff distance, NSD the normalised
surface distance, see `autosam.evaluation.metrics`."""

OBJECT_COLUMNS = {
    "pq": ("PQ", 4),
    "dq": ("DQ", 4),
    "sq": ("SQ", 4),
    "aji": ("AJI", 4),
    "f1": ("F1", 4),
    "ap50": ("AP50", 4),
    "ap": ("AP", 4),
    "count_abs_error": ("count error", 1),
}
"""The same for objects, see `autosam.evaluation.instance_metrics`."""

TITLES = {name: title for name, (title, _) in (COLUMNS | OBJECT_COLUMNS).items()}
"""Title of each metric."""

MEASURES = {"semantic": "dice", "instances": "pq"}
"""The metric by which checkpoints are chosen and runs are compared, by task."""


EMPTINESS_COLUMNS = {
    "nonempty_dice": ("Dice, not empty", ".4f"),
    "miss": ("missed", ".1%"),
    "false_alarm": ("false alarms", ".1%"),
}
"""Title and format of the scores of non-empty images (Dice, and the share without a true positive)
and of empty ones (the share in which anything is predicted)."""


def print_report(report: Report) -> None:
    """Print how masks are read, if that was inferred, and warnings about the data.

    Args:
        report: the result of `check_pairs`.
    """
    if report.encoding.description:
        print(f"masks: {report.encoding.description}")
    for warning in report.warnings:
        print(f"warning: {warning}")


def print_scores(scores: dict[str, dict[str, float]], facts: dict[str, str]) -> None:
    """Print a table of scores by split, a second one if there are empty images, and facts.

    Args:
        scores: mean scores by split; `metric/class` becomes a line for each class.
        facts: lines below the tables, by title.
    """
    console = Console(soft_wrap=True, markup=False, emoji=False)
    groups = [list(COLUMNS)]
    if any("pq" in row for row in scores.values()):
        names = list(OBJECT_COLUMNS)
        groups = [names[:4], names[4:], *groups]  # two tables, which fit into 80 columns
    known = COLUMNS | OBJECT_COLUMNS
    tables = [{name: (known[name][0], f".{known[name][1]}f") for name in own} for own in groups]
    if any("false_alarm" in row for row in scores.values()):
        tables.append(EMPTINESS_COLUMNS)
    for shown in tables:
        table = Table("split")
        for title, _ in shown.values():
            table.add_column(title, justify="right", no_wrap=True)
        for split, row in scores.items():
            endings = [name[4:] for name in row if name.partition("/")[0] == "dice"]
            for end in endings:  # "" for the mean, then "/NAME" for each of several classes
                cells = (
                    f"{row[name + end]:{form}}" if name + end in row else ""
                    for name, (_, form) in shown.items()
                )
                table.add_row(split + end.replace("/", ": "), *cells)
        console.print(table)
    for name, value in facts.items():
        console.print(f"{name}: {value}", highlight=False)


def print_zero_shot(table: dict[str, tuple[float, float]], facts: dict[str, str]) -> None:
    """Print mean IoU over objects and mean Dice over images by kind of prompt, and facts.

    Args:
        table: see `ZeroShot.table`.
        facts: lines below the table, by title.
    """
    lines = Table()
    lines.add_column("prompt from the true mask")
    lines.add_column("mean IoU of objects", justify="right")
    lines.add_column("mean Dice of images", justify="right")
    for prompt, (mean_iou, mean_dice) in table.items():
        lines.add_row(prompt, f"{mean_iou:.4f}", f"{mean_dice:.4f}")
    console = Console(soft_wrap=True, markup=False, emoji=False)
    console.print(lines)
    for name, value in facts.items():
        console.print(f"{name}: {value}", highlight=False)
