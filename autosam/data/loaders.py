"""Processes that read images: how many the shared memory has room for, and what they hand over."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate, get_worker_info

from autosam.config import Config
from autosam.data.dataset import EpochBatches, EpochSampler, PairDataset, largest_batch
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
"""Batches that each reading process has ready."""
PATIENCE = 0.0 if sys.platform == "win32" else 900.0
"""Seconds without a batch after which reading processes are given up. (With it, a process that died
would be noticed as late on Windows, which has no signal for that.)"""


@dataclass
class Data:
    """The three splits, ready to be loaded."""

    train: PairDataset
    validation: PairDataset
    test: PairDataset


def collate(samples: list[Sample]) -> Batch:
    """`Batch.collate`; a reading process puts the batch into shared memory here, where an error
    reaches the one that waits for it. (Later, torch only prints it, and waits for ever.)

    Raises:
        TrainingError: the shared memory is full.
    """
    with _sharing():
        batch = Batch.collate(samples)
        if get_worker_info() is not None:
            for tensor in tensors_of(batch):
                if tensor.numel():
                    tensor.share_memory_()
    return batch


def collate_tensors(samples: list[tuple[Any, ...]]) -> list[Tensor]:
    """The same for tuples of tensors and numbers, by torch's own rule.

    Raises:
        TrainingError: the shared memory is full.
    """
    with _sharing():
        batch = default_collate(samples)
        if get_worker_info() is not None:
            for tensor in batch:
                tensor.share_memory_()
    return batch


@contextlib.contextmanager
def _sharing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise TrainingError(
            f"{SHARED}: no room for the batches of the reading processes ({error}). {REMEDY}"
        ) from None


def tensors_of(batch: Batch) -> list[Tensor]:
    """All that a batch holds."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    batch.map(note)
    return found


def fit_workers(workers: int, batch_bytes: int, processes: int = 1) -> tuple[int, int | None, str]:
    """As many reading processes as the shared memory has room for.

    Args:
        workers: as many as are wanted, for each of `processes`.
        batch_bytes: of one batch.
        processes: that compute, on this machine.

    Returns:
        How many, how many batches each reads ahead, and what to say if they are fewer than wanted.
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
    """The sentence for what torch says of reading processes, or None if it says something else.

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


def make_loader(
    dataset: PairDataset, config: Config, processes: int, interrupt: Interrupt, shuffle: bool
) -> tuple[DataLoader[Any], EpochSampler]:
    """A loader of batches and the sampler that orders it: for training see `EpochBatches`; what is
    scored comes once, or again where accelerate fills the last batches."""
    sampler = EpochSampler(len(dataset), shuffle, config.train.seed)
    workers, ahead = worker_count(config.data.workers, processes), None
    batch = config.train.batch_size
    order: dict[str, Any] = {"batch_size": batch, "sampler": sampler}
    if shuffle:
        order = {"batch_sampler": EpochBatches(sampler, batch, processes)}
    if workers:
        size = sum(t.nbytes for t in tensors_of(largest_batch(dataset, 1))) * batch
        workers, ahead, less = fit_workers(workers, size, processes)
        if less and shuffle:
            log.warning(less)
    loader = DataLoader(
        dataset,
        **order,
        num_workers=workers,
        prefetch_factor=ahead,
        collate_fn=collate,
        # The keys carry the epoch, so workers may live on.
        persistent_workers=workers > 0,
        worker_init_fn=interrupt.worker_init,
        timeout=PATIENCE if workers else 0,
        pin_memory=torch.cuda.is_available(),
    )
    return loader, sampler
