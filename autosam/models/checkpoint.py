"""Checkpoints: the trained tensors, the config, and the name and hash of the SAM.

A checkpoint is one safetensors file; loading it runs no code. It holds SAM's weights only if they
were trained; the others are located by the SAM's name and checked against its hash.
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

from autosam.config import Config, DataConfig, EncoderBackend, LoraConfig
from autosam.config.cli import from_dict, to_dict
from autosam.config.setting import settings_of
from autosam.config.validation import check_settings
from autosam.errors import CheckpointError, ConfigError
from autosam.models.base import SegmentationModel
from autosam.models.build import build_segmenter
from autosam.models.lora import merge_lora, require_same_scale
from autosam.models.sam import sam_hash, sam_weights
from autosam.models.sam.openvino_encoder import check_backend
from autosam.models.state_dict import read_weights
from autosam.types import Decision
from autosam.utils import hub
from autosam.utils.io import write_atomically
from autosam.utils.paths import is_hub_name, nearest

FORMAT = 2
HEADER = "autosam"
BEST = Path("checkpoints/best.safetensors")
PUBLISHED = Path("model.safetensors")
"""The checkpoint in a folder written by `publish`, and on the hub."""
RENAMED = {
    "generator.": "prompter.",
    "class_prompt.": "prompter.",
    "rule.": "prompter.mask_classifier.",
}
"""Prefixes of keys in older checkpoints and resume states, and the present ones."""


@dataclass
class Loaded:
    """A segmenter rebuilt from a checkpoint."""

    segmenter: SegmentationModel
    config: Config
    path: Path
    header: dict[str, Any]


def save(path: Path, segmenter: SegmentationModel, config: Config, **facts: Any) -> None:
    """Write a checkpoint.

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
    _write(path, _separate_copies(segmenter.trainable_state()), header)


def _separate_copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU without shared memory: some backbones have one tensor under two names."""
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
    """SHA-256 of names and values, hexadecimal, which reveals damaged files."""
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
        CheckpointError: no checkpoint was found.
    """
    folder = Path(path)
    for file in (folder / BEST, folder / PUBLISHED, folder):
        if file.is_file():
            return file
    name = str(path)
    asking: dict[str, Any] = {key: download.get(key) for key in ("endpoint", "revision", "token")}
    if isinstance(path, str) and is_hub_name(name):
        with hub.probe(name, str(PUBLISHED), **asking) as trouble:
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
    """Read the header of a checkpoint.

    Raises:
        CheckpointError: not a checkpoint of this package, or one of a newer format.
    """
    try:
        with safe_open(file, "pt") as tensors:
            metadata = tensors.metadata() or {}
    except Exception as error:  # safetensors raises several kinds
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
    path: str | Path,
    sam_checkpoint: str | None = None,
    fast: bool = False,
    blank: bool = False,
    encoder_backend: EncoderBackend | None = None,
) -> Loaded:
    """Rebuild the segmenter of a checkpoint.

    Args:
        path: see `find`.
        sam_checkpoint: the SAM's weights file, if it is another one than in training.
        fast: without SAM: masks come from the surrogate decoder.
        blank: the mask decoder gets zeros instead of the image embedding, as a control.
        encoder_backend: what computes the image encoder on a CPU; None: "torch" if the training
            said so, otherwise "auto".

    Raises:
        CheckpointError: not a checkpoint, tensors that do not fit, SAM weights that differ from
            those of the training, or `fast` for a run without a surrogate decoder.
        ConfigError: `encoder_backend` is "openvino", and it is not installed or cannot compute it,
            or there is none to compute (`fast`).
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
    if encoder_backend is None and config.encoder_backend != "torch":
        encoder_backend = "auto"  # also where the training demanded OpenVINO
    if encoder_backend is not None:
        config = replace(config, encoder_backend=encoder_backend)
        check_settings(config)
    if fast and encoder_backend == "openvino":
        raise ConfigError(
            "--encoder_backend openvino: --fast computes no image encoder. Leave one of them out."
        )
    if header["sam"] is not None and not fast:
        check_backend(config.encoder_backend)
    built = replace(config, embedding="blank") if blank else config
    try:
        segmenter = build_segmenter(built, backbone_weights="none", fast=fast)
    except (CheckpointError, ConfigError) as error:
        if fast:
            raise
        raise CheckpointError(f"{file} needs the SAM it was trained with: {error}") from None
    state = read_trained(file)
    if fast:  # without the trained parts of SAM, too
        state = {key: value for key, value in state.items() if not key.startswith("sam.")}
    elif header["sam"] is not None:
        _require_same_sam(file, header, config)
    restore_trainable(segmenter, state, str(file))
    if segmenter.sam is not None:
        merge_lora(segmenter.sam)
    set_decision(segmenter, header)
    return Loaded(segmenter.eval(), config, file, header)


def set_decision(segmenter: SegmentationModel, facts: dict[str, Any]) -> None:
    """Set threshold and minimum area of a segmenter and of its surrogate decoder.

    Args:
        segmenter: of any kind.
        facts: `threshold`, `min_area`, and for the surrogate decoder `fast_threshold` and
            `fast_min_area`. Where missing (training not ended) the segmenter's own stay.
    """
    own = segmenter.decision
    threshold = float(facts.get("threshold", own.threshold))
    segmenter.decision = Decision(threshold, float(facts.get("min_area", own.min_area)))
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
    """Write a checkpoint for others: `model.safetensors`, and its settings as `config.json`. Of
    paths on this machine only the last part is kept.

    Args:
        loaded: a checkpoint.
        folder: an existing folder.
    """
    config = without_paths(loaded.config)
    header = loaded.header | {"config": to_dict(config)}
    header.pop("seen", None)  # digests of file names, which may hold names of patients
    _write(folder / PUBLISHED, read_trained(loaded.path), header)
    settings = json.dumps(header["config"], indent=2)
    write_atomically(folder / "config.json", lambda to: to.write_text(settings, encoding="utf-8"))


def without_paths(config: Config) -> Config:
    """The config without paths of this machine."""

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
    """Read the tensors of a checkpoint; none if the run trained nothing.

    Raises:
        CheckpointError: see `read_header` and `read_weights`; or values that are NaN, infinite, or
            differ from those that were written.
    """
    header = read_header(file)
    with safe_open(file, "pt") as tensors:
        names = list(tensors.keys())
    # Copied, because Windows cannot replace a memory-mapped file.
    found = {key: value.clone() for key, value in read_weights(file).items()} if names else {}
    for key, value in found.items():
        # The mask classifier's bias is minus infinity for a class without masks.
        if value.is_floating_point() and not (value.float() < math.inf).all():
            raise CheckpointError(
                f"{file}: {key} holds NaN or infinite values. Take another copy of the file, "
                "or train again."
            )
    if header.get("tensors", expected := _digest(found)) != expected:
        raise CheckpointError(
            f"{file}: its tensors are not those that were written (SHA-256 {expected[:12]}... "
            f"where {str(header['tensors'])[:12]}... is expected). Take another copy of the file."
        )
    return renamed(found)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the keys of this version."""
    result = {}
    for key, value in state.items():
        for old, new in RENAMED.items():
            if key.startswith(old):
                key = new + key.removeprefix(old)
        result[key] = value
    return result


def restore_trainable(segmenter: SegmentationModel, state: dict[str, Tensor], source: str) -> None:
    """Load trained tensors, which must be exactly those that the run trains.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape.
    """
    state, own = renamed(state), segmenter.trainable_state()
    wrong = sorted(
        set(own.keys() ^ state.keys())
        | {key for key in own.keys() & state.keys() if not _same_kind(own[key], state[key])}
    )
    if wrong:
        raise CheckpointError(
            f"{source}: {len(wrong)} tensors do not fit this run, for example {wrong[0]}. Take "
            "another copy of the file, or the version of autosam that wrote it."
        )
    segmenter.load_state_dict(state, strict=False)
    segmenter.train()  # some backbones cache values of their weights in evaluation mode


def _same_kind(one: Tensor, other: Tensor) -> bool:
    """Whether shapes agree, and both or neither are of a floating-point type."""
    return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()


def initialise(segmenter: SegmentationModel, config: Config, path: str | Path) -> int:
    """Start from the weights of another run (`--init`).

    Only tensors that this run trains can be loaded. The checkpoint of a run with a frozen SAM, for
    example, could not hold a trained mask decoder.

    Args:
        segmenter: of this run.
        config: of this run.
        path: of the other run, see `find`.

    Returns:
        The number of tensors loaded.

    Raises:
        CheckpointError: a tensor of the other run is not trained here or has another shape, or that
            run was trained with another SAM or another scale of its adapters.
    """
    file = find(path)
    header = read_header(file)
    state, own = read_trained(file), segmenter.trainable_state()
    if not state:
        raise CheckpointError(f"--init {file}: this run trained nothing to start from.")
    wrong = [key for key in state if key not in own or not _same_kind(own[key], state[key])]
    if wrong:
        raise CheckpointError(
            f"--init {file}: {len(wrong)} of its {len(state)} tensors are not trained by this "
            f"run or have another shape, for example {wrong[0]}. It is a run "
            f"{header['config']['run']!r} "
            f"of --task {header['config'].get('task', 'semantic')} "
            f"with {header['config']['data']['num_classes']} classes and --model.prompt "
            f"{header['config']['model']['prompt']}; keep its task, parts, prompt, backbone, "
            "sizes, classes, and --lora.rank, layers and blocks, or train without --init."
        )
    if any(".lora_" in key for key in state):
        require_same_scale(from_dict(LoraConfig, header["config"]["lora"]), config.lora, file)
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
