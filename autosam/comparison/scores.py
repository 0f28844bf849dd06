"""What the finished trainings of a comparison score, as they are and with SAM's view taken away."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import yaml
from torch.utils.data import DataLoader

from autosam.comparison.plan import Trial
from autosam.config import Config
from autosam.data.dataset import EpochSampler, PairDataset
from autosam.data.geometry import restore
from autosam.data.labels import class_masks
from autosam.errors import CheckpointError
from autosam.evaluation.cautions import COVER, NOTHING
from autosam.evaluation.evaluator import evaluate
from autosam.evaluation.metrics import METRICS, predict_label, require_all, score
from autosam.evaluation.scores import read_scores, write_scores
from autosam.models import checkpoint
from autosam.models.segmenter import Segmenter
from autosam.training.data import open_data
from autosam.training.embedding_cache import use_cache, views_of
from autosam.types import Batch
from autosam.utils.device import choose_device, wait
from autosam.utils.io import write_atomically

Scores = dict[str, dict[str, float]]
"""Metrics by image."""

SWAPS = ("blank", "shuffled", "surrogate")
"""What a trained run can be scored with instead of SAM's embedding of the image: zeros, that of
another image, or no SAM at all."""

TIMED = 8
"""Test images over which the time of prediction is taken."""


@dataclass
class Predicted:
    """One test image by one run."""

    image: np.ndarray
    """uint8 H x W x 3."""
    label: np.ndarray
    """The truth, see `autosam.data.labels`."""
    masks: np.ndarray
    """bool K x H x W."""


def scores_of(trial: Trial) -> Scores:
    """What the training scored on test."""
    return trial.left("test_scores.csv", read_scores)


def swapped_scores(trial: Trial, swap: str) -> Scores:
    """Score a finished trial on test with something else in place of SAM's embedding; kept in its
    folder.

    Args:
        swap: one of `SWAPS`.
    """
    file = trial.folder / f"test_scores-{swap}.csv"
    if not file.is_file():
        config, segmenter = trial.config, load_swapped(trial, swap)
        dataset = open_test(config, segmenter, swap)
        rows = evaluate(
            segmenter,
            batches(segmenter, dataset, config.train.batch_size),
            config.data.exclusive,
            tuple(METRICS),
            classes=config.data.class_names,
        )
        require_all(rows, dataset.pairs)
        write_atomically(file, lambda to: write_scores(to, rows))
    return trial.left(file.name, read_scores)


def open_test(
    config: Config, segmenter: Segmenter, swap: str = "", cached: bool = True
) -> PairDataset:
    """The test part, in the segmenter's frame; its embeddings from the cache where there is one."""
    if swap == "shuffled":
        config = dataclasses.replace(config, embedding="shuffled")
    views = views_of(config) if cached and swap != "surrogate" else 0
    test = open_data(config, segmenter.frame, views).test
    if views:
        use_cache(config, {"test": test}, choose_device(), 0)
    return test


def batches(segmenter: Segmenter, dataset: PairDataset, size: int) -> Iterator[Batch]:
    """The images in order, on the segmenter's device."""
    device = next(segmenter.parameters()).device
    loader = DataLoader(
        dataset, size, sampler=EpochSampler(len(dataset), shuffle=False), collate_fn=Batch.collate
    )
    return (batch.to(device) for batch in loader)


@torch.no_grad()
def images_per_second(trial: Trial, swap: str = "") -> float:
    """Speed of a finished trial on test images one at a time, from the pixels in memory to the
    mask at the image's own size, image encoder included; kept in its folder."""
    file = trial.folder / f"speed{f'-{swap}' * bool(swap)}.yaml"
    if file.is_file():
        return float(yaml.safe_load(file.read_text(encoding="utf-8"))["images_per_second"])
    segmenter = load_swapped(trial, swap)
    dataset, frame = open_test(trial.config, segmenter, cached=False), segmenter.frame
    device = next(segmenter.parameters()).device

    def predict(position: int) -> float:
        batch = Batch.collate([dataset[0, position]]).to(device)
        wait(device)
        started = time.perf_counter()
        logits = restore(segmenter(batch)[0], batch.sizes[0], frame.image_size, frame.geometry)
        predict_label(logits, trial.config.data.exclusive, segmenter.threshold, segmenter.min_area)
        return time.perf_counter() - started

    predict(0)
    seconds = [predict(i) for i in range(min(TIMED, len(dataset)))]
    speed = len(seconds) / sum(seconds)
    write_atomically(file, lambda to: to.write_text(f"images_per_second: {speed:.4g}\n", "utf-8"))
    return speed


@torch.no_grad()
def predict_some(trial: Trial, names: Collection[str], swap: str = "") -> dict[str, Predicted]:
    """What a finished trial makes of some test images, by name."""
    config, segmenter = trial.config, load_swapped(trial, swap)
    dataset, frame = open_test(config, segmenter, swap), segmenter.frame
    device, found = next(segmenter.parameters()).device, {}
    for position, pair in enumerate(dataset.pairs):
        if pair.name in names:
            sample = dataset[0, position]
            logits = segmenter(Batch.collate([sample]).to(device))[0].float()
            full = restore(logits, sample.size, frame.image_size, frame.geometry)
            assert sample.label is not None
            masks = predict_label(
                full,
                config.data.exclusive,
                segmenter.threshold,
                segmenter.min_area,
                sample.valid,
            )
            found[pair.name] = Predicted(pair.image.read(), sample.label, masks)
    return found


MEAN = "the mean mask of the training images"
SHAPE = 64
"""Side at which the mean mask of the training images is taken, pixels."""
SHAPES = 500
"""Training masks that it is taken of, at most."""


def trivial_scores(trial: Trial) -> dict[str, Scores]:
    """Dice of masks that need no network on the test images of a trial, by what they are; a mask
    of several classes covers every image with the one that training images hold most of."""
    config, segmenter = trial.config, load_swapped(trial, "")
    data = open_data(config, segmenter.frame, 0)
    count, train, test = config.data.num_classes, data.train, data.test
    shape = np.zeros((count, SHAPE, SHAPE))
    some = train.pairs[:: max(1, len(train.pairs) // SHAPES)]
    for pair in some:
        for k, mask in enumerate(class_masks(train.reading.read(pair.mask), count)):
            mean = cv2.resize(mask.astype(np.float32), (SHAPE, SHAPE), interpolation=cv2.INTER_AREA)
            shape[k] += mean / len(some)
    most = int(shape.mean((1, 2)).argmax())
    found: dict[str, Scores] = {name: {} for name in (COVER, NOTHING, MEAN)}
    for pair in test.pairs:
        label = test.reading.read(pair.mask)
        masks = np.zeros((count, *label.shape), bool)
        found[NOTHING][pair.name] = score(masks, label, ("dice",))
        sized = [
            cv2.resize(one, label.shape[::-1], interpolation=cv2.INTER_LINEAR) for one in shape
        ]
        found[MEAN][pair.name] = score(np.stack(sized) > 0.5, label, ("dice",))
        masks[most] = True
        found[COVER][pair.name] = score(masks, label, ("dice",))
    return found


def load_swapped(trial: Trial, swap: str) -> Segmenter:
    """A finished trial's segmenter, with what `swap` says instead of SAM's embedding."""
    fast = swap == "surrogate"
    segmenter = checkpoint.load(trial.folder, fast=fast).segmenter.to(choose_device())
    segmenter.blank = segmenter.blank or swap == "blank"
    return segmenter


def gather(trials: list[Trial], scores: Callable[[Trial], Scores]) -> list[Scores]:
    """The scores of each seed, those of its folds together.

    Raises:
        CheckpointError: an image was tested by two folds, or not by every seed.
    """
    found: dict[int, Scores] = {}
    for trial in trials:
        seed, rows = found.setdefault(trial.seed, {}), scores(trial)
        if twice := sorted(seed.keys() & rows.keys())[:3]:
            raise CheckpointError(
                f"{trial.folder}: tested {', '.join(twice)}, as another fold did. Delete the "
                "folder it is in, and the same command trains the folds again."
            )
        seed.update(rows)
    first = found[trials[0].seed]
    for number, seed in found.items():
        if odd := sorted(seed.keys() ^ first.keys())[:3]:
            raise CheckpointError(
                f"{trials[0].folder.parent}: seeds {trials[0].seed} and {number} did not test the "
                f"same images ({', '.join(odd)}). Delete the folder, and the same command trains "
                "again."
            )
    return [found[seed] for seed in sorted(found)]
