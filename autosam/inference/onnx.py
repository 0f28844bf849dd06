"""A run as one ONNX file, image in and mask out, checked before it is
called done."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from autosam.config.commands import ExportConfig
from autosam.config.values import require_config
from autosam.data.layouts import load_splits
from autosam.data.pairs import Pixels
from autosam.data.readers.files import image_file
from autosam.errors import AutosamError, CheckpointError, ConfigError, DataError
from autosam.inference.onnx_graph import Graph
from autosam.inference.predictor import Predictor, load
from autosam.inference.sources import find_sources
from autosam.utils.io import make_folder, write_atomically

SMALLEST, LARGEST = 2, 16384
"""Sides of an image that the graph takes, pixels."""


OPSET = 20


AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.9}
"""Share of mask pixels that must be as PyTorch has them, by precision."""


NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}


Runner = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""uint8 H x W x 3 -> mask and logits, see `Graph`."""


@dataclass
class Exported:
    """What was written, and how it compares with PyTorch."""

    path: Path
    images: int
    agreement: float
    """Share of mask pixels that are the same, mean over images."""
    least: float
    """Of the image where it is least."""
    difference: float
    """Largest difference of two logits."""
    seconds: float
    """For an image, median; all of the processor's cores."""
    torch_seconds: float
    """PyTorch's, on the same processor."""


def export(config: ExportConfig) -> Exported:
    """Write the file and compare.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is written.
        CheckpointError: the file does not do what the run does; nothing is kept.
    """
    require_config(config, ExportConfig, "export")
    output, kind = check(config)
    predictor = load(
        config.checkpoint, config.sam_checkpoint, "cpu", config.fast, False, config.threshold,
        config.min_area,
    )  # fmt: skip
    if predictor.loaded.config.color_prior is not None:
        raise CheckpointError(
            f"--checkpoint {config.checkpoint}: the run {predictor.loaded.config.run} takes its "
            "prompts from a rule on colours, which is no part of a graph. Export autosam, decoder, "
            "hybrid or head."
        )
    images = readable(find_images(config, predictor), config.count)
    first = images[0].read()
    make_folder(output.parent)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        file = Path(folder) / output.name
        print("tracing ...")
        program = trace(predictor, first)
        if kind == "onnx":
            run = write_onnx(program, file, config.precision)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.export.save(program, file)
            run = run_program(file)
        result = compare(run, predictor, images, output)
        if result.agreement < AGREEMENT[config.precision]:
            raise CheckpointError(
                f"{output}: not kept. On {result.images} images {result.agreement:.3%} of its "
                f"mask pixels are as PyTorch has them; at least {AGREEMENT[config.precision]:.1%} "
                f"was expected (largest difference of logits {result.difference:.3g}). "
                "Please report it, with the settings of the run."
            )
        write_atomically(output, file.replace)
    report(result, config)
    return result


def check(config: ExportConfig) -> tuple[Path, str]:
    """The file to write, and its kind.

    Raises:
        ConfigError: settings that cannot work, or packages that are missing.
    """
    if not config.checkpoint:
        raise ConfigError("--checkpoint RUN is needed.")
    output = Path(config.output)
    kind = output.suffix.lower().removeprefix(".")
    if kind not in NEEDS:
        raise ConfigError(f"--output {output}: the name must end in .onnx or .pt2.")
    if kind == "pt2" and config.precision != "fp32":
        raise ConfigError(f"--precision {config.precision}: is for .onnx; .pt2 is written in fp32.")
    if output.exists() and not config.overwrite:
        raise ConfigError(f"--output {output}: exists. Choose another, or pass --overwrite true.")
    missing = [name for name in NEEDS[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: not installed: pip install 'autosam[export]'")
    return output, kind


def find_images(config: ExportConfig, predictor: Predictor) -> list[Pixels]:
    """Images to compare on: first those spread over all, then the others."""
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
                f"--images DIR is needed, images to compare on: those of the run cannot be had "
                f"({error})"
            ) from None
    if not found:
        raise ConfigError(f"--images {config.images}: holds no image to compare on. Give some.")
    step = max(1, len(found) // config.count)
    first = found[::step]
    return first + [image for i, image in enumerate(found) if i % step]


def readable(images: list[Pixels], count: int) -> list[Pixels]:
    """The first `count` images that can be read and are large enough; a warning names those that
    are left out for it. Read before the graph is made, which takes minutes.

    Raises:
        DataError: there is none.
    """
    kept: list[Pixels] = []
    troubles: list[str] = []
    for image in images:
        if len(kept) == count:
            break
        try:
            height, width = image.read().shape[:2]
        except AutosamError as error:
            troubles.append(str(error))
            continue
        if min(height, width) < 2 * SMALLEST:
            troubles.append(f"{image}: {width} x {height} pixels, too small to compare on.")
        else:
            kept.append(image)
    if not kept:
        raise DataError(
            f"no image to compare on, of {len(images)}: {troubles[0]} Give others as --images DIR."
        )
    for trouble in troubles:
        print(f"warning: not compared on: {trouble}", file=sys.stderr)
    return kept


def trace(predictor: Predictor, image: np.ndarray) -> torch.export.ExportedProgram:
    """The run as a program that leaves the image's sides open."""
    graph = Graph(predictor.segmenter, predictor.loaded.config.data.exclusive, predictor.threshold,
                  predictor.min_area)  # fmt: skip
    sides = {
        axis: torch.export.Dim(name, min=SMALLEST, max=LARGEST)
        for axis, name in enumerate(("height", "width"))
    }
    if image.shape[0] == image.shape[1]:  # equal sides would be taken for one
        image = image[: image.shape[0] * 3 // 4]
    example = torch.from_numpy(image.copy())
    # ONNX knows fused attention over four axes alone, timm's has three.
    modules: list[Any] = list(graph.modules())
    fused = [module for module in modules if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (example,), dynamic_shapes={"image": sides})
    for module in fused:
        module.fused_attn = True
    for part in program.graph_module.modules():  # stack traces hold paths of this machine
        for node in getattr(part, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)
    return program


def write_onnx(program: torch.export.ExportedProgram, path: Path, precision: str) -> Runner:
    """Write a program as ONNX in some precision, and open it."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["image"],
            output_names=["mask", "logits"],
            dynamic_shapes={"image": {0: "height", 1: "width"}},
            opset_version=OPSET,
            verbose=False,
        )
    assert written is not None
    ClearMetadataAndDocStringPass()(written.model)  # stack traces hold paths of this machine
    whole = path if precision == "fp32" else path.with_name("fp32.onnx")
    written.save(str(whole))
    if precision == "fp16":
        _halve(whole, path)
    elif precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        logging.disable(logging.WARNING)  # it warns of every integer, and prints tensors
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                quantize_dynamic(
                    whole,
                    path,
                    op_types_to_quantize=["MatMul", "Gemm"],
                    weight_type=QuantType.QInt8,
                )
        finally:
            logging.disable(logging.NOTSET)
    return run_onnx(path)


def _halve(source: Path, target: Path) -> None:
    """Weights and computations in float16, but for the geometry, which needs more digits."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(source)
    onnx.save(convert_float_to_float16(model, keep_io_types=True), target)


def run_onnx(path: Path) -> Runner:
    """An ONNX file as a function, by onnxruntime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; float16 has few kernels on a processor, and it says so
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask, logits = session.run(None, {"image": image})
        return np.asarray(mask), np.asarray(logits)

    return run


def run_program(path: Path) -> Runner:
    """A .pt2 file as a function."""
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask, logits = module(torch.from_numpy(image.copy()))
        return mask.numpy(), logits.numpy()

    return run


def compare(run: Runner, predictor: Predictor, images: list[Pixels], output: Path) -> Exported:
    """Run a file and PyTorch on images, each as it is and turned by a quarter: portrait and
    landscape."""
    exclusive = predictor.loaded.config.data.exclusive
    shares: list[float] = []
    differences: list[float] = []
    seconds: list[float] = []
    torch_seconds: list[float] = []

    def timed(function: Callable[..., Any], image: np.ndarray, into: list[float]) -> Any:
        started = time.perf_counter()
        found = function(image)
        into.append(time.perf_counter() - started)
        return found

    for number, source in enumerate(track(images, "comparing")):
        image = source.read()
        if number % 2:
            image = np.ascontiguousarray(np.rot90(image))
        mask, logits = timed(run, image, seconds)
        expected = timed(predictor, image, torch_seconds)
        numbers = np.arange(1, len(logits) + 1)[:, None, None]
        several = exclusive and len(logits) > 1
        own = mask[None] == numbers if several else mask.reshape(logits.shape) > 0
        shares.append(float((own == expected.masks).mean()))
        differences.append(float(np.abs(logits - expected.logits).max()))
    return Exported(
        output, len(images), float(np.mean(shares)), min(shares), max(differences),
        float(np.median(seconds)), float(np.median(torch_seconds)),
    )  # fmt: skip


def report(result: Exported, config: ExportConfig) -> None:
    """Print what was found."""
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
        f"in: image, uint8 height x width x 3, RGB; sides of {SMALLEST} to {LARGEST} pixels",
        "out: mask, uint8; logits, float32 classes x height x width",
    ):
        console.print(line, highlight=False, markup=False)
