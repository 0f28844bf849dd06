"""Prompts for objects of drawn scenes: the loss of a step, and scores on unseen scenes."""

from __future__ import annotations

import numpy as np
import torch
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor
from torch.nn import functional as F

from autosam.models.prompters import iou_of
from autosam.models.sam.interactive import correct, prompt_with_boxes, prompt_with_points, score
from autosam.models.sam.meta import SegmentAnything
from autosam.pretraining.features import Scenes, scene_loader
from autosam.types import ImageEmbedding


def choose_objects(
    instances: np.ndarray, per_scene: int, rng: np.random.Generator
) -> tuple[np.ndarray, Tensor]:
    """Draw objects of each scene, with replacement.

    Args:
        instances: uint8 B x S x S ids; 0 is background.
        per_scene: objects per scene.
        rng: draws them.

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
    """SAM's loss: the single mask, the best of the three others, and the IoU estimates.

    Args:
        logits: float P x 4 x m x m; index 0 is the single mask.
        iou: float P x 4, SAM's estimates.
        masks: float P x 1 x m x m in 0..1, the true masks.
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
    """bool P x S x S -> float P x 1 x size x size, the covered fraction of each cell."""
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
    """The loss of one step: boxes and points, and a second, corrected round of one of the two.

    Args:
        sam: `lite`.
        embedding: of B scenes.
        instances: uint8 B x S x S ids.
        objects: prompted objects per scene.
        rng: draws objects and prompts.
        device: computes.
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
    """Mean IoU at S x S of three objects per scene, by prompt: a box, one point, three points, and
    a box with one correction."""
    rng = np.random.default_rng(scenes.seed)
    scores: dict[str, list[Tensor]] = {}
    for images, ids in scene_loader(scenes, 16, workers):
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
