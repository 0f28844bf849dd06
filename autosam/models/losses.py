"""Losses, taken inside the valid region at the targets' resolution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from autosam.config import LossConfig
from autosam.types import Batch


def with_background(logits: Tensor) -> Tensor:
    """B x K x ... class logits -> B x (K+1) x ..., with a background logit of zero first.

    For one class the soft-max then equals the sigmoid.
    """
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


def probabilities(logits: Tensor, exclusive: bool) -> Tensor:
    """float B x K x ... logits -> probabilities of the K classes, background left out."""
    if exclusive:
        return with_background(logits).softmax(dim=1)[:, 1:]
    return logits.sigmoid()


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor, exclusive: bool) -> Tensor:
    """Softmax cross entropy with the background as a class, or binary for each class."""
    if not exclusive:
        each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return _mean(each, weights)
    shares = torch.cat([1 - targets.sum(1, keepdim=True), targets], dim=1)
    each = -(shares * with_background(logits).log_softmax(dim=1)).sum(1, keepdim=True)
    return _mean(each, weights)


def squared_error(logits: Tensor, targets: Tensor, weights: Tensor, exclusive: bool) -> Tensor:
    """Mean squared error of the probabilities."""
    return _mean((probabilities(logits, exclusive) - targets) ** 2, weights)


def focal(logits: Tensor, targets: Tensor, weights: Tensor, exclusive: bool) -> Tensor:
    """Focal loss (Lin et al. 2017, arXiv 1708.02002) with gamma 2 on each class."""
    from monai.losses import FocalLoss  # takes seconds

    return _mean(FocalLoss(gamma=2.0, reduction="none")(logits, targets), weights)


def soft_dice(logits: Tensor, targets: Tensor, weights: Tensor, exclusive: bool) -> Tensor:
    """Soft Dice loss over weighted cells, a mean over images and classes. (MONAI's MaskedDiceLoss
    would square the weights in the numerator alone.)"""
    found = probabilities(logits, exclusive)
    both = (weights * found * targets).sum((2, 3))
    each = (weights * (found + targets)).sum((2, 3))
    # + 1: predictions get a gradient where the target is empty
    return (1 - (2 * both + 1) / (each + 1)).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, bool], Tensor]] = {
    "bce": cross_entropy,
    "mse": squared_error,
    "focal": focal,
    "dice": soft_dice,
}
"""The loss terms. Each takes logits float B x K x m x m, targets of the same shape in [0, 1],
weights float B x 1 x m x m (of each cell), and whether a pixel has at most one class; it
returns a scalar. The weight of each is the field of its name in `LossConfig`."""


class SegmentationLoss(torch.nn.Module):
    """The weighted sum of `LOSSES`.

    Args:
        config: the weights.
        exclusive: whether each pixel has at most one class.

    Raises:
        ValueError: all weights are zero.
    """

    def __init__(self, config: LossConfig, exclusive: bool = True) -> None:
        super().__init__()
        self.weights = {name: getattr(config, name) for name in LOSSES if getattr(config, name)}
        if not self.weights:
            raise ValueError(f"loss: all of {', '.join(LOSSES)} are 0")
        self.exclusive = exclusive

    def of(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The loss of a network's output for a batch, see `forward`."""
        assert batch.targets is not None
        assert batch.weights is not None
        return self(output, batch.targets, batch.weights)

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """
        Args:
            logits: float B x K x m x m; interpolated where the targets are of another size.
            targets: float B x K x m' x m' in [0, 1].
            weights: float B x 1 x m' x m' in [0, 1]: weight of each cell, 0 on padding.

        Returns:
            Scalars: each term with a non-zero weight (itself unweighted), and `loss`, their
            weighted sum.
        """
        logits = logits.float()
        if logits.shape[-2:] != targets.shape[-2:]:
            logits = F.interpolate(logits, targets.shape[-2:], mode="bilinear")
        parts = {
            name: LOSSES[name](logits, targets, weights, self.exclusive) for name in self.weights
        }
        total = sum(self.weights[name] * value for name, value in parts.items())
        return parts | {"loss": torch.as_tensor(total)}


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over cells and channels; 0 if all weights are 0."""
    return (values * weights).sum() / (weights.sum() * values.shape[1]).clamp(min=1e-6)
