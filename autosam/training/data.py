"""Open the data sets of a run, and make their loaders."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch.utils.data import DataLoader

from autosam.config import RUNS, Config
from autosam.data.augment import Augment, build_augment
from autosam.data.checks import check_splits
from autosam.data.dataset import PairDataset, Prompting, cropping_of, largest_batch
from autosam.data.layouts import load_splits
from autosam.data.loaders import (
    Data,
    EpochBatches,
    EpochSampler,
    Workers,
    make_loader,
    tensors_of,
    worker_count,
)
from autosam.data.measured_windows import measured
from autosam.types import InputSpec
from autosam.utils.logging import log
from autosam.utils.signals import Interrupt


def open_data(config: Config, input_spec: InputSpec, copies: int = 0) -> Data:
    """Find and check the files, and open a data set for each split. Warnings are logged.

    Args:
        config: the run; `data.window` and `data.generator_window` are set if they must be measured.
        input_spec: input spec of the segmenter.
        copies: number of augmented copies of each training image, if embeddings are cached;
            validation and test images then have one. 0 without a cache.

    Returns:
        The data sets.

    Raises:
        ConfigError, DataError: see `load_splits` and `check_splits`.
    """
    config.data, splits = measured(config.data, load_splits(config.data))
    report = check_splits(splits, config.data)
    log.info(
        "%s", ", ".join(f"{len(pairs)} {split}" for split, pairs in splits.items()) + " images"
    )
    for warning in report.warnings:
        log.warning(warning)
    if report.encoding.description:
        log.info("masks: %s", report.encoding.description)
    if config.task == "instances" and not any(
        report.encoding.tells_apart(pair.mask) for pairs in splits.values() for pair in pairs
    ):
        log.warning(
            "the masks do not tell touching objects apart: the connected parts of each class are "
            "taken as objects (docs/data.md, Objects)"
        )
    if config.loss.resolution == "full":
        input_spec = dataclasses.replace(input_spec, target_size=input_spec.image_size)
    augment = build_augment(config.augment)

    def dataset(name: str, augment: Augment | None, copies: int) -> PairDataset:
        return PairDataset(
            splits[name],
            input_spec,
            report.encoding,
            augment,
            config.train.seed,
            Prompting(config.prompt, config.color_prior),
            copies,
            config.embedding == "shuffled",
            config.task == "instances",
            cropping_of(config.data),
        )

    clean = min(copies, 1)
    learns = RUNS[config.run].learns
    return Data(
        dataset("train", augment, copies) if learns else dataset("train", None, clean),
        dataset("validation", None, clean),
        dataset("test", None, clean),
    )


def epoch_loader(
    dataset: PairDataset, config: Config, processes: int, interrupt: Interrupt, shuffle: bool
) -> tuple[DataLoader[Any], EpochSampler]:
    """Make the loader of a split.

    Args:
        dataset: the split.
        config: the run.
        processes: number of processes that train.
        interrupt: ends the workers when a signal is received.
        shuffle: for training, see `EpochBatches`. Otherwise images come in order, each once, except
            those that accelerate repeats to fill the last batches.

    Returns:
        The loader, and the sampler that orders it.
    """
    sampler = EpochSampler(len(dataset), shuffle, config.train.seed)
    batch_size, count = config.train.batch_size, worker_count(config.data.workers, processes)
    workers = None
    if count:
        size = sum(t.nbytes for t in tensors_of(largest_batch(dataset, 1))) * batch_size
        # The keys contain the epoch, so workers can persist over epochs.
        workers = Workers(count, size, processes, interrupt, persistent=True, warn=shuffle)
    if shuffle:
        batches = EpochBatches(sampler, batch_size, processes)
        return make_loader(dataset, batches, workers=workers), sampler
    return make_loader(dataset, sampler, dataset.images_per_batch(batch_size), workers), sampler


def default_epochs(images: int) -> int:
    """Choose the number of epochs if the settings do not set it, see `TrainConfig.epochs`.

    Args:
        images: number of training images.
    """
    return max(5, min(50, math.ceil(1440 / images)))
