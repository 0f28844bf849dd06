"""Dice of trivial predictions, which need no network: baselines for every run."""

from __future__ import annotations

import cv2
import numpy as np

from autosam.comparison.jobs import Job
from autosam.comparison.scores import load_segmenter
from autosam.data.dataset import PairDataset
from autosam.data.labels import class_masks
from autosam.evaluation.metrics import score
from autosam.evaluation.sanity import EMPTY_MASK, FULL_MASK
from autosam.evaluation.scores import Scores
from autosam.training.data import open_data

MEAN = "the mean mask of the training images"

SIDE = 64
"""Side of the mean mask, pixels."""

MAX_MASKS = 500
"""Approximate limit on the number of training masks that are averaged."""


def trivial_scores(jobs: list[Job]) -> dict[str, Scores]:
    """Score the trivial predictions on the test images of the first seed.

    Args:
        jobs: the trainings of one row.

    Returns:
        Scores by name of the prediction and by image.
    """
    found: dict[str, Scores] = {}
    for job in jobs:
        if job.seed == 0:
            for name, rows in _trivial_scores(job).items():
                found.setdefault(name, {}).update(rows)
    return found


def _trivial_scores(job: Job) -> dict[str, Scores]:
    """Score the trivial predictions of one training. With several classes the mask of the whole
    image is of the class with the largest area in the training images."""
    config = job.config
    data = open_data(config, load_segmenter(job).input_spec, 0)
    mean = mean_mask(data.train, config.data.num_classes)
    largest = int(mean.mean((1, 2)).argmax())
    found: dict[str, Scores] = {name: {} for name in (FULL_MASK, EMPTY_MASK, MEAN)}
    for pair in data.test.pairs:
        label = data.test.encoding.read(pair.mask)
        masks = np.zeros((len(mean), *label.shape), bool)
        found[EMPTY_MASK][pair.name] = score(masks, label, ("dice",))
        resized = [
            cv2.resize(one, label.shape[::-1], interpolation=cv2.INTER_LINEAR) for one in mean
        ]
        found[MEAN][pair.name] = score(np.stack(resized) > 0.5, label, ("dice",))
        masks[largest] = True
        found[FULL_MASK][pair.name] = score(masks, label, ("dice",))
    return found


def mean_mask(train: PairDataset, num_classes: int) -> np.ndarray:
    """Average the resized training masks.

    Args:
        train: the training images.
        num_classes: K.

    Returns:
        float64 K x SIDE x SIDE in [0, 1].
    """
    result = np.zeros((num_classes, SIDE, SIDE))
    pairs = train.pairs[:: max(1, len(train.pairs) // MAX_MASKS)]
    for pair in pairs:
        for k, mask in enumerate(class_masks(train.encoding.read(pair.mask), num_classes)):
            small = cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            result[k] += small / len(pairs)
    return result
