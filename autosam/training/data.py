"""Data sets and loaders of a training."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch.utils.data import DataLoader

from autosam.config import RUNS, Config
from autosam.data.augment import Augment, build_augment
from autosam.data.checks import check_splits
from autosam.data.dataset import PairDataset, Prompting, largest_batch
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
from autosam.types import InputSpec
from autosam.utils.logging import log
from autosam.utils.signals import Interrupt


def open_data(config: Config, input_spec: InputSpec, copies: int = 0) -> Data:
    """Find, check and wrap the files; warnings go to the log.

    Args:
        config: the run.
        input_spec: of its segmenter.
        copies: V of the training images, 0 for none; the others then have one.

    Raises:
        ConfigError, DataError: see `load_splits` and `check_splits`.
    """
    splits = load_splits(config.data)
    report = check_splits(splits, config.data)
    log.info(
        "%s", ", ".join(f"{len(pairs)} {split}" for split, pairs in splits.items()) + " images"
    )
    for warning in report.warnings:
        log.warning(warning)
    if report.encoding.description:
        log.info("masks: %s", report.encoding.description)
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
    """The loader of a training and the sampler that orders it.

    Args:
        dataset: one split.
        config: the run.
        processes: how many compute.
        interrupt: ends the worker processes when a signal comes.
        shuffle: for training, see `EpochBatches`; otherwise every image comes once and in order,
            or again where accelerate fills the last batches.
    """
    sampler = EpochSampler(len(dataset), shuffle, config.train.seed)
    batch_size, count = config.train.batch_size, worker_count(config.data.workers, processes)
    workers = None
    if count:
        size = sum(t.nbytes for t in tensors_of(largest_batch(dataset, 1))) * batch_size
        # The keys hold the epoch, so that workers may live longer.
        workers = Workers(count, size, processes, interrupt, persistent=True, warn=shuffle)
    if shuffle:
        batches = EpochBatches(sampler, batch_size, processes)
        return make_loader(dataset, batches, workers=workers), sampler
    return make_loader(dataset, sampler, batch_size, workers), sampler


def default_epochs(images: int) -> int:
    """How long to train where the settings do not say; see `TrainConfig.epochs`."""
    return max(5, min(50, math.ceil(1440 / images)))
