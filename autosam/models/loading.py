"""Reading weights safely and matching them strictly."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autosam.errors import CheckpointError


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file or of a PyTorch file, without running code from it.

    Args:
        path: a safetensors file, or one written by `torch.save` that holds only tensors and plain
            containers; a nested `model`, `state_dict` or `model_state_dict` is unwrapped.

    Raises:
        CheckpointError: the file is missing, damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Give the path of a weights file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError,
            KeyError) as error:  # fmt: skip
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: not a readable weights file ({first[:200]}). It may be truncated, or hold a "
            "pickled object, which is never loaded. Give a .safetensors file or a state dict "
            "written by torch.save."
        ) from None
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, expected a dict of tensors.")
    return {str(key): value for key, value in state.items()}


def load_strict(module: nn.Module, state: dict[str, Tensor], source: str, hint: str = "") -> None:
    """Load `state` into `module`; every missing, unexpected or mis-shaped tensor is an error.

    Args:
        module: the network.
        state: tensors by key.
        source: what the tensors come from, named in the error.
        hint: what to do, appended to the error.

    Raises:
        CheckpointError: naming up to five keys of each kind. The module is left untouched.
    """
    own = module.state_dict()
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    if any(problems.values()):
        lines = [
            f"  {len(keys)} {kind}: " + ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
            for kind, keys in problems.items()
            if keys
        ]
        raise CheckpointError(
            "\n".join([f"{source}: does not fit {type(module).__name__}.", *lines, hint]).rstrip()
        )
    module.load_state_dict(state)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
