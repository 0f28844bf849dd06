"""Convert a batch to the objects of each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from autosam.data.instances import label_of, without_objects
from autosam.data.labels import class_masks
from autosam.evaluation.assemble import assemble, separate
from autosam.evaluation.join_objects import join_objects
from autosam.evaluation.predict_batch import parts_of, predict_batch, predict_label
from autosam.models.base import SegmentationModel
from autosam.models.find_objects import FoundObjects, draws_objects, find_objects
from autosam.models.losses import probabilities
from autosam.models.prompters import ABSENT
from autosam.types import Batch, Instances
from autosam.utils.device import half_precision

Separation = Literal["watershed", "components"]
Decide = Callable[[float], tuple[np.ndarray, Instances]]
"""A threshold -> logits float32 K x H x W, and the objects, of one image."""


def predict_instances(
    segmenter: SegmentationModel,
    batch: Batch,
    exclusive: bool,
    how: Separation,
    bf16: bool = False,
    least: float = 0.1,
) -> list[Decide]:
    """Find the objects of each image, whatever threshold is chosen afterwards.

    Args:
        segmenter: in evaluation mode.
        batch: on the segmenter's device.
        exclusive: see `predict_label`.
        how: see `separate`, for runs that predict classes.
        bf16: whether to compute in bfloat16.
        least: smallest threshold that will be asked for.

    Returns:
        For each image a function of the threshold: the smallest score of an object, or for runs
        that predict classes the probability from which on a pixel is foreground. Pixels without
        data belong to no object.
    """
    valid = batch.valid or [None] * len(batch.sizes)
    if draws_objects(segmenter):
        found: list[FoundObjects] = []
        for part in parts_of(batch):
            with half_precision(batch.generator_input.device, bf16):
                found += find_objects(segmenter, part, least)
        return [
            _of_objects(segmenter, [found[j] for j in batch.rows(i)], batch, i)
            for i in range(len(batch.sizes))
        ]
    predicted = predict_batch(segmenter, batch, bf16)

    def of_classes(i: int) -> Decide:
        logits = predicted.full_logits(i)
        likely = probabilities(logits[None], exclusive)[0].cpu().numpy()

        def decide(threshold: float) -> tuple[np.ndarray, Instances]:
            masks = predict_label(logits, exclusive, threshold, valid=valid[i])
            return logits.cpu().numpy(), separate(masks, likely, how)

        return decide

    return [of_classes(i) for i in range(len(batch.sizes))]


def _of_objects(
    segmenter: SegmentationModel, found: list[FoundObjects], batch: Batch, i: int
) -> Decide:
    """The decision on image i of a batch, from what was found in it or its tiles."""
    spec, num_classes = segmenter.input_spec, segmenter.num_classes
    size, valid = batch.sizes[i], batch.valid[i] if batch.valid else None

    def decide(threshold: float) -> tuple[np.ndarray, Instances]:
        if batch.regions:
            tiles = (
                (region, *assemble(one, region[2:], spec, num_classes, threshold))
                for one, region in zip(found, batch.regions[i], strict=True)
            )
            logits, objects = join_objects(tiles, (num_classes, *size))
        else:
            logits, objects = assemble(found[0], size, spec, num_classes, threshold)
        if valid is not None:
            objects = without_objects(objects, valid)
            objects.ids[~valid] = 0
            logits[:, ~valid] = ABSENT
        return logits, objects

    return decide


def masks_of(objects: Instances, num_classes: int) -> np.ndarray:
    """The masks of the classes, bool K x H x W."""
    return class_masks(label_of(objects), num_classes)
