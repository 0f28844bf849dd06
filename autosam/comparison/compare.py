"""Train several runs on one split, score each once, side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from multiprocessing.util import Finalize
from pathlib import Path
from types import FrameType
from typing import cast, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from autosam.comparison import report as page
from autosam.comparison.conclusion import conclusion
from autosam.comparison.plan import Job, Variant, plan
from autosam.comparison.report import picked
from autosam.comparison.scores import (
    Predicted,
    ablated_scores,
    gather,
    images_per_second,
    predict_some,
    scores_of,
    trivial_scores,
)
from autosam.comparison.table import ResultsTable, Row
from autosam.config import RUNS, Config, LearnedPrompt, PaperConfig, Settings
from autosam.config.choices import require_config
from autosam.config.commands import CompareConfig
from autosam.config.validation import check_number, check_ranges, check_settings
from autosam.data.layouts import load_split
from autosam.data.pairs import Split, fingerprint
from autosam.errors import ConfigError, Stopped, TrainingError
from autosam.evaluation.cautions import NOTHING, cautions, contents_of
from autosam.evaluation.metrics import mean_scores
from autosam.evaluation.visualize import palette
from autosam.training.data import default_epochs
from autosam.utils import provenance as origin
from autosam.utils.io import make_folder, write_atomically
from autosam.utils.logging import quiet
from autosam.utils.signals import die_with_parent, heeded, kill_children, leave_now

QUICK_LIMIT = 48
"""Images of each part of --quick, at most."""


QUICK_EPOCHS = 5
"""Epochs of --quick, at most."""


CONTROLS = ("blank", "shuffled")


PECULIAR = tuple(f.name for f in dataclasses.fields(PaperConfig))


ABLATION_ROWS = {"blank": "blank at test", "shuffled": "shuffled at test", "surrogate": "no SAM"}


def compare(config: CompareConfig) -> ResultsTable:
    """Train what is missing, score, and write report.html, table.md, table.csv and TensorBoard.

    Raises:
        ConfigError: settings that cannot work.
        AutosamError: a run that fails; the same command goes on after the cause is gone.
    """
    require_config(config, CompareConfig, "compare")
    names, prompts = check(config)
    settings = dataclasses.replace(config)
    if config.quick:
        limit = min(config.data.limit or QUICK_LIMIT, QUICK_LIMIT)
        settings.data = dataclasses.replace(config.data, limit=limit)
        epochs = min(config.train.epochs or QUICK_EPOCHS, QUICK_EPOCHS)
        settings.train = dataclasses.replace(config.train, epochs=epochs)
    if config.folds is not None:
        settings.data = dataclasses.replace(settings.data, folds=config.folds)
    split = load_split(settings.data)
    if settings.train.epochs is None:
        epochs = default_epochs(len(split["train"]))
        settings.train = dataclasses.replace(settings.train, epochs=epochs)
    variants = {name: Variant(name) for name in names}
    if config.attribution and "autosam" in names:
        variants |= {f"autosam, {control}": Variant("autosam", control) for control in CONTROLS}
    variants |= {f"autosam, {prompt}": Variant("autosam", prompt=prompt) for prompt in prompts}
    if config.paper_compat and "autosam" in names:
        variants |= {f"autosam, {name}": Variant("autosam", paper=(name,)) for name in PECULIAR}
        variants["autosam, all of the paper's"] = Variant("autosam", paper=PECULIAR)
    seeds = 1 if config.quick else config.seeds
    folder = Path(config.output)
    jobs = plan(settings, variants, seeds, folder / "runs", split)
    try:
        run_all(jobs, config.jobs)
    except Stopped as stopped:
        again = Stopped("stopped; the same command goes on with what is left")
        again.signal = stopped.signal
        raise again from None
    lines = lines_of(jobs, config)
    base = "autosam" if "autosam" in names else names[0]
    with quiet():  # the trainings have said what there is to say of the data
        rows = [make_row(name, line) for name, line in lines.items()]
        groups = {pair.name: pair.group for pairs in split.values() for pair in pairs}
        trivial = trivial_rows(lines[base][0])
        means = {name: mean_scores(list(found.values()))["dice"] for name, found in trivial.items()}
        said = facts(settings, split, seeds)
        results = ResultsTable(rows, base, said, groups, means)
        said |= contents_of(rows[0].scores[0], settings.data.class_names)
        said["Dice without a network"] = ", ".join(f"{n} {m:.3f}" for n, m in means.items())
        for row in rows:
            if limits := cautions(row.over_seeds(), settings.data.num_classes > 1):
                said[f"warning, {row.name}"] = "; ".join(limits)
        if found := conclusion(results):
            said["conclusion"] = found
        empty = [name for name, row in trivial[NOTHING].items() if row["truth_share"] == 0]
        report = make_page(results, lines, split, empty)
    write(results, report, folder)
    return results


def check(config: CompareConfig) -> tuple[list[str], list[LearnedPrompt]]:
    """The names of the runs, and the further prompts of autosam.

    Raises:
        ConfigError: settings that cannot work.
    """
    names = [name.strip() for name in config.runs.split(",") if name.strip()]
    unknown = [name for name in names if name not in RUNS]
    if unknown or not names:
        raise ConfigError(f"--runs {config.runs}: choose from {', '.join(RUNS)}.")
    if len(set(names)) < len(names):
        raise ConfigError(f"--runs {config.runs}: a run stands twice.")
    words = [name.strip() for name in config.prompts.split(",") if name.strip()]
    prompts = cast(list[LearnedPrompt], words)
    for prompt in prompts:
        if prompt not in get_args(LearnedPrompt) or prompts.count(prompt) > 1:
            raise ConfigError(
                f"--prompts {config.prompts}: expected some of {', '.join(get_args(LearnedPrompt))}"
                ", each once."
            )
    if prompts and "autosam" not in names:
        raise ConfigError(f"--prompts {config.prompts}: needs autosam among --runs.")
    kinds = [dataclasses.replace(config.model, prompt=name).prompt_kinds for name in prompts]
    for prompt, own in zip(prompts, kinds, strict=True):
        if own == config.model.prompt_kinds or kinds.count(own) > 1:
            raise ConfigError(
                f"--prompts {config.prompts}: {prompt} would be trained twice. Expected others "
                f"than autosam's own, {config.model.prompt}, each once."
            )
    for name, least in (("seeds", 1), ("jobs", 1), ("folds", 2)):
        check_number(name, getattr(config, name), least, 1000)
    if config.data.folds is not None or config.data.fold:
        raise ConfigError("--data.folds, --data.fold: say --folds, which trains every fold.")
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)}
    for name in names:
        check_settings(Config(**shared, run=name))  # type: ignore[arg-type]
    check_ranges(train=dataclasses.replace(config.train, seed=config.train.seed + config.seeds - 1))
    return names, prompts


def run_all(jobs: list[Job], parallel: int) -> None:
    """Train what is not finished, `parallel` at a time.

    Raises:
        Stopped: a signal came; what was begun has saved its state.
    """
    left = [job for job in jobs if not job.finished]
    print(f"{len(jobs)} trainings, {len(jobs) - len(left)} of them finished")
    if parallel == 1:
        for i, job in enumerate(left, 1):
            print(f"--- {i} of {len(left)}: {job.folder.name}")
            job.run()
        return
    threads = max(1, (os.cpu_count() or 1) // parallel)
    with (
        passing_on() as came,
        ProcessPoolExecutor(parallel, get_context("spawn"), _begin, (threads,)) as pool,
    ):
        futures = [pool.submit(_run, job) for job in left]
        try:
            for i, future in enumerate(futures, 1):
                print(f"{i} of {len(left)}: {future.result()}")
        except BrokenProcessPool:
            if not came:
                raise TrainingError(
                    "a process that trained died, perhaps for lack of memory. The same command "
                    "goes on, with a lower --jobs."
                ) from None
        finally:
            for future in futures:
                future.cancel()
        if came:
            stopped = Stopped("stopped; the same command goes on")
            stopped.signal = came[0]
            raise stopped


@contextlib.contextmanager
def passing_on() -> Iterator[list[int]]:
    """A signal to this process is for those that train; the list says which came."""
    came: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for child in active_children():
            child.terminate()

    before = {number: signal.signal(number, pass_on) for number in heeded()}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _begin(threads: int) -> None:
    """A process that trains beside others: few threads, and nothing printed (log.txt has it)."""
    die_with_parent()
    Finalize(None, leave_now, (0,), exitpriority=-100)  # after all others
    torch.set_num_threads(threads)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the process ends: the log holds on to it


_stopped: Stopped | None = None
"""In a process that trains: why it takes on nothing more."""


def _run(job: Job) -> str:
    global _stopped
    if _stopped is not None:
        raise _stopped
    try:
        job.run()
    except Stopped as stopped:
        kill_children()  # what reads for nobody any more need not be waited for
        _stopped = stopped
        raise
    return job.folder.name


Line = tuple[list[Job], str]
"""What a line of the table is scored from: trainings, and one of `ABLATIONS` or nothing."""


def lines_of(jobs: list[Job], config: CompareConfig) -> dict[str, Line]:
    """A line for each row of the plan, and for each thing that autosam is tested with."""
    lines: dict[str, Line] = {}
    for job in jobs:
        lines.setdefault(job.row, ([], ""))[0].append(job)
    if config.attribution and "autosam" in lines:
        for ablation, title in ABLATION_ROWS.items():
            if ablation != "surrogate" or config.model.prompt_has_maps:
                lines[f"autosam, {title}"] = (lines["autosam"][0], ablation)
    return lines


def make_row(name: str, line: Line) -> Row:
    """Scores and costs of a line."""
    jobs, ablation = line
    config, costs = jobs[0].config, [job.facts() for job in jobs]
    composition = RUNS[config.run]
    own = config.title == config.run and not ablation
    learns = bool(composition.trainable) and not ablation
    oracle = composition.prompter in ("box", "points")
    scores = functools.partial(ablated_scores, ablation=ablation) if ablation else scores_of
    return Row(
        name,
        gather(jobs, scores),
        oracle=oracle,
        trainable=int(costs[0]["trainable"]),
        seconds=sum(c["seconds"] for c in costs) / len(costs) if learns else None,
        speed=images_per_second(jobs[0], ablation),
        peak_gib=max(c["peak_gib"] for c in costs) if learns else None,
        uses_sam=composition.decoder == "sam" and own and not oracle,
        curves=[curve for job in jobs if (curve := job.curve())] if learns else [],
    )


def trivial_rows(jobs: list[Job]) -> dict[str, dict[str, dict[str, float]]]:
    """See `trivial_scores`, of the first seed's folds together."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for job in jobs:
        if job.seed == 0:
            for name, rows in trivial_scores(job).items():
                found.setdefault(name, {}).update(rows)
    return found


def make_page(results: ResultsTable, lines: dict[str, Line], split: Split, empty: list[str]) -> str:
    """The report; images are those of the first seed."""
    names = [name for _, name in picked(results)]
    predictions: dict[str, dict[str, Predicted]] = {}
    for row in results.rows:
        jobs, ablation = lines[row.name]
        first = [job for job in jobs if job.seed == 0]
        predictions[row.name] = {
            image: found
            for job in first
            for image, found in predict_some(job, names, ablation).items()
        }
    curves = {row.name: row.curves for row in results.rows if row.curves}
    first = [job for job in lines[results.base][0] if job.seed == 0]
    return page.build(results, curves, predictions, empty, split, palette(first[0].config.data))


def facts(settings: Settings, split: Split, seeds: int) -> dict[str, str]:
    """What was compared, for the foot of the table."""
    parts = ", ".join(f"{len(pairs)} {part}" for part, pairs in split.items())
    if settings.data.folds:
        parts = f"{sum(map(len, split.values()))} images in {settings.data.folds} folds"
    source = settings.data.root or settings.data.images or "the embedded set"
    grouped = any(pair.group for pairs in split.values() for pair in pairs)
    independent = "groups (patients, slides, volumes)"
    if not grouped:
        independent = "images, each taken as independent (--data.groups says what belongs together)"
    return {
        "data": f"{source}: {parts} (files {fingerprint(split)[:12]})",
        "budget of each run": f"{settings.train.epochs} epochs of {len(split['train'])} images, "
        f"prompt generator and head at {settings.model.view_size} px, SAM {settings.sam}",
        "seeds": f"{seeds}, from {settings.train.seed}",
        "figures": "mean over the test images ± standard deviation over seeds; difference with its "
        f"95 % interval and p by a permutation test over {independent}",
        "command": shlex.join(["autosam", "compare", *sys.argv[1:]]),
        "versions": ", ".join(" ".join(pair) for pair in origin.versions().items()),
        "commit": origin.commit() or "not installed by git",
    }


def write(results: ResultsTable, report: str, folder: Path) -> None:
    """The table, to the terminal, as files, and for TensorBoard; and the report."""
    make_folder(folder)
    markdown = results.markdown()
    files = {"table.md": markdown, "table.csv": results.table_csv(), "report.html": report}
    for name, text in files.items():
        write_atomically(folder / name, functools.partial(_write_text, text=text))
    with SummaryWriter(folder) as writer:
        writer.add_text("comparison", markdown)
        for row in results.rows:
            for metric, (mean, _) in row.metrics.items():
                writer.add_scalar(f"{metric}/{row.name}", mean)
    console = Console(soft_wrap=True, markup=False, emoji=False)
    header, cells = results.header(), results.cells()
    scores = 1 + len(results.columns)
    # One table would be too wide.
    for columns in (slice(1, scores), slice(scores, scores + 3), slice(scores + 3, None)):
        table = Table(header[0], *header[columns])
        for line in cells:
            if any(line[columns]):
                table.add_row(line[0], *line[columns])
        console.print(table)
    for name, value in results.facts.items():
        console.print(f"{name}: {value}", highlight=False)
    print(f"report: {folder / 'report.html'} (beside it table.md and table.csv)")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
