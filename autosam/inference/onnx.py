"""Export a run as one ONNX or torch.export file from image to mask, and compare it with PyTorch."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autosam.config import DataConfig
from autosam.config.commands import ExportConfig
from autosam.data.instances import label_of
from autosam.data.pairs import Pixels, read_valid
from autosam.data.readers.memory import MemoryImage
from autosam.data.tiles import cut, tile_regions
from autosam.errors import CheckpointError, ConfigError
from autosam.evaluation.predict_batch import average_tiles
from autosam.inference.onnx_compare import (
    Exported,
    Runner,
    compare,
    find_images,
    readable,
    report,
)
from autosam.inference.onnx_graph import MAX_SIDE, MIN_SIDE, OPSET, Graph
from autosam.inference.onnx_objects import DrawGraph, MapsGraph, ObjectFiles, run_objects
from autosam.inference.predictor import Predictor, load
from autosam.models.instance_segmenter import InstanceSegmenter
from autosam.utils.io import make_folder, write_atomically
from autosam.utils.logging import without_warnings

AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.9}
"""Smallest share of mask pixels that must agree with PyTorch, by precision."""

SIDES = {
    axis: torch.export.Dim(name, min=MIN_SIDE, max=MAX_SIDE)
    for axis, name in enumerate(("height", "width"))
}
"""Dynamic dimensions of an image."""

NAMED_SIDES = {"image": {0: "height", 1: "width"}}
"""Their names in an ONNX file."""

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}
"""Packages by suffix of the file."""


def export(config: ExportConfig) -> Exported:
    """Export a run and compare the file with PyTorch.

    Args:
        config: the checkpoint, the file and its precision.

    Returns:
        The comparison.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is written.
        CheckpointError: the file disagrees with PyTorch; it is not kept.
    """
    output = Path(config.output)
    kind = output.suffix.lower().removeprefix(".")
    require_packages(kind)
    predictor = load(
        config.checkpoint,
        config.sam_checkpoint,
        device="cpu",
        fast=config.fast,
        threshold=config.threshold,
        min_area=config.min_area,
        encoder_backend="torch",  # what the file is compared with
    )
    if predictor.loaded.config.color_prior is not None:
        raise CheckpointError(
            f"--checkpoint {config.checkpoint}: the run {predictor.loaded.config.run} takes its "
            "prompts from a color prior, which cannot be exported. Export autosam, decoder, hybrid "
            "or head."
        )
    images = readable(find_images(config, predictor), config.count)
    first = read_valid(images[0])[0]
    data = predictor.loaded.config.data
    ground = "" if predictor.resolution is None else f" of {predictor.resolution:g} m"
    predictor.resolution = None  # the tiles of the comparison count the pixels of its images
    make_folder(output.parent)
    if predictor.by_object:
        return export_objects(predictor, images, config)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        file = Path(folder) / output.name
        print("tracing ...")
        program = trace(predictor, first)
        if kind == "onnx":
            facts = {"threshold": f"{predictor.threshold:g}", **generator_facts(data)}
            run = write_onnx(program, file, config.precision, facts)
        else:
            with without_warnings():
                torch.export.save(program, file)
            run = run_program(file)
        if predictor.tile is not None:
            run = in_tiles(run, predictor, predictor.tile)
        result = compare(run, predictor, images, output)
        if result.agreement < AGREEMENT[config.precision]:
            raise CheckpointError(
                f"{output}: not kept. On {result.images} images {result.agreement:.3%} of its "
                f"mask pixels are as PyTorch has them; at least {AGREEMENT[config.precision]:.1%} "
                f"was expected (largest difference of logits {result.difference:.3g}). "
                "Please report it, with the settings of the run."
            )
        write_atomically(output, file.replace)
    outputs = "mask, uint8; logits, float32 classes x height x width"
    report(result, config, outputs, channels_of(data))
    if predictor.tile is not None:
        print(
            f"Trained on crops: give it tiles of {predictor.tile} px{ground} and average the logits"
            f" where they overlap (threshold {predictor.threshold:g}); docs/predict.md shows how."
        )
    return result


def channels_of(data: DataConfig) -> tuple[int, str]:
    """Number of the channels of an input image, and what they are, in words."""
    count = data.generator_channels
    if count is None:
        return 3, "RGB"
    if data.slices > 1:
        return 3 + count, f"RGB, then {count} neighbouring slices in their order"
    return 3 + count, "RGB, then generator_bands of the metadata, from generator_window to 0..255"


def generator_facts(data: DataConfig) -> dict[str, str]:
    """Metadata of a file whose prompt generator reads bands of its own: their numbers, and the
    stored values of each that become 0 and 255, as JSON."""
    if data.generator_bands is None:
        return {}
    return {
        "generator_bands": json.dumps(data.generator_bands),
        "generator_window": json.dumps(data.generator_window),
    }


def in_tiles(run: Runner, predictor: Predictor, tile: int) -> Runner:
    """Run a file on the tiles of an image, and average its logits where they overlap.

    Args:
        run: the file as a function.
        predictor: the run, which makes the mask of the averaged logits.
        tile: side of a tile, pixels.
    """

    def run_tiles(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = image.shape[:2]
        tiles = (
            (region, torch.from_numpy(run(np.ascontiguousarray(cut(image, region)))[1]))
            for region in tile_regions((height, width), tile)
        )
        logits = average_tiles(tiles, (predictor.segmenter.num_classes, height, width))
        found = predictor.decide(logits)
        if predictor.loaded.config.data.exclusive and len(logits) > 1:
            return found.label, logits.numpy()
        return found.masks.astype(np.uint8) * 255, logits.numpy()

    return run_tiles


def export_objects(predictor: Predictor, images: list[Pixels], config: ExportConfig) -> Exported:
    """Export a run that draws objects one by one as two files, see `ObjectFiles`.

    Args:
        predictor: the run.
        images: images to compare on.
        config: the settings of the export.

    Raises:
        ConfigError: another kind of file or precision than ONNX in float32.
        CheckpointError: the run has no map of centres, or the files disagree with PyTorch.
    """
    output, segmenter, tile = Path(config.output), predictor.segmenter, predictor.tile
    facts = {
        "input_size": str(segmenter.input_spec.image_size),
        "threshold": f"{predictor.threshold:g}",
        **generator_facts(predictor.loaded.config.data),
    }
    if tile is not None:  # the files see one tile; objects of several are joined elsewhere
        corners = [(read_valid(image)[0][:tile, :tile].copy(), str(image)) for image in images]
        images = [MemoryImage.of(corner, name, None) for corner, name in corners]
    if output.suffix.lower() != ".onnx" or config.precision != "fp32":
        raise ConfigError(
            f"--output {output}, --precision {config.precision}: a run that draws objects one by "
            "one is exported as ONNX in fp32 alone."
        )
    if not isinstance(segmenter, InstanceSegmenter):
        raise CheckpointError(
            f"--checkpoint {config.checkpoint}: the run {predictor.loaded.config.run} looks for no "
            "centres of objects. Export autosam, hybrid or autosam-lora."
        )
    final = ObjectFiles.of(output)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        files = ObjectFiles.of(Path(folder) / output.name)
        print("tracing ...")
        tensors = write_maps(segmenter, read_valid(images[0])[0], files.maps, facts)
        write_draw(segmenter, tensors, files.draw)
        maps, draw = open_session(files.maps), open_session(files.draw)

        def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            spec, threshold = segmenter.input_spec, predictor.threshold
            logits, objects = run_objects(maps, draw, image, spec, threshold)
            return label_of(objects), logits

        result = compare(run, predictor, images, output)
        if result.agreement < AGREEMENT["fp32"]:
            raise CheckpointError(
                f"{output}: not kept. On {result.images} images {result.agreement:.3%} of its "
                f"pixels are as PyTorch has them; at least {AGREEMENT['fp32']:.1%} was expected. "
                "Please report it, with the settings of the run."
            )
        write_atomically(final.draw, files.draw.replace)
        write_atomically(final.maps, files.maps.replace)
    outputs = f"centers, and the tensors that {final.draw.name} takes"
    report(result, config, outputs, channels_of(predictor.loaded.config.data))
    print(f"threshold {facts['threshold']}; how to use both files: docs/instances.md")
    return result


def require_packages(kind: str) -> None:
    """Refuse a kind of file whose packages are missing.

    Raises:
        ConfigError: with the command that installs them.
    """
    missing = [name for name in NEEDS[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: not installed: pip install 'autosam[export]'")


def trace(predictor: Predictor, image: np.ndarray) -> torch.export.ExportedProgram:
    """Trace a run with dynamic height and width.

    Args:
        predictor: the run.
        image: an example, uint8 H x W x (3 + C).

    Returns:
        The program, without stack traces.
    """
    graph = Graph(
        predictor.segmenter,
        predictor.loaded.config.data.exclusive,
        predictor.threshold,
        predictor.min_area,
    )
    return trace_graph(graph, (example_of(image),), {"image": SIDES})


def example_of(image: np.ndarray) -> torch.Tensor:
    """An example to trace with: equal sides would be traced as one dimension."""
    if image.shape[0] == image.shape[1]:
        image = image[: image.shape[0] * 3 // 4]
    return torch.from_numpy(image.copy())


def trace_graph(
    graph: nn.Module, example: tuple[Any, ...], dynamic: dict[str, Any]
) -> torch.export.ExportedProgram:
    """Trace a module.

    Args:
        graph: the module.
        example: its arguments.
        dynamic: their dynamic dimensions, see `torch.export.export`.

    Returns:
        The program, without stack traces.
    """
    # The exporter supports fused attention with four dimensions only; timm's has three.
    modules: list[Any] = list(graph.modules())
    fused = [module for module in modules if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    with without_warnings():
        program = torch.export.export(graph, example, dynamic_shapes=dynamic)
    for module in fused:
        module.fused_attn = True
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # holds paths of this machine
    return program


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, precision: str, facts: dict[str, str]
) -> Runner:
    """Write a program as ONNX and open the file.

    Args:
        program: see `trace`.
        path: the file.
        precision: "fp32", "fp16" or "int8".
        facts: metadata of the file.

    Returns:
        The file as a function.
    """
    whole = path if precision == "fp32" else path.with_name("fp32.onnx")
    save_onnx(program, whole, ["image"], ["mask", "logits"], NAMED_SIDES, facts)
    if precision == "fp16":
        _halve(whole, path)
    elif precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        logging.disable(logging.WARNING)  # onnxruntime warns about every integer tensor
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


def save_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    inputs: list[str],
    outputs: list[str],
    dynamic: dict[str, dict[int, str]],
    facts: dict[str, str] | None = None,
) -> None:
    """Write a program as ONNX.

    Args:
        program: see `trace_graph`.
        path: the file.
        inputs: names of its inputs.
        outputs: names of its outputs.
        dynamic: names of the dynamic dimensions of the inputs that have some.
        facts: metadata of the file.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with without_warnings():
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            verbose=False,
        )
    assert written is not None
    ClearMetadataAndDocStringPass()(written.model)  # stack traces hold paths of this machine
    written.model.metadata_props.update(facts or {})
    written.save(str(path))


def write_maps(
    segmenter: InstanceSegmenter, image: np.ndarray, path: Path, facts: dict[str, str]
) -> list[torch.Tensor]:
    """Write the first file of `ObjectFiles`.

    Args:
        segmenter: the run.
        image: an example, uint8 H x W x (3 + C).
        path: the file.
        facts: metadata of the file.

    Returns:
        The tensors that it passes on to the second, of an example.
    """
    graph, example = MapsGraph(segmenter), example_of(image)
    with torch.no_grad():
        _, *tensors = graph(example)
    names = ["centers", *(f"tensor_{i}" for i in range(len(tensors)))]
    program = trace_graph(graph, (example,), {"image": SIDES})
    save_onnx(program, path, ["image"], names, NAMED_SIDES, facts)
    return tensors


def write_draw(segmenter: InstanceSegmenter, tensors: list[torch.Tensor], path: Path) -> None:
    """Write the second file of `ObjectFiles`.

    Args:
        segmenter: the run.
        tensors: see `write_maps`.
        path: the file.
    """
    points = torch.tensor([[20.0, 30.0], [40.0, 50.0], [60.0, 20.0]])
    objects = torch.export.Dim("objects", min=1, max=4096)
    dynamic = {"points": {0: objects}, "tensors": [None] * len(tensors)}
    program = trace_graph(DrawGraph(segmenter), (points, tensors), dynamic)
    names = ["points", *(f"tensor_{i}" for i in range(len(tensors)))]
    save_onnx(program, path, names, ["logits", "quality"], {"points": {0: "objects"}})


def _halve(source: Path, target: Path) -> None:
    """Convert a model to float16; the geometry, which is in float64, stays as it is."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(source)
    onnx.save(convert_float_to_float16(model, keep_io_types=True), target)


def run_onnx(path: Path) -> Runner:
    """Open an ONNX file with onnxruntime on the CPU.

    Args:
        path: the file.
    """
    session = open_session(path)

    def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask, logits = session.run(None, {"image": image})
        return np.asarray(mask), np.asarray(logits)

    return run


def open_session(path: Path) -> Any:
    """Open an ONNX file with onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: there are warnings about missing float16 kernels
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_program(path: Path) -> Runner:
    """Open a .pt2 file.

    Args:
        path: the file.
    """
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask, logits = module(torch.from_numpy(image.copy()))
        return mask.numpy(), logits.numpy()

    return run
