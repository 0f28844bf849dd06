"""The optimiser and its schedule."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from autosam.config import TrainConfig


def build_optimizer(module: nn.Module, config: TrainConfig) -> Optimizer:
    """AdamW or Adam on the trainable parameters."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    return kind(parameter_groups(module, config.weight_decay), lr=config.lr)


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
