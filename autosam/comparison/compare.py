"""Train several runs on the same splits, score each once on test, and report the results."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
from pathlib import Path

from autosam.comparison.conclusion import conclusion
from autosam.comparison.curve import Curve, Size, sized, sizes_of
from autosam.comparison.jobs import Job, run_jobs
from autosam.comparison.plan import plan, shared_settings
from autosam.comparison.report import build, select_images, write
from autosam.comparison.rows import jobs_by_variant, make_row
from autosam.comparison.scores import Predicted, predict_some
from autosam.comparison.table import ResultsTable
from autosam.comparison.trivial import trivial_scores
from autosam.comparison.variants import (
    AUTOSAM,
    Variant,
    ablated_variants,
    trained_variants,
)
from autosam.config import Settings
from autosam.config.command_checks import listed
from autosam.config.commands import CompareConfig
from autosam.data.checks import check_splits
from autosam.data.dataset import cropping_of, require_others, samples_of
from autosam.data.layouts import load_splits
from autosam.data.measured_windows import measured
from autosam.data.pairs import Splits, fingerprint, newest
from autosam.errors import ConfigError, Stopped
from autosam.evaluation.metrics import mean_scores
from autosam.evaluation.sanity import EMPTY_MASK, describe_images, sanity_warnings
from autosam.evaluation.scores import Scores
from autosam.evaluation.tables import MEASURES
from autosam.evaluation.visualize import colours_by_class
from autosam.training.data import default_epochs
from autosam.utils import provenance
from autosam.utils.logging import quiet
from autosam.utils.text import count_of


def compare(config: CompareConfig) -> ResultsTable:
    """Train the runs that are not finished, score them, and write the report.

    Args:
        config: the runs, the data and the shared settings.

    Returns:
        The results table, as written to report.html, table.md, table.csv and TensorBoard.

    Raises:
        ConfigError: invalid settings.
        AutosamError: a run failed. The same command continues once the cause is removed.
    """
    settings: Settings = shared_settings(config)
    splits = load_splits(settings.data)
    if settings.train.epochs is None:
        epochs = default_epochs(samples_of(splits["train"], cropping_of(settings.data)))
        settings.train = dataclasses.replace(settings.train, epochs=epochs)
    seeds = 1 if config.quick else config.seeds
    folder = Path(config.output)
    variants = trained_variants(config)
    if any(variant.control == "shuffled" for variant in variants):
        for pairs in splits.values():  # now rather than after the other trainings
            require_others(pairs)
    sizes = sizes_of(listed(config.train_sizes), splits, config.data.validation)
    if len(sizes) == 1:
        raise ConfigError(
            f"--train-sizes {config.train_sizes}: all of them are the {sizes[0].labelled} images "
            "of training and validation, so there is no curve. Give smaller numbers, or leave it "
            "out."
        )
    smaller: dict[Size, list[Job]] = {}
    if sizes:
        every = Size(len(splits["train"]), len(splits["validation"]), whole=True)
        plain = [variant for variant in variants if variant.is_plain]
        for size in sizes[:-1]:
            some = sized(settings, size, every)
            smaller[size] = plan(some, plain, seeds, folder / "runs", splits, size.train)
        settings = sized(settings, sizes[-1], every)
    images = sizes[-1].train if sizes else len(splits["train"])
    jobs = plan(settings, variants, seeds, folder / "runs", splits, images)
    if config.jobs > 1:  # here, for all processes
        data, measured_splits = measured(settings.data, splits)
        check_splits(measured_splits, data)
    try:
        run_jobs([*itertools.chain(*smaller.values()), *jobs], config.jobs)
    except Stopped as stopped:
        again = Stopped("stopped; the same command continues with the remaining trainings")
        again.signal = stopped.signal
        raise again from None
    by_variant = jobs_by_variant(jobs, ablated_variants(config))
    names = listed(config.runs)
    base = AUTOSAM if AUTOSAM.run in names else Variant(names[0])
    with quiet():  # the trainings have logged the messages about the data
        trivial = trivial_scores(by_variant[base])
        described = facts(settings, splits, seeds, images)
        described |= steps_of([*itertools.chain(*smaller.values()), *jobs])
        described |= changed_since([*itertools.chain(*smaller.values()), *jobs], splits)
        measure = MEASURES[settings.task]
        results = make_table(by_variant, base, trivial, described, splits, measure)
        add_warnings(results, settings)
        results.conclusion = conclusion(results)
        empty = [name for name, row in trivial[EMPTY_MASK].items() if row["truth_share"] == 0]
        classes = colours_by_class(by_variant[base][0].config.data)
        tables = {
            size: make_table(
                jobs_by_variant(own, []), base, trivial, {}, splits, measure, timed=False
            )
            for size, own in smaller.items()
        }
        curve = Curve(tables | {sizes[-1]: results}) if tables else None
        html = build(results, curve, predict_images(results, by_variant), empty, splits, classes)
    write(results, curve, html, folder)
    results.print()
    if curve is not None:
        print(curve.conclusion())
    print(f"report: {folder / 'report.html'} (also table.md and table.csv)")
    return results


def make_table(
    by_variant: dict[Variant, list[Job]],
    base: Variant,
    trivial: dict[str, Scores],
    facts: dict[str, str],
    splits: Splits,
    measure: str,
    timed: bool = True,
) -> ResultsTable:
    """Make the results table.

    Args:
        by_variant: the trainings that each row is scored from.
        base: the row that the others are compared with.
        trivial: scores of trivial predictions by name and image.
        facts: lines below the table, by title.
        splits: the images, with their groups.
        measure: the metric that rows are compared by.
        timed: whether to measure the speed of prediction.
    """
    rows = [make_row(variant, jobs, timed) for variant, jobs in by_variant.items()]
    groups = {pair.name: pair.group for pairs in splits.values() for pair in pairs}
    means = {name: mean_scores(list(scores.values()))["dice"] for name, scores in trivial.items()}
    jobs = [job for own in by_variant.values() for job in own]
    paired = all(job.config.data.limit_train is not None for job in jobs)
    return ResultsTable(rows, base, facts, groups, means, measure, paired)


def add_warnings(results: ResultsTable, settings: Settings) -> None:
    """Add facts about the images, the Dice of trivial predictions, and warnings.

    Args:
        results: the table; its facts are extended.
        settings: the shared settings.
    """
    data = settings.data
    results.facts |= describe_images(results.rows[0].scores[0], data.class_names)
    results.facts["Dice without a network"] = ", ".join(
        f"{name} {mean:.3f}" for name, mean in results.trivial.items()
    )
    for row in results.rows:
        if warnings := sanity_warnings(row.over_seeds(), data.num_classes > 1):
            results.facts[f"warning, {row.title}"] = "; ".join(warnings)


def predict_images(
    results: ResultsTable, by_variant: dict[Variant, list[Job]]
) -> dict[Variant, dict[str, Predicted]]:
    """Predict the images of the report by the first seed of each row.

    Args:
        results: the table.
        by_variant: the trainings of each row.

    Returns:
        Predictions by row and image.
    """
    names = [name for _, name in select_images(results)]
    predictions: dict[Variant, dict[str, Predicted]] = {}
    for row in results.rows:
        variant = row.variant
        predictions[variant] = {}
        for job in by_variant[variant]:
            if job.seed == 0:
                predictions[variant] |= predict_some(job, names, variant.ablation)
    return predictions


def facts(settings: Settings, splits: Splits, seeds: int, images: int) -> dict[str, str]:
    """Describe what was compared, for the lines below the table.

    Args:
        settings: the shared settings.
        splits: the images.
        seeds: number of seeds.
        images: number of training images.
    """
    counts = ", ".join(f"{len(pairs)} {split}" for split, pairs in splits.items())
    if settings.data.folds:
        counts = f"{sum(map(len, splits.values()))} images in {settings.data.folds} folds"
    source = settings.data.root or settings.data.images or "the embedded set"
    grouped = any(pair.group for pairs in splits.values() for pair in pairs)
    crops = f" in crops of {settings.data.crop} px" if settings.data.crop else ""
    independent = "groups (patients, slides, volumes)"
    if not grouped:
        independent = "images, taken as independent (set --data.groups if they are not)"
    return {
        "data": f"{source}: {counts} (files {fingerprint(splits)[:12]})",
        "budget of each run": f"{settings.train.epochs} epochs of {images} images{crops}, "
        f"prompt generator and head at {settings.model.input_size} px, SAM {settings.sam}",
        "seeds": f"{seeds}, from {settings.train.seed}",
        "figures": "mean over the test images ± standard deviation over seeds; difference with its "
        f"95 % interval and p by a permutation test over {independent}",
        "command": _command(),
        "versions": ", ".join(" ".join(pair) for pair in provenance.versions().items()),
        "commit": provenance.commit() or "not installed by git",
    }


def steps_of(jobs: list[Job]) -> dict[str, str]:
    """Describe how the steps of the trainings were computed, for the lines below the table.

    Args:
        jobs: the finished trainings.

    Returns:
        A line for their precision, and one for their threads on a CPU; a warning instead if they
        differ, as they do where a comparison was continued on another machine; nothing if nothing
        was trained.
    """
    facts = {job.folder.name: job.facts() for job in jobs if job.variant.learns}
    return _one_or_warning(
        "precision of the steps",
        {name: own.get("precision", "unknown") for name, own in facts.items()},
        "The default depends on the machine: train all of them with --train.precision no, or all "
        "with bf16",
    ) | _one_or_warning(
        "threads of each training",
        {name: own["threads"] for name, own in facts.items() if "threads" in own},
        "Their scores differ as those of other seeds may, and their times are not comparable: "
        "train all of them with one OMP_NUM_THREADS and one --jobs",
    )


def changed_since(jobs: list[Job], splits: Splits) -> dict[str, str]:
    """Warn of images and masks that were written after the trainings that are reused.

    Args:
        jobs: the finished trainings.
        splits: the images. A run folder is found again by their names and sizes, which correcting
            a mask may leave the same.

    Returns:
        A warning; nothing if all files are older than all trainings.
    """
    written, path = newest(splits)
    before = [job.folder for job in jobs if (job.folder / "scores.yaml").stat().st_mtime < written]
    if not before:
        return {}
    return {
        "warning, files": f"{path} was written after {count_of(len(before), 'training')} "
        f"({', '.join(folder.name for folder in before[:3])}{', ...' if len(before) > 3 else ''}). "
        "If its content has changed, their scores are of the old one: delete their folders in "
        f"{before[0].parent}, and the same command trains them again"
    }


def _one_or_warning(title: str, values: dict[str, object], remedy: str) -> dict[str, str]:
    """The line of a fact of the trainings, of which `values` has those that state it."""
    trainings: dict[str, list[str]] = {}
    for name, value in values.items():
        trainings.setdefault(str(value), []).append(name)
    if not trainings:
        return {}
    if len(trainings) == 1:
        return {title: next(iter(trainings))}
    parts = [
        f"{value} in {count_of(len(names), 'training')} ({', '.join(names[:3])}"
        f"{', ...' if len(names) > 3 else ''})"
        for value, names in sorted(trainings.items())
    ]
    return {f"warning, {title}": f"{'; '.join(parts)}. {remedy}"}


def _command() -> str:
    """The command line as it is typed; of a script, its own."""
    if Path(sys.argv[0]).stem in ("autosam", "compare", "__main__"):
        return shlex.join(["autosam", "compare", *sys.argv[1:]])
    return provenance.command()
