"""The report of a comparison, one self-contained HTML file."""

from __future__ import annotations

import base64
import functools
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader
from torch.utils.tensorboard import SummaryWriter

from autosam.comparison import charts
from autosam.comparison.curve import Curve
from autosam.comparison.scores import Predicted
from autosam.comparison.table import Line, ResultsTable
from autosam.comparison.variants import Variant
from autosam.data.labels import class_masks
from autosam.data.pairs import Splits
from autosam.evaluation.visualize import overlay
from autosam.utils.io import make_folder, write_atomically

SHOWN = 2
"""Number of best, median and worst images each."""

SIDE = 300
"""Longest side of an image in pixels; it is displayed at half of that."""


def select_images(results: ResultsTable) -> list[tuple[str, str]]:
    """Select the test images of the report by the Dice of the base row's first seed.

    Args:
        results: the table.

    Returns:
        "best", "median" or "worst", and the name of the image.
    """
    rows = results[results.base].scores[0]
    scores = {name: row["dice"] for name, row in rows.items() if math.isfinite(row["dice"])}
    order = sorted(scores, key=lambda name: (-scores[name], name))
    count = min(SHOWN, len(order) // 3) or 1
    middle = (len(order) - count) // 2
    ranks = {
        "best": order[:count],
        "median": order[middle : middle + count],
        "worst": order[len(order) - count :],
    }
    chosen: dict[str, str] = {}
    for rank, names in ranks.items():
        for name in names:
            chosen.setdefault(name, rank)
    return [(rank, name) for name, rank in chosen.items()]


def build(
    results: ResultsTable,
    curve: Curve | None,
    predictions: dict[Variant, dict[str, Predicted]],
    empty: list[str],
    splits: Splits,
    colours: np.ndarray,
) -> str:
    """Render the report.

    Args:
        results: the table.
        curve: the learning curve, if there is one.
        predictions: predictions of the images of `select_images`, by row and image.
        empty: names of the empty test images.
        splits: the images of each split.
        colours: uint8 K x 3, RGB of the classes.

    Returns:
        HTML.
    """
    lines = list(results.lines())
    groups = [
        [line for line in lines if line.row.variant.is_oracle == oracle] for oracle in (False, True)
    ]
    curves = {row.title: row.curves for row in results.rows if row.curves}
    template = Environment(loader=PackageLoader("autosam.comparison", "."), autoescape=True)
    return template.get_template("report.html").render(
        title=f"autosam: {', '.join(row.title for row in results.rows if row.variant.is_plain)}",
        conclusion=results.conclusion,
        header=results.header(),
        groups=[[_table_line(line) for line in group] for group in groups if group],
        labels=_labels(curve),
        curves=charts.learning_curves(curves) if curves else "",
        distributions=charts.distributions(
            {
                row.title: [dice for dice in row.by_image().values() if math.isfinite(dice)]
                for row in results.rows
            }
        ),
        base=results.base.title,
        columns=[variant.title for variant in predictions],
        images=[
            _image_row(rank, name, results, predictions, colours)
            for rank, name in select_images(results)
        ],
        empty={"count": len(empty), "shares": _left_empty(results, empty)},
        facts=results.facts.items(),
        splits=[(split, sorted(pair.name for pair in pairs)) for split, pairs in splits.items()],
    )


def _labels(curve: Curve | None) -> dict[str, Any]:
    """The learning curve as the template takes it."""
    if curve is None:
        return {}
    lines = {
        variant.title: [
            (size.labelled, *row.metrics["dice"]) for size, row in curve.rows(variant).items()
        ]
        for variant in curve.variants
    }
    return {
        "chart": charts.by_labels(lines),
        "header": curve.header(),
        "lines": curve.lines(),
        "conclusion": curve.conclusion(),
    }


def write(results: ResultsTable, curve: Curve | None, html: str, folder: Path) -> None:
    """Write report.html, table.md, table.csv, curve.md, curve.csv and a TensorBoard file.

    Args:
        results: the table.
        curve: the learning curve, if there is one.
        html: the report.
        folder: output folder.
    """
    make_folder(folder)
    markdown = results.markdown()
    files = {"table.md": markdown, "table.csv": results.csv(), "report.html": html}
    if curve is not None:
        files |= {"curve.md": curve.markdown(), "curve.csv": curve.csv()}
    for name, text in files.items():
        write_atomically(folder / name, functools.partial(_write_text, text=text))
    with SummaryWriter(folder) as writer:
        writer.add_text("comparison", markdown)
        for row in results.rows:
            for metric, (mean, _) in row.metrics.items():
                writer.add_scalar(f"{metric}/{row.title}", mean)
        if curve is None:
            return
        writer.add_text("learning curve", curve.markdown())
        for size, table in curve.tables.items():
            for row in table.rows:
                if row.variant.is_plain:
                    dice = row.metrics["dice"][0]
                    writer.add_scalar(f"dice by labelled images/{row.title}", dice, size.labelled)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _table_line(line: Line) -> dict[str, Any]:
    return {"cells": [line.label, *line.cells], "oracle": line.row.variant.is_oracle}


def _left_empty(results: ResultsTable, empty: list[str]) -> list[tuple[str, str]]:
    """Compute the share of the empty images in which each row predicts nothing, as text."""
    if not empty:
        return []
    shares = [np.mean([row.by_image()[name] for name in empty]) for row in results.rows]
    return [(row.title, f"{share:.0%}") for row, share in zip(results.rows, shares, strict=True)]


def _image_row(
    rank: str,
    name: str,
    results: ResultsTable,
    predictions: dict[Variant, dict[str, Predicted]],
    colours: np.ndarray,
) -> dict[str, Any]:
    cells = []
    for variant, found in predictions.items():
        dice = results[variant].scores[0][name]["dice"]
        cells.append({"data": _jpeg(found[name], colours), "dice": f"Dice {dice:.2f}"})
    return {"what": rank, "name": name, "cells": cells}


def _jpeg(found: Predicted, colours: np.ndarray) -> str:
    """Draw the prediction filled and the truth as a white contour: a JPEG in base64."""
    height, width = found.image.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))

    def fit(mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0

    image = cv2.resize(found.image, size, interpolation=cv2.INTER_AREA)
    shown = overlay(image, np.stack([fit(mask) for mask in found.masks]), colours)
    for truth in class_masks(found.label, len(found.masks)):
        contours, _ = cv2.findContours(
            fit(truth).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(shown, contours, -1, (255, 255, 255), 1)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
    return base64.b64encode(data.tobytes()).decode()
