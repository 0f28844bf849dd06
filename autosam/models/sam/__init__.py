"""SAM: a table of what can be built, and one function that loads it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import nn

from autosam.errors import CheckpointError
from autosam.models.loading import load_strict, read_weights
from autosam.models.sam.base import Sam, SamSpec
from autosam.models.sam.files import fetch, known
from autosam.models.sam.guess import convert, guess
from autosam.models.sam.registry import SAMS

__all__ = ["SAMS", "Sam", "SamSpec", "load_sam", "sam_weights"]


def sam_weights(name: str, checkpoint: str | Path | None = None) -> Path:
    """The weights file of SAM `name`: `checkpoint` if given, else the shipped or the cached one,
    which is downloaded on first use.

    Raises:
        ConfigError: no SAM of that name.
        CheckpointError: the file cannot be had; the message says what to do.
    """
    known(name)
    if checkpoint is None:
        return fetch(name)
    if not Path(checkpoint).is_file():
        raise CheckpointError(f"--sam_checkpoint {checkpoint}: no such file.")
    return Path(checkpoint)


def load_sam(name: str, checkpoint: str | Path | None = None) -> Sam:
    """Build SAM `name` and load its weights, every tensor accounted for.

    Args:
        name: a key of `SAMS`.
        checkpoint: weights file; None takes the one of that name, see `sam_weights`.

    Raises:
        ConfigError, CheckpointError: see `sam_weights`, `read_weights` and `load_strict`.
    """
    path = sam_weights(name, checkpoint)
    spec, raw = SAMS[name], read_weights(path)
    state = convert(spec, raw, str(path))
    sam = spec.build(spec)
    module = cast(nn.Module, sam)
    load_strict(module, state, str(path), lambda: f"--sam {name} was asked for. {guess(raw)}")
    module.to(memory_format=torch.channels_last)
    module.eval()
    module.requires_grad_(False)
    return sam
