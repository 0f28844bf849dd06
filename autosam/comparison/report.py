"""The report of a comparison, one self-contained HTML file."""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from autosam.comparison import charts
from autosam.comparison.curve import Curve
from autosam.comparison.scores import Predicted
from autosam.comparison.table import Line, ResultsTable
from autosam.comparison.variants import Variant
from autosam.data.labels import class_masks
from autosam.data.pairs import Splits
from autosam.evaluation.tables import MEASURES, TITLES
from autosam.evaluation.visualize import scale, scale_mask
from autosam.evaluation.visualize_instances import instance_colours
from autosam.types import Instances
from autosam.utils.io import make_folder, write_atomically

SHOWN = 2
"""Number of best, median and worst images each."""

SIDE = 640
"""Longest side of an image in pixels."""

HIDDEN = ("IoU", "precision", "recall", "Dice, not empty", "prompt from the truth", "peak GiB")
"""Columns that the page hides until asked for."""

BASIC = ("run", *(TITLES[name] for name in MEASURES.values()))
"""Columns that a telephone shows, with the difference in them."""


def select_images(results: ResultsTable) -> list[tuple[str, str]]:
    """Select the test images of the report by the Dice of the base row's first seed.

    Args:
        results: the table.

    Returns:
        "best", "median" or "worst", and the name of the image.
    """
    rows = results[results.base].scores[0]
    scores = {name: row[results.measure] for name, row in rows.items()}
    scores = {name: score for name, score in scores.items() if math.isfinite(score)}
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
    classes: dict[str, np.ndarray],
) -> str:
    """Render the report.

    Args:
        results: the table.
        curve: the learning curve, if there is one.
        predictions: predictions of the images of `select_images`, by row and image.
        empty: names of the empty test images.
        splits: the images of each split.
        classes: uint8 RGB of each class by its name.

    Returns:
        HTML.
    """
    lines = list(results.lines())
    groups = [
        [line for line in lines if line.row.variant.is_oracle == oracle] for oracle in (False, True)
    ]
    curves = {row.title: row.curves for row in results.rows if row.curves}
    scores = {
        row.title: [v for v in row.by_image(results.measure).values() if math.isfinite(v)]
        for row in results.rows
    }
    colours = {name: "#" + bytes(rgb).hex() for name, rgb in classes.items()}
    styles = charts.Styles([row.title for row in results.rows])
    template = Environment(loader=PackageLoader("autosam.comparison", "."), autoescape=True)
    return template.get_template("report.html").render(
        title=f"autosam: {', '.join(row.title for row in results.rows if row.variant.is_plain)}",
        conclusion=results.conclusion,
        header=[{"title": title, "level": _level(title)} for title in results.header()],
        groups=[[_table_line(results, line) for line in group] for group in groups if group],
        classes=colours.items(),
        measure=results.measure_title,
        labels=_labels(curve, styles),
        curves=_chart(charts.learning_curves, curves, styles, results.measure_title)
        if curves
        else None,
        distributions=_chart(charts.distributions, scores, results.measure_title),
        base=results.base.title,
        images=[
            _example(rank, name, results, predictions, list(colours.values()))
            for rank, name in select_images(results)
        ],
        empty={"count": len(empty), "shares": _left_empty(results, empty)},
        facts=results.facts.items(),
        splits=[(split, sorted(pair.name for pair in pairs)) for split, pairs in splits.items()],
    )


def _chart(draw: Callable[..., Figure], *args: Any) -> dict[str, str]:
    """Draw a chart in both layouts, as data URLs."""
    widths = {"wide": charts.WIDE, "narrow": charts.NARROW}
    return {
        layout: _url("svg+xml", charts.svg(draw(*args, width=width)).encode())
        for layout, width in widths.items()
    }


def _url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _labels(curve: Curve | None, styles: charts.Styles) -> dict[str, Any]:
    """The learning curve as the template takes it."""
    if curve is None:
        return {}
    return {
        "chart": _chart(charts.by_labels, curve.points(), styles, TITLES[curve.measure]),
        "header": curve.header(),
        "lines": curve.lines(),
        "conclusion": curve.conclusion(),
        "seeds": max(len(row.scores) for table in curve.tables.values() for row in table.rows),
    }


def write(results: ResultsTable, curve: Curve | None, html: str, folder: Path) -> None:
    """Write report.html, table.md, table.csv, curve.md, curve.csv and a TensorBoard file. Without a
    curve those of an earlier comparison are deleted: they do not belong to this report.

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
    else:
        for name in ("curve.md", "curve.csv"):
            (folder / name).unlink(missing_ok=True)
    for name, text in files.items():
        write_atomically(folder / name, functools.partial(_write_text, text=text))
    for old in folder.glob("events.out.tfevents.*"):  # of an earlier report
        old.unlink()
    with SummaryWriter(folder) as writer:
        writer.add_text("comparison", markdown)
        if curve is not None:
            points = curve.points()
            styles, title = charts.Styles([*points]), results.measure_title
            chart = charts.by_labels(points, styles, title, charts.WIDE)
            writer.add_figure(f"{title} by number of labelled images", chart)
            writer.add_text("learning curve", curve.markdown())


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _level(title: str) -> str:
    """Which screens a column of the scores is for: class in HTML."""
    if title in BASIC or title.partition(" - ")[0] in BASIC:
        return ""
    return "minor" if title in HIDDEN else "middle"


def _table_line(results: ResultsTable, line: Line) -> dict[str, Any]:
    is_oracle, is_base = line.row.variant.is_oracle, line.row is results[results.base]
    kinds = {"oracle": is_oracle, "base": is_base, "class": line.label != line.row.title}
    tag = "base" if is_base else "oracle" if is_oracle else ""
    return {
        "label": line.label,
        "tag": "" if kinds["class"] else tag,
        "kind": " ".join(kind for kind, is_so in kinds.items() if is_so),
        "cells": line.cells,
    }


def _left_empty(results: ResultsTable, empty: list[str]) -> list[tuple[str, str]]:
    """Compute the share of the empty images in which each row predicts nothing, as text."""
    if not empty:
        return []
    shares = [
        np.mean([row.by_image(results.measure)[name] for name in empty]) for row in results.rows
    ]
    return [(row.title, f"{share:.0%}") for row, share in zip(results.rows, shares, strict=True)]


def _example(
    rank: str,
    name: str,
    results: ResultsTable,
    predictions: dict[Variant, dict[str, Predicted]],
    colours: list[str],
) -> dict[str, Any]:
    """An image with its truth and all predictions. The image and the outlines of the truth are
    shared: only what is drawn on them differs."""
    found = {variant: of_images[name] for variant, of_images in predictions.items()}
    first = next(iter(found.values()))
    image = scale(first.image, min(SIDE, max(first.image.shape[:2])))
    height, width = image.shape[:2]
    truth, shades = class_masks(first.label, len(first.masks)), colours
    if first.truth is not None:
        truth, shades = by_colour(first.truth)
    _, photo = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85]
    )
    cells = [
        {"title": "image", "plain": True, "data": outlines([], [], width, height)},
        {"title": "truth", "data": outlines(truth, shades, width, height)},
    ]
    for variant, prediction in found.items():
        score = results[variant].scores[0][name][results.measure]
        masks, own = prediction.masks, colours
        if prediction.objects is not None:
            masks, own = by_colour(prediction.objects)
        data = outlines(masks, own, width, height)
        cells.append(
            {"title": variant.title, "data": data, "dice": f"{results.measure_title} {score:.2f}"}
        )
    return {
        "rank": rank,
        "name": name,
        "width": width,
        "height": height,
        "photo": _url("jpeg", photo.tobytes()),
        "truth": outlines(
            truth, shades if len(colours) > 1 else ["#ffffff"] * len(truth), width, height, False
        ),
        "cells": cells,
    }


def by_colour(objects: Instances) -> tuple[np.ndarray, list[str]]:
    """The union of the objects of each colour, bool n x H x W, and the colours: neighbours differ,
    so that their outlines stay apart."""
    colours = instance_colours(objects.ids)
    shades = np.unique(colours, axis=0)
    of = (colours[:, None] == shades).all(2) if len(colours) else np.zeros((0, 0), bool)
    masks = [np.concatenate([[False], own])[np.maximum(objects.ids, 0)] for own in of.T]
    names = ["#" + bytes(rgb).hex() for rgb in shades]
    return np.array(masks, bool).reshape(-1, *objects.ids.shape), names


def outlines(
    masks: Iterable[np.ndarray], colours: list[str], width: int, height: int, filled: bool = True
) -> str:
    """Draw masks on a transparent ground, as a data URL of an SVG. Lines have the same width at any
    size.

    Args:
        masks: bool H x W of each class.
        colours: of the classes, #rrggbb.
        width: of the image, pixels.
        height: of the image, pixels.
        filled: tinted, with a solid line; otherwise a dashed line. Both are on a black one, so that
            they stand out from any image.
    """
    parts = []
    for k, (mask, colour) in enumerate(zip(masks, colours, strict=True)):
        small = scale_mask(mask, max(width, height)).astype(np.uint8)
        contours, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        path = "".join(_path(contour) for contour in contours)
        look = 'fill-opacity=".3"' if filled else 'fill-opacity="0" stroke-dasharray="5 3"'
        parts.append(
            f'<defs><path id="p{k}" d="{path}"/></defs>'
            f'<use href="#p{k}" fill="none" stroke="#000" stroke-width="2.4"/>'
            f'<use href="#p{k}" fill="{colour}" stroke="{colour}" stroke-width="1.2" {look}/>'
        )
    style = "path{vector-effect:non-scaling-stroke;fill-rule:evenodd;stroke-linejoin:round}"
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="-.5 -.5 {width} {height}" preserveAspectRatio="none">'
        f"<style>{style}</style>{''.join(parts)}</svg>"
    )
    return _url("svg+xml", text.encode())


def _path(contour: np.ndarray) -> str:
    """An outline as a path of an SVG; steps of pixels are smoothed."""
    points = cv2.approxPolyDP(contour, 0.7, closed=True)[:, 0]
    steps = np.diff(points, axis=0) if len(points) > 1 else [(0.5, 0)]
    return f"M{points[0, 0]} {points[0, 1]}l" + " ".join(f"{x} {y}" for x, y in steps) + "z"
