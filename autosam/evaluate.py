"""`python -m autosam.evaluate`: score a checkpoint on any data set."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from rich.progress import track
from torch.utils.data import DataLoader

from autosam import checkpoint
from autosam.command import run_command
from autosam.config import DataConfig
from autosam.data.check import check_pairs
from autosam.data.dataset import EpochSampler, PairDataset
from autosam.data.sources import find_pairs, load_split
from autosam.engine import evaluate as score_loader
from autosam.errors import ConfigError
from autosam.metrics import METRICS, mean_scores
from autosam.report import print_scores
from autosam.tracking import write_scores
from autosam.types import Batch

log = logging.getLogger("autosam")


@dataclass
class EvaluateConfig:
    """Score a checkpoint on a data set."""

    checkpoint: str = ""
    """Run folder or checkpoint file."""
    sam_checkpoint: str | None = None
    """SAM weights, where they lie elsewhere than in training."""
    part: Literal["train", "validation", "test", "all"] = "test"
    """Which part of `data.root` to score. `all`, or --data.images with --data.masks: every pair."""
    output: str | None = None
    """CSV file for the per-image scores."""
    batch_size: int = 8
    """Images at a time."""
    data: DataConfig = field(default_factory=DataConfig)


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Mean dice, iou and hd95 over the images, each at its own size.

    The number of classes and how they exclude each other come from the checkpoint.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is scored.
    """
    if not config.checkpoint:
        raise ConfigError("--checkpoint RUN is needed: a run folder or a checkpoint file.")
    if config.output and Path(config.output).exists():
        raise ConfigError(f"--output {config.output}: exists; choose another file.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = checkpoint.load(config.checkpoint, config.sam_checkpoint)
    segmenter, trained = loaded.segmenter.to(device), loaded.config.data
    config.data.num_classes = trained.num_classes
    if config.data.images and config.data.masks:
        pairs = find_pairs(
            Path(config.data.images), Path(config.data.masks), config.data.mask_suffix
        )
    else:
        split = load_split(config.data)
        pairs = [p for part in split.values() for p in part]
        if config.part != "all":
            pairs = split[config.part]
    report = check_pairs(pairs, trained.num_classes)
    for warning in report.warnings:
        log.warning(warning)
    dataset = PairDataset(pairs, segmenter.frame, report.reading)
    loader = DataLoader(
        dataset,
        config.batch_size,
        sampler=EpochSampler(len(dataset), shuffle=False),
        collate_fn=Batch.collate,
    )
    batches = (batch.to(device) for batch in track(loader, "scoring"))
    rows = score_loader(segmenter, batches, trained.exclusive, tuple(METRICS))
    scores = mean_scores(list(rows.values()))
    facts = {"checkpoint": str(loaded.path), "images": str(len(rows))}
    if config.output:
        write_scores(Path(config.output), rows)
        facts["per image"] = config.output
    print_scores({config.part: scores}, facts)
    return scores


def main() -> None:
    run_command(EvaluateConfig, evaluate)


if __name__ == "__main__":
    main()
