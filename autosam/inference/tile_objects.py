"""Find the objects of large images tile by tile, and join them across the borders of tiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autosam.data.images import ImageReader
from autosam.data.pairs import Pixels
from autosam.data.readers.memory import MemoryImage
from autosam.data.tiles import tile_regions
from autosam.evaluation.join_objects import join_objects
from autosam.evaluation.predict_instances import masks_of
from autosam.inference.prediction import Prediction
from autosam.inference.predictor import Predictor
from autosam.inference.tiling import WholePixels
from autosam.types import Instances, Region


def objects_in_tiles(
    predictor: Predictor,
    pixels: ImageReader | WholePixels,
    size: int,
    overlap: float,
    image: Pixels | None = None,
) -> Prediction:
    """Find the objects of an image tile by tile, see `join_objects`.

    Args:
        predictor: a run that draws objects one by one.
        pixels: the image.
        size: side of a tile, pixels of the image.
        overlap: smallest share of a tile that the next one covers too, in [0, 1).
        image: the image to draw the prediction on.
    """
    num_classes = predictor.segmenter.num_classes

    def tiles() -> Iterator[tuple[Region, np.ndarray, Instances]]:
        for region in tile_regions(pixels.shape, size, overlap):
            part, valid = pixels.part(*region)
            shown = predictor(MemoryImage(np.ascontiguousarray(part), valid=valid))
            assert shown.instances is not None
            yield region, shown.logits, shown.instances

    logits, objects = join_objects(tiles(), (num_classes, *pixels.shape))
    likely = 1 / (1 + np.exp(-logits.clip(-80, 80)))
    data = predictor.loaded.config.data
    return Prediction(likely, masks_of(objects, num_classes), logits, data, image, objects)
