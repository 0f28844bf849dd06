"""Pretrain the shipped SAM `lite` on drawn scenes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autosam.config.commands import PretrainConfig
from autosam.errors import CheckpointError, ConfigError
from autosam.models.backbones.timm import load_packaged
from autosam.models.sam import SAMS
from autosam.models.sam.lite import LiteEncoder, from_lite
from autosam.models.sam.meta import SegmentAnything
from autosam.pretraining.features import Scenes, batches
from autosam.pretraining.objects import step_loss, zero_shot
from autosam.training.optim import parameter_groups, warmup_cosine
from autosam.utils.device import choose_device
from autosam.utils.io import make_folder, write_atomically

UNRELATED = ("output", "save_every", "held_out", "workers", "stop_after")
"""Settings that do not change the weights."""


def restore(file: Path, parts: dict[str, Any], recipe: dict[str, Any]) -> int:
    """Restore a saved state.

    Args:
        file: the state.
        parts: the objects to restore, by name.
        recipe: the settings, which must equal those of the state.

    Returns:
        The number of steps done.

    Raises:
        ConfigError: the settings differ.
        CheckpointError: the file is damaged, or no state of this command.
    """
    try:
        state = torch.load(file, map_location=choose_device(), weights_only=True)
        made_by, done = state["recipe"], int(state["step"])
        if made_by == recipe:
            for name, part in parts.items():
                content = state[name]
                if name in ("sam", "average"):
                    content = from_lite(content)  # states of older versions
                part.load_state_dict(content)
    except Exception:  # torch raises many kinds
        raise CheckpointError(
            f"{file}: damaged, or no state of this command. Delete it to start again, or choose "
            "another --output."
        ) from None
    if made_by != recipe:
        raise ConfigError(
            f"{file} was made by {made_by}, not {recipe}. Give the same settings to resume it, or "
            "another --output."
        )
    return done


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain `lite`, or resume it from the state in the output folder.

    Returns:
        The weights file: float16, averaged over the last steps.

    Raises:
        ConfigError: settings that cannot work, or that differ from those of the state.
        CheckpointError: the state is damaged.
        StorageError: the folder cannot be written to.
    """
    device = choose_device()
    recipe = {key: value for key, value in asdict(config).items() if key not in UNRELATED}
    folder = Path(config.output)
    make_folder(folder)
    torch.manual_seed(config.seed)
    spec = SAMS["lite"]
    sam = cast(SegmentAnything, spec.build(spec))
    sam.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    sam.eval()
    trunk = cast(nn.Module, cast(LiteEncoder, sam.image_encoder).trunk)
    load_packaged(trunk)
    trunk.requires_grad_(False)
    held_out = Scenes(config.held_out, config.seed + 1, spec.image_size)

    optimizer = torch.optim.AdamW(parameter_groups(sam, 0.05), lr=config.lr)
    trunk.requires_grad_(True)
    for group in parameter_groups(trunk, 0.05):
        optimizer.add_param_group(group | {"lr": config.trunk_lr})
    trunk.requires_grad_(False)
    scheduler = warmup_cosine(optimizer, warmup=config.steps // 20, total=config.steps)
    average = AveragedModel(sam, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    state_file, first = folder / "state.pt", 0
    parts: dict[str, Any] = {
        "sam": sam,
        "average": average,
        "optimizer": optimizer,
        "scheduler": scheduler,
    }
    if state_file.is_file():
        first = restore(state_file, parts, recipe)

    losses: list[float] = []
    started = time.time()
    last = min(config.steps, config.stop_after or config.steps)
    for step, (embedding, instances) in enumerate(
        batches(config, sam, first, last, device), start=first
    ):
        rng = np.random.default_rng([config.seed, 1, step])
        with torch.autocast(device.type, torch.bfloat16):
            loss = step_loss(sam, embedding, instances, config.objects, rng, device)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        average.update_parameters(sam)
        losses.append(loss.item())
        done = step + 1
        if done % 50 == 0:
            seconds = time.time() - started
            print(
                f"step {done}/{config.steps}  loss {np.mean(losses):.3f}  {seconds:.0f} s",
                flush=True,
            )
            losses.clear()
        if done % config.save_every == 0 or done == last:
            states: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
            states |= {"step": done, "recipe": recipe}
            write_atomically(state_file, partial(torch.save, states))
            averaged = cast(SegmentAnything, average.module)
            scores = zero_shot(averaged, held_out, device, config.workers)
            print(f"step {done}  mean IoU on unseen scenes: {scores}", flush=True)

    weights = folder / spec.file
    tensors = {key: value.half().contiguous() for key, value in average.module.state_dict().items()}
    about = {"pretrain": json.dumps(recipe)}
    write_atomically(weights, lambda to: save_file(tensors, to, about))
    return weights
