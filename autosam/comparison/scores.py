"""Test scores, speed and predictions of finished trainings, as trained and with ablations."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import yaml

from autosam.comparison.jobs import Job
from autosam.comparison.variants import Ablation
from autosam.config import Config
from autosam.data.dataset import PairDataset
from autosam.data.loaders import EpochSampler, make_loader
from autosam.errors import CheckpointError
from autosam.evaluation.evaluator import evaluate
from autosam.evaluation.instance_matching import Matches
from autosam.evaluation.instance_metrics import pooled_scores, summarize_instances
from autosam.evaluation.metrics import METRICS, require_all
from autosam.evaluation.predict_batch import predict_batch
from autosam.evaluation.predict_instances import Separation, masks_of, predict_instances
from autosam.evaluation.scores import Scores, read_scores, write_scores
from autosam.models import checkpoint
from autosam.models.base import SegmentationModel
from autosam.training.data import open_data
from autosam.training.embedding_cache import copies_of, use_cache
from autosam.types import Batch, Instances
from autosam.utils.device import choose_device, wait
from autosam.utils.io import write_atomically

TIMED = 8
"""Largest number of test images that the speed of prediction is measured on."""


@dataclass
class Predicted:
    """A test image with its prediction."""

    image: np.ndarray
    """uint8 H x W x 3."""
    label: np.ndarray
    """H x W, the true mask, see `autosam.data.labels`."""
    masks: np.ndarray
    """bool K x H x W."""
    truth: Instances | None = None
    """The true objects, if objects are scored."""
    objects: Instances | None = None
    """The predicted ones."""


def scores_of(job: Job, ablation: Ablation = "") -> Scores:
    """Read the test scores of a training. Scores of an ablation are computed once and kept in the
    run folder.

    Args:
        job: a finished training.
        ablation: replacement of SAM's embedding at test.

    Returns:
        Scores by image.

    Raises:
        CheckpointError: the run folder is damaged.
    """
    if not ablation:
        return job.read("test_scores.csv", read_scores)
    file = job.folder / f"test_scores-{ablation}.csv"
    if not file.is_file():
        config, segmenter = job.config, load_segmenter(job, ablation)
        dataset = open_test(config, segmenter, ablation)
        matches: dict[str, Matches] = {}
        rows = evaluate(
            segmenter,
            batches(segmenter, dataset, config.train.batch_size),
            config.data.exclusive,
            tuple(METRICS),
            classes=config.data.class_names,
            how=separation(config, ablation),
            matches=matches,
        )
        require_all(rows, dataset.pairs)
        if matches:
            whole = summarize_instances(matches, config.data.class_names)
            text = yaml.safe_dump(pooled_scores(whole))
            pooled = job.folder / f"test_pooled-{ablation}.yaml"
            write_atomically(pooled, lambda to: to.write_text(text, encoding="utf-8"))
        write_atomically(file, lambda to: write_scores(to, rows))
    return job.read(file.name, read_scores)


def separation(config: Config, ablation: Ablation) -> Separation | None:
    """How masks become objects; None if objects are not scored."""
    return "components" if ablation == "components" else config.separation


def pooled_of(job: Job, ablation: Ablation = "") -> dict[str, float]:
    """Read the test scores over the objects of all images of a training, see `Job.pooled`.

    Args:
        job: a finished training.
        ablation: see `scores_of`, which is called before.
    """
    if not ablation or job.config.task == "semantic":
        return {} if ablation else job.pooled()
    found: dict[str, float] = job.read(
        f"test_pooled-{ablation}.yaml", lambda file: yaml.safe_load(file.read_text("utf-8"))
    )
    return found


def load_segmenter(job: Job, ablation: Ablation = "") -> SegmentationModel:
    """Load the segmenter of a training.

    Args:
        job: a finished training.
        ablation: replacement of SAM's embedding at test.
    """
    fast = ablation == "surrogate"
    loaded = checkpoint.load(job.folder, fast=fast, blank=ablation == "blank")
    return loaded.segmenter.to(choose_device())


def open_test(
    config: Config, segmenter: SegmentationModel, ablation: Ablation = "", cached: bool = True
) -> PairDataset:
    """Open the test split.

    Args:
        config: the settings of the training.
        segmenter: its network, which sets the sizes of the inputs.
        ablation: replacement of SAM's embedding at test.
        cached: take embeddings from the cache, if the run uses one.
    """
    if ablation == "shuffled":
        config = dataclasses.replace(config, embedding="shuffled")
    copies = copies_of(config) if cached and ablation != "surrogate" else 0
    test = open_data(config, segmenter.input_spec, copies).test
    if copies:
        use_cache(config, {"test": test}, choose_device(), 0)
    return test


def batches(segmenter: SegmentationModel, dataset: PairDataset, size: int) -> Iterator[Batch]:
    """Load the images in order.

    Args:
        segmenter: sets the device.
        dataset: the images.
        size: batch size.

    Returns:
        Batches on the segmenter's device.
    """
    device = next(segmenter.parameters()).device
    order = EpochSampler(len(dataset), shuffle=False)
    loader = make_loader(dataset, order, dataset.images_per_batch(size))
    return (batch.to(device) for batch in loader)


@torch.no_grad()
def images_per_second(job: Job, ablation: Ablation = "") -> float:
    """Measure the speed of prediction on test images, one at a time, and keep it in the run folder.

    The time is from the pixels in memory to the mask at the image's own size, with the image
    encoder.

    Args:
        job: a finished training.
        ablation: replacement of SAM's embedding at test.

    Returns:
        Images per second.
    """
    file = job.folder / (f"speed-{ablation}.yaml" if ablation else "speed.yaml")
    if file.is_file():
        return float(yaml.safe_load(file.read_text(encoding="utf-8"))["images_per_second"])
    segmenter = load_segmenter(job, ablation)
    dataset = open_test(job.config, segmenter, cached=False)
    device = next(segmenter.parameters()).device

    def predict(position: int) -> float:
        batch = Batch.collate([dataset[0, position]]).to(device)
        wait(device)
        started = time.perf_counter()
        _masks(segmenter, batch, job.config, ablation)
        return time.perf_counter() - started

    predict(0)  # the first call is slower
    seconds = [predict(i) for i in range(min(TIMED, len(dataset)))]
    speed = len(seconds) / sum(seconds)
    write_atomically(file, lambda to: to.write_text(f"images_per_second: {speed:.4g}\n", "utf-8"))
    return speed


@torch.no_grad()
def predict_some(job: Job, names: Collection[str], ablation: Ablation = "") -> dict[str, Predicted]:
    """Predict some of the test images.

    Args:
        job: a finished training.
        names: names of the images; those of other folds are ignored.
        ablation: replacement of SAM's embedding at test.

    Returns:
        Predictions by image.
    """
    segmenter = load_segmenter(job, ablation)
    dataset = open_test(job.config, segmenter, ablation)
    device, found = next(segmenter.parameters()).device, {}
    for position, pair in enumerate(dataset.pairs):
        if pair.name in names:
            sample = dataset[0, position]
            assert sample.label is not None
            batch = Batch.collate([sample]).to(device)
            masks, objects = _masks(segmenter, batch, job.config, ablation)
            found[pair.name] = Predicted(
                pair.image.read(), sample.label, masks, sample.instances, objects
            )
    return found


def _masks(
    segmenter: SegmentationModel, batch: Batch, config: Config, ablation: Ablation
) -> tuple[np.ndarray, Instances | None]:
    """The masks of one image, bool K x H x W, and its objects if they are scored."""
    how, exclusive = separation(config, ablation), config.data.exclusive
    if how is None:
        return predict_batch(segmenter, batch).masks(0, exclusive), None
    threshold = segmenter.decision.threshold
    [decide] = predict_instances(segmenter, batch, exclusive, how, least=threshold)
    _, objects = decide(threshold)
    return masks_of(objects, segmenter.num_classes), objects


def gather(jobs: list[Job], scores: Callable[[Job], Scores]) -> list[Scores]:
    """Collect the scores of each seed over its folds.

    Args:
        jobs: all trainings of one variant.
        scores: reads the scores of a training.

    Returns:
        Scores by image, for each seed.

    Raises:
        CheckpointError: two folds tested the same image, or two seeds tested different images.
    """
    by_seed: dict[int, Scores] = {}
    for job in jobs:
        seed, rows = by_seed.setdefault(job.seed, {}), scores(job)
        if twice := sorted(seed.keys() & rows.keys())[:3]:
            raise CheckpointError(
                f"{job.folder}: tested {', '.join(twice)}, as another fold did. Delete its parent "
                "folder, and the same command trains the folds again."
            )
        seed.update(rows)
    first = by_seed[jobs[0].seed]
    for number, seed in by_seed.items():
        if odd := sorted(seed.keys() ^ first.keys())[:3]:
            raise CheckpointError(
                f"{jobs[0].folder.parent}: seeds {jobs[0].seed} and {number} did not test the "
                f"same images ({', '.join(odd)}). Delete the folder, and the same command trains "
                "again."
            )
    return [by_seed[seed] for seed in sorted(by_seed)]
