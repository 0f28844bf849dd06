"""`python -m autosam.pretrain`: train SAM `lite` as a promptable segmenter on drawn scenes.

Method: prompts, losses and iteration follow Kirillov et al. 2023 (SAM), section 3 and appendix A:
focal and dice loss 20:1, mean square error on the estimated IoU, the least loss among several masks
for ambiguous prompts, and a second round with the first round's mask and a correction point. The
trunk keeps its ImageNet weights and stays frozen, so that its features are computed once per scene.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.losses import DiceLoss, FocalLoss
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from autosam.command import run_command
from autosam.data.prompts import box_from_mask, correction_point, points_from_mask
from autosam.data.scenes import draw_scene
from autosam.errors import ConfigError
from autosam.models.backbone import load_bundled_lite0
from autosam.models.pixels import normalise
from autosam.models.sam import SAMS
from autosam.models.sam.lite import LiteEncoder
from autosam.models.sam.meta import SegmentAnything
from autosam.optim import parameter_groups, warmup_cosine
from autosam.types import ImageEmbedding, Prompt


@dataclass
class PretrainConfig:
    """Pretraining of SAM `lite`."""

    output: str = "runs/pretrain"
    """Folder for the state (resumed when it is there) and `sam_lite.safetensors`."""
    scenes: int = 4000
    """Drawn scenes whose trunk features are kept in memory (about 0.25 MB each)."""
    steps: int = 850
    """Optimiser steps."""
    batch_size: int = 12
    """Scenes per step."""
    objects: int = 4
    """Prompted objects per scene: half by a box, half by points."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    seed: int = 0
    """Seed of the scenes, the prompts and the weights."""
    save_every: int = 250
    """Steps between saved states."""
    held_out: int = 200
    """Scenes of another seed on which zero-shot IoU is printed at each save."""
    stop_after: int | None = None
    """Stop at this step and go on at the next call (the learning rate still aims at `steps`)."""


class Scenes(Dataset):
    """Scene i of a seed, drawn when asked for: uint8 3 x S x S and uint8 S x S instance ids."""

    def __init__(self, count: int, seed: int, size: int) -> None:
        self.count, self.seed, self.size = count, seed, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        scene = draw_scene(np.random.default_rng([self.seed, index]), self.size)
        image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
        return image, torch.from_numpy(scene.instances.astype(np.uint8))


@dataclass
class Features:
    """Trunk features (float16, strides 8, 16, 32) and instance ids of many scenes."""

    levels: list[Tensor]
    instances: np.ndarray

    @classmethod
    @torch.no_grad()
    def of(cls, sam: SegmentAnything, scenes: Scenes, device: torch.device) -> Features:
        """Draw and encode every scene once."""
        encoder = cast(LiteEncoder, sam.image_encoder)
        levels: list[list[Tensor]] = []
        instances = []
        for images, ids in DataLoader(scenes, batch_size=32, num_workers=2):
            valid = torch.full((len(images), 2), scenes.size)
            pixels = normalise(images, valid, sam.spec.pixel_mean, sam.spec.pixel_std)
            levels.append([level.half().cpu() for level in encoder.trunk(pixels.to(device))])
            instances.append(ids.numpy())
        return cls([torch.cat(parts) for parts in zip(*levels, strict=True)],
                   np.concatenate(instances))  # fmt: skip

    def embed(self, sam: SegmentAnything, index: np.ndarray, device: torch.device) -> Tensor:
        """Image embeddings of the scenes `index`, with gradients into the neck."""
        encoder = cast(LiteEncoder, sam.image_encoder)
        return encoder.neck([level[index].float().to(device) for level in self.levels])


@dataclass
class Prompted:
    """P objects with the prompt of one kind that was drawn for each."""

    masks: np.ndarray
    """bool P x S x S."""
    image_index: Tensor
    prompt: dict[str, Tensor | tuple[Tensor, Tensor]]


def draw_prompts(
    instances: np.ndarray, kind: str, per_scene: int, points: int, rng: np.random.Generator
) -> Prompted:
    """Choose objects in each scene and draw a prompt for each.

    Args:
        instances: uint8 B x S x S.
        kind: `box` or `points`.
        per_scene: objects per scene, drawn with replacement.
        points: points per object for `points`.
    """
    owners, masks = [], []
    for i, ids in enumerate(instances):
        for chosen in rng.choice(np.unique(ids)[1:], size=per_scene):
            owners.append(i)
            masks.append(ids == chosen)
    prompt: dict[str, Tensor | tuple[Tensor, Tensor]]
    if kind == "box":
        boxes = np.stack([box_from_mask(m, rng, jitter=0.1) for m in masks])
        prompt = {"boxes": torch.from_numpy(boxes)}
    else:
        drawn = np.stack([points_from_mask(m, rng, points) for m in masks])
        prompt = {"points": (torch.from_numpy(drawn), torch.ones(drawn.shape[:2]))}
    return Prompted(np.stack(masks), torch.tensor(owners), prompt)


def to_device(value: Tensor | tuple[Tensor, Tensor], device: torch.device):
    return value.to(device) if isinstance(value, Tensor) else tuple(v.to(device) for v in value)


def embed_prompt(sam: SegmentAnything, prompted: Prompted, device: torch.device) -> Prompt:
    prompt = {key: to_device(value, device) for key, value in prompted.prompt.items()}
    return sam.embed(**prompt, image_index=prompted.image_index.to(device))


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


def iou_of(predicted: Tensor, truth: Tensor) -> Tensor:
    """IoU over the last two axes of bool tensors; 1 where both are empty."""
    both, either = (predicted & truth).sum((-2, -1)), (predicted | truth).sum((-2, -1))
    return torch.where(either == 0, 1.0, both / either.clamp(min=1))


def shrink(masks: np.ndarray, size: int, device: torch.device) -> Tensor:
    """bool P x S x S -> float P x 1 x size x size, the share of each cell that is covered."""
    tensor = torch.from_numpy(masks).to(device)[:, None].float()
    return F.avg_pool2d(tensor, tensor.shape[-1] // size)


def second_round(
    sam: SegmentAnything, prompted: Prompted, logits: Tensor, rng: np.random.Generator
) -> Prompted:
    """The first round's mask as a mask prompt, with one correction point."""
    size = prompted.masks.shape[-1]
    predicted = F.interpolate(logits[:, :1], (size, size), mode="bilinear")[:, 0] > 0
    pairs = [
        correction_point(truth, guess, rng)
        for truth, guess in zip(prompted.masks, predicted.cpu().numpy(), strict=True)
    ]
    points = torch.from_numpy(np.stack([point for point, _ in pairs]))[:, None]
    labels = torch.tensor([[label] for _, label in pairs], dtype=torch.float32)
    return Prompted(
        prompted.masks,
        prompted.image_index,
        {"points": (points, labels), "masks": logits[:, :1].detach().float()},
    )


def step_loss(
    sam: SegmentAnything,
    features: Features,
    config: PretrainConfig,
    rng: np.random.Generator,
    device: torch.device,
) -> Tensor:
    """Loss of one step: both kinds of prompt, and a second round of one of them."""
    index = rng.choice(len(features.instances), config.batch_size, replace=False)
    instances = features.instances[index]
    embedding = ImageEmbedding(features.embed(sam, index, device))
    loss = torch.zeros((), device=device)
    refined = rng.choice(["box", "points"])
    for kind in ("box", "points"):
        prompted = draw_prompts(instances, kind, config.objects // 2, int(rng.integers(1, 4)), rng)
        logits, iou = sam.decode_all(embedding, embed_prompt(sam, prompted, device))
        masks = shrink(prompted.masks, logits.shape[-1], device)
        loss = loss + mask_loss(logits, iou, masks)
        if kind == refined:
            again = second_round(sam, prompted, logits, rng)
            logits, iou = sam.decode_all(embedding, embed_prompt(sam, again, device))
            loss = loss + mask_loss(logits, iou, masks)
    return loss


@torch.no_grad()
def zero_shot(
    sam: SegmentAnything, features: Features, device: torch.device, seed: int
) -> dict[str, float]:
    """Mean IoU at S x S for a box, one and three points, and a box refined by mask and point."""
    rng = np.random.default_rng(seed)
    scores: dict[str, list[Tensor]] = {"box": [], "1 point": [], "3 points": [], "box + 1": []}
    size = features.instances.shape[-1]

    def score(prompted: Prompted, embedding: ImageEmbedding, name: str) -> Tensor:
        logits, _ = sam.decode(embedding, embed_prompt(sam, prompted, device))
        full = F.interpolate(logits, (size, size), mode="bilinear")[:, 0] > 0
        scores[name].append(iou_of(full.cpu(), torch.from_numpy(prompted.masks)))
        return logits

    for start in range(0, len(features.instances), 16):
        index = np.arange(start, min(start + 16, len(features.instances)))
        embedding = ImageEmbedding(features.embed(sam, index, device))
        for name, kind, points in (("box", "box", 0), ("1 point", "points", 1),
                                   ("3 points", "points", 3)):  # fmt: skip
            prompted = draw_prompts(features.instances[index], kind, 3, points, rng)
            logits = score(prompted, embedding, name)
            if name == "box":
                score(second_round(sam, prompted, logits, rng), embedding, "box + 1")
    return {name: round(torch.cat(values).mean().item(), 4) for name, values in scores.items()}


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain `lite`; returns the weights file (float16, averaged over the last steps)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ways = ("output", "save_every", "held_out", "stop_after")  # these do not change the weights
    recipe = {key: value for key, value in asdict(config).items() if key not in ways}
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    spec = SAMS["lite"]
    sam = cast(SegmentAnything, spec.build(spec))
    sam.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trunk = cast(LiteEncoder, sam.image_encoder).trunk
    load_bundled_lite0(trunk)
    trunk.requires_grad_(False).eval()

    started = time.time()
    features = Features.of(sam, Scenes(config.scenes, config.seed, spec.image_size), device)
    held_out = Features.of(sam, Scenes(config.held_out, config.seed + 1, spec.image_size), device)
    print(f"{config.scenes} scenes drawn and encoded in {time.time() - started:.0f} s", flush=True)

    optimizer = torch.optim.AdamW(parameter_groups(sam, 0.05), lr=config.lr)
    scheduler = warmup_cosine(optimizer, warmup=config.steps // 10, total=config.steps)
    average = AveragedModel(sam, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    state_file, first = folder / "state.pt", 0
    parts: dict[str, Any] = {
        "sam": sam,
        "average": average,
        "optimizer": optimizer,
        "scheduler": scheduler,
    }
    if state_file.is_file():
        state = torch.load(state_file, map_location=device, weights_only=True)
        if state["recipe"] != recipe:
            raise ConfigError(
                f"{state_file} was made by {state['recipe']}, not {recipe}. Give the same settings "
                "to go on, or another --output."
            )
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["step"]

    losses: list[float] = []
    last = min(config.steps, config.stop_after or config.steps)
    for step in range(first, last):
        rng = np.random.default_rng([config.seed, 1, step])
        with torch.autocast(device.type, torch.bfloat16):
            loss = step_loss(sam, features, config, rng, device)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        average.update_parameters(sam)
        losses.append(loss.item())
        done = step + 1
        if done % 100 == 0:
            print(f"step {done}/{config.steps}  loss {np.mean(losses):.3f}  "
                  f"{time.time() - started:.0f} s", flush=True)  # fmt: skip
            losses.clear()
        if done % config.save_every == 0 or done == last:
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save(states | {"step": done, "recipe": recipe}, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
            scores = zero_shot(cast(SegmentAnything, average.module), held_out, device, config.seed)
            print(f"step {done}  mean IoU on unseen scenes: {scores}", flush=True)

    weights = folder / spec.file
    tensors = {key: value.half().contiguous() for key, value in average.module.state_dict().items()}
    save_file(tensors, weights, metadata={"pretrain": json.dumps(recipe)})
    return weights


def main() -> None:
    run_command(PretrainConfig, pretrain)


if __name__ == "__main__":
    main()
