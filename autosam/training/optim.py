"""The optimiser and its schedule."""

from __future__ import annotations

import functools
import math

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from autosam.config import TrainConfig
from autosam.models.base import SegmentationModel

NEW_LR = 4e-3
"""Default peak learning rate of randomly initialised parameters."""
PRETRAINED_LR = 1e-3
"""Default peak learning rate of pretrained ones: the backbone and SAM's mask decoder."""


def build_optimizer(
    segmenter: SegmentationModel, config: TrainConfig, device: torch.device | None = None
) -> Optimizer:
    """Build AdamW or Adam for the trainable parameters; for a GPU with fused steps.

    Args:
        segmenter: the network.
        config: optimiser, learning rate and weight decay.
        device: where it will train; None: on the CPU.
    """
    adam = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    fused = device is not None and device.type == "cuda"
    kind = functools.partial(adam, fused=True) if fused else adam
    groups = parameter_groups(segmenter, config.weight_decay)
    if config.lr is not None:
        return kind(groups, lr=config.lr)
    pretrained = {p for module in segmenter.pretrained for p in module.parameters()}
    groups = [
        group | {"params": [p for p in group["params"] if (p in pretrained) == old], "lr": lr}
        for old, lr in ((False, NEW_LR), (True, PRETRAINED_LR))
        for group in groups
    ]
    return kind([group for group in groups if group["params"]] or groups)


def build_schedule(optimizer: Optimizer, config: TrainConfig, steps: int) -> LambdaLR:
    """Build the learning rate schedule: a warm-up, then constant or half a cosine.

    Args:
        optimizer: its learning rates are scaled.
        config: the kind of schedule and the length of the warm-up.
        steps: total number of optimiser steps.
    """
    warmup = int(config.warmup * steps)
    if config.schedule == "constant":
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup)))
    return warmup_cosine(optimizer, warmup, steps)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Split the trainable parameters by weight decay.

    Args:
        module: the network.
        weight_decay: decay of matrices and kernels.

    Returns:
        Two groups: parameters of more than one dimension, and those of at most one, such as biases
        and normalisation weights, which have no weight decay.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def warmup_cosine(optimizer: Optimizer, warmup: int, total: int) -> LambdaLR:
    """Build a schedule with a linear warm-up, then half a cosine down to zero.

    Args:
        optimizer: its learning rates are scaled.
        warmup: optimiser steps of the warm-up.
        total: optimiser steps in all.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
