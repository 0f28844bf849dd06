"""From a batch to masks: logits at each image's own size, then a threshold or the largest class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autosam.data.geometry import restore
from autosam.models.base import SegmentationModel
from autosam.models.losses import with_background
from autosam.types import Batch, Prompt
from autosam.utils.device import half_precision


@dataclass
class BatchPrediction:
    """What a segmenter predicts for a batch. Images are brought to their own size one at a time,
    when asked for, because they may be large."""

    segmenter: SegmentationModel
    batch: Batch
    logits: Tensor
    """float32 B x K x m x m."""
    prompt: Prompt | None = None
    """The P = B*K prompts that they were made by, where there is one for each class."""

    def full_logits(self, i: int) -> Tensor:
        """float32 K x H x W at the own size of image `i`."""
        spec = self.segmenter.input_spec
        return restore(self.logits[i], self.batch.sizes[i], spec.image_size, spec.geometry)

    def masks(self, i: int, exclusive: bool) -> np.ndarray:
        """bool K x H x W of image `i`, by the segmenter's own threshold and smallest area.

        Args:
            i: number of the image in the batch.
            exclusive: see `predict_label`.
        """
        segmenter = self.segmenter
        return predict_label(
            self.full_logits(i),
            exclusive,
            segmenter.decision.threshold,
            segmenter.decision.min_area,
            self.valid(i),
        )

    def valid(self, i: int) -> np.ndarray | None:
        """bool H x W, where image `i` holds data; None: everywhere."""
        return self.batch.valid[i] if self.batch.valid else None


def predict_batch(
    segmenter: SegmentationModel, batch: Batch, bf16: bool = False
) -> BatchPrediction:
    """Segment a batch.

    Args:
        segmenter: in evaluation mode.
        batch: on the segmenter's device.
        bf16: whether to compute in bfloat16.
    """
    with half_precision(batch.generator_input.device, bf16):
        logits, prompt = segmenter.segment(batch)
    return BatchPrediction(segmenter, batch, logits.float(), prompt)


def predict_label(
    logits: Tensor,
    exclusive: bool,
    threshold: float = 0.5,
    min_area: float = 0.0,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Logits at the image's own size -> masks.

    Args:
        logits: float K x H x W.
        exclusive: arg-max with background, or each class against the threshold.
        threshold: of the probability, 0..1; several exclusive classes have none.
        min_area: share of the image that a class covers at least; of less it counts as not found.
        valid: bool H x W, where the image holds data; elsewhere nothing is found.

    Returns:
        bool K x H x W; with exclusive classes at most one is True per pixel.
    """
    if not exclusive or len(logits) == 1:  # one class wins against background's 0
        masks = (logits > math.log(threshold / (1 - threshold))).cpu().numpy()
    else:
        best = with_background(logits[None])[0].argmax(0)
        classes = torch.arange(1, len(logits) + 1, device=logits.device)[:, None, None]
        masks = (best == classes).cpu().numpy()
    if valid is not None:
        masks = masks & valid
    return without_specks(masks, min_area)


def without_specks(masks: np.ndarray, min_area: float) -> np.ndarray:
    """bool K x H x W -> the same, classes that cover less than this share of the image removed."""
    if min_area:
        masks &= (masks.mean((1, 2)) >= min_area)[:, None, None]
    return masks
