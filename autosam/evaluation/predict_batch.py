"""Convert a batch to masks: logits at each image's own size, then a threshold or an arg-max."""

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
    """The prediction for a batch. Logits are resized to the size of an image on request, one image
    at a time, because images may be large."""

    segmenter: SegmentationModel
    batch: Batch
    logits: Tensor
    """float32 B x K x m x m."""
    prompt: Prompt | None = None
    """The P = B*K prompts, if there is one for each image and class."""

    def full_logits(self, i: int) -> Tensor:
        """Resize the logits of an image to its own size.

        Args:
            i: index of the image in the batch.

        Returns:
            float32 K x H x W.
        """
        spec = self.segmenter.input_spec
        return restore(self.logits[i], self.batch.sizes[i], spec.image_size, spec.geometry)

    def masks(self, i: int, exclusive: bool) -> np.ndarray:
        """Make the masks of an image by the segmenter's threshold and smallest area.

        Args:
            i: index of the image in the batch.
            exclusive: see `predict_label`.

        Returns:
            bool K x H x W.
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
        """The pixels of image `i` that hold data, bool H x W; None for all."""
        return self.batch.valid[i] if self.batch.valid else None


def predict_batch(
    segmenter: SegmentationModel, batch: Batch, bf16: bool = False
) -> BatchPrediction:
    """Segment a batch.

    Args:
        segmenter: in evaluation mode.
        batch: on the segmenter's device.
        bf16: whether to compute in bfloat16.

    Returns:
        Logits, and the learned prompt if there is one.
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
    """Convert logits to masks.

    Args:
        logits: float K x H x W, at the image's own size.
        exclusive: whether a pixel has at most one class. With several such classes the masks are
            the arg-max over the classes and background; else each class is compared with the
            threshold.
        threshold: probability in (0, 1) above which a pixel is foreground.
        min_area: share of the image in [0, 1); a class that covers less is removed.
        valid: bool H x W, the pixels that hold data; all others become background. None for all.

    Returns:
        bool K x H x W; with exclusive classes at most one is True per pixel.
    """
    if not exclusive or len(logits) == 1:  # one class: background has the logit 0
        masks = (logits > math.log(threshold / (1 - threshold))).cpu().numpy()
    else:
        best = with_background(logits[None])[0].argmax(0)
        classes = torch.arange(1, len(logits) + 1, device=logits.device)[:, None, None]
        masks = (best == classes).cpu().numpy()
    if valid is not None:
        masks = masks & valid
    return without_specks(masks, min_area)


def without_specks(masks: np.ndarray, min_area: float) -> np.ndarray:
    """Remove classes that cover less than a share of the image.

    Args:
        masks: bool K x H x W; changed in place.
        min_area: share of the image in [0, 1).

    Returns:
        `masks`.
    """
    if min_area:
        masks &= (masks.mean((1, 2)) >= min_area)[:, None, None]
    return masks
