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

from autosam.comparison.plan import Job
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
from autosam.training.embedding_cache import copies_of, use_cache
from autosam.types import Batch
from autosam.utils.device import choose_device, wait
from autosam.utils.io import write_atomically

Scores = dict[str, dict[str, float]]
"""Metrics by image."""

ABLATIONS = ("blank", "shuffled", "surrogate")
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


def scores_of(job: Job) -> Scores:
    """What the training scored on test."""
    return job.left("test_scores.csv", read_scores)


def ablated_scores(job: Job, ablation: str) -> Scores:
    """Score a finished job on test with something else in place of SAM's embedding; kept in its
    folder.

    Args:
        ablation: one of `ABLATIONS`.
    """
    file = job.folder / f"test_scores-{ablation}.csv"
    if not file.is_file():
        config, segmenter = job.config, load_ablated(job, ablation)
        dataset = open_test(config, segmenter, ablation)
        rows = evaluate(
            segmenter,
            batches(segmenter, dataset, config.train.batch_size),
            config.data.exclusive,
            tuple(METRICS),
            classes=config.data.class_names,
        )
        require_all(rows, dataset.pairs)
        write_atomically(file, lambda to: write_scores(to, rows))
    return job.left(file.name, read_scores)


def open_test(
    config: Config, segmenter: Segmenter, ablation: str = "", cached: bool = True
) -> PairDataset:
    """The test split as the segmenter takes it; embeddings from the cache where there is one."""
    if ablation == "shuffled":
        config = dataclasses.replace(config, embedding="shuffled")
    copies = copies_of(config) if cached and ablation != "surrogate" else 0
    test = open_data(config, segmenter.input_spec, copies).test
    if copies:
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
def images_per_second(job: Job, ablation: str = "") -> float:
    """Speed of a finished job on test images one at a time, from the pixels in memory to the
    mask at the image's own size, image encoder included; kept in its folder."""
    file = job.folder / f"speed{f'-{ablation}' * bool(ablation)}.yaml"
    if file.is_file():
        return float(yaml.safe_load(file.read_text(encoding="utf-8"))["images_per_second"])
    segmenter = load_ablated(job, ablation)
    dataset, input_spec = open_test(job.config, segmenter, cached=False), segmenter.input_spec
    device = next(segmenter.parameters()).device

    def predict(position: int) -> float:
        batch = Batch.collate([dataset[0, position]]).to(device)
        wait(device)
        started = time.perf_counter()
        logits = restore(
            segmenter(batch)[0], batch.sizes[0], input_spec.image_size, input_spec.geometry
        )
        predict_label(logits, job.config.data.exclusive, segmenter.threshold, segmenter.min_area)
        return time.perf_counter() - started

    predict(0)
    seconds = [predict(i) for i in range(min(TIMED, len(dataset)))]
    speed = len(seconds) / sum(seconds)
    write_atomically(file, lambda to: to.write_text(f"images_per_second: {speed:.4g}\n", "utf-8"))
    return speed


@torch.no_grad()
def predict_some(job: Job, names: Collection[str], ablation: str = "") -> dict[str, Predicted]:
    """What a finished job makes of some test images, by name."""
    config, segmenter = job.config, load_ablated(job, ablation)
    dataset, input_spec = open_test(config, segmenter, ablation), segmenter.input_spec
    device, found = next(segmenter.parameters()).device, {}
    for position, pair in enumerate(dataset.pairs):
        if pair.name in names:
            sample = dataset[0, position]
            logits = segmenter(Batch.collate([sample]).to(device))[0].float()
            full = restore(logits, sample.size, input_spec.image_size, input_spec.geometry)
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


def trivial_scores(job: Job) -> dict[str, Scores]:
    """Dice of masks that need no network on the test images of a job, by what they are; a mask
    of several classes covers every image with the one that training images hold most of."""
    config, segmenter = job.config, load_ablated(job, "")
    data = open_data(config, segmenter.input_spec, 0)
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


def load_ablated(job: Job, ablation: str) -> Segmenter:
    """A finished job's segmenter, with what `ablation` says instead of SAM's embedding."""
    fast = ablation == "surrogate"
    segmenter = checkpoint.load(job.folder, fast=fast).segmenter.to(choose_device())
    segmenter.blank = segmenter.blank or ablation == "blank"
    return segmenter


def gather(jobs: list[Job], scores: Callable[[Job], Scores]) -> list[Scores]:
    """The scores of each seed, those of its folds together.

    Raises:
        CheckpointError: an image was tested by two folds, or not by every seed.
    """
    found: dict[int, Scores] = {}
    for job in jobs:
        seed, rows = found.setdefault(job.seed, {}), scores(job)
        if twice := sorted(seed.keys() & rows.keys())[:3]:
            raise CheckpointError(
                f"{job.folder}: tested {', '.join(twice)}, as another fold did. Delete the "
                "folder it is in, and the same command trains the folds again."
            )
        seed.update(rows)
    first = found[jobs[0].seed]
    for number, seed in found.items():
        if odd := sorted(seed.keys() ^ first.keys())[:3]:
            raise CheckpointError(
                f"{jobs[0].folder.parent}: seeds {jobs[0].seed} and {number} did not test the "
                f"same images ({', '.join(odd)}). Delete the folder, and the same command trains "
                "again."
            )
    return [found[seed] for seed in sorted(found)]
