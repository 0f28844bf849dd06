"""The HTML report of a comparison: its content, and its use in a browser."""

from __future__ import annotations

import base64
import html
import math
import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autosam.comparison import charts
from autosam.comparison.curve import Curve, Size
from autosam.comparison.report import build, outlines, select_images, write
from autosam.comparison.rows import Row
from autosam.comparison.scores import Predicted
from autosam.comparison.table import ResultsTable
from autosam.comparison.variants import Variant
from autosam.data.images import ImageFile, MaskFile
from autosam.data.pairs import Pair
from autosam.evaluation.tables import COLUMNS, OBJECT_COLUMNS, print_scores
from autosam.evaluation.visualize import COLOURS

CLASSES = {"1": COLOURS[0]}
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
    path.write_text(build(found, None, predictions, ["p6"], splits, CLASSES))
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
    text = build(found, None, {Variant("head"): predicted}, [], {}, CLASSES)
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


def test_scores_of_objects_are_shown_whole_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = [*OBJECT_COLUMNS, *COLUMNS]
    values = {name: 0.1001 + i / 1000 for i, name in enumerate(names)}
    values |= {f"{name}/spindle-shaped nucleus": value + 0.1 for name, value in values.items()}
    print_scores({"validation": values, "test": values}, {})
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    for name, value in values.items():
        digits = (OBJECT_COLUMNS | COLUMNS)[name.partition("/")[0]][1]
        assert said.count(f" {value:.{digits}f} ") >= 2
    assert "…" not in said


def test_the_page_stands_alone_and_escapes_what_it_is_given(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"(src|href|srcset)=.https?:", text)
    assert "<b>" not in text
    assert "sam-box, &lt;b&gt;" in text
    assert ">0.700 ± 0.000</td>" in text
    # Of the head: Dice of the six non-empty images, and what is wrong with which.
    row = re.search(r"<tr[^>]*><th[^>]*>head</th>.*", text)
    assert row
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", row[0])
    assert cells[6:9] == ["0.592 ± 0.000", "16.7% ± 0.0%", "100.0% ± 0.0%"]
    # Of the one empty image: left empty by autosam and the oracle, not by the head.
    assert re.findall(r"<th[^>]*>([^<]*)</th><td>(\d+%)</td>", text) == [
        ("autosam", "100%"), ("head", "0%"), ("sam-box, &lt;b&gt;", "100%"),
    ]  # fmt: skip
    assert text.count("<picture>") == 2
    assert text.count("data:image/jpeg;base64,") == 2 * 6  # of each image, for two styles
    assert text.count('<img class="overlay') == (2 + 3) * 6  # image, truth and three runs


def test_tensorboard_has_the_tables_and_the_curve_without_charts_of_one_point(
    tmp_path: Path,
) -> None:
    found = results()
    curve = Curve({Size(4, 2): results(), Size(6, 3, whole=True): found})
    write(found, curve, "", tmp_path)
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert tags["scalars"] == []
    assert tags["images"] == ["Dice by number of labelled images"]
    assert tags["tensors"] == ["comparison/text_summary", "learning curve/text_summary"]


def test_the_base_and_oracles_are_marked(page: Path) -> None:
    marked = r'<tr class="(\w+)"><th scope="row">([^<]*) <span class="tag">(\w+)</span>'
    assert re.findall(marked, page.read_text()) == [
        ("base", "autosam", "base"), ("oracle", "sam-box, &lt;b&gt;", "oracle"),
    ]  # fmt: skip


def test_outlines_are_those_of_the_mask_with_its_holes() -> None:
    mask = np.zeros((50, 80), bool)
    mask[10:30, 20:60] = True
    mask[15:25, 30:40] = False
    mask[40, 70] = True  # a single pixel is no error in the path
    text = base64.b64decode(outlines([mask], ["#ffffff"], 80, 50).partition(",")[2]).decode()
    ElementTree.fromstring(text)
    path = re.search(r' d="([^"]*)"', text)
    assert path
    assert sorted(path[1].split("z")) == sorted(
        ["", "M70 40l0.5 0", "M20 10l0 19 39 0 0 -19", "M29 15l1 -1 9 0 1 1 0 9 -1 1 -9 0 -1 -1"]
    )


def test_the_same_figures_give_the_same_charts() -> None:
    curves = {"autosam": [[0.1, 0.5], [0.2, 0.6, 0.7]]}
    dice = {variant.title: values for variant, values in DICE.items()}
    styles = charts.Styles(["autosam"])
    for width in (charts.WIDE, charts.NARROW):
        one, two = (
            charts.svg(charts.learning_curves(curves, styles, "Dice", width)) for _ in range(2)
        )
        assert one == two
        one, two = (charts.svg(charts.distributions(dice, "Dice", width)) for _ in range(2))
        assert one == two


@pytest.mark.parametrize("epochs", [1, 2, 3, 12, 200])
def test_epochs_are_whole_numbers(epochs: int) -> None:
    curves = {"autosam": [[0.5] * epochs]}
    axes = charts.learning_curves(curves, charts.Styles(["autosam"]), "Dice", charts.WIDE).axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == round(tick) for tick in ticks)


def test_names_of_lines_do_not_collide() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 18, 30):
        places = sorted(rng.uniform(0.9, 1, count))
        moved = charts.spread_out(places)
        assert min(np.diff(moved), default=1) > min(charts.LINE, 1 / count) - 1e-9
        assert min(moved) >= -1e-9
        assert max(moved) <= 1 + 1e-9
    assert charts.spread_out([0.1, 0.5, 0.9]) == [0.1, 0.5, 0.9]


def test_names_in_charts_are_legible() -> None:
    for colour in charts.COLOURS:
        levels = np.array([*bytes.fromhex(colour[1:])]) / 255
        linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5


def in_a_browser(page: Path, folder: Path, width: int, script: str) -> str:
    """What a script in the page passes to `done`, in a window of the width."""
    probe = f"""<script>
      const done = (...values) => parent.postMessage(values.join(" | "), "*");
      const all = selector => [...document.querySelectorAll(selector)];
      window.addEventListener("load", () => {{ {script} }});
    </script>"""
    (folder / "probed.html").write_text(page.read_text().replace("</body>", probe + "</body>"))
    # Windows without a head are at least 500 pixels wide, frames are not.
    frame = folder / "frame.html"
    frame.write_text(f"""<!doctype html><body><script>
      onmessage = event => document.body.textContent = "found: " + event.data;
      </script><iframe src="probed.html" style="width: {width}px; height: 900px; border: 0">""")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"]
    flags += ["--hide-scrollbars", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, f"file://{frame}"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    text = re.search(r"found: (.*?)</body>", done.stdout, re.S)
    assert text, done.stderr[-2000:]
    return html.unescape(text[1].strip())


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path")
def test_in_a_browser_images_load_and_the_table_sorts(page: Path, tmp_path: Path) -> None:
    script = """
      const first = cell => cell.firstChild.data.trim();
      const names = () => all("table.scores tbody th").map(first).join(" ");
      const found = [names()];
      const buttons = all("table.scores thead button");
      buttons[1].click(); found.push(names());
      buttons[1].click(); found.push(names());
      done(...found, all("img").every(p => p.alt && p.complete && p.naturalWidth > 0));
    """
    best, worst = "autosam head sam-box, <b>", "head autosam sam-box, <b>"
    assert in_a_browser(page, tmp_path, 1400, script) == f"{best} | {best} | {worst} | true"


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path")
@pytest.mark.parametrize(("width", "shown"), [(1400, 11), (390, 3)])
def test_in_a_browser_the_page_fits_the_screen(
    page: Path, tmp_path: Path, width: int, shown: int
) -> None:
    """Without columns that are cut off; with all of them the table scrolls, and the names stay."""
    script = """
      const table = document.querySelector("table.scores"), around = table.parentElement;
      const fits = () => document.scrollingElement.scrollWidth <= innerWidth;
      const columns = () => all("table.scores thead th").filter(cell => cell.offsetWidth).length;
      const found = [innerWidth, fits(), around.scrollWidth <= around.clientWidth, columns()];
      document.querySelector("#all-columns").click();
      around.scrollLeft = 1e4;
      const name = table.querySelector("tbody th").getBoundingClientRect();
      done(...found, fits(), columns(), name.left >= 0 && name.right > 50);
    """
    assert in_a_browser(page, tmp_path, width, script) == (
        f"{width} | true | true | {shown} | true | 17 | true"
    )


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path")
@pytest.mark.parametrize("width", [1400, 390])
def test_in_a_browser_images_are_enlarged(page: Path, tmp_path: Path, width: int) -> None:
    script = """
      const dialog = document.querySelector("dialog");
      const titles = () => all("dialog figcaption").map(c => c.firstChild.data).join(", ");
      const press = key => dialog.dispatchEvent(new KeyboardEvent("keydown", { key }));
      const found = [dialog.open];
      all(".zoom")[2].focus();
      document.activeElement.click();
      found.push(dialog.open, titles());
      press("ArrowRight"); found.push(titles());
      found.push(dialog.querySelector(".large figure:last-child img").offsetWidth > 280);
      found.push(document.scrollingElement.scrollWidth <= innerWidth);
      dialog.querySelector("button").click();
      done(...found, dialog.open, document.activeElement === all(".zoom")[2]);
    """
    assert in_a_browser(page, tmp_path, width, script) == (
        "false | true | image, truth, autosam | image, truth, head | true | true | false | true"
    )
