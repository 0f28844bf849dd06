"""Running a frozen image encoder: in pieces that fit memory, in the precision that is fast."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from autosam.models.sam.base import Sam, SamSpec
from autosam.types import ImageEmbedding
from autosam.utils.device import gains_from_bf16, half_precision

LARGE = 1024
"""S from which on the encoder, a transformer, costs more than the rest of a step."""


def faster_in_half(spec: SamSpec, device: torch.device) -> bool:
    """Whether the encoder should compute in bfloat16. (Small convolutional ones lose by it.)"""
    return spec.image_size >= LARGE and gains_from_bf16(device)


@torch.no_grad()
def encode_frozen(sam: Sam, images: Tensor, valid: Tensor, half: bool = False) -> ImageEmbedding:
    """Image embeddings, without gradient.

    Large images go through the encoder one by one: at 1024 px one is enough to keep any processor
    busy, and each takes gigabytes for its attention.

    Args:
        sam: on the device where to encode.
        images: uint8 B x 3 x S x S, zero padded; brought to that device.
        valid: int64 B x 2, rows and columns that hold image.
        half: bfloat16 where it is faster; else as the surrounding autocast says.
    """
    spec, device = sam.spec, next(sam.parameters()).device
    at_once = max(1, (LARGE // spec.image_size) ** 2)
    precision = half_precision(device, True) if half and faster_in_half(spec, device) else None
    with precision or nullcontext():
        parts = [
            sam.encode_image(some.to(device), whole.to(device))
            for some, whole in zip(images.split(at_once), valid.split(at_once), strict=True)
        ]
    return ImageEmbedding.cat(parts)
