"""Select the images that `evaluate` scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from autosam.config import DataConfig
from autosam.config.commands import EvaluateConfig
from autosam.data.layouts import load_pairs, load_splits
from autosam.data.pairs import Pair
from autosam.data.splits import limited
from autosam.errors import ConfigError

SPLIT_SETTINGS = ("validation", "test", "split_seed", "stratify", "groups", "folds", "fold")
"""Settings that the training data keep, so that no training image becomes a test image."""


def select_pairs(
    config: EvaluateConfig, trained: DataConfig | None = None
) -> tuple[str, list[Pair], DataConfig]:
    """Select the images to score.

    Without data settings these are of the training data, whose splits stay as in training.

    Args:
        config: the data and the split to score.
        trained: the data settings of the checkpoint; None without a checkpoint.

    Returns:
        title: a name for the images, such as "test of DIR".
        pairs: images and masks.
        data: the settings that they are read with.

    Raises:
        ConfigError: settings that contradict each other or the checkpoint.
        DataError: see `load_splits`.
    """
    data = config.data
    if trained is not None:
        if data.num_classes not in (1, trained.num_classes):
            raise ConfigError(
                f"--data.num_classes {data.num_classes}: the checkpoint has {trained.num_classes}."
            )
        data = _with_classes(data, trained)
    name = data.root or data.images or "the embedded set"
    foreign = trained is None or not same_folders(data, trained)
    if foreign and data.images:
        pairs = load_pairs(data)
        if data.limit is None:
            return f"all of {name}", pairs, data
        return f"some of {name}", limited(pairs, data.limit, data.split_seed), data
    splits = load_splits(data)
    if config.split != "all":
        return f"{config.split} of {name}", splits[config.split], data
    pairs = [
        dataclasses.replace(pair, subset=f"{split}/{pair.subset}".rstrip("/"))
        for split, found in splits.items()
        for pair in found
    ]
    return f"all of {name}", pairs, data


def _with_classes(data: DataConfig, trained: DataConfig) -> DataConfig:
    """Complete data settings by those of the checkpoint: for the training data every setting that
    is not given, for other data the classes."""
    given = {
        f.name: getattr(data, f.name)
        for f in dataclasses.fields(DataConfig)
        if getattr(data, f.name) != f.default
    }
    named = any((data.root, data.images, data.masks, data.annotations))
    if not named or same_folders(data, trained):
        for key in SPLIT_SETTINGS:
            if key in given and given[key] != getattr(trained, key):
                print(f"warning: --data.{key}: not used; the training data keep their splits.")
            given.pop(key, None)
        classes = {"num_classes": trained.num_classes, "exclusive": trained.exclusive}
        return dataclasses.replace(trained, **given | classes)
    if data.classes is None:
        data = dataclasses.replace(data, classes=trained.classes)
    return dataclasses.replace(data, num_classes=trained.num_classes, exclusive=trained.exclusive)


def same_folders(data: DataConfig, other: DataConfig) -> bool:
    """Whether two data settings name the same folders and files."""
    return _folders(data) == _folders(other)


def _folders(data: DataConfig) -> list[Path | None]:
    paths = (data.root, data.images, data.masks, data.annotations)
    return [Path(p).resolve() if p else None for p in paths]
