"""`--auto-batch`: find a batch size that fits into memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from accelerate import Accelerator
from accelerate.utils import release_memory

from autosam.config import Config, TrainConfig
from autosam.data.dataset import PairDataset, largest_batch
from autosam.errors import TrainingError, is_out_of_memory
from autosam.models import checkpoint, paper
from autosam.models.base import SegmentationModel
from autosam.training.loop import ONE_VALUE, losses_of, one_value
from autosam.training.optim import build_optimizer
from autosam.utils.device import trains_in_bf16
from autosam.utils.distributed import gather


def fit_batch(
    config: Config,
    segmenter: SegmentationModel,
    dataset: PairDataset,
    accelerator: Accelerator,
) -> TrainConfig:
    """Halve the batch size until a training step fits into memory on every process.

    The step is tried with a quarter more images, because a training needs more memory than one
    step, and memory gets fragmented.

    Args:
        config: the run, with the batch size to try first.
        segmenter: its weights are restored afterwards.
        dataset: the training images.
        accelerator: the device and the processes.

    Returns:
        `config.train` with a `batch_size` that fits, and with `accumulate` such that an optimiser
        step has at least as many images as before.

    Raises:
        TrainingError: a single image does not fit.
    """
    device = accelerator.device
    bf16 = trains_in_bf16(config.train.precision, device)
    criterion = paper.build_loss(config)

    def step(size: int) -> None:
        batch = largest_batch(dataset, size).to(device)
        optimizer = build_optimizer(segmenter, config.train, device)
        for _ in range(2):  # the second step also holds the optimiser's moments
            losses_of(segmenter.train(), batch, criterion, device, bf16)[0].backward()
            optimizer.step()

    segmenter.to(device)
    before = {key: value.clone() for key, value in segmenter.trainable_state().items()}
    size = config.train.batch_size
    while not _fits(step, math.ceil(1.25 * size) if size > 1 else 1):
        if size == 1:
            raise TrainingError(
                "--auto-batch: a training step on one image does not fit into memory. Take a "
                "smaller --model.input_size or --sam, or another device."
            )
        size //= 2
    checkpoint.restore_trainable(segmenter, before, "--auto-batch")
    segmenter.zero_grad()
    size = min(gather([size]))
    accumulate = math.ceil(config.train.accumulate * config.train.batch_size / size)
    return dataclasses.replace(config.train, batch_size=size, accumulate=accumulate)


def _fits(step: Callable[[int], None], size: int) -> bool:
    """Whether a training step with `size` images fits into memory."""
    try:
        step(size)
        return True
    except Exception as error:
        if ONE_VALUE in str(error):
            raise TrainingError(f"--auto-batch: {one_value(error)}") from None
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        release_memory()
