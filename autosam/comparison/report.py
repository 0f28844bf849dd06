"""The report of a comparison: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import math
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader

from autosam.comparison import charts
from autosam.comparison.scores import Predicted
from autosam.comparison.table import ResultsTable
from autosam.data.labels import class_masks
from autosam.data.pairs import Split
from autosam.evaluation.visualize import overlay

SHOWN = 2
"""Best, median and worst images, of each."""
SIDE = 300
"""Pixels of an image, which is shown at half of that."""


def picked(results: ResultsTable) -> list[tuple[str, str]]:
    """The images to show: best, median or worst by the Dice of the base's first seed, which is
    shown; and its name."""
    rows = results[results.base].scores[0]
    scores = {name: row["dice"] for name, row in rows.items() if math.isfinite(row["dice"])}
    order = sorted(scores, key=lambda name: (-scores[name], name))
    count = min(SHOWN, len(order) // 3) or 1
    middle = (len(order) - count) // 2
    parts = {
        "best": order[:count],
        "median": order[middle : middle + count],
        "worst": order[len(order) - count :],
    }
    chosen: dict[str, str] = {}
    for what, names in parts.items():
        for name in names:
            chosen.setdefault(name, what)
    return [(what, name) for name, what in chosen.items()]


def build(
    results: ResultsTable,
    curves: dict[str, list[list[float]]],
    predictions: dict[str, dict[str, Predicted]],
    empty: list[str],
    split: Split,
    colours: np.ndarray,
) -> str:
    """The page.

    Args:
        results: the table.
        curves: see `charts.learning_curves`.
        predictions: by run and image, those of `picked`.
        empty: names of the test images without anything in them.
        split: the images of each part.
        colours: of the classes.
    """
    oracles = {row.name for row in results.rows if row.oracle}
    lines = [
        {"cells": cells, "oracle": cells[0].split(": ")[0] in oracles} for cells in results.cells()
    ]
    groups = [[line for line in lines if line["oracle"] == kind] for kind in (False, True)]
    shares = [
        (row.name, f"{np.mean([row.by_image()[name] for name in empty]):.0%}")
        for row in results.rows
        if empty
    ]
    facts = {k: v for k, v in results.facts.items() if k != "conclusion"}
    template = Environment(loader=PackageLoader("autosam.comparison", "."), autoescape=True)
    return template.get_template("report.html").render(
        title=f"autosam: {', '.join(row.name for row in results.rows if ',' not in row.name)}",
        conclusion=results.facts.get("conclusion"),
        header=results.header(),
        groups=[group for group in groups if group],
        curves=charts.learning_curves(curves) if curves else "",
        distributions=charts.distributions(
            {row.name: [dice for dice in row.by_image().values() if math.isfinite(dice)]
             for row in results.rows}
        ),
        base=results.base,
        columns=list(predictions),
        images=[_image_row(what, name, results, predictions, colours)
                  for what, name in picked(results)],
        empty={"count": len(empty), "shares": shares},
        facts=facts.items(),
        split=[(part, sorted(pair.name for pair in pairs)) for part, pairs in split.items()],
    )  # fmt: skip


def _image_row(
    what: str,
    name: str,
    results: ResultsTable,
    predictions: dict[str, dict[str, Predicted]],
    colours: np.ndarray,
) -> dict[str, Any]:
    cells = []
    for run, found in predictions.items():
        dice = results[run].scores[0][name]["dice"]
        cells.append({"data": _jpeg(found[name], colours), "dice": f"Dice {dice:.2f}"})
    return {"what": what, "name": name, "cells": cells}


def _jpeg(found: Predicted, colours: np.ndarray) -> str:
    """The prediction filled, the truth as a white line; base64 of a JPEG."""
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
