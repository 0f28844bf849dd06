"""Find the objects of large images tile by tile, and join them across the borders of tiles."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autosam.data.images import ImageReader
from autosam.data.instances import compact
from autosam.data.pairs import Pixels
from autosam.data.readers.memory import MemoryImage
from autosam.evaluation.assemble import OVERLAP
from autosam.evaluation.predict_instances import masks_of
from autosam.inference.prediction import Prediction
from autosam.inference.predictor import Predictor
from autosam.inference.tiling import WholePixels, starts
from autosam.models.peaks import drop_duplicates
from autosam.types import Instances


@dataclass(frozen=True)
class _Found:
    """An object of a tile."""

    mask: tuple[int, int, np.ndarray]
    """Row and column of its box in the image, and its pixels in it."""
    category: int
    score: float
    cut: bool
    """Whether it touches a border of its tile inside the image: the rest may lie in the next."""


def objects_in_tiles(
    predictor: Predictor,
    pixels: ImageReader | WholePixels,
    size: int,
    overlap: float,
    image: Pixels | None = None,
) -> Prediction:
    """Find the objects of an image tile by tile.

    An object that several tiles show is kept once: as the tile shows it that does not cut it, or
    else its largest part. Only objects larger than the overlap may be cut in all tiles.

    Args:
        predictor: a run that draws objects one by one.
        pixels: the image.
        size: side of a tile, pixels of the image.
        overlap: smallest share of a tile that the next one covers too, in [0, 1).
        image: the image to draw the prediction on.
    """
    height, width = pixels.shape
    high, wide = min(size, height), min(size, width)
    num_classes = predictor.segmenter.num_classes
    logits = np.full((num_classes, height, width), -np.inf, np.float32)
    found: list[_Found] = []
    for y, x in itertools.product(starts(height, size, overlap), starts(width, size, overlap)):
        part, valid = pixels.part(y, x, high, wide)
        shown = predictor(MemoryImage(np.ascontiguousarray(part), valid=valid))
        own = logits[:, y : y + high, x : x + wide]
        np.maximum(own, shown.logits, out=own)
        assert shown.instances is not None
        found += _objects_of(shown.instances, (y, x), (height, width))
    found.sort(key=lambda one: (one.cut, -one.mask[2].sum() if one.cut else -one.score))
    masks = [one.mask for one in found]
    kept = [found[i] for i in drop_duplicates(masks, max(height, width), OVERLAP)]
    ids = np.zeros((height, width), np.int32)
    for number, one in reversed([*enumerate(kept, 1)]):
        top, left, mask = one.mask
        ids[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = number
    classes = np.array([one.category for one in kept], np.uint8)
    scores = np.array([one.score for one in kept], np.float32)
    objects = compact(Instances(ids, classes, scores))
    likely = 1 / (1 + np.exp(-logits.clip(-80, 80)))
    data = predictor.loaded.config.data
    return Prediction(likely, masks_of(objects, num_classes), logits, data, image, objects)


def _objects_of(
    instances: Instances, corner: tuple[int, int], size: tuple[int, int]
) -> list[_Found]:
    """The objects of the tile at `corner` (row, column) of an image of `size` (H, W)."""
    y, x = corner
    high, wide = instances.ids.shape
    assert instances.scores is not None
    found = []
    for i, (rows, columns) in enumerate(ndimage.find_objects(instances.ids)):
        cut = (
            (rows.start == 0 and y > 0)
            or (columns.start == 0 and x > 0)
            or (rows.stop == high and y + high < size[0])
            or (columns.stop == wide and x + wide < size[1])
        )
        mask = y + rows.start, x + columns.start, instances.ids[rows, columns] == i + 1
        category, score = int(instances.classes[i]), float(instances.scores[i])
        found.append(_Found(mask, category, score, cut))
    return found
