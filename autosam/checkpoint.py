"""Checkpoints: the trained tensors, the config, and which SAM they belong to. Safe to load.

A checkpoint is one safetensors file whose header says what it is. SAM's own weights are never in it
unless they were trained; they are found by name and held to the hash they had.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autosam.command import from_dict, to_dict
from autosam.config import Config
from autosam.errors import CheckpointError
from autosam.models.loading import read_weights
from autosam.models.sam import sam_hash, sam_weights
from autosam.models.segmenter import Segmenter, build_segmenter

FORMAT = 1
HEADER = "autosam"
BEST = Path("checkpoints/best.safetensors")
STATE = Path("checkpoints/state.pt")


@dataclass
class Loaded:
    """A segmenter rebuilt from a checkpoint."""

    segmenter: Segmenter
    config: Config
    path: Path
    header: dict[str, Any]


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` with a temporary name, then rename: a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    write(temporary)
    os.replace(temporary, path)


def save(path: Path, segmenter: Segmenter, config: Config, **facts: Any) -> None:
    """Write the trained part.

    Args:
        path: a .safetensors file.
        segmenter: whose `trainable_state()` is written.
        config: the resolved config.
        facts: plain values for the header, such as the epoch and its score.
    """
    sam = None
    if segmenter.sam is not None:
        sam = {"name": config.sam, "sha256": sam_hash(config.sam, config.sam_checkpoint)}
    header = {"format": FORMAT, "config": to_dict(config), "sam": sam, **facts}
    tensors = {k: v.contiguous().cpu() for k, v in segmenter.trainable_state().items()}
    write_atomically(path, lambda to: save_file(tensors, to, {HEADER: json.dumps(header)}))


def find(path: str | Path) -> Path:
    """The checkpoint file of a run folder, or the file itself.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    file = path / BEST if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(
            f"{path}: no checkpoint there. Give a run folder (with {BEST}) or a .safetensors file."
        )
    return file


def read_header(file: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        CheckpointError: not a checkpoint of this package, or of a later format.
    """
    try:
        with safe_open(file, "pt") as tensors:
            metadata = tensors.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a checkpoint of autosam ({error}).") from None
    if HEADER not in metadata:
        raise CheckpointError(
            f"{file}: a safetensors file, but not a checkpoint of autosam (no {HEADER!r} header). "
            "Give a run folder or its checkpoints/best.safetensors."
        )
    header = json.loads(metadata[HEADER])
    if header["format"] > FORMAT:
        raise CheckpointError(
            f"{file}: written in format {header['format']}, this version reads up to {FORMAT}. "
            "Update autosam."
        )
    return header


def load(path: str | Path, sam_checkpoint: str | None = None) -> Loaded:
    """Rebuild a segmenter: the only way in for evaluate, predict and every later verb.

    Args:
        path: run folder or checkpoint file.
        sam_checkpoint: the SAM weights, where they lie elsewhere than in training.

    Raises:
        CheckpointError: not a checkpoint, tensors that do not fit, or other SAM weights than those
            it was trained with.
    """
    file = find(path)
    header = read_header(file)
    config = from_dict(Config, header["config"])
    if sam_checkpoint is not None:
        config = replace(config, sam_checkpoint=sam_checkpoint)
    try:
        segmenter = build_segmenter(config, backbone_weights="none")
    except CheckpointError as error:
        raise CheckpointError(f"{file} needs the SAM it was trained with: {error}") from None
    if header["sam"] is not None:
        _require_same_sam(file, header, config)
    restore_trainable(segmenter, read_trained(file), str(file))
    return Loaded(segmenter.eval(), config, file, header)


def read_trained(file: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint; none where the run trained nothing.

    Raises:
        CheckpointError: see `read_header` and `read_weights`.
    """
    read_header(file)
    with safe_open(file, "pt") as tensors:
        return read_weights(file) if tensors.keys() else {}


def restore_trainable(segmenter: Segmenter, state: dict[str, Tensor], source: str) -> None:
    """Put trained tensors back; they must be exactly those that this composition trains."""
    own = segmenter.trainable_state()
    wrong = sorted(
        set(own.keys() ^ state.keys())
        | {key for key in own.keys() & state.keys() if own[key].shape != state[key].shape}
    )
    if wrong:
        raise CheckpointError(
            f"{source}: {len(wrong)} tensors do not fit this run, for example {wrong[0]}."
        )
    segmenter.load_state_dict(state, strict=False)


def initialise(segmenter: Segmenter, config: Config, path: str | Path) -> int:
    """Start from another run's weights (`--init`); returns how many tensors were taken.

    Only what this run trains can be started from: a tuned decoder has no place in a run that keeps
    SAM frozen, because its checkpoint would not hold it.

    Raises:
        CheckpointError: a tensor of that run has no place here or another shape, or that run was
            trained with another SAM.
    """
    file = find(path)
    header = read_header(file)
    state, own = read_trained(file), segmenter.trainable_state()
    if not state:
        raise CheckpointError(f"--init {file}: this run trained nothing to start from.")
    wrong = [key for key in state if key not in own or own[key].shape != state[key].shape]
    if wrong:
        raise CheckpointError(
            f"--init {file}: {len(wrong)} of its {len(state)} tensors are not trained by this "
            f"run or have another shape, for example {wrong[0]}. It is a run "
            f"{header['config']['run']!r} "
            f"with {header['config']['data']['num_classes']} classes; keep its parts, backbone, "
            "sizes and classes, or train without --init."
        )
    if segmenter.sam is not None and header["sam"] is not None:
        _require_same_sam(file, header, config)
    segmenter.load_state_dict(state, strict=False)
    return len(state)


def _require_same_sam(file: Path, header: dict[str, Any], config: Config) -> None:
    digest = sam_hash(config.sam, config.sam_checkpoint)
    if header["sam"]["sha256"] != digest:
        found = sam_weights(config.sam, config.sam_checkpoint)
        raise CheckpointError(
            f"{file}: trained with other weights of SAM {header['sam']['name']} (SHA-256 "
            f"{header['sam']['sha256'][:12]}...) than {found} ({digest[:12]}...). Pass "
            "the right file as --sam_checkpoint."
        )


def save_state(folder: Path, segmenter: Segmenter, **state: Any) -> None:
    """Write what resuming needs: the trained tensors and `state`, in one file."""
    content = {"model": segmenter.trainable_state(), **state}
    write_atomically(folder / STATE, lambda to: torch.save(content, to))


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: the folder is no run, or its state is damaged.
    """
    path = folder / STATE
    if not path.is_file():
        raise CheckpointError(
            f"--resume {folder}: no {STATE} there: not a run folder, or no epoch was finished "
            "(then start it again with --overwrite)."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise CheckpointError(f"{path}: damaged ({str(error).splitlines()[0][:120]}).") from None
    best = folder / BEST
    header = read_header(best)
    if header["sam"] is not None:
        _require_same_sam(best, header, from_dict(Config, header["config"]))
    return state
