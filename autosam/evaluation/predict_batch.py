"""Convert a batch to masks: logits at each image's own size, then a threshold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from autosam.data.geometry import restore
from autosam.models.base import SegmentationModel
from autosam.types import Batch, InputSpec, Prompt, Region
from autosam.utils.device import half_precision

TILES = 8
"""Tiles segmented at a time."""


def parts_of(batch: Batch) -> list[Batch]:
    """Split a batch of tiles into what is segmented at a time; a batch of images stays whole."""
    if not batch.regions:
        return [batch]
    return [batch.part(start, start + TILES) for start in range(0, len(batch), TILES)]


def average_tiles(tiles: Iterable[tuple[Region, Tensor]], size: tuple[int, int, int]) -> Tensor:
    """Join the maps of the tiles of an image; where tiles overlap they are averaged.

    Args:
        tiles: the region of each tile, and its map, float K x h x w.
        size: K, H, W.

    Returns:
        float32 K x H x W, on the device of the maps.
    """
    device = torch.device("cpu")
    sums, counts = torch.zeros(size), torch.zeros(size[1:])
    for (y, x, height, width), values in tiles:
        if values.device != device:
            device = values.device
            sums, counts = sums.to(device), counts.to(device)
        rows, columns = slice(y, y + height), slice(x, x + width)
        sums[:, rows, columns] += values
        counts[rows, columns] += 1
    return sums.div_(counts)


def full_size(batch: Batch, values: Tensor, i: int, input_spec: InputSpec) -> Tensor:
    """Resize maps of an image to its own size; the maps of tiles are averaged where they overlap.

    Args:
        batch: see `Batch`.
        values: float B x K x m x m, of the rows of the batch.
        i: index of the image in the batch.
        input_spec: the sizes.

    Returns:
        float32 K x H x W.
    """
    side, geometry = input_spec.image_size, input_spec.geometry
    if not batch.regions:
        return restore(values[i], batch.sizes[i], side, geometry)
    tiles = (
        (region, restore(values[row], region[2:], side, geometry))
        for row, region in zip(batch.rows(i), batch.regions[i], strict=True)
    )
    return average_tiles(tiles, (values.shape[1], *batch.sizes[i]))


@dataclass
class BatchPrediction:
    """The prediction for a batch. Logits are resized to the size of an image on request, one image
    at a time, because images may be large."""

    segmenter: SegmentationModel
    batch: Batch
    logits: Tensor
    """float32 B x K x m x m."""
    prompts: list[tuple[Batch, Prompt]] = field(default_factory=list)
    """The parts of the batch with their P = B*K prompts, if there is one for each row and class."""

    def full_logits(self, i: int) -> Tensor:
        """Resize the logits of an image to its own size.

        Args:
            i: index of the image in the batch.

        Returns:
            float32 K x H x W.
        """
        return full_size(self.batch, self.logits, i, self.segmenter.input_spec)

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
        Logits, and the learned prompts if there are any.
    """
    logits, prompts = [], []
    for part in parts_of(batch):
        with half_precision(batch.generator_input.device, bf16):
            own, prompt = segmenter.segment(part)
        logits.append(own.float())
        if prompt is not None:
            prompts.append((part, prompt))
    return BatchPrediction(segmenter, batch, torch.cat(logits), prompts)


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
        exclusive: whether a pixel has at most one class: of several the most probable.
        threshold: probability in (0, 1) above which a pixel is foreground, by the sigmoid of the
            logit. With several exclusive classes that is the probability of a class where the only
            alternative is background; at 0.5 the masks are the arg-max of the soft-max.
        min_area: share of the image in [0, 1); a class that covers less is removed.
        valid: bool H x W, the pixels that hold data; all others become background. None for all.

    Returns:
        bool K x H x W; with exclusive classes at most one is True per pixel.
    """
    found = logits > math.log(threshold / (1 - threshold))
    if exclusive and len(logits) > 1:
        found &= most_probable(logits)
    masks = found.cpu().numpy()
    if valid is not None:
        masks = masks & valid
    return without_specks(masks, min_area)


def most_probable(logits: Tensor) -> Tensor:
    """Where each class has the largest logit (of equal ones the first): bool K x H x W."""
    classes = torch.arange(len(logits), device=logits.device)[:, None, None]
    return logits.argmax(0) == classes


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
