"""Train for one epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autosam.errors import TrainingError
from autosam.models.losses import SegmentationLoss
from autosam.types import Batch
from autosam.utils.device import half_precision

OnStep = Callable[[int, float], None]
"""Called after each batch with its number of images and its loss."""


READ_EVERY = 16
"""Batches between two reads of the losses from a GPU: each waits until it has done all work."""

ONE_VALUE = "Expected more than 1 value per channel"
"""Start of torch's message if BatchNorm gets one value per channel."""


def one_value(error: BaseException) -> str:
    """Explain the error of `ONE_VALUE`.

    Args:
        error: torch's error.

    Returns:
        The message, with remedies.
    """
    return (
        f"BatchNorm cannot learn from a single image whose last map is one cell ({error}). Take "
        "--train.batch_size 2 or more (and as many images), a larger --model.input_size, or "
        "another --model.backbone."
    )


@dataclass(frozen=True)
class Step:
    """A batch whose values have not been read."""

    batch: int
    """Its number in the epoch, from 1."""
    images: list[str]
    """Names of the first images."""
    names: list[str]
    """Of the terms of the loss."""
    values: Tensor
    """float32: the terms, the loss that is minimised, 1 if it and its gradient are finite, and the
    gradient's norm."""
    stepped: bool
    """Whether the optimiser made a step."""


@dataclass
class EpochStatistics:
    """Sums over the batches of an epoch so far."""

    batches: int = 0
    images: int = 0
    """Number of images of all processes."""
    parts: dict[str, float] = field(default_factory=dict)
    """Sum over batches of each term of the loss."""
    norms: int = 0
    """Number of optimiser steps."""
    norm: float = 0.0
    """Sum over optimiser steps of the norm of the gradient."""
    loss: float = 0.0
    """Of the last batch that was read."""
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds spent waiting for data."""
    unread: list[Step] = field(default_factory=list)
    """The last batches, whose values are still on the device; the sums leave them out."""

    def add(self, step: Step, every: int) -> None:
        """Add the values of a batch; `every` so many batches they are read, see `read`."""
        self.unread.append(step)
        if len(self.unread) >= every:
            self.read()

    def read(self) -> None:
        """Read the values that are still on the device, which waits for it once.

        Raises:
            TrainingError: a loss or a gradient is not finite.
        """
        steps, self.unread = self.unread, []
        if not steps:
            return
        rows = torch.stack([step.values for step in steps]).tolist()
        for step, (*parts, total, finite, norm) in zip(steps, rows, strict=True):
            if not math.isfinite(total):
                raise TrainingError(
                    f"the loss is {total} at batch {step.batch} ({', '.join(step.images)}...). "
                    "Lower --train.lr, or look at these images."
                )
            if not finite:
                raise TrainingError(
                    f"the gradient is not finite at batch {step.batch} "
                    f"({', '.join(step.images)}...). Lower --train.lr, try "
                    "--train.precision no, or look at these images."
                )
            for name, value in zip(step.names, parts, strict=True):
                self.parts[name] = self.parts.get(name, 0.0) + value
            self.loss = parts[step.names.index("loss")]
            if step.stepped:
                self.norm, self.norms = self.norm + norm, self.norms + 1

    def copy(self) -> EpochStatistics:
        """A copy that later batches do not change."""
        return replace(self, parts=dict(self.parts), unread=list(self.unread))

    def sums(self) -> dict[str, Any]:
        """Its fields, for a file, after `read`."""
        self.read()
        return {name: value for name, value in vars(self).items() if name != "unread"}

    def means(self) -> dict[str, float]:
        """Average over the batches, see `train_one_epoch`."""
        return {name: value / self.batches for name, value in self.parts.items()} | {
            "grad_norm": self.norm / max(1, self.norms),
            "images_per_second": self.images / self.seconds,
            "data_wait": self.waited / self.seconds,
        }


@dataclass(frozen=True)
class Optimization:
    """An optimizer, its schedule, and the largest norm of the gradient."""

    optimizer: Optimizer
    scheduler: LRScheduler
    clip: float


def losses_of(
    model: nn.Module,
    batch: Batch,
    criterion: SegmentationLoss,
    device: torch.device,
    bf16: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss of a training step.

    Args:
        model: a segmenter.
        batch: a batch with targets.
        criterion: computes the loss and its terms.
        device: device of the model and the batch.
        bf16: whether to compute the forward pass in bfloat16.

    Returns:
        The loss to minimise, and its terms by name.
    """
    with half_precision(device, bf16):
        logits, surrogate_logits = model(batch, with_surrogate=True)
    parts = criterion.of(logits, batch)
    total = parts["loss"]
    if surrogate_logits is not None:
        parts["surrogate"] = criterion.of(surrogate_logits, batch)["loss"]
        total = total + parts["surrogate"]
    return total, parts


def skip_unless(sound: Tensor, optimizer: Optimizer) -> None:
    """Let a fused optimiser do nothing from the first batch on whose gradient is not finite,
    without reading whether there was one.

    Args:
        sound: bool scalar on the device: whether all gradients so far are finite.
        optimizer: its steps look at `found_inf`, as with torch's gradient scaler.
    """
    inner: Any = getattr(optimizer, "optimizer", optimizer)
    inner.found_inf = (~sound).float()


def train_one_epoch(
    model: nn.Module,
    loader: Iterable[Batch],
    criterion: SegmentationLoss,
    optimization: Optimization,
    accelerator: Accelerator,
    bf16: bool = False,
    on_step: OnStep = lambda images, loss: None,
    stats: EpochStatistics | None = None,
) -> dict[str, float]:
    """Train for one epoch, or for the rest of a resumed one.

    Args:
        model: a segmenter, prepared by the accelerator.
        loader: batches with targets.
        criterion: computes the loss and its terms.
        optimization: the optimizer and the schedule, stepped once for each accumulated batch.
        accelerator: device, processes and accumulation.
        bf16: whether to compute the forward pass in bfloat16; the loss is always in float32.
        on_step: called after each batch.
        stats: statistics of the batches of this epoch before it was resumed; changed in place.

    Returns:
        Means over the batches of all processes of each term of the loss, and of the surrogate
        decoder's loss; `grad_norm`; `lr`, the learning rate at the end; `images_per_second`;
        `data_wait`, the share of time spent waiting for data.

    Raises:
        TrainingError: the loss or its gradient is not finite. The weights are those before that
            batch.
    """
    optimizer, scheduler = optimization.optimizer, optimization.scheduler
    every = 1 if accelerator.device.type == "cpu" else READ_EVERY
    sound: Tensor | None = None
    model.train()
    stats = EpochStatistics() if stats is None else stats
    before = time.perf_counter()
    for batch in loader:
        fetched = time.perf_counter()
        with accelerator.accumulate(model):
            total, parts = losses_of(model, batch, criterion, accelerator.device, bf16)
            accelerator.backward(total)
            norms = [torch.zeros_like(total)]
            if accelerator.sync_gradients:
                groups = accelerator.unwrap_model(model).param_groups()
                norms = [
                    torch.as_tensor(accelerator.clip_grad_norm_(group, optimization.clip))
                    for group in groups
                ]
            finite = total.detach().isfinite() & torch.stack(norms).isfinite().all()
            sound = finite if sound is None else sound & finite
            row = [*parts.values(), total, finite, norms[0]]
            step = Step(
                stats.batches + 1,
                batch.names[:4],
                list(parts),
                torch.stack([value.detach().float() for value in row]),
                accelerator.sync_gradients,
            )
            stats.add(step, every)
            if every > 1:
                skip_unless(sound, optimizer)
            optimizer.step()
            if accelerator.sync_gradients:
                scheduler.step()
            optimizer.zero_grad()
        stats.batches += 1
        stats.images += len(batch) * accelerator.num_processes
        now = time.perf_counter()
        stats.waited, stats.seconds = stats.waited + fetched - before, stats.seconds + now - before
        on_step(len(batch), stats.loss)
        before = time.perf_counter()
    stats.read()
    means = stats.means()
    if accelerator.num_processes > 1:  # each process has seen its share of the batches
        values = torch.tensor(
            [means[name] for name in stats.parts], dtype=torch.float64, device=accelerator.device
        )
        shared = accelerator.reduce(values, reduction="mean")
        means |= dict(zip(stats.parts, cast(torch.Tensor, shared).tolist(), strict=True))
    return means | {"lr": float(scheduler.get_last_lr()[0])}
