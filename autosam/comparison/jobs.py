"""The trainings of a comparison: each in a folder of its own, several at a time on request."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from multiprocessing.util import Finalize
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch
import yaml

from autosam.comparison.variants import Variant
from autosam.config import Config
from autosam.errors import CheckpointError, Stopped, TrainingError
from autosam.training import resume
from autosam.training.fit import train
from autosam.training.tracker import read_metrics
from autosam.utils.signals import die_with_parent, handled_signals, kill_children, leave_now

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One training of a comparison."""

    variant: Variant
    """The row that it counts for."""
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
        """Train, or resume an interrupted training; nothing if it is finished."""
        if self.finished:
            return
        if resume.files(self.folder):
            train(Config(resume=str(self.folder)))
        else:  # interrupted before its first state was saved: starts again
            train(dataclasses.replace(self.config, overwrite=True))

    def read(self, name: str, parse: Callable[[Path], T]) -> T:
        """Read a file of the run folder.

        Args:
            name: of the file.
            parse: reads it.

        Raises:
            CheckpointError: it is damaged.
        """
        try:
            return parse(self.folder / name)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
            raise CheckpointError(
                f"{self.folder / name}: damaged. Delete {self.folder}, and the same command trains "
                "it again."
            ) from None

    def curve(self) -> list[float]:
        """Dice by epoch, of the split that the best epoch was chosen on."""
        split = "test" if self.config.paper.select_on_test else "validation"
        return self.read(
            "metrics.jsonl",
            lambda file: [float(row[f"{split}/dice"]) for row in read_metrics(file.parent)],
        )

    def facts(self) -> dict[str, float]:
        """What scores.yaml holds beside the scores: seconds, peak memory, trainable parameters."""
        content = self.read(
            "scores.yaml", lambda file: yaml.safe_load(file.read_text("utf-8")) | {}
        )
        return {key: value for key, value in content.items() if not isinstance(value, dict)}


def run_jobs(jobs: list[Job], parallel: int) -> None:
    """Train what is not finished, `parallel` at a time.

    Raises:
        Stopped: a signal came; trainings that had started saved their state.
        TrainingError: a process died.
    """
    left = [job for job in jobs if not job.finished]
    print(f"{len(jobs)} trainings, {len(jobs) - len(left)} of them finished")
    if parallel == 1:
        for i, job in enumerate(left, 1):
            print(f"--- {i} of {len(left)}: {job.folder.name}")
            job.run()
    else:
        _run_in_processes(left, parallel)


def _run_in_processes(jobs: list[Job], parallel: int) -> None:
    threads = max(1, (os.cpu_count() or 1) // parallel)
    with (
        _signals_to_children() as received,
        ProcessPoolExecutor(
            parallel, get_context("spawn"), _initialize_process, (threads,)
        ) as pool,
    ):
        futures = [pool.submit(_run_in_process, job) for job in jobs]
        try:
            for i, future in enumerate(futures, 1):
                print(f"{i} of {len(jobs)}: {future.result()}")
        except BrokenProcessPool:
            if not received:
                raise TrainingError(
                    "a process that trained died, perhaps for lack of memory. The same command "
                    "goes on, with a lower --jobs."
                ) from None
        finally:
            for future in futures:
                future.cancel()
        if received:
            stopped = Stopped("stopped; the same command goes on")
            stopped.signal = received[0]
            raise stopped


@contextlib.contextmanager
def _signals_to_children() -> Iterator[list[int]]:
    """Pass signals on to the processes that train; the list holds those that came."""
    received: list[int] = []

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


def _initialize_process(threads: int) -> None:
    """Set up a process that trains beside others: few threads, no output (log.txt has it)."""
    die_with_parent()
    Finalize(None, leave_now, (0,), exitpriority=-100)  # after all others
    torch.set_num_threads(threads)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  open until the process ends: the log uses it


_stopped: Stopped | None = None
"""In a process that trains: why it starts no further training."""


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
