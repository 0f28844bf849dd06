"""Run the trainings of a comparison, each in its own folder, one or several at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from multiprocessing.util import Finalize
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
import yaml

from autosam.comparison.variants import Variant
from autosam.config import Config
from autosam.data.checks import keep_checks, kept_checks
from autosam.errors import CheckpointError, Stopped, TrainingError
from autosam.evaluation.instance_metrics import pooled_scores
from autosam.evaluation.tables import MEASURES
from autosam.models.paper import selection_split
from autosam.training import resume
from autosam.training.fit import train
from autosam.training.tracker import read_metrics
from autosam.utils.signals import die_with_parent, handled_signals, kill_children, leave_now
from autosam.utils.threads import cores, use_cores

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One training of a comparison."""

    variant: Variant
    """The row that it belongs to."""
    seed: int
    """Index of its seed, from 0."""
    config: Config
    passes: int = 0
    """Images that it trains on, each counted once per epoch."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        assert self.config.output is not None
        return Path(self.config.output)

    @property
    def finished(self) -> bool:
        """Whether the training has been scored."""
        return (self.folder / "scores.yaml").is_file()

    def run(self) -> None:
        """Train, or resume an interrupted training; do nothing if it is finished."""
        if self.finished:
            return
        if resume.files(self.folder):
            train(Config(resume=str(self.folder)))
        else:  # not started, or interrupted before its first state was saved
            train(dataclasses.replace(self.config, overwrite=True))

    def read(self, name: str, parse: Callable[[Path], T]) -> T:
        """Read a file of the run folder.

        Args:
            name: name of the file.
            parse: reads the file.

        Returns:
            The result of `parse`.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            return parse(self.folder / name)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
            raise CheckpointError(
                f"{self.folder / name}: damaged. Delete {self.folder}, and the same command trains "
                "it again."
            ) from None

    def curve(self) -> list[float]:
        """Read the measure by epoch, on the split that the best epoch was chosen on."""
        split, measure = selection_split(self.config), MEASURES[self.config.task]
        return self.read(
            "metrics.jsonl",
            lambda file: [float(row[f"{split}/{measure}"]) for row in read_metrics(file.parent)],
        )

    def pooled(self) -> dict[str, float]:
        """Read the test scores over the objects of all images, see `summarize_instances`."""
        content: dict[str, Any] = self.read(
            "scores.yaml", lambda file: yaml.safe_load(file.read_text("utf-8"))
        )
        return pooled_scores(content["test"])

    def facts(self) -> dict[str, Any]:
        """Read the costs from scores.yaml: seconds, peak memory, trainable parameters, and the
        precision of its steps."""
        content = self.read(
            "scores.yaml", lambda file: yaml.safe_load(file.read_text("utf-8")) | {}
        )
        return {key: value for key, value in content.items() if not isinstance(value, dict)}


def run_jobs(jobs: list[Job], parallel: int) -> None:
    """Run the trainings that are not finished.

    Args:
        jobs: all trainings.
        parallel: how many to run at a time.

    Raises:
        Stopped: a signal was received; trainings that had started saved their state.
        TrainingError: a training failed, or its process died.
    """
    left = [job for job in jobs if not job.finished]
    finished = len(jobs) - len(left)
    print(f"{len(jobs)} trainings, {finished} of them finished{time_left(jobs, parallel)}")
    if parallel == 1:
        for i, job in enumerate(left, 1):
            print(f"--- {i} of {len(left)}: {job.folder.name}{time_left(jobs, parallel)}")
            job.run()
    elif left:
        _run_in_processes(left, min(parallel, len(left)), jobs)


def time_left(jobs: list[Job], parallel: int) -> str:
    """Estimate how long the trainings that are left will take, as the end of a sentence; "" if none
    has finished.

    Seconds are taken as a constant and a share of the images trained on, fitted to the finished
    trainings of the same run, or of all if it has none.
    """
    done = [(job, job.facts().get("seconds", 0.0)) for job in jobs if job.finished and job.passes]
    left = [job for job in jobs if not job.finished]
    if not done or not left:
        return ""
    seconds = 0.0
    for job in left:
        alike = [one for one in done if one[0].variant.run == job.variant.run] or done
        seconds += _line([(one.passes, spent) for one, spent in alike], job.passes)
    minutes = math.ceil(seconds / parallel / 60)
    return f", about {minutes // 60} h {minutes % 60:02d} min left"


def _line(points: list[tuple[int, float]], x: int) -> float:
    """The value at `x` of a line through points, which neither falls nor starts below 0."""
    xs, ys = np.array(points, float).T
    slope = intercept = 0.0
    if len(set(xs)) > 1:
        slope, intercept = np.polyfit(xs, ys, 1)
    if slope <= 0 or intercept < 0:
        slope, intercept = float(ys.sum() / xs.sum()), 0.0
    return float(intercept + slope * x)


def _run_in_processes(jobs: list[Job], parallel: int, every: list[Job]) -> None:
    share = max(1, cores() // parallel)
    threads = min(torch.get_num_threads(), share)
    with (
        tempfile.TemporaryDirectory() as folder,
        _signals_to_children() as received,
        ProcessPoolExecutor(
            parallel,
            get_context("spawn"),
            _initialize_process,
            (share, threads, Path(folder) / "checks"),
        ) as pool,
    ):
        # In a file: the pipe to a process that is still importing holds 64 KiB, and what waits for
        # it hears no signal.
        (Path(folder) / "checks").write_bytes(pickle.dumps(kept_checks()))
        futures = [pool.submit(_run_in_process, job) for job in jobs]
        try:
            for i, future in enumerate(futures, 1):
                print(f"{i} of {len(jobs)}: {future.result()}{time_left(every, parallel)}")
        except BrokenProcessPool:
            if not received:
                raise TrainingError(
                    "a training process died, perhaps for lack of memory. Run the same command "
                    "again, with a lower --jobs."
                ) from None
        except Stopped:
            if not received:
                raise  # a training process alone was told to stop
        finally:
            for future in futures:
                future.cancel()
        if received:
            stopped = Stopped("stopped; the same command continues")
            stopped.signal = received[0]
            raise stopped


@contextlib.contextmanager
def _signals_to_children() -> Iterator[list[int]]:
    """Forward signals to the training processes; yields the list of received signals. Only the main
    thread can handle signals."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in active_children():
            child.terminate()

    before = {number: signal.signal(number, pass_on) for number in handled_signals()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _initialize_process(share: int, threads: int, checks: Path) -> None:
    """Set up a training process: its share of the cores, its threads, no output (it is in log.txt),
    checked files."""
    keep_checks(pickle.loads(checks.read_bytes()))
    die_with_parent()
    Finalize(None, leave_now, (0,), exitpriority=-100)  # runs after all other finalizers
    use_cores(share)
    torch.set_num_threads(threads)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  open until the process ends: the log uses it


_stopped: Stopped | None = None
"""In a training process: the reason why it starts no further training."""


def _run_in_process(job: Job) -> str:
    global _stopped
    if _stopped is not None:
        raise _stopped
    try:
        job.run()
    except Stopped as stopped:
        kill_children()  # data workers need not be waited for
        _stopped = stopped
        raise
    return job.folder.name
