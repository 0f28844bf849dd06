"""The optimiser and its schedule."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from autosam.config import TrainConfig
from autosam.models.base import SegmentationModel

NEW_LR = 4e-3
"""Peak learning rate of what starts at random, where none is set: all but the next."""
PRETRAINED_LR = 1e-3
"""The same of the backbone and of SAM's mask decoder."""


def build_optimizer(segmenter: SegmentationModel, config: TrainConfig) -> Optimizer:
    """AdamW or Adam on the trainable parameters."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
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
    """Warm-up, then as the settings say, over `steps` optimiser steps."""
    warmup = int(config.warmup * steps)
    if config.schedule == "constant":
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup)))
    return warmup_cosine(optimizer, warmup, steps)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Trainable parameters in two groups: matrices and kernels decay, vectors do not.

    Normalisation weights and biases are kept free of weight decay, as in timm and SAM's recipe.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def warmup_cosine(optimizer: Optimizer, warmup: int, total: int) -> LambdaLR:
    """Linear warm-up over `warmup` steps, then half a cosine down to zero at step `total`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
