"""Data loaders: samplers, worker processes, collation."""

from __future__ import annotations

import logging
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
from autosam.utils.threads import cores

log = logging.getLogger("autosam")
SHARED = Path("/dev/shm")
"""Shared memory on Linux."""
REMEDY = (
    "Enlarge it (docker run --shm-size 2g, or --ipc host), or read without worker processes: "
    "--data.workers 0."
)
AHEAD = 2
"""Batches that each worker prefetches."""
TIMEOUT = 0.0 if sys.platform == "win32" else 900.0
"""Timeout in seconds for a batch from the worker processes. 0 (none) on Windows, where
with a timeout a worker that died is noticed only after it."""


@dataclass
class Data:
    """The data sets of the three splits."""

    train: PairDataset
    validation: PairDataset
    test: PairDataset


def collate(samples: list[Any]) -> Any:
    """`Batch.collate` for samples, torch's default for tuples of tensors and numbers.

    A worker moves the batch to shared memory here, so that an error reaches the main process. (If
    torch does it, the error is only printed and the main process waits forever.)

    Args:
        samples: of one batch.

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
            f"{SHARED}: no room for the batches of the worker processes ({error}). {REMEDY}"
        ) from None
    return batch


def tensors_of(batch: Batch) -> list[Tensor]:
    """All tensors of a batch."""
    found: list[Tensor] = []

    def append(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    batch.map(append)
    return found


def fit_workers(workers: int, batch_bytes: int, processes: int = 1) -> tuple[int, int | None, str]:
    """Reduce the number of workers to what fits into shared memory.

    Args:
        workers: largest number, for each of `processes`.
        batch_bytes: size of a batch.
        processes: training processes on this machine.

    Returns:
        Number of workers, batches that each prefetches (None without workers), and a warning if
        the number was reduced, else "".
    """
    if workers == 0 or not SHARED.is_dir():
        return workers, AHEAD if workers else None, ""
    free = shutil.disk_usage(SHARED).free
    room = 0.8 * free / processes / max(1, batch_bytes) - 2  # two are in use or in transfer
    count, ahead = min(workers, int(room // AHEAD)), AHEAD
    if count < 1 and room >= 1:
        count, ahead = 1, 1
    if count >= workers:
        return workers, AHEAD, ""
    text = (
        f"{SHARED} has {free / 1e6:.0f} MB free and a batch takes {batch_bytes / 1e6:.1f} MB: "
        f"{max(0, count)} worker processes instead of {workers}. For more enlarge it (docker run "
        "--shm-size 2g, or --ipc host)."
    )
    return (count, ahead, text) if count > 0 else (0, None, text)


def worker_error(error: RuntimeError, advice: str) -> TrainingError | None:
    """Convert torch's errors about worker processes; None for other errors.

    Args:
        error: raised by a loader.
        advice: how to continue, the beginning of a sentence.
    """
    message = str(error)
    if message.startswith("DataLoader timed out"):
        return TrainingError(
            f"worker processes gave no batch for {TIMEOUT:.0f} s: a disk does not answer, or a "
            f"process is stuck. {advice} and --data.workers 0."
        )
    if message.startswith("DataLoader worker"):
        return TrainingError(
            f"a worker process died ({message}). Often the machine is out of memory, or {SHARED} "
            f"is full (in a container: --shm-size). {advice} and a lower --data.workers."
        )
    return None


def worker_count(wanted: int | None, processes: int) -> int:
    """Number of worker processes for each of `processes` training processes."""
    if wanted is not None:
        return wanted
    # Without an accelerator, two cores are reserved for the computation.
    spare = cores() // processes - (0 if torch.cuda.is_available() else 2)
    return max(0, min(8, spare))


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, position), shuffled by (seed, epoch) or in order. Skips the first `start`
    positions, which were used before an interruption.

    Args:
        length: number of samples.
        shuffle: whether to shuffle.
        seed: of the order.
    """

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
    """The batches of an epoch in the order of a sampler, for P processes: process p takes batches
    p, p + P, ...

    Each image is used once. P consecutive batches (a round) have one size. The last, incomplete
    round is dropped if there are at least two complete rounds, or one and the last would have
    batches of a single image (BatchNorm cannot learn from one). Otherwise it is kept, without the
    images that P does not divide.

    The first `sampler.start` images, which were used before an interruption, are skipped; the
    remaining batches do not change.

    Args:
        sampler: order of the images.
        batch: B.
        processes: P.
    """

    def __init__(self, sampler: EpochSampler, batch: int, processes: int) -> None:
        self.sampler, self.batch, self.processes = sampler, batch, processes

    def rounds(self) -> list[tuple[int, int]]:
        """The first position and the end of each round, in the order of the whole epoch."""
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
            first = max(first, start)  # resumed within a round
            size = max(0, end - first) // self.processes
            for process in range(self.processes if size else 0):
                begin = first + process * size - start
                yield left[begin : begin + size]


@dataclass(frozen=True)
class Workers:
    """Settings of the worker processes of a loader.

    Attributes:
        count: number of workers for each of `processes`; reduced to what fits into shared memory.
        batch_bytes: size of a batch, to compute what fits.
        processes: training processes on this machine.
        interrupt: ends the workers on a signal; None: a new one.
        persistent: keep the workers between epochs.
        warn: log a warning if the number is reduced.
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
    """Make a data loader. It yields `Batch` for a `PairDataset`, lists of tensors for others.

    Args:
        dataset: the data set.
        order: its keys; without `batch_size`, lists of keys, one for each batch.
        batch_size: B; the last batch may be smaller.
        workers: worker processes; None: read in the main process.
    """
    count, ahead, interrupt, persistent = 0, None, None, False
    if workers is not None:
        count, ahead, warning = fit_workers(workers.count, workers.batch_bytes, workers.processes)
        interrupt, persistent = workers.interrupt or Interrupt(), workers.persistent
        if warning and workers.warn:
            log.warning(warning)
    keys: dict[str, Any] = {"batch_sampler": order}
    if batch_size is not None:
        keys = {"sampler": order, "batch_size": batch_size}
    return DataLoader(
        dataset,
        **keys,
        # Its own, since dropout draws from torch's: a loader that starts within an epoch (resumed)
        # would shift what it draws.
        generator=torch.Generator(),
        num_workers=count,
        prefetch_factor=ahead,
        collate_fn=collate,
        persistent_workers=persistent and count > 0,
        worker_init_fn=None if interrupt is None else interrupt.worker_init,
        timeout=TIMEOUT if count else 0,
        pin_memory=torch.cuda.is_available(),
    )
