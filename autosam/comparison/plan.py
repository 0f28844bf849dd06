"""What a comparison trains: its settings checked, and a job for each variant, seed and fold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import cast, get_args

import autosam
from autosam.comparison.jobs import Job
from autosam.comparison.variants import Variant, listed
from autosam.config import RUNS, Config, LearnedPrompt, PaperConfig, Settings
from autosam.config.cli import flatten, to_dict
from autosam.config.commands import CompareConfig
from autosam.config.setting import settings_of
from autosam.config.validation import check_settings
from autosam.config.values import check_ranges
from autosam.data.pairs import Splits, fingerprint
from autosam.data.splits import RULE, depends_on_rule
from autosam.errors import ConfigError
from autosam.models.sam import sam_hash

QUICK_LIMIT = 48
"""Images of each split with --quick, at most."""

QUICK_EPOCHS = 5
"""Epochs with --quick, at most."""


def check(config: CompareConfig) -> None:
    """
    Raises:
        ConfigError: settings that cannot work.
    """
    names = listed(config.runs)
    unknown = [name for name in names if name not in RUNS]
    if unknown or not names:
        raise ConfigError(f"--runs {config.runs}: choose from {', '.join(RUNS)}.")
    if len(set(names)) < len(names):
        raise ConfigError(f"--runs {config.runs}: a run is listed twice.")
    _check_prompts(config)
    if config.data.folds is not None or config.data.fold:
        raise ConfigError("--data.folds, --data.fold: say --folds, which trains every fold.")
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)}
    for name in names:
        check_settings(Config(**shared, run=name))
    last = dataclasses.replace(config.train, seed=config.train.seed + config.seeds - 1)
    check_ranges(last, "train")


def _check_prompts(config: CompareConfig) -> None:
    prompts = cast(list[LearnedPrompt], listed(config.prompts))
    for prompt in prompts:
        if prompt not in get_args(LearnedPrompt) or prompts.count(prompt) > 1:
            raise ConfigError(
                f"--prompts {config.prompts}: expected some of {', '.join(get_args(LearnedPrompt))}"
                ", each once."
            )
    if prompts and "autosam" not in listed(config.runs):
        raise ConfigError(f"--prompts {config.prompts}: needs autosam among --runs.")
    kinds = [dataclasses.replace(config.model, prompt=prompt).prompt_kinds for prompt in prompts]
    for prompt, own in zip(prompts, kinds, strict=True):
        if own == config.model.prompt_kinds or kinds.count(own) > 1:
            raise ConfigError(
                f"--prompts {config.prompts}: {prompt} would be trained twice. Expected others "
                f"than autosam's own, {config.model.prompt}, each once."
            )


def shared_settings(config: CompareConfig) -> CompareConfig:
    """The settings of all runs, with the limits of --quick and with --folds applied."""
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
    settings: Settings, variants: list[Variant], seeds: int, folder: Path, splits: Splits
) -> list[Job]:
    """Every training that a comparison needs.

    Args:
        settings: what all runs share; `data.folds` makes a job of each fold.
        variants: what is trained.
        seeds: how many, from `train.seed` on.
        folder: where the run folders go.
        splits: the images, of any fold.

    Returns:
        Variant by variant, the seeds and folds of each.
    """
    data = fingerprint(splits)
    if depends_on_rule(splits, settings.data):
        data += f" split rule {RULE}"
    return [
        plan_job(settings, variant, seed, fold, folder, data)
        for variant in variants
        for seed in range(seeds)
        for fold in range(settings.data.folds or 1)
    ]


def plan_job(
    settings: Settings, variant: Variant, seed: int, fold: int, folder: Path, data: str
) -> Job:
    """One training, its run folder named by what its result depends on.

    Args:
        settings, folder: see `plan`.
        variant: what is trained.
        seed, fold: their numbers, from 0.
        data: fingerprint of the images.
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
    if variant.prompt is not None:
        config.model = dataclasses.replace(config.model, prompt=variant.prompt)
        name += f"-{variant.prompt}"
    name += f"-seed{seed}"
    if settings.data.folds:
        name += f"-fold{fold}"
    config.output = str(folder / f"{name}-{digest(config, data)[:8]}")
    return Job(variant, seed, config)


def digest(config: Config, data: str) -> str:
    """SHA-256 of everything that a run's result depends on."""
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
