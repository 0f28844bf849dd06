"""SAM on a grid of points, and the classifier of its masks.

The points are those of SAM's automatic mask generation (Kirillov et al. 2023, arXiv 2304.02643,
appendix B), whose masks have no class. The classifier is fitted to SAM's masks of training images,
each labelled with the class that covers most of it: one normal distribution of colour and size for
each class and for background.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES = 7
"""Mean and standard deviation of red, green and blue, and the logarithm of the size."""
LEAST = 4
"""Minimum area of a mask, in mask cells; smaller masks are dropped."""
RIDGE = 0.05
"""Added to each variance, in units of the variance over all masks, so that the covariance of a few
masks can be inverted."""


def grid_points(side: int, valid: Tensor) -> Tensor:
    """side^2 points, at the centres of the cells of a grid over the image.

    Args:
        side: points in each row and column.
        valid: int64 2, rows and columns of the S x S square that hold image.

    Returns:
        float side^2 x 1 x 2: x, y in pixels of the S x S square.
    """
    steps = (torch.arange(side, device=valid.device) + 0.5) / side
    y, x = torch.meshgrid(steps * valid[0], steps * valid[1], indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)[:, None] - 0.5


def describe(masks: Tensor, pixels: Tensor) -> Tensor:
    """Features of masks: mean and standard deviation of the colours, and size.

    Args:
        masks: bool N x m x m, none empty.
        pixels: float 3 x m x m in [0, 1].

    Returns:
        float N x FEATURES.
    """
    cells = masks.flatten(1).to(pixels)
    area = cells.sum(1, keepdim=True)
    colours = pixels.flatten(1).T
    mean = cells @ colours / area
    spread = (cells @ colours**2 / area - mean**2).clamp(min=0).sqrt()
    return torch.cat([mean, spread, (area / cells.shape[1]).log()], 1)


class MaskClassifier(nn.Module):
    """Classify masks by their features; class 0 is background.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        count = num_classes + 1
        self.register_buffer("mean", torch.zeros(count, FEATURES))
        self.register_buffer("whiten", torch.eye(FEATURES).repeat(count, 1, 1))
        self.register_buffer("bias", torch.zeros(count))
        self.mean: Tensor
        self.whiten: Tensor
        self.bias: Tensor

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Fit one normal distribution per class (quadratic discriminant analysis).

        Args:
            features: float N x FEATURES.
            labels: int64 N, 0..K. A class without masks is never predicted.
        """
        values = features.double()
        ridge = torch.diag(RIDGE * values.var(0, unbiased=False).clamp(min=1e-6))
        for k in range(len(self.mean)):
            own = values[labels == k]
            if len(own) == 0:
                self.bias[k] = -torch.inf
                continue
            centred = own - own.mean(0)
            covariance = centred.T @ centred / len(own) + ridge
            lower = torch.linalg.cholesky(covariance)
            self.mean[k] = own.mean(0)
            self.whiten[k] = torch.linalg.inv(lower)
            share = len(own) / len(values)
            self.bias[k] = torch.tensor(share).log() - lower.diagonal().log().sum()

    def forward(self, features: Tensor) -> Tensor:
        """Features float N x FEATURES -> probabilities float N x (K+1)."""
        away = torch.einsum("kde,nke->nkd", self.whiten, features[:, None] - self.mean)
        return (self.bias - away.square().sum(2) / 2).softmax(1)


def vote(masks: Tensor, probabilities: Tensor, absent: float) -> Tensor:
    """Logits of each cell, from the class probabilities of the masks that cover it.

    Args:
        masks: bool N x m x m.
        probabilities: float N x (K+1), of the masks.
        absent: logit of cells without masks.

    Returns:
        float K x m x m: log of the mean probability of each class divided by that of background,
        whose logit is thus 0.
    """
    cells = masks.flatten(1).to(probabilities)
    mean = (probabilities.T @ cells) / cells.sum(0).clamp(min=1)
    logits = mean[1:].clamp(min=1e-8).log() - mean[:1].clamp(min=1e-8).log()
    logits = torch.where(masks.flatten(1).any(0), logits, absent)
    return logits.view(-1, *masks.shape[1:])
