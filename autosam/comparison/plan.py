"""The trainings of a comparison: planned from its settings, each in a folder named by its hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

import autosam
from autosam.config import RUNS, Config, LearnedPrompt, PaperConfig, Settings
from autosam.config.cli import flatten, to_dict
from autosam.data.pairs import Split, fingerprint
from autosam.data.splits import RULE, depends_on_rule
from autosam.errors import CheckpointError
from autosam.models.sam import sam_hash
from autosam.training import resume as state
from autosam.training.fit import train
from autosam.training.tracker import read_metrics

T = TypeVar("T")
NOT_PART = ("output", "overwrite", "init", "resume", "sam_checkpoint", "data.workers",
            "cache.dir", "cache.max_gb", "train.save_minutes", "train.pictures")  # fmt: skip
"""Settings that a run's result does not depend on."""


@dataclass(frozen=True)
class Variant:
    """What one row of a comparison trains; see `Config`."""

    run: str
    embedding: str = "real"
    paper: tuple[str, ...] = ()
    prompt: LearnedPrompt | None = None
    """Of autosam; None: `ModelConfig.prompt`."""


@dataclass(frozen=True)
class Job:
    """One training of a comparison."""

    row: str
    """The line of the table that it counts for."""
    seed: int
    """Its number among the seeds, from 0."""
    config: Config

    @property
    def folder(self) -> Path:
        """Its run folder."""
        assert self.config.output is not None
        return Path(self.config.output)

    @property
    def finished(self) -> bool:
        return (self.folder / "scores.yaml").is_file()

    def run(self) -> None:
        """Train, or go on with what was interrupted."""
        if self.finished:
            return
        if state.files(self.folder):
            train(Config(resume=str(self.folder)))
        else:  # what was cut off before its first state begins anew
            train(dataclasses.replace(self.config, overwrite=True))

    def curve(self) -> list[float]:
        """Dice by epoch, of the part that the best epoch was chosen on."""
        part = "test" if self.config.paper.select_on_test else "validation"
        return self.left(
            "metrics.jsonl",
            lambda file: [float(row[f"{part}/dice"]) for row in read_metrics(file.parent)],
        )

    def left(self, name: str, read: Callable[[Path], T]) -> T:
        """What the training left in a file of its folder.

        Raises:
            CheckpointError: it is damaged.
        """
        try:
            return read(self.folder / name)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
            raise CheckpointError(
                f"{self.folder / name}: damaged. Delete {self.folder}, and the same command trains "
                "it again."
            ) from None

    def facts(self) -> dict[str, float]:
        """What the training left in scores.yaml beside the scores: seconds, trainable, ..."""
        found = self.left("scores.yaml", lambda file: yaml.safe_load(file.read_text("utf-8")) | {})
        return {key: value for key, value in found.items() if not isinstance(value, dict)}


def plan(
    settings: Settings,
    rows: dict[str, Variant],
    seeds: int,
    folder: Path,
    split: Split,
) -> list[Job]:
    """Every training that a comparison needs.

    Args:
        settings: what all runs share; `data.folds` makes a job of each fold.
        rows: what is trained, by the name of its row.
        seeds: how many, from `train.seed` on.
        folder: where the run folders go.
        split: the images, of any fold.

    Returns:
        Row by row, the seeds and folds of each.
    """
    shared = {f.name: getattr(settings, f.name) for f in dataclasses.fields(Settings)}
    data = fingerprint(split)
    if depends_on_rule(split, settings.data):
        data += f" split rule {RULE}"
    jobs = []
    for row, variant in rows.items():
        for seed in range(seeds):
            for fold in range(settings.data.folds or 1):
                config = Config(
                    **shared,
                    run=variant.run,  # type: ignore[arg-type]
                    embedding=variant.embedding,  # type: ignore[arg-type]
                    paper=PaperConfig(**dict.fromkeys(variant.paper, True)),
                )
                config.train = dataclasses.replace(config.train, seed=config.train.seed + seed)
                config.data = dataclasses.replace(config.data, fold=fold)
                name = config.title
                if variant.prompt is not None:
                    config.model = dataclasses.replace(config.model, prompt=variant.prompt)
                    name += f"-{variant.prompt}"
                name += f"-seed{seed}" + f"-fold{fold}" * bool(settings.data.folds)
                config.output = str(folder / f"{name}-{digest(config, data)[:8]}")
                jobs.append(Job(row, seed, config))
    return jobs


def digest(config: Config, data: str) -> str:
    """SHA-256 of everything that a run's result depends on."""
    settings = {
        key: value for key, value in flatten(to_dict(config)).items() if key not in NOT_PART
    }
    sam = ""
    if RUNS[config.run].decoder == "sam":
        sam = sam_hash(config.sam, config.sam_checkpoint)
    content = json.dumps([settings, sam, data, autosam.__version__], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()
