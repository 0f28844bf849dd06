"""SAM: a table of what can be built, and one function that loads it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import nn

from autosam.errors import CheckpointError, ConfigError
from autosam.models.loading import load_strict, read_weights
from autosam.models.sam.base import Sam, SamSpec
from autosam.models.sam.registry import SAMS
from autosam.shipped import asset_folder

__all__ = ["SAMS", "Sam", "SamSpec", "load_sam", "sam_weights"]


def sam_weights(name: str, checkpoint: str | Path | None = None) -> Path:
    """The weights file of SAM `name`: `checkpoint` if given, else the shipped one.

    Raises:
        ConfigError: no SAM of that name.
        CheckpointError: the file is not there; the message says where to get it.
    """
    if name not in SAMS:
        raise ConfigError(f"--sam {name}: unknown. Choose one of {', '.join(SAMS)}.")
    spec = SAMS[name]
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise CheckpointError(f"--sam_checkpoint {checkpoint}: no such file.")
        return Path(checkpoint)
    shipped = asset_folder("weights") / spec.file
    if spec.file and shipped.is_file():
        return shipped
    raise CheckpointError(
        f"--sam {name} needs its weights: download {spec.source} and "
        f"pass --sam_checkpoint FILE. (--sam lite needs nothing.)"
    )


def load_sam(name: str, checkpoint: str | Path | None = None) -> Sam:
    """Build SAM `name` and load its weights, every tensor accounted for.

    Args:
        name: a key of `SAMS`.
        checkpoint: weights file; None takes the shipped one.

    Raises:
        ConfigError, CheckpointError: see `sam_weights` and `load_strict`.
    """
    path = sam_weights(name, checkpoint)
    spec = SAMS[name]
    state = {key: value.float() for key, value in read_weights(path).items()}
    if spec.convert is not None:
        state = spec.convert(state)
    sam = spec.build(spec)
    module = cast(nn.Module, sam)
    load_strict(
        module,
        state,
        source=str(path),
        hint=f"Is this a checkpoint of another SAM? --sam {name} was asked for; "
        f"known: {', '.join(SAMS)}.",
    )
    module.to(memory_format=torch.channels_last)
    module.eval()
    module.requires_grad_(False)
    return sam
