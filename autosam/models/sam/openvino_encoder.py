"""Image encoders computed by OpenVINO, which is faster than PyTorch on a processor."""

from __future__ import annotations

import hashlib
import inspect
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autosam.errors import StorageError, first_line
from autosam.models.sam.base import Sam
from autosam.models.sam.blocks import Output
from autosam.models.state_dict import file_hash
from autosam.utils.assets import cache_folder
from autosam.utils.device import gains_from_bf16
from autosam.utils.io import write_atomically
from autosam.utils.logging import without_warnings

TOLERANCE = 1e-3
"""Largest difference to PyTorch's values in float32, relative to the largest of them."""
SHARE = 2.0
"""Largest root mean square error in bfloat16, as a multiple of PyTorch's in bfloat16."""
PREPARING = threading.Lock()
"""Held while an encoder is converted: of several threads one does it."""


def installed() -> bool:
    """Whether OpenVINO is. (A folder of that name in the current one has no origin.)"""
    spec = find_spec("openvino")
    return spec is not None and spec.origin is not None


def use_openvino(sam: Sam, weights: str | None) -> None:
    """Let OpenVINO compute the image encoder of a SAM on a CPU, if it is installed.

    Args:
        sam: with its image encoder, frozen.
        weights: see `OpenVinoEncoder`.
    """
    if installed():
        sam.backend = OpenVinoEncoder(sam.image_encoder, sam.spec.name, weights)


class OpenVinoEncoder:
    """An image encoder in OpenVINO, one image at a time, in float32, or in bfloat16 where autocast
    is enabled and the processor has its instructions. It is converted at the first call, which
    takes 5 to 60 s, and kept in the cache folder. Where OpenVINO fails or computes other values,
    PyTorch computes the encoder, which is said once.

    Args:
        encoder: the image encoder in PyTorch, see `Sam`: on the CPU, frozen, in evaluation mode.
        name: of the SAM.
        weights: SHA-256 of its weights; None: it is not kept.

    Attributes:
        refused: whether PyTorch computes it, in both precisions.
    """

    def __init__(self, encoder: nn.Module, name: str, weights: str | None) -> None:
        self.encoder, self.name, self.weights = encoder, name, weights
        self._compiled: dict[bool, Any] = {}
        self.refused = False

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which compile the encoder themselves."""
        return self.__dict__ | {"_compiled": {}}

    def __call__(self, pixels: Tensor) -> Output:
        """Compute what the encoder computes.

        Args:
            pixels: normalised, float32 B x 3 x S x S, on the CPU.

        Returns:
            float32, as OpenVINO computes it.
        """
        half = torch.is_autocast_enabled("cpu")
        by_pytorch = half and not gains_from_bf16(pixels.device)
        if half not in self._compiled and not (self.refused or by_pytorch):
            with PREPARING:
                self._prepare_once(pixels[:1], half)
        if self.refused or by_pytorch:
            return self.encoder(pixels)
        each = [_levels(self._compiled[half], one[None]) for one in pixels]
        first, *finer = (torch.cat(levels) for levels in zip(*each, strict=True))
        return (first, tuple(finer)) if finer else first

    def _prepare_once(self, pixels: Tensor, half: bool) -> None:
        """Prepare a precision, or say why PyTorch computes the encoder; nothing if that is done."""
        if half in self._compiled or self.refused:
            return
        try:
            with torch.autocast("cpu", enabled=False):
                self._compiled[half] = self._prepare(pixels, half)
        except Exception as error:  # of any kind, also where it was installed incompletely
            self.refused = True
            reason = first_line(error)
            print(
                f"OpenVINO does not compute the image encoder of {self.name} ({reason:.200}). "
                "PyTorch does, more slowly. Upgrade or uninstall openvino.",
                file=sys.stderr,
            )

    def _prepare(self, pixels: Tensor, half: bool) -> Any:
        """Compile the kept encoder, or convert it and compare it with PyTorch on an image.

        Raises:
            ValueError: it computes other values.
            Exception: of OpenVINO.
        """
        openvino = import_openvino()
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # every process would take the same cores
        }
        core = openvino.Core()
        kept = None
        if self.weights is not None and (code := code_digest(self.encoder)) is not None:
            version = openvino.__version__.split("-")[0]
            key = f"{self.name}-{self.weights[:16]}-{code[:8]}-{version}{'-bf16' * half}"
            kept = cache_folder() / "openvino" / key
            if (xml := _unharmed(kept)) is not None:
                return core.compile_model(core.read_model(xml), "CPU", settings)
        with torch.no_grad(), without_warnings():  # of tracing
            flat = _Flat(self.encoder).eval()
            traced = torch.jit.trace(flat, (pixels,), check_trace=False)
            exact = traced(pixels)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                pytorch = flat(pixels) if half else exact
        network = openvino.convert_model(traced, input=[list(pixels.shape)])
        compiled = core.compile_model(network, "CPU", settings)
        for mine, theirs, true in zip(_levels(compiled, pixels), pytorch, exact, strict=True):
            error = float((mine - true).abs().max() / true.abs().max())
            if not half and not error <= TOLERANCE:
                raise ValueError(f"its values differ by {error:.1g} of the largest")
            times = float((mine - true).norm() / (theirs - true).norm())
            if half and not times <= SHARE:
                raise ValueError(f"its error in bfloat16 is {times:.1f} times PyTorch's")
        if kept is not None:
            _keep(network, kept)
        return compiled


def import_openvino() -> Any:
    """Import OpenVINO without the package by which it reports each conversion to its makers, from
    processes that it starts: it does without, if that is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def code_digest(network: nn.Module) -> str | None:
    """Identifies the code of a network: the files that define its modules, PyTorch's among them.
    None if some are defined in no file, as in a notebook."""
    try:
        files = {Path(inspect.getfile(type(module))) for module in network.modules()}
    except (TypeError, OSError):
        return None
    contents = sorted(file.read_bytes() for file in files)
    return hashlib.sha256(b"".join(contents)).hexdigest()


def _unharmed(folder: Path) -> Path | None:
    """The .xml file of a kept encoder, if its files are as they were written."""
    xml, weights, digest = (folder / name for name in ("encoder.xml", "encoder.bin", "sha256"))
    try:
        if digest.read_text(encoding="utf-8") == _digest(xml, weights):
            return xml
    except (OSError, UnicodeDecodeError):
        pass
    return None


def _keep(network: Any, folder: Path) -> None:
    """Write a converted encoder, at last the digest of its files. Without it the next process
    converts it again."""
    openvino = import_openvino()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            xml = Path(name) / "encoder.xml"
            openvino.save_model(network, xml, compress_to_fp16=False)
            digest = _digest(xml, xml.with_suffix(".bin"))
            for file in (xml.with_suffix(".bin"), xml):
                file.replace(folder / file.name)
        write_atomically(folder / "sha256", lambda to: to.write_text(digest, encoding="utf-8"))
    except (OSError, RuntimeError, StorageError) as error:
        print(f"{folder}: not kept ({error}); the next command converts it again", file=sys.stderr)


def _digest(*files: Path) -> str:
    """Identifies the content of files."""
    return " ".join(map(file_hash, files))


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
