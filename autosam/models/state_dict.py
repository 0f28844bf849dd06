"""Reading weights safely and matching them strictly."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autosam.errors import CheckpointError, first_line
from autosam.utils.logging import without_warnings
from autosam.utils.paths import no_file

TRAINED = "model_state"
"""Key of the weights in training checkpoints of torch_em, and so of micro-sam."""
NESTED = ("model", "state_dict", "model_state_dict", TRAINED)
PREFIXES = ("module.", "_orig_mod.", "model.", "sam.")
"""Prefixes that DDP, torch.compile and networks that contain SAM add to every key."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors or PyTorch file, without running code from it.

    The format is told from the content, not from the file name.

    Args:
        path: a safetensors file, or one written by `torch.save` that holds only tensors and plain
            containers; a nested `model`, `state_dict`, `model_state_dict` or `model_state` is
            unwrapped. A training checkpoint with `model_state` may hold other objects beside it:
            they are not built.

    Raises:
        CheckpointError: the file is missing, damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {no_file(path)}")
    try:
        trouble = what_is_wrong(path)
        state = {} if trouble else _load(path)
    except pickle.UnpicklingError as error:
        trouble = _pickled(str(error))
    except Exception as error:  # both libraries raise many kinds for damaged files
        first = first_line(error)
        trouble = f"it is damaged, truncated, or something else ({first[:200]})"
    if trouble:
        raise CheckpointError(
            f"{path}: not a readable weights file: {trouble}. Expected a .safetensors file or a "
            "state dict written by torch.save."
        )
    for key in NESTED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, expected a dict of tensors.")
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        found = f"other things than tensors under {', '.join(others[:5])}" if others else "nothing"
        raise CheckpointError(
            f"{path}: holds {found}; expected a dict of tensors, alone or under one of "
            f"{', '.join(NESTED)}."
        )
    return {str(key): value for key, value in state.items()}


def _load(path: Path) -> object:
    if _is_safetensors(path):
        return load_file(path)
    with without_warnings():  # about pickles that torch.load refuses anyway
        if zipfile.is_zipfile(path) and path.suffix != ".safetensors":
            # Memory-mapped: tensors that are not used are not read.
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except pickle.UnpicklingError:
                if (trained := load_trained(path)) is None:
                    raise
                return trained
        # Opened here, because torch.load looks at the file name.
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)


def load_trained(path: Path) -> dict[str, Tensor] | None:
    """The weights of a training checkpoint of torch_em, which holds its data set and settings as
    pickled objects. Those are replaced by `Inert` ones; no code of theirs runs.

    Args:
        path: a zip file written by `torch.save`.

    Returns:
        Its `model_state`; None: it has none, or not of tensors alone.
    """
    restricted = SimpleNamespace(__name__="restricted", Unpickler=_TensorsOnly)
    try:
        state = torch.load(
            path, map_location="cpu", weights_only=False, mmap=True, pickle_module=restricted
        )
    except Exception:  # a file of another layout can raise any kind
        return None
    found = state.get(TRAINED) if isinstance(state, dict) else None
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        return None
    return dict(found)


class Inert:
    """Replaces an object that is not built: whatever a pickle does to it has no effect."""

    def __init__(self, *values: object, **named: object) -> None:
        pass

    def __new__(cls, *values: object, **named: object) -> Inert:
        return super().__new__(cls)

    def __call__(self, *values: object, **named: object) -> Inert:
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    append = extend = add = __call__


BUILT = (
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
)


class _TensorsOnly(pickle.Unpickler):
    """Builds tensors and plain containers (`BUILT`); everything else is `Inert`."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if (module, name) in BUILT else Inert


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins with 8 bytes (the length of the header) and a JSON object."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def what_is_wrong(path: Path) -> str:
    """Why a file cannot be a weights file, told from its first and last bytes; "" if it may be
    one."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "it is an HTML page: the download failed and the server's answer was saved"
    if head.startswith(b"version https://git-lfs"):
        return "it is a git-LFS pointer, not the file it stands for: run `git lfs pull` there"
    if not re.search(rb"[^\t\r\n\x20-\x7e]", head):
        return f"it is text ({head[:40].decode('ascii')!r})"
    if _is_safetensors(path):
        length = int.from_bytes(head[:8], "little")
        return "it is truncated: download it again" if 8 + length > path.stat().st_size else ""
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            return "it is truncated (a zip archive without its end): download it again"
        with zipfile.ZipFile(path) as archive:
            names = {name.rsplit("/", 1)[-1] for name in archive.namelist()}
        if "constants.pkl" in names:
            return (
                "it is a TorchScript program, which is code and never loaded. Where you trust it: "
                "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
            )
        return "" if "data.pkl" in names else "it is a zip archive of something else: unpack it"
    return "" if head.startswith(b"\x80") else f"it begins with {head[:8]!r}, as no such file does"


def _pickled(message: str) -> str:
    """The message for what PyTorch's restricted unpickler refused."""
    name = re.search(r"GLOBAL ([\w.]+)", message)
    what = f"a pickled object ({name[1]})" if name else "a pickle that is damaged or no state dict"
    return (
        f"it holds {what}, which could run code and is never loaded. Where you trust it: load it "
        "with torch.load(FILE, weights_only=False) and torch.save its state_dict()"
    )


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` without the `PREFIXES` that all of its keys share."""
    result = dict(state)
    while found := [p for p in PREFIXES if result and all(key.startswith(p) for key in result)]:
        result = {key.removeprefix(found[0]): value for key, value in result.items()}
    return result


def differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """How a state dict differs from that of a network.

    Args:
        own: state dict of the network.
        state: tensors by key.

    Returns:
        Keys by kind of problem; empty if `state` fits.
    """
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    return {kind: keys for kind, keys in problems.items() if keys}


def require_fit(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], title: str, hint: Callable[[], str]
) -> None:
    """Refuse a state dict with missing, unexpected or mis-shaped tensors.

    Args:
        own: state dict of the network.
        state: tensors by key.
        title: first line of the error.
        hint: returns its last line, which says what to do.

    Raises:
        CheckpointError: naming up to five keys of each kind.
    """
    problems = differences(own, state)
    if problems:
        lines = [
            f"  {len(keys)} {kind}: " + ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
            for kind, keys in problems.items()
        ]
        raise CheckpointError("\n".join([title, *lines, hint()]).rstrip())


def require_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors with NaN or infinite values, which would make every mask wrong.

    Args:
        state: tensors by key.
        source: the file, for the message.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
    """
    for key, value in state.items():
        # A sum shows both and allocates no memory.
        if value.is_floating_point() and not value.sum(dtype=torch.float64).isfinite():
            raise CheckpointError(
                f"{source}: {key} holds NaN or infinite values. Download or save it again."
            )


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], source: str, hint: Callable[[], str] = str
) -> None:
    """Load `state` into `module` if all tensors fit; otherwise `module` is not changed.

    Args:
        module: the network.
        state: tensors by key.
        source: the file of the tensors, for the message.
        hint: see `require_fit`.

    Raises:
        CheckpointError: see `require_fit`.
    """
    title = f"{source}: does not fit {type(module).__name__}."
    require_fit(module.state_dict(), state, title, hint)
    module.load_state_dict(state)


def file_hash(path: str | Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
