"""Measure how fast this machine encodes, trains and predicts, and print tables."""

from __future__ import annotations

import json
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from autosam.benchmark.advice import Plan, advise, plans_of
from autosam.benchmark.cases import PARTS, SIDES, Case, cases_of, measure
from autosam.benchmark.profiler import in_own_process
from autosam.config.commands import BenchConfig
from autosam.errors import AutosamError, ConfigError, Stopped, first_line
from autosam.models.sam.cost import record_bytes
from autosam.models.sam.weights.locate import known
from autosam.training.loop import ONE_VALUE
from autosam.utils import provenance
from autosam.utils.io import make_folder, write_atomically


def bench(config: BenchConfig) -> dict[str, Any]:
    """Measure the cases and print tables.

    Args:
        config: the SAM, the cases and the number of repeats.

    Returns:
        Figures by case: seconds per image of each repeat, memory in GiB, and others.

    Raises:
        ConfigError: an unknown SAM or case, or a number out of range.
        AutosamError: cases were not measured; the others are printed.
    """
    known(config.sam)
    cases = {case.name: case for case in cases_of(config)}
    if unknown := set(config.cases) - cases.keys():
        raise ConfigError(
            f"--cases {unknown.pop()}: not one of {'; '.join(cases)}. Several are a list: "
            """--cases '["floor", "cached"]'."""
        )
    if config.json:
        if Path(config.json).is_dir():
            raise ConfigError(f"--json {config.json}: is a folder. Name a file.")
        make_folder(Path(config.json).parent)
    chosen = [cases[name] for name in config.cases or cases]
    console = Console(soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 160
    figures: dict[str, Any] = {}
    machine = provenance.machine()
    write(config, machine, figures)
    progress = Console(stderr=True, soft_wrap=True, markup=False, emoji=False)
    failed, first = 0, None
    for case in track(chosen, "measuring", console=progress):
        try:
            row = in_own_process(measure, case) | {"kind": case.kind}
        except Stopped:
            raise
        except Exception as error:  # the other cases are still worth their time
            progress.print(f"{case.name}: not measured, {reason_of(error)}", highlight=False)
            failed += 1
            continue
        if "features" in row:
            features = row.pop("features")
            if first is None and exact(case):
                first = features
            if first is not None:
                row["cosine"] = cosine(first, features)
        figures[case.name] = row
        progress.print(f"{case.name}: {1000 * median(row['seconds']):.0f} ms", highlight=False)
        write(config, machine, figures)
    console.print(", ".join(machine.values()), highlight=False)
    for kind in ("encoder", "training", "prediction"):
        rows = {name: row for name, row in figures.items() if row["kind"] == kind}
        if rows:
            console.print(table(kind, config.sam, rows))
    for line in ratios(figures):
        console.print(line, highlight=False)
    if plans := plans_of(figures, config.images, config.epochs, record_bytes(known(config.sam))):
        console.print(table_of_plans(plans, config))
    for line in advise(figures):
        console.print(line, highlight=False)
    if failed:
        raise AutosamError(f"{failed} of {len(chosen)} cases were not measured (see above).")
    return figures


def write(config: BenchConfig, machine: dict[str, str], figures: dict[str, Any]) -> None:
    """Write the figures that were measured so far, if a file is asked for."""
    if config.json:
        content = {"machine": machine, "settings": asdict(config), "cases": figures}
        text = json.dumps(content, indent=1)
        write_atomically(Path(config.json), lambda to: to.write_text(text, encoding="utf-8"))


def reason_of(error: Exception) -> str:
    """Why a case was not measured."""
    if isinstance(error, BrokenProcessPool):
        return "its process ended: probably memory ran out"
    if ONE_VALUE in str(error):
        return "BatchNorm cannot learn from a batch of one at this size"
    return first_line(error)


def exact(case: Case) -> bool:
    """Whether an encoder is computed by PyTorch in float32: others are compared with it."""
    return not (case.half or case.openvino or case.compiled)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """The cosine similarity of two embeddings."""
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one.ravel() @ other.ravel() / norms)


def table(kind: str, sam: str, rows: dict[str, Any]) -> Table:
    """Make a table of the time per image (median, minimum, maximum), its parts, and peak memory.

    Args:
        kind: "encoder", "training" or "prediction".
        sam: name of the SAM.
        rows: figures by case.
    """
    titles = {
        "encoder": f"image encoder of {sam}, one image",
        "training": f"training step of the run autosam with {sam}, per image",
        "prediction": f"prediction with {sam}, one image of {SIDES[1]} x {SIDES[0]}",
    }
    result = Table(title=titles[kind], title_justify="left")
    result.add_column(kind)
    columns = {
        "encoder": ["images/s", "speed-up", "cosine"],
        "training": ["batch", *PARTS, "trainable, million"],
        "prediction": [],
    }[kind]
    for column in ("ms", "min", "max", *columns, "peak GiB"):
        result.add_column(column, justify="right")
    # Of encoders "cosine" is there from the first on that others are compared with.
    compared = [median(row["seconds"]) for row in rows.values() if "cosine" in row]
    for name, row in rows.items():
        middle = median(row["seconds"])
        cells = [
            f"{1000 * value:.0f}" for value in (middle, min(row["seconds"]), max(row["seconds"]))
        ]
        if kind == "encoder":
            cells += [f"{1 / middle:.3g}"]
            cells += (
                [f"{compared[0] / middle:.2f}", f"{row['cosine']:.5f}"]
                if "cosine" in row
                else ["", ""]
            )
        if kind == "training":
            cells += [str(row["batch size"])]
            cells += [f"{1000 * row['parts'][part]:.0f}" for part in PARTS]
            cells += [f"{row['trainable'] / 1e6:.3f}"]
        peaks = [f"{row[key]:.2f}" for key in ("memory", "gpu memory") if key in row]
        result.add_row(name, *cells, " / ".join(peaks))
    return result


def table_of_plans(plans: list[Plan], config: BenchConfig) -> Table:
    """Make a table of what a training would cost.

    Args:
        plans: see `plans_of`.
        config: the numbers of images and epochs.
    """
    title = f"{config.images} images, {config.epochs} epochs with {config.sam}, without validation"
    result = Table(title=title, title_justify="left")
    for column in ("cache", "hours", "GB on disk"):
        result.add_column(column, justify="left" if column == "cache" else "right")
    for plan in plans:
        size = f"{plan.disk / 1e9:.1f}"
        result.add_row(f"--cache.copies {plan.copies}", f"{plan.seconds / 3600:.2f}", size)
    return result


def ratios(figures: dict[str, Any]) -> list[str]:
    """Compare the times of cases.

    Args:
        figures: figures by case.

    Returns:
        A sentence for each pair of cases that were both measured.
    """

    def ratio_of(above: str, below: str) -> float | None:
        if above in figures and below in figures:
            return median(figures[above]["seconds"]) / median(figures[below]["seconds"])
        return None

    lines = []
    for above, below, text in (
        (
            "cached",
            "floor",
            "a cached step takes {:.2f} times as long as the floor (all data in memory)",
        ),
        (
            "cached",
            "cached, dense prompt alone",
            "a step takes {:.2f} times as long as with the dense prompt",
        ),
        ("not cached", "cached", "without the cache a step takes {:.1f} times as long per image"),
        (
            "LoRA in all blocks",
            "LoRA in the last 2 blocks, cached",
            "with LoRA in all blocks a step takes {:.1f} times as long as in the last 2",
        ),
        ("published", "cached", "the published loop takes {:.0f} times as long per image"),
        (
            "published",
            "published generator, cached",
            "the published loop takes {:.1f} times as long as its generator with the cache",
        ),
    ):
        if (ratio := ratio_of(above, below)) is not None:
            lines.append(text.format(ratio))
    return lines
