"""Peculiarities of the published AutoSAM's code (`--paper.*`), each a wrapper of the default."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from autosam.config import Config
from autosam.errors import ConfigError
from autosam.models.instance_loss import InstanceLoss
from autosam.models.losses import SegmentationLoss
from autosam.models.sam import SAMS, SamSpec
from autosam.models.segmenter import Segmenter
from autosam.types import Batch, ImageEmbedding, ObjectPrompts, Prompt


def sam_spec(config: Config) -> SamSpec:
    """The registry entry of a run's SAM, with its normalisation of pixels.

    Raises:
        ConfigError: `double_normalisation` with a SAM that has no mean and standard deviation.
    """
    spec = SAMS[config.sam]
    return normalised_twice(spec) if config.paper.double_normalisation else spec


def normalised_twice(spec: SamSpec) -> SamSpec:
    """The same SAM with its pixels normalised by mean and std, and the result once more.

    Raises:
        ConfigError: this SAM stretches pixels instead.
    """
    if spec.pixel_mean is None or spec.pixel_std is None:
        raise ConfigError(
            f"--paper.double_normalisation: {spec.name} has no mean and standard deviation."
        )
    # ((x - m) / s - m) / s = (x - (m + m s)) / s^2
    pairs = list(zip(spec.pixel_mean, spec.pixel_std, strict=True))
    (a, b, c), (d, e, f) = (m + m * s for m, s in pairs), (s * s for _, s in pairs)
    return replace(spec, pixel_mean=(a, b, c), pixel_std=(d, e, f))


def min_max(logits: Tensor) -> Tensor:
    """Logits whose sigmoid runs from 0 to 1 within each B x K x m x m map, padding included."""
    logits = logits.float()  # in bfloat16 1 - 1e-6 is 1, whose logit is infinite
    low, high = logits.amin((2, 3), keepdim=True), logits.amax((2, 3), keepdim=True)
    return torch.logit((logits - low) / (high - low).clamp(min=1e-6), eps=1e-6)


class MinMaxSegmenter(Segmenter):
    """A segmenter whose logits are stretched (`min_max_logits`): no mask can be empty."""

    def decode_mask(
        self, batch: Batch, embedding: ImageEmbedding, prompt: Prompt | ObjectPrompts
    ) -> Tensor:
        """See `Segmenter.decode_mask`."""
        return min_max(super().decode_mask(batch, embedding, prompt))


class PaddedLoss(SegmentationLoss):
    """The loss on padding and unlabelled pixels too (`loss_on_padding`)."""

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """See `SegmentationLoss.forward`."""
        return super().forward(logits, targets, torch.ones_like(weights))


def build_loss(config: Config) -> SegmentationLoss:
    """The loss of a run."""
    if config.finds_objects:
        return InstanceLoss(config.loss)
    kind = PaddedLoss if config.paper.loss_on_padding else SegmentationLoss
    return kind(config.loss, config.data.exclusive)


def selection_split(config: Config) -> str:
    """The split whose Dice chooses the best epoch: test with `select_on_test`."""
    return "test" if config.paper.select_on_test else "validation"
