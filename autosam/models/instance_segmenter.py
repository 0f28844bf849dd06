"""The network of a run that learns to find objects: each gets its own prompt and its own mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from autosam.models.instance_prompter import (
    InstancePrompter,
    at_least_one,
    center_probabilities,
)
from autosam.models.prompters import decode_in_parts
from autosam.models.segmenter import Segmenter
from autosam.types import Batch, Decision, ObjectPrompts, Prompt

THRESHOLD = 0.25
"""Smallest score of an object, until one is chosen on validation."""


@dataclass
class ObjectLogits:
    """Output of a training step."""

    centers: Tensor
    """float B x K x m x m."""
    masks: Tensor
    """float M x 1 x m x m."""
    boxes: Tensor
    """float M x 4, see `ObjectPrompts`."""
    objects: ObjectPrompts
    """The M objects; an empty mask in place of none."""


class InstanceSegmenter(Segmenter):
    """A SAM and a prompter of objects as one network, see `Segmenter`."""

    prompter: InstancePrompter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.num_classes = self.prompter.classes
        self.decision = Decision(THRESHOLD)

    def segment(self, batch: Batch) -> tuple[Tensor, Prompt | None]:
        """Not possible: an image has as many masks as objects, see `find_objects`."""
        raise TypeError("objects are drawn one by one: use autosam.models.find_objects")

    def centers(self, batch: Batch) -> Tensor:
        """The map of centres: probabilities float B x K x m x m, 0 on padding."""
        maps = self.prompter.maps(batch, self.encode_image(batch), self.sam)
        return center_probabilities(maps.centers, batch, self.sam.spec.image_size)

    def forward(  # type: ignore[override]
        self, batch: Batch, with_surrogate: bool = False
    ) -> tuple[ObjectLogits, None]:
        """Decode the objects that a batch holds as targets.

        Args:
            batch: with `prompts`.
            with_surrogate: not used; there is no surrogate decoder.
        """
        embedding = self.encode_image(batch)
        maps = self.prompter.maps(batch, embedding, self.sam)
        assert batch.prompts is not None
        objects = at_least_one(batch.prompts, maps.centers.shape[-1], self.sam.spec.image_size)
        assert objects.points is not None
        prompt, boxes = self.prompter.prompt(maps, objects.images, objects.points[:, 0], self.sam)
        masks = decode_in_parts(embedding, prompt, self.sam)
        return ObjectLogits(maps.centers, masks, boxes, objects), None
