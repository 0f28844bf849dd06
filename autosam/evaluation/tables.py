"""Scores as tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

COLUMNS = {
    "dice": ("Dice", 4),
    "iou": ("IoU", 4),
    "hd95": ("HD95, px", 1),
    "nsd": ("NSD", 4),
    "precision": ("precision", 4),
    "recall": ("recall", 4),
}
"""Title and digits of each metric: HD95 is the 95 % Hausdorff distance, NSD the normalised surface
distance (see `autosam.evaluation.metrics`)."""


APART = {
    "nonempty_dice": ("Dice, not empty", ".4f"),
    "miss": ("missed", ".1%"),
    "false_alarm": ("false alarms", ".1%"),
}
"""Title and format of what is known of images with something in them (Dice, and the share of them
in which nothing is found) and of those with nothing (the share in which something is predicted)."""


def print_scores(scores: dict[str, dict[str, float]], facts: dict[str, str]) -> None:
    """A table of scores by split, one that tells images with nothing in them apart where there are
    some, and lines of facts below."""
    console = Console(soft_wrap=True, markup=False, emoji=False)
    columns = {name: (title, f".{digits}f") for name, (title, digits) in COLUMNS.items()}
    for shown in (columns, APART):
        if shown is APART and not any("false_alarm" in row for row in scores.values()):
            continue
        table = Table("split")
        for title, _ in shown.values():
            table.add_column(title, justify="right")
        for split, row in scores.items():
            classes = [name.removeprefix("dice") for name in row if name.startswith("dice")]
            for end in classes:  # "" for the mean, then "/NAME" for each of several classes
                cells = (
                    f"{row[name + end]:{form}}" if name + end in row else ""
                    for name, (_, form) in shown.items()
                )
                table.add_row(split + end.replace("/", ": "), *cells)
        console.print(table)
    for name, value in facts.items():
        console.print(f"{name}: {value}", highlight=False)


def print_zero_shot(table: dict[str, tuple[float, float]], facts: dict[str, str]) -> None:
    """A table of IoU over objects and Dice over images by kind of prompt, and lines of facts."""
    lines = Table()
    lines.add_column("prompt from the true mask")
    lines.add_column("mean IoU of objects", justify="right")
    lines.add_column("mean Dice of images", justify="right")
    for prompt, (of_objects, of_images) in table.items():
        lines.add_row(prompt, f"{of_objects:.4f}", f"{of_images:.4f}")
    console = Console(soft_wrap=True, markup=False, emoji=False)
    console.print(lines)
    for name, value in facts.items():
        console.print(f"{name}: {value}", highlight=False)
