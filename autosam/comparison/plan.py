"""Plan a comparison: check its settings, and make a job for each variant, seed and fold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import autosam
from autosam.comparison.jobs import Job
from autosam.comparison.variants import Variant
from autosam.config import RUNS, Config, PaperConfig, Settings
from autosam.config.cli import flatten, to_dict
from autosam.config.commands import CompareConfig
from autosam.config.setting import settings_of
from autosam.data.pairs import Splits, fingerprint
from autosam.data.splits import RULE, depends_on_rule
from autosam.models.sam import sam_hash

QUICK_LIMIT = 48
"""Largest number of images of each split with --quick."""

QUICK_EPOCHS = 5
"""Largest number of epochs with --quick."""


def shared_settings(config: CompareConfig) -> CompareConfig:
    """Apply --quick and --folds to the settings that all runs share.

    Args:
        config: the settings of the comparison.

    Returns:
        A copy with `data` and `train` changed.
    """
    settings = dataclasses.replace(config)
    if config.quick:
        limit = min(config.data.limit or QUICK_LIMIT, QUICK_LIMIT)
        epochs = min(config.train.epochs or QUICK_EPOCHS, QUICK_EPOCHS)
        settings.data = dataclasses.replace(config.data, limit=limit)
        settings.train = dataclasses.replace(config.train, epochs=epochs)
    if config.folds is not None:
        settings.data = dataclasses.replace(settings.data, folds=config.folds)
    return settings


def plan(
    settings: Settings,
    variants: list[Variant],
    seeds: int,
    folder: Path,
    splits: Splits,
    images: int | None = None,
) -> list[Job]:
    """List the trainings of a comparison.

    Args:
        settings: the settings that all runs share; with `data.folds` there is a job for each fold.
        variants: the variants to train.
        seeds: number of seeds; the first is `train.seed`.
        folder: parent of the run folders.
        splits: the images, of any fold.
        images: number of training images; None: all of them.

    Returns:
        Jobs by variant, then seed, then fold.
    """
    data = fingerprint(splits)
    if depends_on_rule(splits, settings.data):
        data += f" split rule {RULE}"
    passes = (images or len(splits["train"])) * (settings.train.epochs or 0)
    return [
        plan_job(settings, variant, seed, fold, folder, data, passes)
        for variant in variants
        for seed in range(seeds)
        for fold in range(settings.data.folds or 1)
    ]


def plan_job(
    settings: Settings,
    variant: Variant,
    seed: int,
    fold: int,
    folder: Path,
    data: str,
    passes: int = 0,
) -> Job:
    """Make the job of one training; the name of its run folder has a hash of all that its result
    depends on.

    Args:
        settings: see `plan`.
        variant: the variant to train.
        seed: index of the seed, from 0.
        fold: index of the fold, from 0.
        folder: see `plan`.
        data: fingerprint of the images.
        passes: images that it trains on, each counted once per epoch.
    """
    config = Config(
        **{f.name: getattr(settings, f.name) for f in dataclasses.fields(Settings)},
        run=variant.run,
        embedding=variant.control or "real",
        paper=PaperConfig(**dict.fromkeys(variant.paper, True)),
    )
    config.train = dataclasses.replace(config.train, seed=config.train.seed + seed)
    config.data = dataclasses.replace(config.data, fold=fold)
    name = config.title
    if config.data.limit_train is not None:
        config.data.limit_seed += seed
        name += f"-{config.data.limit_train}+{config.data.limit_validation or 'all'}"
    if variant.prompt is not None:
        config.model = dataclasses.replace(config.model, prompt=variant.prompt)
        name += f"-{variant.prompt}"
    name += f"-seed{seed}"
    if settings.data.folds:
        name += f"-fold{fold}"
    config.output = str(folder / f"{name}-{digest(config, data)[:8]}")
    return Job(variant, seed, config, passes)


def digest(config: Config, data: str) -> str:
    """Hash everything that the result of a run depends on: settings, SAM's weights, data, version.

    Args:
        config: the run.
        data: fingerprint of the images.

    Returns:
        SHA-256 in hexadecimal digits.
    """
    values = flatten(to_dict(config))
    settings = {
        one.first_key: values[key]
        for key, one in settings_of(Config).items()
        if one.facts.get("result", True)
    }
    sam = ""
    if RUNS[config.run].uses_sam:
        sam = sam_hash(config.sam, config.sam_checkpoint)
    content = json.dumps([settings, sam, data, autosam.__version__], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()
