"""Compare an exported file with PyTorch on images."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from autosam.config.commands import ExportConfig
from autosam.data.layouts import load_splits
from autosam.data.pairs import Pixels, read_valid
from autosam.data.readers.files import image_file
from autosam.data.readers.memory import MemoryImage
from autosam.errors import AutosamError, ConfigError, DataError
from autosam.inference.onnx_graph import MAX_SIDE, MIN_SIDE, OPSET
from autosam.inference.predictor import Predictor
from autosam.inference.sources import find_sources

Runner = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""An exported file as a function: uint8 H x W x (3 + C) -> mask and logits, see `Graph`."""


@dataclass
class Exported:
    """An exported file, and how it compares with PyTorch."""

    path: Path
    images: int
    """Number of images that it was compared on."""
    agreement: float
    """Share of mask pixels that agree, in [0, 1]: the mean over images."""
    least: float
    """Share of mask pixels that agree in the worst image."""
    difference: float
    """Largest absolute difference of a logit."""
    seconds: float
    """Median time for an image with all cores of the CPU."""
    torch_seconds: float
    """Median time of PyTorch on the same CPU."""


def find_images(config: ExportConfig, predictor: Predictor) -> list[Pixels]:
    """Find images to compare on: those of `config.images`, or the run's test images.

    Args:
        config: the settings of the export.
        predictor: the run.

    Returns:
        All images; the first `config.count` are spread evenly over them.

    Raises:
        ConfigError: there are no images.
        DataError: see `find_sources`.
    """
    data = predictor.loaded.config.data
    if config.images is not None:
        sources = find_sources(config.images, False, Path(config.output), "--images")
        found: list[Pixels] = [
            image_file(source.path, data) for source in sources if source.kind == "image"
        ]
    else:
        try:
            found = [pair.image for pair in load_splits(data)["test"]]
        except AutosamError as error:
            raise ConfigError(
                "--images DIR is needed, images to compare on: the test images of the run cannot "
                f"be found ({error})"
            ) from None
    if not found:
        raise ConfigError(f"--images {config.images}: holds no image to compare on. Give others.")
    step = max(1, len(found) // config.count)
    first = found[::step]
    return first + [image for i, image in enumerate(found) if i % step]


def readable(images: list[Pixels], count: int) -> list[Pixels]:
    """Select the first images that can be read and are large enough, and warn about the others.

    This is done before the graph is traced, which takes minutes.

    Args:
        images: candidates.
        count: largest number of images.

    Raises:
        DataError: no image is left.
    """
    kept: list[Pixels] = []
    problems: list[str] = []
    for image in images:
        if len(kept) == count:
            break
        try:
            height, width = image.read().shape[:2]
        except AutosamError as error:
            problems.append(str(error))
            continue
        if min(height, width) < 2 * MIN_SIDE:
            problems.append(f"{image}: {width} x {height} pixels, too small to compare on.")
        else:
            kept.append(image)
    if not kept:
        raise DataError(
            f"no image to compare on, of {len(images)}: {problems[0]} Give others as --images DIR."
        )
    for problem in problems:
        print(f"warning: not compared on: {problem}", file=sys.stderr)
    return kept


def compare(run: Runner, predictor: Predictor, images: list[Pixels], output: Path) -> Exported:
    """Run a file and PyTorch on images; every second image is rotated by 90 degrees.

    Args:
        run: the exported file as a function.
        predictor: the run in PyTorch.
        images: images to compare on.
        output: path of the file, for the result.
    """
    exclusive = predictor.loaded.config.data.exclusive
    shares: list[float] = []
    differences: list[float] = []
    seconds: list[float] = []
    torch_seconds: list[float] = []

    def timed(function: Callable[..., Any], image: np.ndarray, into: list[float]) -> Any:
        started = time.perf_counter()
        result = function(image)
        into.append(time.perf_counter() - started)
        return result

    for number, source in enumerate(track(images, "comparing")):
        image = read_valid(source)[0]
        if number % 2:
            image = np.ascontiguousarray(np.rot90(image))
        mask, logits = timed(run, image, seconds)
        expected = timed(
            lambda values: predictor(MemoryImage.of(values, "the image", None)),
            image,
            torch_seconds,
        )
        numbers = np.arange(1, len(logits) + 1)[:, None, None]
        multiclass = exclusive and len(logits) > 1
        masks = mask[None] == numbers if multiclass else mask.reshape(logits.shape) > 0
        shares.append(float((masks == expected.masks).mean()))
        differences.append(float(np.abs(logits - expected.logits).max()))
    return Exported(
        output,
        len(images),
        float(np.mean(shares)),
        min(shares),
        max(differences),
        float(np.median(seconds)),
        float(np.median(torch_seconds)),
    )


def report(result: Exported, config: ExportConfig, outputs: str, channels: tuple[int, str]) -> None:
    """Print the comparison, and the inputs and outputs of the file.

    Args:
        result: the comparison.
        config: the settings of the export.
        outputs: the outputs, in words.
        channels: of the image: their number, and what they are.
    """
    table = Table("compared with PyTorch", f"on {result.images} images")
    table.add_row("mask pixels that agree", f"{result.agreement:.4%}")
    table.add_row("... in the worst image", f"{result.least:.4%}")
    table.add_row("largest difference of logits", f"{result.difference:.2g}")
    times = f"{result.seconds:.3f} s (PyTorch {result.torch_seconds:.3f} s)"
    table.add_row("time for an image", times)
    console = Console(soft_wrap=True, markup=False, emoji=False)
    console.print(table)
    megabytes = result.path.stat().st_size / 1e6
    opset = f", opset {OPSET}" if result.path.suffix == ".onnx" else ""
    for line in (
        f"file: {result.path}, {megabytes:.1f} MB, {config.precision}{opset}",
        f"input: image, uint8 height x width x {channels[0]}, {channels[1]}; sides of {MIN_SIDE} "
        f"to {MAX_SIDE} pixels",
        f"outputs: {outputs}",
    ):
        console.print(line, highlight=False, markup=False)
