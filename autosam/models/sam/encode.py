"""Run a frozen image encoder in batches that fit memory, in the faster precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from autosam.models.sam.base import Sam, SamSpec
from autosam.types import ImageEmbedding
from autosam.utils.device import gains_from_bf16, half_precision

LARGE = 1008
"""S, pixels, from which on the encoder costs more than the rest of a training step."""


def faster_in_half(spec: SamSpec, device: torch.device) -> bool:
    """Whether the encoder is faster in bfloat16. (Small convolutional ones are slower.)"""
    return spec.image_size >= LARGE and gains_from_bf16(device)


@torch.no_grad()
def encode_frozen(sam: Sam, images: Tensor, valid: Tensor, half: bool = False) -> ImageEmbedding:
    """Compute image embeddings without gradient; with adapters, what `Sam.encode_fixed` returns.

    Large images are encoded one by one: one image of 1024 px uses a processor fully, and its
    attention takes gigabytes.

    Args:
        sam: on the device that computes.
        images: uint8 B x 3 x S x S, zero padded; moved to that device.
        valid: int64 B x 2, rows and columns that hold image.
        half: use bfloat16 if it is faster; otherwise the surrounding autocast applies.
    """
    device = next(sam.parameters()).device
    at_once = images_at_once(sam.spec)
    with precision_of(sam, half):
        parts = [
            sam.encode_fixed(some.to(device), whole.to(device))
            for some, whole in zip(images.split(at_once), valid.split(at_once), strict=True)
        ]
    return ImageEmbedding.cat(parts)


def encode_rest(sam: Sam, part: ImageEmbedding, half: bool = False) -> ImageEmbedding:
    """Compute image embeddings from what `encode_frozen` returned; gradients reach the adapters.

    Args:
        sam: on the device of `part`.
        part: of B images.
        half: see `encode_frozen`.
    """
    if sam.tuned_from is None:
        return part
    at_once = images_at_once(sam.spec)
    with precision_of(sam, half):
        return ImageEmbedding.cat([sam.encode_rest(some) for some in part.split(at_once)])


def images_at_once(spec: SamSpec) -> int:
    """How many images the encoder gets at a time."""
    return max(1, (1024 // spec.image_size) ** 2)


def precision_of(sam: Sam, half: bool) -> AbstractContextManager[Any]:
    """The precision that the encoder computes in."""
    device = next(sam.parameters()).device
    half = half and faster_in_half(sam.spec, device)
    return half_precision(device, True) if half else nullcontext()
