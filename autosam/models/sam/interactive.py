"""Prompts from masks of objects, for pretraining and zero-shot scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from autosam.data.geometry import average_cells
from autosam.data.prompts import box_from_mask, correction_point, points_from_mask
from autosam.models.prompters import iou_of
from autosam.models.sam import Sam
from autosam.types import ImageEmbedding, Prompt


@dataclass
class Prompted:
    """P objects, each with a prompt of one kind."""

    masks: np.ndarray
    """bool P x S x S."""
    image_index: Tensor
    """int64 P."""
    points: Tensor | None = None
    """float P x N x 2."""
    labels: Tensor | None = None
    """int P x N, 1 foreground, 0 background."""
    boxes: Tensor | None = None
    """float P x 4."""
    low: Tensor | None = None
    """float P x 1 x 4h x 4w, logits of a mask prompt."""

    def encode_prompt(self, sam: Sam, device: torch.device | str) -> Prompt:
        """Embed the prompts with the prompt encoder of `sam`."""

        def on(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        points = None
        if self.points is not None and self.labels is not None:
            points = (self.points.to(device), self.labels.to(device))
        return sam.encode_prompt(points, on(self.boxes), on(self.low), self.image_index.to(device))


def prompt_with_boxes(
    masks: np.ndarray, image_index: Tensor, rng: np.random.Generator, jitter: float = 0.0
) -> Prompted:
    """A box around each of `masks`, see `box_from_mask`."""
    boxes = np.stack([box_from_mask(mask, rng, jitter) for mask in masks])
    return Prompted(masks, image_index, boxes=torch.from_numpy(boxes))


def prompt_with_points(
    masks: np.ndarray, image_index: Tensor, rng: np.random.Generator, count: int, erosion: float
) -> Prompted:
    """`count` points inside each of `masks`, see `points_from_mask`."""
    points = np.stack([points_from_mask(mask, rng, count, erosion) for mask in masks])
    return Prompted(
        masks, image_index, torch.from_numpy(points), torch.ones(points.shape[:2], dtype=torch.int)
    )


def correct(prompted: Prompted, logits: Tensor, rng: np.random.Generator) -> Prompted:
    """The next round of interactive segmentation: the previous mask and one point where it is wrong
    as prompts.

    Args:
        prompted: the prompts of the previous round.
        logits: float P x 1 x 4h x 4w, the masks of the previous round.
        rng: draws the points.
    """
    size = prompted.masks.shape[-2:]
    predicted = F.interpolate(logits.float(), size, mode="bilinear")[:, 0] > 0
    pairs = [
        correction_point(truth, guess, rng)
        for truth, guess in zip(prompted.masks, predicted.cpu().numpy(), strict=True)
    ]
    return Prompted(
        prompted.masks,
        prompted.image_index,
        torch.from_numpy(np.stack([point for point, _ in pairs]))[:, None],
        torch.tensor([[label] for _, label in pairs], dtype=torch.int),
        low=logits.detach().float(),
    )


@torch.no_grad()
def score(
    sam: Sam, embedding: ImageEmbedding, prompted: Prompted, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Decode prompts and compare the masks with the true ones.

    Returns:
        IoU float P at S x S, and logits float P x 1 x 4h x 4w.
    """
    logits, _ = sam.decode_mask(embedding, prompted.encode_prompt(sam, device))
    size = prompted.masks.shape[-2:]
    masks = F.interpolate(logits.float(), size, mode="bilinear")[:, 0] > 0
    return iou_of(masks.cpu(), torch.from_numpy(prompted.masks)), logits


def mask_logits(masks: np.ndarray, size: int) -> Tensor:
    """Mask prompts: the covered fraction of each cell, scaled to logits from -8 to 8.

    Args:
        masks: bool P x S x S.
        size: 4h, the side of SAM's low-resolution masks.

    Returns:
        float32 P x 1 x size x size.
    """
    return 16 * average_cells(torch.from_numpy(masks).float(), size)[:, None] - 8
