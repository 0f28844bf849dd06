"""Checkpoints: the trained tensors, the config, and which SAM they belong to. Safe to load.

A checkpoint is one safetensors file whose header says what it is. SAM's own weights are never in it
unless they were trained; they are found by name and held to the hash they had.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from autosam.config import Config, DataConfig
from autosam.config.cli import from_dict, to_dict
from autosam.config.setting import settings_of
from autosam.config.validation import check_settings
from autosam.errors import CheckpointError, ConfigError
from autosam.models.base import SegmentationModel
from autosam.models.build import build_segmenter
from autosam.models.sam import sam_hash, sam_weights
from autosam.models.state_dict import read_weights
from autosam.types import Decision
from autosam.utils import hub
from autosam.utils.io import write_atomically
from autosam.utils.paths import is_hub_name, nearest

FORMAT = 2
HEADER = "autosam"
BEST = Path("checkpoints/best.safetensors")
PUBLISHED = Path("model.safetensors")
"""The checkpoint in a folder that `publish` wrote, and on the hub."""
RENAMED = {
    "generator.": "prompter.",
    "class_prompt.": "prompter.",
    "rule.": "prompter.mask_classifier.",
}
"""Prefixes of keys in older checkpoints and states, and what they are now."""


@dataclass
class Loaded:
    """A segmenter rebuilt from a checkpoint."""

    segmenter: SegmentationModel
    config: Config
    path: Path
    header: dict[str, Any]


def save(path: Path, segmenter: SegmentationModel, config: Config, **facts: Any) -> None:
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
    header = {"config": to_dict(config), "sam": sam, **facts}
    _write(path, _apart(segmenter.trainable_state()), header)


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each with memory of its own: some backbones have one tensor under two names."""
    met: set[int] = set()
    result = {}
    for key, value in state.items():
        tensor = value.contiguous().cpu()
        place = tensor.untyped_storage().data_ptr()
        result[key] = tensor.clone() if place in met else tensor
        met.add(place)
    return result


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    header = header | {"format": FORMAT, "tensors": _digest(tensors)}
    write_atomically(path, lambda to: save_file(tensors, to, {HEADER: json.dumps(header)}))


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names and values, hexadecimal: a disk's wrong bit is a wrong mask otherwise."""
    digest = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find(path: str | Path, **download: Any) -> Path:
    """The checkpoint file of a run folder or saved folder, the file itself, or one from the hub.

    Args:
        path: a folder, a file, or `owner/name` on the Hugging Face hub.
        download: passed to `hf_hub_download`.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(path)
    for file in (folder / BEST, folder / PUBLISHED, folder):
        if file.is_file():
            return file
    name = str(path)
    asking: dict[str, Any] = {key: download.get(key) for key in ("endpoint", "revision", "token")}
    if isinstance(path, str) and is_hub_name(name):
        with hub.asked_once(name, str(PUBLISHED), **asking) as trouble:
            try:
                return Path(hf_hub_download(name, str(PUBLISHED), **download))
            except (OSError, HFValidationError) as error:  # offline, no such repository, no access
                reason = trouble or str(error).splitlines()[0][:150]
                raise CheckpointError(
                    f"{path}: no such folder here, and no checkpoint of autosam on the hub that "
                    f"can be read ({reason}). Fix the name, or copy the run here."
                ) from None
    raise CheckpointError(
        f"{path}: no checkpoint there. Give a run folder (with {BEST}), a .safetensors file, or a "
        f"name on the hub (owner/name).{nearest(folder)}"
    )


def read_header(file: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        CheckpointError: not a checkpoint of this package, or of a later format.
    """
    try:
        with safe_open(file, "pt") as tensors:
            metadata = tensors.metadata() or {}
    except Exception as error:  # of safetensors, more than one kind
        raise CheckpointError(
            f"{file}: not a checkpoint of autosam ({error}). Give a run folder or its {BEST}, or "
            "take another copy of the file."
        ) from None
    if HEADER not in metadata:
        raise CheckpointError(
            f"{file}: a safetensors file, but not a checkpoint of autosam (no {HEADER!r} header). "
            "Give a run folder or its checkpoints/best.safetensors."
        )
    try:
        header = json.loads(metadata[HEADER])
        whole = isinstance(header["format"], int) and isinstance(header["config"], dict)
        whole = whole and (header["sam"] is None or isinstance(header["sam"]["sha256"], str))
        whole = whole and (header["sam"] is None or isinstance(header["sam"]["name"], str))
        chosen = [header.get(name, 0.5) for name in ("threshold", "fast_threshold")]
        whole = whole and all(0 < value < 1 for value in chosen)
        chosen = [header.get(name, 0.0) for name in ("min_area", "fast_min_area")]
        whole = whole and all(0 <= value < 1 for value in chosen)
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise CheckpointError(f"{file}: its header is damaged. Take another copy of the file.")
    if header["format"] > FORMAT:
        raise CheckpointError(
            f"{file}: written in format {header['format']}, this version reads up to {FORMAT}. "
            "Update autosam."
        )
    return header


def load(
    path: str | Path, sam_checkpoint: str | None = None, fast: bool = False, blank: bool = False
) -> Loaded:
    """Rebuild a segmenter: the only way in for evaluate, predict and every later verb.

    Args:
        path: see `find`.
        sam_checkpoint: the SAM weights, where they lie elsewhere than in training.
        fast: SAM is not loaded, masks come from the surrogate decoder.
        blank: the mask decoder gets zeros instead of the image embedding, as a control.

    Raises:
        CheckpointError: not a checkpoint, tensors that do not fit, other SAM weights than those
            it was trained with, or `fast` of a run without surrogate decoder.
    """
    file = find(path)
    header = read_header(file)
    try:
        config = from_dict(Config, header["config"])
        check_settings(config)
    except ConfigError as error:
        raise CheckpointError(
            f"{file}: its settings cannot be used: {error} Take another copy of the file, or the "
            "version of autosam that wrote it."
        ) from None
    if sam_checkpoint is not None:
        config = replace(config, sam_checkpoint=sam_checkpoint)
    built = replace(config, embedding="blank") if blank else config
    try:
        segmenter = build_segmenter(built, backbone_weights="none", fast=fast)
    except (CheckpointError, ConfigError) as error:
        if fast:
            raise
        raise CheckpointError(f"{file} needs the SAM it was trained with: {error}") from None
    state = read_trained(file)
    if fast:  # a SAM that was tuned stays out, too
        state = {key: value for key, value in state.items() if not key.startswith("sam.")}
    elif header["sam"] is not None:
        _require_same_sam(file, header, config)
    restore_trainable(segmenter, state, str(file))
    set_decision(segmenter, header)
    return Loaded(segmenter.eval(), config, file, header)


def set_decision(segmenter: SegmentationModel, facts: dict[str, Any]) -> None:
    """Set when a class counts as found, in the masks of a segmenter and of its surrogate decoder.

    Args:
        segmenter: of any kind.
        facts: `threshold`, `min_area` and the same of the surrogate decoder (`fast_threshold`,
            `fast_min_area`), as far as they were chosen.
    """
    threshold = float(facts.get("threshold", 0.5))
    segmenter.decision = Decision(threshold, float(facts.get("min_area", 0.0)))
    if segmenter.surrogate is not None:
        segmenter.surrogate.decision = Decision(
            float(facts.get("fast_threshold", threshold)), float(facts.get("fast_min_area", 0.0))
        )
        if segmenter.sam is None:
            segmenter.decision = segmenter.surrogate.decision


def annotate(file: Path, **facts: Any) -> None:
    """Add plain values to the header of a checkpoint, or replace them."""
    header = read_header(file) | facts
    _write(file, read_trained(file), header)


def publish(loaded: Loaded, folder: Path) -> None:
    """Write a checkpoint as others may have it: `model.safetensors`, and its settings as
    `config.json`. Of paths on this machine only the last part stays.

    Args:
        loaded: a checkpoint.
        folder: exists.
    """
    config = without_paths(loaded.config)
    header = loaded.header | {"config": to_dict(config)}
    header.pop("seen", None)  # digests of names, which may be those of patients
    _write(folder / PUBLISHED, read_trained(loaded.path), header)
    settings = json.dumps(header["config"], indent=2)
    write_atomically(folder / "config.json", lambda to: to.write_text(settings, encoding="utf-8"))


def without_paths(config: Config) -> Config:
    """A config that names no folder of this machine."""

    def last(path: str | None) -> str | None:
        return None if path is None else Path(path).name

    data: dict[str, Any] = {
        name: last(getattr(config.data, name))
        for name, one in settings_of(DataConfig).items()
        if "path" in one.facts
    }
    if config.data.groups and not config.data.groups.lower().endswith(".csv"):
        data["groups"] = config.data.groups  # a regular expression
    return replace(
        config,
        data=replace(config.data, **data),
        cache=replace(config.cache, dir=None),
        model=replace(config.model, backbone_weights=Path(config.model.backbone_weights).name),
        sam_checkpoint=None,
        output=last(config.output),
        init=last(config.init),
        resume=None,
    )


def read_trained(file: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint; none where the run trained nothing.

    Raises:
        CheckpointError: see `read_header` and `read_weights`; or values that are no numbers, or
            others than were written.
    """
    header = read_header(file)
    with safe_open(file, "pt") as tensors:
        names = list(tensors.keys())
    # Copied, because Windows replaces no file that is mapped.
    found = {key: value.clone() for key, value in read_weights(file).items()} if names else {}
    for key, value in found.items():
        # The mask classifier's bias is minus infinity for a class without masks.
        if value.is_floating_point() and not (value.float() < math.inf).all():
            raise CheckpointError(
                f"{file}: {key} holds values that are no numbers. Take another copy of the file, "
                "or train again."
            )
    if header.get("tensors", expected := _digest(found)) != expected:
        raise CheckpointError(
            f"{file}: its tensors are not those that were written (SHA-256 {expected[:12]}... "
            f"where {str(header['tensors'])[:12]}... is expected). Take another copy of the file."
        )
    return renamed(found)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` under the keys of this version."""
    result = {}
    for key, value in state.items():
        for old, new in RENAMED.items():
            if key.startswith(old):
                key = new + key.removeprefix(old)
        result[key] = value
    return result


def restore_trainable(segmenter: SegmentationModel, state: dict[str, Tensor], source: str) -> None:
    """Put trained tensors back; they must be exactly those that this composition trains."""
    state, own = renamed(state), segmenter.trainable_state()
    wrong = sorted(
        set(own.keys() ^ state.keys())
        | {key for key in own.keys() & state.keys() if not _alike(own[key], state[key])}
    )
    if wrong:
        raise CheckpointError(
            f"{source}: {len(wrong)} tensors do not fit this run, for example {wrong[0]}. Take "
            "another copy of the file, or the version of autosam that wrote it."
        )
    segmenter.load_state_dict(state, strict=False)
    segmenter.train()  # some backbones drop by it what they keep of their weights in evaluation


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether shapes agree, and whether both hold fractions or neither."""
    return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()


def initialise(segmenter: SegmentationModel, config: Config, path: str | Path) -> int:
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
    wrong = [key for key in state if key not in own or not _alike(own[key], state[key])]
    if wrong:
        raise CheckpointError(
            f"--init {file}: {len(wrong)} of its {len(state)} tensors are not trained by this "
            f"run or have another shape, for example {wrong[0]}. It is a run "
            f"{header['config']['run']!r} "
            f"with {header['config']['data']['num_classes']} classes and --model.prompt "
            f"{header['config']['model']['prompt']}; keep its parts, prompt, backbone, sizes and "
            "classes, or train without --init."
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
