"""Image encoders computed by OpenVINO, which is faster than PyTorch on a processor."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosam.errors import ConfigError, StorageError, first_line, is_out_of_memory
from autosam.models.sam.base import Sam
from autosam.models.sam.blocks import Output
from autosam.models.sam.encode import images_at_once
from autosam.models.state_dict import file_hash
from autosam.utils.assets import cache_folder
from autosam.utils.device import gains_from_bf16
from autosam.utils.io import locked, write_atomically
from autosam.utils.logging import without_warnings
from autosam.utils.threads import cores

TOLERANCE = 1e-3
"""Largest difference to PyTorch's values in float32, relative to the largest of them."""
SHARE = 2.0
"""Largest root mean square error in bfloat16, as a multiple of PyTorch's in bfloat16."""
DAYS = 60
"""A kept encoder that was not used for so long is deleted when another one is kept."""
T = TypeVar("T")
STREAMS = 8
"""Most images of a small encoder that are computed at a time."""
PREPARING = threading.Lock()
"""Held while an encoder is converted: of several threads one does it."""


def installed() -> bool:
    """Whether OpenVINO is. (A folder of that name in the current one has no origin.)"""
    spec = find_spec("openvino")
    return spec is not None and spec.origin is not None


def use_openvino(sam: Sam, weights: str | None, backend: str = "auto") -> None:
    """Let OpenVINO compute the image encoder of a SAM on a CPU.

    Args:
        sam: with its image encoder, frozen.
        weights: see `OpenVinoEncoder`.
        backend: "auto": if it is installed. "torch": no. "openvino": it must.

    Raises:
        ConfigError: see `check_backend`.
    """
    check_backend(backend)
    if backend != "torch" and installed():
        must = backend == "openvino"
        several = images_at_once(sam.spec) > 1
        sam.backend = OpenVinoEncoder(sam.image_encoder, sam.spec.name, weights, must, several)


def check_backend(backend: str) -> None:
    """Refuse `--encoder_backend openvino` where it is not installed.

    Raises:
        ConfigError: it is not.
    """
    if backend == "openvino" and not installed():
        raise ConfigError(
            "--encoder_backend openvino: OpenVINO is not installed. Run pip install "
            "'autosam[openvino]', or choose --encoder_backend auto."
        )


class OpenVinoEncoder:
    """An image encoder in OpenVINO, one image at a time, in float32, or in bfloat16 where autocast
    is enabled and the processor has its instructions (elsewhere PyTorch computes, or with `must`
    OpenVINO in float32). It is converted at the first call, which takes 5 to 60 s, compared with
    PyTorch on drawn noise, and kept in the cache folder. Where OpenVINO cannot convert or compile
    it, or computes other values, PyTorch computes the encoder, which is said once.

    Args:
        encoder: the image encoder in PyTorch, see `Sam`: on the CPU, frozen, in evaluation mode.
        name: of the SAM.
        weights: SHA-256 of its weights; None: it is not kept.
        must: raise an error where OpenVINO fails or computes other values.
        several: several threads of this process may call it at a time, if each of them uses less
            than all cores; costs memory for each.
    """

    def __init__(
        self,
        encoder: nn.Module,
        name: str,
        weights: str | None,
        must: bool = False,
        several: bool = False,
    ) -> None:
        self.encoder, self.name, self.weights, self.must = encoder, name, weights, must
        self.several = several
        self._running: dict[bool, Future[Any]] = {}
        """Preparations that have begun; a signal may have ended the wait for one."""
        self._compiled: dict[bool, Any] = {}
        """By precision (bfloat16 or not); None where PyTorch computes; an error with `must`."""

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which compile the encoder themselves."""
        refused = {half: None for half, one in self._compiled.items() if one is None}
        return self.__dict__ | {"_running": {}, "_compiled": refused}

    def __call__(self, pixels: Tensor) -> Output:
        """Compute what the encoder computes.

        Args:
            pixels: normalised, float32 B x 3 x S x S, on the CPU.

        Returns:
            float32, as OpenVINO computes it.

        Raises:
            ConfigError: OpenVINO must compute it and does not.
        """
        half = torch.is_autocast_enabled("cpu")
        if half and not gains_from_bf16(pixels.device):
            if not self.must:
                return self.encoder(pixels)
            half = False
        if half not in self._compiled:
            with PREPARING:
                self._prepare_once(pixels.shape[-1], half)
        compiled = self._compiled[half]
        if compiled is None:
            return self.encoder(pixels)
        if isinstance(compiled, ConfigError):
            raise compiled
        each = [_levels(compiled, one[None]) for one in pixels]
        first, *finer = (torch.cat(levels) for levels in zip(*each, strict=True))
        return (first, tuple(finer)) if finer else first

    def _prepare_once(self, size: int, half: bool) -> None:
        """Prepare a precision, or say why PyTorch computes the encoder; nothing if that is done."""
        if half in self._compiled:
            return
        try:
            # Only the main thread receives signals: OpenVINO, which calls Python, would turn their
            # exceptions into errors of its own.
            if half not in self._running:
                threads = torch.get_num_threads()
                self._running[half] = in_thread(self._prepare, size, half, threads)
            self._compiled[half] = result_of(self._running[half])
        except Exception as error:  # of any kind, also where it was installed incompletely
            if self.must and is_out_of_memory(error):
                raise
            precision = "bfloat16" if half else "float32"
            what = (
                f"OpenVINO does not compute the image encoder of {self.name} in {precision} "
                f"({_reason(error):.200})."
            )
            if self.must:
                self._compiled[half] = ConfigError(
                    f"{what} Upgrade openvino, or let PyTorch compute it (--encoder_backend auto)."
                )
                return
            self._compiled[half] = None
            remedy = "" if is_out_of_memory(error) else " Upgrade or uninstall openvino."
            print(f"{what} PyTorch does, more slowly.{remedy}", file=sys.stderr)

    def _prepare(self, size: int, half: bool, threads: int) -> Any:
        """Compile the kept encoder, or convert it and compare it with PyTorch.

        Args:
            size: S.
            half: in bfloat16.
            threads: for an image.

        Raises:
            ValueError: it computes other values.
            Exception: of OpenVINO.
        """
        openvino = import_openvino()
        # Its first array of NumPy: if two threads take one for the first time at once, OpenVINO can
        # deadlock between the initialisation of its C++ variables and Python's global lock.
        _ = openvino.Tensor(openvino.Type.f32, [1]).data
        torch.set_num_threads(threads)
        streams = min(max(1, cores() // threads), STREAMS) if self.several else 1
        settings = {
            "NUM_STREAMS": streams,  # images that are computed at a time
            "INFERENCE_NUM_THREADS": streams * threads,
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # every process would take the same cores
        }
        core = openvino.Core()
        folder = self._folder(half)
        if folder is None:
            return self._convert(core, settings, size, half)[1]
        if (compiled := _read(core, settings, folder)) is not None:
            return compiled
        with _of_several_one(folder, self.name):
            if (compiled := _read(core, settings, folder)) is None:
                network, compiled = self._convert(core, settings, size, half)
                _keep(network, folder)
            return compiled

    def _folder(self, half: bool) -> Path | None:
        """Where the encoder is kept; None if it is not."""
        if self.weights is None or (code := code_digest(self.encoder)) is None:
            return None
        version = import_openvino().__version__.split("-")[0]
        name = f"{self.name}-{self.weights[:16]}-{code[:8]}-{version}{'-bf16' * half}"
        return cache_folder() / "openvino" / name

    def _convert(self, core: Any, settings: dict[str, Any], size: int, half: bool) -> Any:
        """Convert, compile and compare the encoder: the network, and compiled."""
        pixels = _noise(size)
        with torch.no_grad(), without_warnings():  # of tracing
            flat = _Flat(self.encoder).eval()
            traced = torch.jit.trace(flat, (pixels,), check_trace=False)
            exact = traced(pixels)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                pytorch = flat(pixels) if half else exact
        network = import_openvino().convert_model(traced, input=[list(pixels.shape)])
        compiled = core.compile_model(network, "CPU", settings)
        for mine, theirs, true in zip(_levels(compiled, pixels), pytorch, exact, strict=True):
            if half:
                times = float((mine - true).norm() / (theirs - true).norm())
                if not times <= SHARE:
                    raise ValueError(f"its error is {times:.1f} times PyTorch's")
            else:
                error = float((mine - true).abs().max() / true.abs().max())
                if not error <= TOLERANCE:
                    raise ValueError(f"its values differ by {error:.1g} of the largest")
        return network, compiled


def in_thread(function: Callable[..., T], *args: Any) -> Future[T]:
    """Call a function in another thread, which Python waits for before it ends."""
    future = Future[T]()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future


def result_of(future: Future[T]) -> T:
    """Wait for a result in short steps, between which Windows handles signals."""
    while not future.done():
        wait([future], timeout=0.2)
    return future.result()


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
    """The .xml file of a kept encoder, if its files are as they were written. It counts as used."""
    xml, weights, digest = (folder / name for name in ("encoder.xml", "encoder.bin", "sha256"))
    try:
        if digest.read_text(encoding="utf-8") != _digest(xml, weights):
            return None
    except (OSError, UnicodeDecodeError):
        return None
    with contextlib.suppress(OSError):  # read-only
        os.utime(digest)
    return xml


def _read(core: Any, settings: dict[str, Any], folder: Path) -> Any:
    """Compile a kept encoder; None if there is none that can be read."""
    if (xml := _unharmed(folder)) is not None:
        with contextlib.suppress(RuntimeError):
            return core.compile_model(core.read_model(xml), "CPU", settings)
    return None


@contextlib.contextmanager
def _of_several_one(folder: Path, name: str) -> Iterator[None]:
    """Lock a folder, so that one of several processes converts the encoder; where nothing can be
    locked each of them does."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):
            work = f"converts the image encoder of {name}"
            stack.enter_context(locked(folder, work))
        yield


def _keep(network: Any, folder: Path) -> None:
    """Write a converted encoder and the digest of its files, and delete what a killed process left
    of it, and others that were not used for `DAYS`."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        for left in folder.parent.glob(f"{folder.name}.*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        xml = partial / "encoder.xml"
        import_openvino().save_model(network, xml, compress_to_fp16=False)
        digest = _digest(xml, xml.with_suffix(".bin"))
        write_atomically(partial / "sha256", lambda to: to.write_text(digest, encoding="utf-8"))
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        partial.replace(folder)
    except (OSError, RuntimeError, StorageError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        print(f"{folder}: not kept ({error}); the next command converts it again", file=sys.stderr)
        return
    for other in [path for path in folder.parent.iterdir() if path.is_dir()]:
        with contextlib.suppress(OSError):  # another process deletes it
            used = other / "sha256" if (other / "sha256").exists() else other
            if used.stat().st_mtime < time.time() - DAYS * 86400:
                shutil.rmtree(other, ignore_errors=True)
                other.with_name(f"{other.name}.lock").unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """What an error says, without OpenVINO's first lines, which name places in its source."""
    places = ("Exception from ", "Check ")
    lines = [line for line in str(error).splitlines() if not line.startswith(places)]
    return next((line for line in lines if line.strip()), first_line(error))


def _noise(size: int) -> Tensor:
    """A normalised image of smooth noise, float32 1 x 3 x size x size, the same at every call."""
    coarse = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (size, size), mode="bicubic")


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
