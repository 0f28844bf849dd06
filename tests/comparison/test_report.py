"""The HTML report of a comparison: its content, and its use in a browser."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from autosam.comparison import charts
from autosam.comparison.report import build, select_images
from autosam.comparison.rows import Row
from autosam.comparison.scores import Predicted
from autosam.comparison.table import ResultsTable
from autosam.comparison.variants import Variant
from autosam.data.images import ImageFile, MaskFile
from autosam.data.pairs import Pair
from autosam.evaluation.tables import print_scores
from autosam.evaluation.visualize import COLOURS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
METRICS = ("dice", "iou", "hd95", "nsd", "precision", "recall")
ORACLE = Variant("sam-box", prompt="<b>")  # type: ignore[arg-type]  a title to be escaped
DICE = {
    Variant("autosam"): [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 1.0],
    Variant("head"): [0.8, 0.75, 0.65, 0.55, 0.45, 0.35, 0.0],
    ORACLE: [0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 1.0],
}


def contents(i: int, dice: float) -> dict[str, float]:
    """p6 is empty; p5 is missed by all, say."""
    nan = float("nan")
    if i == 6:
        return {"nonempty_dice": nan, "miss": nan, "false_alarm": 1 - dice}
    return {"nonempty_dice": dice, "miss": float(i == 5), "false_alarm": nan}


def results() -> ResultsTable:
    rows = []
    for variant, values in DICE.items():
        scores = {
            f"p{i}": dict.fromkeys(METRICS, value) | contents(i, value)
            for i, value in enumerate(values)
        }
        rows.append(Row(variant, [scores, scores], speed=10.0 / len(variant.run)))
    return ResultsTable(rows, Variant("autosam"), {"command": "autosam compare --runs 'a <b>'"})


@pytest.fixture
def page(tmp_path: Path) -> Path:
    found = results()
    image = np.full((30, 60, 3), 90, np.uint8)
    mask = np.zeros((30, 60), np.uint8)
    mask[5:20, 10:40] = 1
    predicted = Predicted(image, mask, np.asarray(mask[None] > 0))
    predictions = {
        row.variant: {name: predicted for _, name in select_images(found)} for row in found.rows
    }
    found[Variant("autosam")].curves = [[0.1, 0.5], [0.2, 0.6, 0.7]]
    found[Variant("head")].curves = [[0.3, 0.4]]
    file = Path("p0.png")
    splits = {"test": [Pair("p0", ImageFile(file), MaskFile(file))]}
    path = tmp_path / "report.html"
    path.write_text(build(found, None, predictions, ["p6"], splits, COLOURS))
    return path


def test_best_median_and_worst_are_picked_by_the_base() -> None:
    # In order: p6 1.0, p0 0.9, p1 0.8, p2 0.7, p3 0.6, p4 0.5, p5 0.4.
    assert select_images(results()) == [
        ("best", "p6"), ("best", "p0"), ("median", "p1"), ("median", "p2"),
        ("worst", "p4"), ("worst", "p5"),
    ]  # fmt: skip


def test_images_shown_are_in_the_order_of_the_scores_shown() -> None:
    """Of the first seed; an image whose pixels are all ignored has no score and is not shown."""
    seeds = [[0.9, 0.1, 0.5, math.nan], [0.0, 1.0, 0.6, math.nan]]
    scores = [{f"p{i}": {"dice": dice} for i, dice in enumerate(seed)} for seed in seeds]
    found = ResultsTable([Row(Variant("head"), scores)], Variant("head"))
    assert select_images(found) == [("best", "p0"), ("median", "p2"), ("worst", "p1")]
    image, mask = np.zeros((9, 9, 3), np.uint8), np.zeros((1, 9, 9), bool)
    predicted = dict.fromkeys(scores[0], Predicted(image, mask[0].astype(np.uint8), mask))
    text = build(found, None, {Variant("head"): predicted}, [], {}, COLOURS)
    assert re.findall(r"Dice ([\d.]+)<", text) == ["0.90", "0.50", "0.10"]
    assert "nan" not in text.lower()


def test_the_terminal_shows_what_is_in_brackets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not taken for markup or for names of emoji: intervals, classes, folders."""
    values = {f"dice{end}": 0.5 for end in ("", "/[red]", "/:cat:")}
    rows = [Row(Variant(run), [{"p0": values}]) for run in ("decoder", "head")]
    ResultsTable(rows, Variant("decoder"), {"data": "/x/[old]/:dog:"}).print()
    print_scores({"test": values}, {"checkpoint": "runs/[bold]/:cow:"})
    said = capsys.readouterr().out
    for shown in (
        "few to tell]",
        "head: [red]",
        "head: :cat:",
        "/x/[old]/:dog:",
        "runs/[bold]/:cow:",
    ):
        assert shown in said


def test_the_page_stands_alone_and_escapes_what_it_is_given(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"(src|href)=.https?:", text)
    assert "<b>" not in text
    assert "sam-box, &lt;b&gt;" in text
    assert "<td>0.700 ± 0.000</td>" in text
    # Of the head: Dice of the six non-empty images, and what is wrong with which.
    shown = "<td>0.592 ± 0.000</td><td>16.7% ± 0.0%</td><td>100.0% ± 0.0%</td>"
    assert shown in text
    # Of the one empty image: left empty by autosam and the oracle, not by the head.
    assert re.findall(r"<td>([^<]*)</td><td>(\d+%)</td>", text) == [
        ("autosam", "100%"), ("head", "0%"), ("sam-box, &lt;b&gt;", "100%"),
    ]  # fmt: skip
    assert text.count("<svg") == 2
    assert text.count('src="data:image/jpeg;base64,') == 3 * 6


def test_the_same_figures_give_the_same_charts() -> None:
    curves = {"autosam": [[0.1, 0.5], [0.2, 0.6, 0.7]]}
    dice = {variant.title: values for variant, values in DICE.items()}
    assert charts.learning_curves(curves) == charts.learning_curves(curves)
    assert charts.distributions(dice) == charts.distributions(dice)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path")
def test_in_a_browser_images_load_and_the_table_sorts(page: Path, tmp_path: Path) -> None:
    probe = """<script>
      window.addEventListener("load", () => {
        const names = () => [...document.querySelectorAll("table.scores tbody tr")]
          .map(row => row.cells[0].textContent).join(" ");
        const images = [...document.images];
        const found = [names()];
        const head = document.querySelectorAll("table.scores th");
        head[1].click(); found.push(names());
        head[1].click(); found.push(names());
        found.push(images.every(p => p.complete && p.naturalWidth > 0));
        document.body.textContent = "found: " + found.join(" | ");
      });
    </script>"""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", probe + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, "--virtual-time-budget=5000", "--dump-dom", f"file://{probed}"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    text = re.search(r"found: (.*?)</body>", done.stdout, re.S)
    assert text, done.stderr[-2000:]
    best, worst = "autosam head sam-box, &lt;b&gt;", "head autosam sam-box, &lt;b&gt;"
    assert text[1].strip() == f"{best} | {best} | {worst} | true"
    assert "CONSOLE" not in done.stderr
