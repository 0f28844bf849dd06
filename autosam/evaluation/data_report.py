"""Report the inspection of a data set as a table, a contact sheet and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from autosam.config import DataConfig
from autosam.config.commands import CheckConfig
from autosam.data.images import write_png
from autosam.data.inspection import Inspection, inspect_data
from autosam.data.labels import class_masks
from autosam.evaluation import visualize
from autosam.evaluation.visualize import spread
from autosam.models.build import absent_sam
from autosam.models.sam.cost import cache_costs
from autosam.models.sam.weights.locate import known
from autosam.types import InputSpec
from autosam.utils.io import make_folder

SIDE = 224
"""Side of a cell of the contact sheet, pixels."""
SHOWN = 24
"""Largest number of images in the contact sheet."""


def check(config: CheckConfig) -> Inspection:
    """Inspect a data set and print the result.

    Args:
        config: the data, and the files to write.

    Returns:
        Errors, warnings and facts.

    Raises:
        ConfigError: invalid settings, or output files that exist.
    """
    known(config.sam)
    sam = absent_sam(config.sam)
    size, geometry = sam.spec.image_size, sam.spec.geometry
    input_spec = InputSpec(size, size, 4 * sam.grid[0], geometry)
    copies = config.cache.copies if config.cache.copies is not None else 4
    found = inspect_data(config.data, config.sam, input_spec)
    if found.images:
        training = found.facts["splits"].get("train", 0)
        records = training * copies + (found.images - training) * min(copies, 1)
        found.facts["cache"] = cache_costs(records)
    if config.output and found.pairs:
        write_sheet(Path(config.output), found, config.data)
        found.facts["contact sheet"] = config.output
    if config.groups and found.groups:
        write_groups(Path(config.groups), found.groups)
        found.facts["proposed groups"] = config.groups
    elif config.groups:
        found.facts["proposed groups"] = "none: no scene is in several splits"
    if config.json:
        content = {"errors": found.errors, "warnings": found.warnings, **found.facts}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show(found)
    return found


def show(found: Inspection) -> None:
    """Print the facts as a table, then warnings and errors.

    Args:
        found: the result of an inspection.
    """
    table = Table(show_header=False)
    for name, value in _rows(found.facts):
        table.add_row(name, value)
    console = Console(soft_wrap=True, markup=False, emoji=False)
    console.print(table)
    for warning in found.warnings:
        console.print(f"warning: {warning}", highlight=False)
    for error in found.errors[:20]:
        console.print(f"error: {error}", highlight=False)
    if len(found.errors) > 20:
        console.print(f"... and {len(found.errors) - 20} more errors (--json lists all).")
    if not found.errors:
        console.print("No errors.")


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Convert facts to rows: a dictionary of values becomes one row, a nested one several."""
    rows = []
    for name, value in facts.items():
        if not isinstance(value, dict):
            rows.append((name, _text(value)))
        elif any(isinstance(inner, dict) for inner in value.values()):
            rows += [(f"{name}: {key}", text) for key, text in _rows(value)]
        else:
            rows.append((name, "; ".join(f"{key}: {_text(inner)}" for key, inner in value.items())))
    return rows


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_sheet(path: Path, found: Inspection, data: DataConfig) -> None:
    """Write a contact sheet of images with their masks, four in a row.

    Args:
        path: the PNG file.
        found: the result of an inspection.
        data: names and colours of the classes.
    """
    cells, notes = [], []
    legend = visualize.colours_by_class(data) if data.num_classes > 1 else None
    colours = visualize.palette(data)
    for name, image, masks in images_with_masks(found, SHOWN, data.num_classes):
        cells.append(visualize.fit(visualize.masked_cell(image, masks, SIDE, colours), SIDE))
        notes.append(name)
    blank = cells[0] * 0
    rows = [
        cells[i : i + 4] + [blank] * (4 - len(cells[i : i + 4])) for i in range(0, len(cells), 4)
    ]
    titles = ["image and mask", "", "", ""]
    lines = [", ".join(n[:9] for n in notes[i : i + 4]) for i in range(0, len(notes), 4)]
    make_folder(path.parent)
    write_png(path, visualize.image_grid(rows, titles, lines, SIDE, legend))


def images_with_masks(
    found: Inspection, count: int, num_classes: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Read images and masks, spread evenly over the data set.

    Args:
        found: the result of an inspection.
        count: largest number of images.
        num_classes: K.

    Yields:
        Name, image uint8 H x W x 3, masks bool K x H x W.
    """
    for i in spread(len(found.pairs), count):
        pair = found.pairs[i]
        label = found.encoding.read(pair.mask)
        yield pair.name, pair.image.read(), class_masks(label, num_classes)


def write_groups(path: Path, groups: dict[str, str]) -> None:
    """Write a CSV file with the columns name and group.

    Args:
        path: the file.
        groups: groups by name of the image.
    """
    make_folder(path.parent)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "group"])
        writer.writerows(sorted(groups.items()))
