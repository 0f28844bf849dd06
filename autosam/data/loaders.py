"""Data loaders: the order of samples, and the processes that read them."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from autosam.data.dataset import PairDataset
from autosam.errors import TrainingError
from autosam.types import Batch, Sample
from autosam.utils.signals import Interrupt

log = logging.getLogger("autosam")
SHARED = Path("/dev/shm")
"""Where a Linux keeps the memory that processes share."""
REMEDY = (
    "Enlarge it (docker run --shm-size 2g, or --ipc host), or read without processes of their "
    "own: --data.workers 0."
)
AHEAD = 2
"""Batches that each worker prefetches."""
PATIENCE = 0.0 if sys.platform == "win32" else 900.0
"""Seconds without a batch after which reading processes are given up. (With it, a process that died
would be noticed as late on Windows, which has no signal for that.)"""


@dataclass
class Data:
    """The three splits, ready to be loaded."""

    train: PairDataset
    validation: PairDataset
    test: PairDataset


def collate(samples: list[Any]) -> Any:
    """`Batch.collate` of samples; of tuples of tensors and numbers torch's own rule. A worker
    copies the batch to shared memory here, where an error reaches the process that waits for it.
    (Later torch only prints the error, and waits without end.)

    Raises:
        TrainingError: the shared memory is full.
    """
    try:
        is_sample = isinstance(samples[0], Sample)
        batch = Batch.collate(samples) if is_sample else default_collate(samples)
        if get_worker_info() is not None:
            for tensor in tensors_of(batch) if isinstance(batch, Batch) else batch:
                if tensor.numel():
                    tensor.share_memory_()
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise TrainingError(
            f"{SHARED}: no room for the batches of the reading processes ({error}). {REMEDY}"
        ) from None
    return batch


def tensors_of(batch: Batch) -> list[Tensor]:
    """All tensors of a batch."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    batch.map(note)
    return found


def fit_workers(workers: int, batch_bytes: int, processes: int = 1) -> tuple[int, int | None, str]:
    """The number of workers that the shared memory has room for.

    Args:
        workers: how many to use at most, for each of `processes`.
        batch_bytes: of one batch.
        processes: that compute, on this machine.

    Returns:
        Number of workers, batches that each prefetches, and a warning if they are fewer.
    """
    if workers == 0 or not SHARED.is_dir():
        return workers, AHEAD if workers else None, ""
    free = shutil.disk_usage(SHARED).free
    room = 0.8 * free / processes / max(1, batch_bytes) - 2  # two are in use, or being handed over
    count, ahead = min(workers, int(room // AHEAD)), AHEAD
    if count < 1 and room >= 1:
        count, ahead = 1, 1
    if count >= workers:
        return workers, AHEAD, ""
    text = (
        f"{SHARED} has {free / 1e6:.0f} MB free and a batch takes {batch_bytes / 1e6:.1f} MB: "
        f"{max(0, count)} reading processes instead of {workers}. For more enlarge it (docker run "
        "--shm-size 2g, or --ipc host)."
    )
    return (count, ahead, text) if count > 0 else (0, None, text)


def what_happened(error: RuntimeError, again: str) -> TrainingError | None:
    """The error for a message of torch about workers; None for other messages.

    Args:
        error: what a loader raised.
        again: how to go on, as the beginning of a sentence.
    """
    what = str(error)
    if what.startswith("DataLoader timed out"):
        return TrainingError(
            f"reading processes gave no batch for {PATIENCE:.0f} s: a disk does not answer, or a "
            f"process is stuck. {again} and --data.workers 0."
        )
    if what.startswith("DataLoader worker"):
        return TrainingError(
            f"a process that reads images died ({what}). Often the memory of the machine is "
            f"short, or {SHARED} (in a container: --shm-size). {again} and a lower --data.workers."
        )
    return None


def worker_count(wanted: int | None, processes: int) -> int:
    """Processes that read images for each of `processes` that compute."""
    if wanted is not None:
        return wanted
    # Two cores are left to the computation where there is no accelerator.
    spare = (os.cpu_count() or 1) // processes - (0 if torch.cuda.is_available() else 2)
    return max(0, min(8, spare))


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, position); shuffled by (seed, epoch) or in order; without the first `start`,
    which were seen before an interruption."""

    def __init__(self, length: int, shuffle: bool, seed: int = 0) -> None:
        self.length, self.shuffle, self.seed = length, shuffle, seed
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        return ((self.epoch, int(i)) for i in order[self.start :])


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of an epoch in the order of a sampler, for processes that take turns: process p
    of P takes batch p, p + P, ... Each image comes once; P batches in a row are of one size. A tail
    of less than a whole round is left out where there are two rounds or more, or one and the tail
    has batches of a single image (BatchNorm cannot learn from one); otherwise only what P does not
    divide.

    Without the first `sampler.start` images, which were seen before an interruption, the batches
    are those that were left.
    """

    def __init__(self, sampler: EpochSampler, batch: int, processes: int) -> None:
        self.sampler, self.batch, self.processes = sampler, batch, processes

    def rounds(self) -> list[tuple[int, int]]:
        """The first image and the end of each round, in the order of the whole epoch."""
        whole, length = self.batch * self.processes, self.sampler.length
        single = length > whole and length % whole // self.processes == 1
        used = length - length % (whole if length >= 2 * whole or single else self.processes)
        return [(first, min(first + whole, used)) for first in range(0, used, whole)]

    def __len__(self) -> int:
        return len(self.rounds()) * self.processes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start = self.sampler.start
        left = list(self.sampler)
        for first, end in self.rounds():
            first = max(first, start)  # within a round: other processes began it
            size = max(0, end - first) // self.processes
            for process in range(self.processes if size else 0):
                begin = first + process * size - start
                yield left[begin : begin + size]


@dataclass(frozen=True)
class Workers:
    """Processes that read a data set.

    Attributes:
        count: how many, for each of `processes`; fewer where the shared memory has no room.
        batch_bytes: size of a batch, from which the room is computed.
        processes: how many compute, on this machine.
        interrupt: ends them when a signal comes; None: a new one.
        persistent: keep them from one pass over the data to the next.
        warn: log a warning where they are fewer.
    """

    count: int
    batch_bytes: int
    processes: int = 1
    interrupt: Interrupt | None = None
    persistent: bool = False
    warn: bool = True


def make_loader(
    dataset: Dataset[Any],
    order: Iterable[Any],
    batch_size: int | None = None,
    workers: Workers | None = None,
) -> DataLoader[Any]:
    """A loader of batches: `Batch` of a `PairDataset`, lists of tensors of others.

    Args:
        dataset: what is read.
        order: its keys; without `batch_size` lists of keys, each a batch.
        batch_size: B; the last batch may be smaller.
        workers: processes that read; None: the process that computes does.
    """
    count, ahead, interrupt, persistent = 0, None, None, False
    if workers is not None:
        count, ahead, less = fit_workers(workers.count, workers.batch_bytes, workers.processes)
        interrupt, persistent = workers.interrupt or Interrupt(), workers.persistent
        if less and workers.warn:
            log.warning(less)
    keys: dict[str, Any] = {"batch_sampler": order}
    if batch_size is not None:
        keys = {"sampler": order, "batch_size": batch_size}
    return DataLoader(
        dataset,
        **keys,
        num_workers=count,
        prefetch_factor=ahead,
        collate_fn=collate,
        persistent_workers=persistent and count > 0,
        worker_init_fn=None if interrupt is None else interrupt.worker_init,
        timeout=PATIENCE if count else 0,
        pin_memory=torch.cuda.is_available(),
    )
