"""The data of a training: found, checked, wrapped."""

from __future__ import annotations

import dataclasses
import math

from autosam.config import RUNS, Config
from autosam.data.augment import Augment, build_augment
from autosam.data.checks import check_splits
from autosam.data.dataset import PairDataset
from autosam.data.layouts import load_splits
from autosam.data.loaders import Data
from autosam.types import InputSpec
from autosam.utils.logging import log


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
    if report.reading.how:
        log.info("masks: %s", report.reading.how)
    if config.loss.resolution == "full":
        input_spec = dataclasses.replace(input_spec, target_size=input_spec.image_size)
    augment = build_augment(config.augment)

    def dataset(name: str, augment: Augment | None, copies: int) -> PairDataset:
        return PairDataset(
            splits[name], input_spec, report.reading, augment, config.train.seed, config.prompt,
            copies, config.color_prior, config.embedding == "shuffled",
        )  # fmt: skip

    clean = min(copies, 1)
    learns = bool(RUNS[config.run].trainable)
    return Data(
        dataset("train", augment, copies) if learns else dataset("train", None, clean),
        dataset("validation", None, clean),
        dataset("test", None, clean),
    )


def default_epochs(images: int) -> int:
    """How long to train where the settings do not say; see `TrainConfig.epochs`."""
    return max(5, min(50, math.ceil(1440 / images)))
