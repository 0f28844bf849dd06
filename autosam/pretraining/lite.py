"""Pretrain the SAM that is shipped, `lite`, on drawn scenes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.losses import DiceLoss, FocalLoss
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from autosam.config.commands import PretrainConfig
from autosam.config.values import require_config
from autosam.data.loaders import Workers, make_loader
from autosam.data.synthetic.photos import load_photos
from autosam.data.synthetic.scenes import draw_scene
from autosam.errors import CheckpointError, ConfigError
from autosam.models.backbones.timm import load_bundled_lite0
from autosam.models.normalize import normalise
from autosam.models.prompters import iou_of
from autosam.models.sam import SAMS
from autosam.models.sam.interactive import (
    correct,
    prompt_with_boxes,
    prompt_with_points,
    score,
)
from autosam.models.sam.lite import LiteEncoder
from autosam.models.sam.meta import SegmentAnything
from autosam.training.optim import parameter_groups, warmup_cosine
from autosam.types import ImageEmbedding
from autosam.utils.device import choose_device
from autosam.utils.io import make_folder, write_atomically


class Scenes(Dataset):
    """Scenes `first` to `first + count` of a seed, drawn when asked for: uint8 3 x S x S and uint8
    S x S instance ids."""

    def __init__(self, count: int, seed: int, size: int, first: int = 0) -> None:
        self.count, self.seed, self.size, self.first = count, seed, size, first
        self.photos = load_photos()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, self.first + index])
        scene = draw_scene(rng, self.size, self.photos)
        image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
        return image, torch.from_numpy(scene.instances.astype(np.uint8))


def loader_of(scenes: Scenes, batch_size: int, workers: int) -> DataLoader:
    """Batches of scenes, drawn by worker processes."""
    readers = Workers(workers, batch_size * 4 * scenes.size**2)
    return make_loader(scenes, range(len(scenes)), batch_size, readers)


def trunk_features(sam: SegmentAnything, images: Tensor, device: torch.device) -> list[Tensor]:
    """Trunk features (strides 2 to 32) of uint8 B x 3 x S x S."""
    valid = torch.full((len(images), 2), images.shape[-1], device=device)
    pixels = normalise(images.to(device), valid, sam.spec.pixel_mean, sam.spec.pixel_std)
    # Slower on CPUs, for the depthwise convolutions.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
        return cast(LiteEncoder, sam.image_encoder).trunk(pixels)


def embed(sam: SegmentAnything, levels: list[Tensor]) -> ImageEmbedding:
    """Image embedding of trunk features, in half precision where autocast likes it."""
    with torch.autocast(levels[0].device.type, torch.bfloat16):
        return ImageEmbedding(*cast(LiteEncoder, sam.image_encoder).neck(levels))


@dataclass
class Features:
    """Trunk features (float16, strides 2 to 32) and instance ids of many scenes."""

    levels: list[Tensor]
    instances: np.ndarray

    @classmethod
    @torch.no_grad()
    def of(
        cls, sam: SegmentAnything, scenes: Scenes, device: torch.device, workers: int
    ) -> Features:
        """Draw and encode every scene once."""
        levels: list[Tensor] = []
        instances = np.zeros((len(scenes), scenes.size, scenes.size), np.uint8)
        start = 0
        for images, ids in loader_of(scenes, 32, workers):
            batch = trunk_features(sam, images, device)
            if not levels:
                levels = [level.new_empty(len(scenes), *level.shape[1:], dtype=torch.float16)
                          for level in batch]  # fmt: skip
            for kept, level in zip(levels, batch, strict=True):
                kept[start : start + len(images)] = level
            instances[start : start + len(images)] = ids.numpy()
            start += len(images)
        return cls(levels, instances)

    def embed(self, sam: SegmentAnything, index: np.ndarray) -> ImageEmbedding:
        """Image embeddings of the scenes `index`, with gradients into the neck."""
        return embed(sam, [level[index].float() for level in self.levels])


def choose_objects(
    instances: np.ndarray, per_scene: int, rng: np.random.Generator
) -> tuple[np.ndarray, Tensor]:
    """`per_scene` objects of each scene, drawn with replacement.

    Args:
        instances: uint8 B x S x S ids.

    Returns:
        bool P x S x S masks and int64 P, the scene of each.
    """
    owners, masks = [], []
    for i, ids in enumerate(instances):
        for chosen in rng.choice(np.unique(ids[ids > 0]), size=per_scene):
            owners.append(i)
            masks.append(ids == chosen)
    return np.stack(masks), torch.tensor(owners)


def mask_loss(logits: Tensor, iou: Tensor, masks: Tensor) -> Tensor:
    """SAM's loss over one single mask and three alternatives.

    Args:
        logits: float P x 4 x m x m; index 0 is the single mask.
        iou: float P x 4, the estimates.
        masks: float P x 1 x m x m in 0..1.
    """
    logits, iou = logits.float(), iou.float()
    truth = masks.expand_as(logits)
    focal = FocalLoss(gamma=2.0, alpha=0.25, reduction="none")(logits, truth).mean((2, 3))
    dice = DiceLoss(sigmoid=True, reduction="none", smooth_nr=1.0, smooth_dr=1.0)
    loss = 20 * focal + dice(logits, truth).flatten(1)
    with torch.no_grad():
        true_iou = iou_of(logits > 0, truth > 0.5)
    return loss[:, 0].mean() + loss[:, 1:].amin(1).mean() + F.mse_loss(iou, true_iou)


def shrink(masks: np.ndarray, size: int, device: torch.device) -> Tensor:
    """bool P x S x S -> float P x 1 x size x size, the share of each cell that is covered."""
    tensor = torch.from_numpy(masks).to(device)[:, None].float()
    return F.avg_pool2d(tensor, tensor.shape[-1] // size)


def step_loss(
    sam: SegmentAnything,
    embedding: ImageEmbedding,
    instances: np.ndarray,
    objects: int,
    rng: np.random.Generator,
    device: torch.device,
) -> Tensor:
    """Loss of one step: both kinds of prompt, and a second round of one of them.

    Args:
        embedding: of B scenes.
        instances: uint8 B x S x S ids.
        objects: prompted objects per scene.
    """
    loss = torch.zeros((), device=device)
    corrected = rng.integers(2)
    for turn in range(2):
        masks, owners = choose_objects(instances, objects // 2, rng)
        if turn == 0:
            jitter = 0.1 * max(0, rng.uniform(-1, 1))  # half of the boxes are exact
            prompted = prompt_with_boxes(masks, owners, rng, jitter)
        else:
            count = int(rng.integers(1, 4))
            prompted = prompt_with_points(masks, owners, rng, count, erosion=0.4 * rng.random())
        logits, iou = sam.decode_all_masks(embedding, prompted.encode_prompt(sam, device))
        truth = shrink(masks, logits.shape[-1], device)
        loss = loss + mask_loss(logits, iou, truth)
        if turn == corrected:
            again = correct(prompted, logits[:, :1], rng)
            if rng.random() < 0.3:  # a mask alone is a prompt too
                again.points = again.labels = None
            logits, iou = sam.decode_all_masks(embedding, again.encode_prompt(sam, device))
            loss = loss + mask_loss(logits, iou, truth)
    return loss


@torch.no_grad()
def zero_shot(
    sam: SegmentAnything, scenes: Scenes, device: torch.device, workers: int
) -> dict[str, float]:
    """Mean IoU at S x S for a box, one and three points, and a box corrected once; three objects
    of each scene."""
    rng = np.random.default_rng(scenes.seed)
    scores: dict[str, list[Tensor]] = {}
    for images, ids in loader_of(scenes, 16, workers):
        valid = torch.full((len(images), 2), scenes.size, device=device)
        embedding = sam.encode_image(images.to(device), valid)
        masks, owners = choose_objects(ids.numpy(), 3, rng)
        box = prompt_with_boxes(masks, owners, rng)
        for name, prompted in (
            ("box", box),
            ("1 point", prompt_with_points(masks, owners, rng, 1, 0.3)),
            ("3 points", prompt_with_points(masks, owners, rng, 3, 0.3)),
        ):
            iou, logits = score(sam, embedding, prompted, device)
            scores.setdefault(name, []).append(iou)
            if prompted is box:
                corrected = score(sam, embedding, correct(box, logits, rng), device)[0]
                scores.setdefault("box, corrected once", []).append(corrected)
    return {name: round(torch.cat(values).mean().item(), 4) for name, values in scores.items()}


def batches(
    config: PretrainConfig, sam: SegmentAnything, first: int, last: int, device: torch.device
) -> Iterator[tuple[ImageEmbedding, np.ndarray]]:
    """Image embeddings and instance ids of the steps `first` to `last`: from kept features while
    the trunk is frozen, then from new scenes."""
    size = sam.spec.image_size
    trunk = cast(nn.Module, cast(LiteEncoder, sam.image_encoder).trunk)
    if first < config.frozen_steps:
        started = time.time()
        kept = Features.of(sam, Scenes(config.scenes, config.seed, size), device, config.workers)
        print(f"{config.scenes} scenes drawn, encoded: {time.time() - started:.0f} s", flush=True)
        for step in range(first, min(last, config.frozen_steps)):
            rng = np.random.default_rng([config.seed, 2, step])
            index = rng.choice(config.scenes, config.batch_size, replace=False)
            yield kept.embed(sam, index), kept.instances[index]
        del kept
    trunk.requires_grad_(True)  # its BatchNorms keep their statistics: it stays in eval mode
    first = max(first, config.frozen_steps)
    fresh = Scenes(
        max(0, last - first) * config.batch_size,
        config.seed,
        size,
        config.scenes + (first - config.frozen_steps) * config.batch_size,
    )
    for images, ids in loader_of(fresh, config.batch_size, config.workers):
        yield embed(sam, trunk_features(sam, images, device)), ids.numpy()


def check(config: PretrainConfig) -> None:
    """
    Raises:
        ConfigError: a number that cannot work.
    """
    if config.frozen_steps and config.scenes < config.batch_size:
        raise ConfigError(
            f"--scenes {config.scenes}: a step takes {config.batch_size} of them. Give more, or a "
            "lower --batch_size."
        )


def restore(file: Path, parts: dict[str, Any], recipe: dict[str, Any]) -> int:
    """Bring back a saved state; returns the steps that it has behind it.

    Args:
        file: the state.
        parts: what takes its share of it, by name.
        recipe: the settings that the state must have been made by.

    Raises:
        ConfigError: other settings.
        CheckpointError: it is damaged, or no state of this command.
    """
    try:
        state = torch.load(file, map_location=choose_device(), weights_only=True)
        made_by, done = state["recipe"], int(state["step"])
        if made_by == recipe:
            for name, part in parts.items():
                part.load_state_dict(state[name])
    except Exception:  # of torch, of more kinds than one
        raise CheckpointError(
            f"{file}: damaged, or no state of this command. Delete it to begin anew, or choose "
            "another --output."
        ) from None
    if made_by != recipe:
        raise ConfigError(
            f"{file} was made by {made_by}, not {recipe}. Give the same settings to go on, or "
            "another --output."
        )
    return done


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain `lite`; returns the weights file (float16, averaged over the last steps).

    Raises:
        ConfigError: settings that cannot work, or others than those of the state that is there.
        CheckpointError: that state is damaged.
        StorageError: the folder cannot be written to.
    """
    require_config(config, PretrainConfig, "pretrain")
    check(config)
    device = choose_device()
    ways = ("output", "save_every", "held_out", "workers", "stop_after")  # do not change the result
    recipe = {key: value for key, value in asdict(config).items() if key not in ways}
    folder = Path(config.output)
    make_folder(folder)
    torch.manual_seed(config.seed)
    spec = SAMS["lite"]
    sam = cast(SegmentAnything, spec.build(spec))
    sam.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    sam.eval()
    trunk = cast(nn.Module, cast(LiteEncoder, sam.image_encoder).trunk)
    load_bundled_lite0(trunk)
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
            print(f"step {done}/{config.steps}  loss {np.mean(losses):.3f}  "
                  f"{time.time() - started:.0f} s", flush=True)  # fmt: skip
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
