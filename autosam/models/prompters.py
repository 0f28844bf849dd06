"""From the masks of prompted objects to the logits of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from autosam.types import ObjectPrompts

ABSENT = -20.0
"""Logit where no object of a class was prompted."""


def iou_of(predicted: Tensor, truth: Tensor) -> Tensor:
    """IoU over the last two axes of bool tensors; 1 where both are empty."""
    both, either = (predicted & truth).sum((-2, -1)), (predicted | truth).sum((-2, -1))
    return torch.where(either == 0, 1.0, both / either.clamp(min=1))


def choose_mask(logits: Tensor, iou: Tensor, how: str, truth: Tensor | None = None) -> Tensor:
    """One mask per prompt out of SAM's three.

    Args:
        logits: float P x 3 x m x m.
        iou: float P x 3, SAM's own estimates.
        how: `best` by the estimate, `true` by the IoU with `truth` (by the estimate without), or
            `mean` of the logits.
        truth: float P x m x m in [0, 1].

    Returns:
        float P x m x m.
    """
    if how == "mean":
        return logits.mean(1)
    quality = iou
    if how == "true" and truth is not None:
        quality = iou_of(logits > 0, (truth > 0.5)[:, None])
    return logits[torch.arange(len(logits), device=logits.device), quality.argmax(1)]


def merge_objects(logits: Tensor, prompts: ObjectPrompts, batch: int, classes: int) -> Tensor:
    """The union of each class's objects: the largest logit at each place.

    Args:
        logits: float P x m x m, one per object.
        prompts: says which image and class each is of.
        batch: B.
        classes: K.

    Returns:
        float B x K x m x m; `ABSENT` where a class has no object.
    """
    size = logits.shape[-2:]
    absent = logits.new_full(size, ABSENT)
    slot = prompts.images * classes + prompts.classes
    merged = []
    for i in range(batch * classes):
        own = logits[slot == i]
        merged.append(own.amax(0) if len(own) else absent)
    return torch.stack(merged).view(batch, classes, *size)
