"""SAMs: the registry, and the function that builds and loads them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from autosam.errors import CheckpointError
from autosam.models.sam.base import Sam, SamSpec
from autosam.models.sam.registry import SAMS
from autosam.models.sam.weights.identify import convert, guess
from autosam.models.sam.weights.locate import cache_folder, fetch, known
from autosam.models.state_dict import (
    file_hash,
    load_strict,
    read_weights,
    require_finite,
    require_fit,
)
from autosam.types import Prompt
from autosam.utils.paths import no_file

__all__ = [
    "SAMS",
    "AbsentEncoder",
    "AbsentSam",
    "Sam",
    "SamSpec",
    "cache_folder",
    "load_sam",
    "sam_hash",
    "sam_weights",
]

ENCODER = "image_encoder."
HUGGING_FACE = "model.safetensors"
"""The weights file in a folder of `save_pretrained`."""


def sam_weights(name: str, checkpoint: str | Path | None = None) -> Path:
    """The weights file of SAM `name`: `checkpoint` if given (a file, or a folder that transformers'
    `save_pretrained` wrote), else the shipped or cached file, which is downloaded if it is missing.

    Raises:
        ConfigError: no SAM of that name.
        CheckpointError: the file cannot be obtained.
    """
    known(name)
    if checkpoint is None:
        return fetch(name)
    path = Path(checkpoint)
    if (path / HUGGING_FACE).is_file():
        return path / HUGGING_FACE
    if not path.is_file():
        raise CheckpointError(f"--sam_checkpoint {path}: {no_file(path)}")
    return path


def sam_hash(name: str, checkpoint: str | Path | None = None) -> str:
    """The SHA-256 of the weights file of SAM `name`, see `sam_weights`."""
    path = sam_weights(name, checkpoint).resolve()
    facts = path.stat()
    return _hash(path, facts.st_size, facts.st_mtime_ns)


@cache
def _hash(path: Path, size: int, changed: int) -> str:
    """Computed once per process, and again if the file changes."""
    return file_hash(path)


class AbsentEncoder(nn.Module):
    """Placeholder for an image encoder that is not loaded because batches hold embeddings.

    Args:
        parameters: number of parameters of the encoder.
    """

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.left_out = parameters

    def forward(self, pixels: Tensor) -> Tensor:
        raise RuntimeError("this SAM was loaded without its image encoder: give it embeddings")


class AbsentSam(Sam):
    """The sizes of a SAM without its networks.

    Args:
        sam: the SAM.
    """

    def __init__(self, sam: Sam) -> None:
        absent = (nn.Identity(), nn.Identity(), nn.Identity())
        super().__init__(sam.spec, *absent, sam.width, sam.grid)
        self.scales = sam.scales

    def no_prompt(self, batch: int) -> Prompt:
        """Zeros, because there is no prompt encoder."""
        dense = torch.zeros(batch, self.width, *self.grid)
        return Prompt(torch.zeros(batch, 0, self.width), dense, torch.arange(batch))


def load_sam(name: str, checkpoint: str | Path | None = None, encoder: bool = True) -> Sam:
    """Build SAM `name` and load its weights; every tensor must fit.

    Args:
        name: a key of `SAMS`.
        checkpoint: weights file; None: the one of that name, see `sam_weights`.
        encoder: False: without the image encoder, which then takes no memory.

    Returns:
        The SAM on the CPU, frozen, in evaluation mode.

    Raises:
        ConfigError, CheckpointError: see `sam_weights`, `read_weights` and `load_strict`.
    """
    path = sam_weights(name, checkpoint)
    spec, raw = SAMS[name], read_weights(path)
    state = convert(spec, raw, str(path))

    def hint() -> str:
        return f"--sam {name} was asked for. {guess(raw)}"

    if encoder:
        sam = spec.build(spec)
        load_strict(sam, state, str(path), hint)
        require_finite(state, str(path))
    else:
        with torch.device("meta"):
            sam = spec.build(spec)
        title = f"{path}: does not fit {type(sam).__name__}."
        require_fit(sam.state_dict(), state, title, hint)
        sam.image_encoder = AbsentEncoder(sum(p.numel() for p in sam.image_encoder.parameters()))
        # Copied, because tensors read from a file may be memory-mapped, and these may be trained.
        rest = {k: v.clone() for k, v in state.items() if not k.startswith(ENCODER)}
        sam.load_state_dict(rest, assign=True)
        require_finite(rest, str(path))
    sam.to(memory_format=torch.channels_last)
    sam.eval()
    sam.requires_grad_(False)
    return sam
