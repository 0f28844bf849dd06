"""The objects of a prediction, each in its box: instances, or connected components of masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from autosam.inference.polygons import components
from autosam.types import Instances

if TYPE_CHECKING:
    from autosam.inference.prediction import Prediction


@dataclass(frozen=True)
class Region:
    """An object of an image."""

    category: int
    """Its class, 1..K."""
    mask: np.ndarray
    """bool h x w: its pixels in its box."""
    left: int
    """Left column of the box in the image."""
    top: int
    """Top row of the box in the image."""
    score: float | None
    """In 0..1; None if the objects have no scores."""
    number: int | None = None
    """Its number in `Instances.ids`; None for a connected component."""

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())

    @property
    def box(self) -> list[int]:
        """Left, top, width and height, as in COCO."""
        return [self.left, self.top, self.mask.shape[1], self.mask.shape[0]]

    @property
    def facts(self) -> dict[str, Any]:
        """Score, and the number as `object`, as far as it has them."""
        scored = {} if self.score is None else {"score": round(self.score, 4)}
        return scored if self.number is None else {**scored, "object": self.number}


def regions_of(found: Prediction) -> Iterator[Region]:
    """List the objects of a prediction.

    Args:
        found: a prediction.

    Yields:
        Its instances by number; without instances the 4-connected components of each class, whose
        score is the mean probability of their pixels.
    """
    if found.instances is not None:
        yield from instance_regions(found.instances)
        return
    for k, (mask, likely) in enumerate(zip(found.masks, found.probabilities, strict=True), 1):
        for part, left, top in components(mask):
            height, width = part.shape
            inside = likely[top : top + height, left : left + width][part]
            yield Region(k, part, left, top, float(inside.mean()))


def instance_regions(instances: Instances) -> Iterator[Region]:
    """List the objects of an image.

    Args:
        instances: the objects; every number from 1 to n has a pixel.

    Yields:
        Each object, by number.
    """
    scores = instances.scores
    for i, box in enumerate(ndimage.find_objects(instances.ids)):
        yield Region(
            category=int(instances.classes[i]),
            mask=instances.ids[box] == i + 1,
            left=box[1].start,
            top=box[0].start,
            score=None if scores is None else float(scores[i]),
            number=i + 1,
        )
