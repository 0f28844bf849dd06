"""Finalize a training: score its best checkpoint once on test, and write the report."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autosam.config import RUNS, Config
from autosam.data.images import write_png
from autosam.data.pairs import SPLITS
from autosam.errors import CheckpointError
from autosam.evaluation.calibration import MIN_IMAGES
from autosam.evaluation.evaluator import calibrate, format_gates
from autosam.evaluation.instance_matching import Matches
from autosam.evaluation.instance_metrics import summarize_instances
from autosam.evaluation.metrics import by_subset, mean_scores
from autosam.evaluation.sanity import describe_images, sanity_warnings, unfound_objects
from autosam.evaluation.scores import Scores, write_scores
from autosam.evaluation.tables import print_scores
from autosam.evaluation.volume_scores import (
    Counts,
    describe_volumes,
    mean_over_volumes,
    score_volumes,
)
from autosam.models import checkpoint
from autosam.models.base import SegmentationModel
from autosam.models.segmenter import Segmenter
from autosam.training import resume
from autosam.training.tracker import count_parameters
from autosam.training.trainer import Trainer
from autosam.utils.io import write_atomically
from autosam.utils.logging import log
from autosam.utils.text import count_of


@dataclass(repr=False)
class TrainResult:
    """The result of a training."""

    folder: Path
    validation: dict[str, float]
    """Mean scores of the best checkpoint over the validation images, by metric."""
    test: dict[str, float]
    """Mean scores of the best checkpoint over the test images, by metric."""
    epochs: int
    """Number of epochs that were trained."""
    seconds: float
    """Duration; for a resumed training that of all calls."""

    @property
    def scores(self) -> Scores:
        """Mean scores by split and metric."""
        return {"validation": self.validation, "test": self.test}

    @functools.cached_property
    def predictor(self) -> Any:
        """The trained run as a function from images to masks, see `autosam.load`.

        Raises:
            CheckpointError: the run needs prompts from true masks, or is a control.
        """
        import autosam

        return autosam.load(self.folder)

    def __repr__(self) -> str:
        dice = self.test.get("dice", math.nan)
        return f"TrainResult({str(self.folder)!r}, {self.epochs} epochs, test Dice {dice:.4f})"


def finalize(trainer: Trainer, peak_gib: float) -> TrainResult:
    """Load the best checkpoint, choose its threshold, score it on validation and test, and write
    the report.

    Args:
        trainer: the training, done.
        peak_gib: peak memory of the training, GiB.

    Returns:
        The run folder and the scores.

    Raises:
        CheckpointError: the best checkpoint is missing or damaged.
        DataError: the data changed during the training.
    """
    trainer.inputs.require_unchanged(trainer.folder)
    trainer.accelerator.wait_for_everyone()
    best, segmenter = trainer.folder / checkpoint.BEST, trainer.segmenter
    if not best.is_file():
        raise CheckpointError(f"{best}: missing; nothing to score. Restore it.")
    checkpoint.restore_trainable(segmenter, checkpoint.read_trained(best), str(best))
    thresholds = choose_thresholds(trainer) if is_calibrated(trainer.config) else {}
    checkpoint.set_decision(segmenter, thresholds)
    rows, scores, volumes = {}, {}, {}
    for split in ("validation", "test"):
        matches: dict[str, Matches] = {}
        counts: Counts = {}
        rows[split] = trainer.evaluate(split, final=True, matches=matches, counts=counts)
        scores[split] = mean_scores(list(rows[split].values()))
        if matches:
            scores[split] |= summarize_instances(matches, trainer.config.data.class_names)
        pairs = getattr(trainer.data, split).pairs
        volumes[split] = score_volumes(counts, pairs, trainer.config.data.class_names)
        scores[split] |= mean_over_volumes(volumes[split])
    subsets = by_subset(rows["test"], trainer.data.test.pairs)
    scores |= {f"test {name}": row for name, row in subsets.items()}
    if trainer.tracker is not None:
        images = {split: len(getattr(trainer.data, split)) for split in SPLITS}
        facts = {split: scores[split] for split in rows}
        checkpoint.annotate(best, images=images, **thresholds, **facts)
        report(trainer, scores, rows, volumes["test"], peak_gib)
        if matches:  # those of test
            for message in unfound_objects([*matches.values()], segmenter.decision.threshold):
                log.warning("on test, %s", message)
    return TrainResult(
        trainer.folder, scores["validation"], scores["test"], trainer.epoch, trainer.seconds
    )


def is_calibrated(config: Config) -> bool:
    """Whether a threshold is chosen on validation.

    None is chosen for runs without training, and with `paper.min_max_logits`, which implies 0.5.

    Args:
        config: the run.
    """
    return RUNS[config.run].uses_training_images and not config.paper.min_max_logits


def choose_thresholds(trainer: Trainer) -> dict[str, float]:
    """Choose the threshold and the smallest area on validation.

    Args:
        trainer: the training, with the best checkpoint loaded.

    Returns:
        `threshold` and `min_area`; with the prefix "fast_" those of the surrogate decoder, if there
        is one.
    """
    models: dict[str, SegmentationModel] = {"": trainer.segmenter}
    if isinstance(trainer.segmenter, Segmenter) and trainer.segmenter.surrogate is not None:
        models["fast_"] = trainer.segmenter.without_sam()
    found: dict[str, float] = {}
    for prefix, model in models.items():
        threshold, area = calibrate(
            model,
            trainer.scored("validation", "choosing the threshold on"),
            trainer.config.data.exclusive,
            trainer.accelerator,
            trainer.how,
        )
        found |= {f"{prefix}threshold": threshold, f"{prefix}min_area": area}
    return found


def report(
    trainer: Trainer, scores: Scores, rows: dict[str, Scores], test_volumes: Scores, peak_gib: float
) -> None:
    """Write the scores and the contact sheet, and print the scores.

    Args:
        trainer: the training, with the best checkpoint loaded.
        scores: mean scores by split.
        rows: scores of the validation and the test images.
        test_volumes: scores of the test volumes; empty if there are none.
        peak_gib: peak memory of the training, GiB.
    """
    assert trainer.tracker is not None
    folder, config, test_rows = trainer.folder, trainer.config, rows["test"]
    total, trainable = count_parameters(trainer.segmenter)
    write_atomically(folder / "test_scores.csv", lambda to: write_scores(to, test_rows))
    if test_volumes:
        write_atomically(
            folder / "test_volumes.csv", lambda to: write_scores(to, test_volumes, "volume")
        )
    write_png(folder / "contact_sheet.png", trainer.sheet(trainer.data.test, 8))
    sam = config.sam if trainer.segmenter.sam is not None else "none"
    oracle = RUNS[config.run].needs_truth
    verb = "evaluate" if oracle else "predict"
    target = "--input DIR --output DIR" if verb == "predict" else "--data.root DIR"
    epochs = count_of(trainer.epoch, "epoch")
    facts = {
        "run": f"{config.title}, SAM {sam}, {epochs} in {trainer.seconds:.0f} s",
        "parameters": f"{trainable:,} trainable, {total - trainable:,} frozen",
        "run folder": str(folder),
        "contact sheet": str(folder / "contact_sheet.png"),
        "watch": f"tensorboard --logdir {folder.parent}",
        "use": f"autosam {verb} --checkpoint {folder} {target}",
    }
    if is_calibrated(config):
        decision = trainer.segmenter.decision
        chosen = f"{decision.threshold:g}, chosen on validation"
        if sum(row["truth_share"] > 0 for row in rows["validation"].values()) < MIN_IMAGES:
            few = f"fewer than {MIN_IMAGES} validation images with foreground"
            chosen = f"{decision.threshold:g} ({few})"
        if decision.min_area > 0:
            chosen += f"; masks of less than {decision.min_area:.2%} of the image are removed"
        facts["threshold"] = chosen
    if gates := format_gates(scores["test"]):
        facts["gates on SAM's image embedding"] = gates
    facts |= describe_images(test_rows, config.data.class_names) | describe_volumes(test_volumes)
    print_scores(scores, facts)
    for message in sanity_warnings(test_rows, config.data.num_classes > 1):
        log.warning("on test, %s", message)
    summary = {
        "epochs": trainer.epoch,
        "seconds": round(trainer.seconds, 1),
        "trainable": trainable,
        "frozen": total - trainable,
        "threshold": trainer.segmenter.decision.threshold,
        "min_area": trainer.segmenter.decision.min_area,
        "peak_gib": round(peak_gib, 2),
        "precision": trainer.precision,
    }
    if trainer.accelerator.device.type == "cpu":  # one number for each call that trained
        summary["threads"] = trainer.threads if len(trainer.threads) > 1 else trainer.threads[0]
    text = yaml.safe_dump({**scores, **summary}, sort_keys=False)
    # Written last and atomically: a run with this file counts as finished.
    write_atomically(folder / "scores.yaml", lambda to: to.write_text(text, encoding="utf-8"))
    resume.thin_out(folder)
    trainer.tracker.hyperparameters({f"test {name}": v for name, v in scores["test"].items()})
