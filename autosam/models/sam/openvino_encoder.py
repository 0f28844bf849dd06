"""Image encoders computed by OpenVINO, which is faster than PyTorch on a processor."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autosam.models.sam.base import Sam
from autosam.models.sam.blocks import Output
from autosam.utils.assets import cache_folder
from autosam.utils.io import make_folder, not_written

TOLERANCE = 1e-3
"""Largest difference to PyTorch's values, relative to the largest of them."""


def installed() -> bool:
    """Whether OpenVINO is."""
    return find_spec("openvino") is not None


def use_openvino(sam: Sam, weights: str | None) -> None:
    """Let OpenVINO compute the image encoder of a SAM on a CPU, if it is installed.

    Args:
        sam: with its image encoder, frozen.
        weights: see `OpenVinoEncoder`.
    """
    if installed():
        sam.backend = OpenVinoEncoder(sam.image_encoder, sam.spec.name, weights)


class OpenVinoEncoder:
    """An image encoder in OpenVINO, in float32, one image at a time. It is converted at the first
    call, which takes 5 to 60 s, and kept in the cache folder.

    Args:
        encoder: the image encoder in PyTorch, see `Sam`: on the CPU, frozen, in evaluation mode.
        name: of the SAM.
        weights: SHA-256 of its weights; None: it is not kept.
    """

    def __init__(self, encoder: nn.Module, name: str, weights: str | None) -> None:
        self.encoder, self.name = encoder, name
        self.file: Path | None = None
        if weights is not None:
            version = importlib.metadata.version("openvino")
            self.file = cache_folder() / "openvino" / f"{name}-{weights[:16]}-{version}.xml"
        self._compiled: Any = None
        self._refused = False

    def __call__(self, pixels: Tensor) -> Output:
        """Compute what the encoder computes; with PyTorch if OpenVINO's values are others.

        Args:
            pixels: normalised, float32 B x 3 x S x S, on the CPU.
        """
        if self._compiled is None and not self._refused:
            self._prepare(pixels[:1])
        if self._refused:
            return self.encoder(pixels)
        each = [_levels(self._compiled, one[None]) for one in pixels]
        first, *finer = (torch.cat(levels) for levels in zip(*each, strict=True))
        return (first, tuple(finer)) if finer else first

    def _prepare(self, pixels: Tensor) -> None:
        """Compile the kept encoder, or convert it and compare it with PyTorch on an image."""
        import openvino

        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self.file is not None and self.file.is_file():
            network = core.read_model(self.file, self.file.with_suffix(".bin"))
            self._compiled = core.compile_model(network, "CPU", settings)
            return
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing
            traced = torch.jit.trace(_Flat(self.encoder).eval(), (pixels,), check_trace=False)
            exact = traced(pixels)
        network = openvino.convert_model(traced, input=[list(pixels.shape)])
        compiled = core.compile_model(network, "CPU", settings)
        for mine, theirs in zip(_levels(compiled, pixels), exact, strict=True):
            error = float((mine - theirs).abs().max() / theirs.abs().max())
            if not error <= TOLERANCE:
                self._refused = True
                print(
                    f"--encoder_backend: OpenVINO's embedding of {self.name} differs by {error:.1g}"
                    " of its largest value. PyTorch computes it instead.",
                    file=sys.stderr,
                )
                return
        self._compiled = compiled
        if self.file is not None:
            _keep(network, self.file)


def _keep(network: Any, path: Path) -> None:
    """Write a converted encoder: first its weights, then the file that is looked for."""
    import openvino

    make_folder(path.parent)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            file = Path(folder) / path.name
            openvino.save_model(network, file, compress_to_fp16=False)
            os.replace(file.with_suffix(".bin"), path.with_suffix(".bin"))
            os.replace(file, path)
    except (OSError, RuntimeError) as error:
        raise not_written(path, error) from None


class _Flat(nn.Module):
    """An image encoder whose levels are one tuple."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        output = self.encoder(pixels)
        return (output,) if isinstance(output, Tensor) else (output[0], *output[1])


def _levels(compiled: Any, pixels: Tensor) -> list[Tensor]:
    """The levels of an image, float 1 x ... each. May be called from several threads."""
    found = compiled.create_infer_request().infer([np.ascontiguousarray(pixels.numpy())])
    return [torch.from_numpy(np.array(level)) for level in found.values()]
