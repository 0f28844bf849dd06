"""Read and write per-image scores as CSV."""

from __future__ import annotations

import csv
import math
from pathlib import Path

Scores = dict[str, dict[str, float]]
"""Scores by image (or mean scores by split), then by name, see `metrics.score`."""


def write_scores(path: Path, scores: Scores, of: str = "image") -> None:
    """Write scores, one row for each image (or volume) and one column for each score.

    Args:
        path: the CSV file.
        scores: scores by image; NaN becomes an empty cell.
        of: title of the first column.
    """
    names = list(next(iter(scores.values())))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([of, *names])
        for image, row in sorted(scores.items()):
            writer.writerow([image, *(_cell(row.get(name, math.nan)) for name in names)])


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def read_scores(path: Path) -> Scores:
    """Read the scores that `write_scores` wrote.

    Args:
        path: the CSV file.

    Returns:
        Scores by image; empty cells are NaN.

    Raises:
        ValueError: an image has two rows, or a value is not a number.
        KeyError: the column "image" is missing.
    """
    found: Scores = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            image = row.pop("image")
            if image in found:
                raise ValueError(f"{path}: two rows for {image}")
            found[image] = {
                name: float(value) if value else math.nan for name, value in row.items()
            }
    return found
