"""How a run ends: the checkpoint that validation chose, scored once on test, and what is left of
it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from autosam.config import RUNS, Config
from autosam.data.images import write_png
from autosam.data.pairs import PARTS
from autosam.errors import CheckpointError
from autosam.evaluation.cautions import cautions, contents_of
from autosam.evaluation.evaluator import calibrate, trust_in_words
from autosam.evaluation.metrics import by_subset, mean_scores
from autosam.evaluation.scores import write_scores
from autosam.evaluation.tables import print_scores
from autosam.models import checkpoint
from autosam.training import resume as state
from autosam.training.tracker import count_parameters
from autosam.training.trainer import Run
from autosam.utils.io import write_atomically
from autosam.utils.logging import log

Scores = dict[str, dict[str, float]]
"""Means by part and metric, or metrics by image."""


@dataclass
class TrainResult:
    """What a run came to."""

    folder: Path
    validation: dict[str, float]
    """Means over the validation images, of the chosen checkpoint, by metric
    (`autosam.evaluation.metrics`)."""
    test: dict[str, float]
    epochs: int
    seconds: float
    """Of all calls, where it was interrupted."""


def finish(run: Run, peak_gib: float) -> TrainResult:
    """Take the checkpoint that validation chose, score it once on test, write the report.

    Args:
        run: trained.
        peak_gib: most memory that training held, GiB.

    Raises:
        CheckpointError: there is none, or it is damaged.
        DataError: the data changed while the run trained.
    """
    run.check_data()
    run.accelerator.wait_for_everyone()
    best, segmenter = run.folder / checkpoint.BEST, run.segmenter
    if not best.is_file():
        raise CheckpointError(f"{best}: missing; nothing to score. Bring it back.")
    checkpoint.restore_trainable(segmenter, checkpoint.read_trained(best), str(best))
    thresholds = choose_thresholds(run) if is_calibrated(run.config) else {}
    checkpoint.set_decision(segmenter, thresholds)
    rows = {part: run.evaluate(part, final=True) for part in ("validation", "test")}
    scores = {part: mean_scores(list(table.values())) for part, table in rows.items()}
    subsets = by_subset(rows["test"], run.data.test.pairs)
    scores |= {f"test {name}": row for name, row in subsets.items()}
    if run.tracker is not None:
        images = {part: len(getattr(run.data, part)) for part in PARTS}
        facts = {part: scores[part] for part in rows}
        checkpoint.annotate(best, images=images, **thresholds, **facts)
        report(run, scores, rows["test"], peak_gib)
    return TrainResult(run.folder, scores["validation"], scores["test"], run.epoch, run.seconds)


def is_calibrated(config: Config) -> bool:
    """Whether a threshold is chosen on validation: not for a SAM as it comes, nor where the most
    probable class wins, nor where logits are stretched to be cut at 0.5."""
    several = config.data.exclusive and config.data.num_classes > 1
    learns = bool(RUNS[config.run].trainable) or RUNS[config.run].prompter == "grid"
    return learns and not several and not config.paper.min_max_logits


def choose_thresholds(run: Run) -> dict[str, float]:
    """The threshold and the smallest area of the run, and of its surrogate decoder where it has
    one."""
    segmenter = run.segmenter
    found: dict[str, float] = {}
    for fast in (False, True) if segmenter.surrogate is not None else (False,):
        segmenter.fast = fast
        chosen = calibrate(
            segmenter,
            run.watched("validation"),
            run.config.data.exclusive,
            run.accelerator,
        )
        names = ("threshold", "min_area")
        found |= dict(zip([f"fast_{n}" if fast else n for n in names], chosen, strict=True))
    segmenter.fast = False
    return found


def report(run: Run, scores: Scores, test_rows: Scores, peak_gib: float) -> None:
    """Write the scores and the contact sheet, and print them."""
    assert run.tracker is not None
    folder, config = run.folder, run.config
    total, trainable = count_parameters(run.segmenter)
    write_atomically(folder / "test_scores.csv", lambda to: write_scores(to, test_rows))
    write_png(folder / "contact_sheet.png", run.sheet(run.data.test, 8))
    sam = config.sam if run.segmenter.sam is not None else "none"
    oracle = RUNS[config.run].prompter in ("box", "points")
    verb = "evaluate" if oracle else "predict"
    target = "--input DIR --output DIR" if verb == "predict" else "--data.root DIR"
    facts = {
        "run": f"{config.title}, SAM {sam}, {run.epoch} epochs in {run.seconds:.0f} s",
        "parameters": f"{trainable:,} trainable, {total - trainable:,} frozen",
        "run folder": str(folder),
        "contact sheet": str(folder / "contact_sheet.png"),
        "watch": f"tensorboard --logdir {folder.parent}",
        "use": f"autosam {verb} --checkpoint {folder} {target}",
    }
    if is_calibrated(config):
        area = run.segmenter.min_area
        facts["threshold"] = f"{run.segmenter.threshold:g}, chosen on validation" + (
            f"; masks of less than {area:.2%} of the image count as none" * (area > 0)
        )
    if trusted := trust_in_words(scores["test"]):
        facts["SAM's image embedding let through, coarse to fine"] = trusted
    facts |= contents_of(test_rows, config.data.class_names)
    print_scores(scores, facts)
    for caution in cautions(test_rows, config.data.num_classes > 1):
        log.warning("on test, %s", caution)
    summary = {"epochs": run.epoch, "seconds": round(run.seconds, 1), "trainable": trainable,
               "frozen": total - trainable, "threshold": run.segmenter.threshold,
               "min_area": run.segmenter.min_area,
               "peak_gib": round(peak_gib, 2)}  # fmt: skip
    text = yaml.safe_dump({**scores, **summary}, sort_keys=False)
    # Last and at once: who finds it takes the run for finished.
    write_atomically(folder / "scores.yaml", lambda to: to.write_text(text, encoding="utf-8"))
    state.thin_out(folder)
    final = {
        f"final/{part}_{name}": value for part, row in scores.items() for name, value in row.items()
    }
    run.tracker.hyperparameters(final)
