"""Losses, taken inside the valid region at the targets' resolution."""

from __future__ import annotations

import torch
from monai.losses import FocalLoss
from torch import Tensor
from torch.nn import functional as F

from autosam.config import LossConfig


def with_background(logits: Tensor) -> Tensor:
    """B x K x ... class logits -> B x (K+1) x ..., background first, its logit fixed at zero.

    For one class this makes the soft-max the sigmoid, so that both readings agree.
    """
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


def probabilities(logits: Tensor, exclusive: bool) -> Tensor:
    """float B x K x ... logits -> probabilities of the K classes, background left out."""
    if exclusive:
        return with_background(logits).softmax(dim=1)[:, 1:]
    return logits.sigmoid()


class SegmentationLoss(torch.nn.Module):
    """Cross entropy, squared error, focal and Dice, weighted and summed.

    Args:
        config: the weights.
        exclusive: whether a pixel has one class only.

    Raises:
        ValueError: all weights are zero.
    """

    def __init__(self, config: LossConfig, exclusive: bool = True) -> None:
        super().__init__()
        if not (config.bce or config.mse or config.focal or config.dice):
            raise ValueError("loss: all of bce, mse, focal and dice are 0")
        self.config, self.exclusive = config, exclusive
        self._focal = FocalLoss(gamma=2.0, reduction="none")

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """
        Args:
            logits: float B x K x m x m; interpolated where the targets are of another size.
            targets: float B x K x m' x m' in [0, 1].
            weights: float B x 1 x m' x m' in [0, 1]: what each cell counts, 0 on padding.

        Returns:
            Each part that has a weight (unweighted), and `loss`, their weighted sum; scalars.
        """
        logits = logits.float()
        if logits.shape[-2:] != targets.shape[-2:]:
            logits = F.interpolate(logits, targets.shape[-2:], mode="bilinear")
        parts: dict[str, Tensor] = {}
        if self.config.bce:
            parts["bce"] = _mean(self._cross_entropy(logits, targets), weights)
        if self.config.mse:
            error = (probabilities(logits, self.exclusive) - targets) ** 2
            parts["mse"] = _mean(error, weights)
        if self.config.focal:
            parts["focal"] = _mean(self._focal(logits, targets), weights)
        if self.config.dice:
            parts["dice"] = _dice(probabilities(logits, self.exclusive), targets, weights)
        total = sum(getattr(self.config, name) * value for name, value in parts.items())
        return parts | {"loss": torch.as_tensor(total)}

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        if not self.exclusive:
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        shares = torch.cat([1 - targets.sum(1, keepdim=True), targets], dim=1)
        return -(shares * with_background(logits).log_softmax(dim=1)).sum(1, keepdim=True)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over the cells by their weights, whatever the number of channels; 0 without any."""
    return (values * weights).sum() / (weights.sum() * values.shape[1]).clamp(min=1e-6)


def _dice(found: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Soft Dice loss over weighted cells, a mean over images and classes. (MONAI's MaskedDiceLoss
    would square the weights in the numerator alone.)"""
    both = (weights * found * targets).sum((2, 3))
    each = (weights * (found + targets)).sum((2, 3))
    # + 1: an empty mask still pulls at a prediction that should be empty
    return (1 - (2 * both + 1) / (each + 1)).mean()
