"""Train for one epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

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


ONE_VALUE = "Expected more than 1 value per channel"
"""Start of torch's message if BatchNorm gets one value per channel."""


def one_value(error: Exception) -> str:
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
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds spent waiting for data."""

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
    model.train()
    stats = EpochStatistics() if stats is None else stats
    before = time.perf_counter()
    for batch in loader:
        fetched = time.perf_counter()
        with accelerator.accumulate(model):
            total, parts = losses_of(model, batch, criterion, accelerator.device, bf16)
            if not torch.isfinite(total):
                raise TrainingError(
                    f"the loss is {total.item()} at batch {stats.batches + 1} "
                    f"({', '.join(batch.names[:4])}...). Lower --train.lr, or look at these images."
                )
            accelerator.backward(total)
            if accelerator.sync_gradients:
                groups = accelerator.unwrap_model(model).param_groups()
                norms = [
                    float(accelerator.clip_grad_norm_(group, optimization.clip)) for group in groups
                ]
                if not all(map(math.isfinite, norms)):
                    raise TrainingError(
                        f"the gradient is not finite at batch {stats.batches + 1} "
                        f"({', '.join(batch.names[:4])}...). Lower --train.lr, try "
                        "--train.precision no, or look at these images."
                    )
                stats.norm, stats.norms = stats.norm + norms[0], stats.norms + 1
            optimizer.step()
            if accelerator.sync_gradients:
                scheduler.step()
            optimizer.zero_grad()
        for name, value in parts.items():
            stats.parts[name] = stats.parts.get(name, 0.0) + value.item()
        stats.batches += 1
        stats.images += len(batch) * accelerator.num_processes
        now = time.perf_counter()
        stats.waited, stats.seconds = stats.waited + fetched - before, stats.seconds + now - before
        on_step(len(batch), parts["loss"].item())
        before = time.perf_counter()
    means = stats.means()
    if accelerator.num_processes > 1:  # each process has seen its share of the batches
        values = torch.tensor(
            [means[name] for name in stats.parts], dtype=torch.float64, device=accelerator.device
        )
        shared = accelerator.reduce(values, reduction="mean")
        means |= dict(zip(stats.parts, cast(torch.Tensor, shared).tolist(), strict=True))
    return means | {"lr": float(scheduler.get_last_lr()[0])}
