"""Normalisation of pixels; no other module normalises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def inside(valid: Tensor, size: int) -> Tensor:
    """Bool B x 1 x size x size: True where row < valid[:, 0] and column < valid[:, 1]."""
    steps = torch.arange(size, device=valid.device)
    rows = steps[None, :, None] < valid[:, 0, None, None]
    columns = steps[None, None, :] < valid[:, 1, None, None]
    return (rows & columns)[:, None]


def cells_inside(valid: Tensor, side: int, image_size: int) -> Tensor:
    """`inside`, bool B x 1 x side x side, for a map that shows the S x S square in fewer cells:
    cells that hold any of the image."""
    return inside((valid * side / image_size).ceil(), side)


def per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """float32 1 x C x 1 x 1, made on the device: a copy from the CPU would wait for it."""
    made = [torch.full((1, 1, 1), value, device=device) for value in values]
    return torch.stack(made, dim=1)


def normalise(
    images: Tensor, valid: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Tensor:
    """Normalise pixels by mean and standard deviation, and set padding to zero.

    SAM normalises images before it pads them with zeros. Here images are padded first, so padding
    is set to zero after the normalisation: at `-mean / std` it would change the embedding inside
    the image, too.

    Args:
        images: uint8 B x C x S x S. Float tensors are refused, as they may be normalised.
        valid: int64 B x 2, rows and columns that hold image.
        mean: per channel, in units of 0..255. None (with `std`): each image is stretched to
            0..1 by the least and the largest value it holds, as MedSAM does.
        std: per channel, in units of 0..255.

    Returns:
        float32 B x C x S x S.

    Raises:
        TypeError: `images` is not uint8.
    """
    if images.dtype != torch.uint8:
        raise TypeError(
            f"normalise() takes raw uint8 pixels, got {images.dtype}; pixels are normalised once"
        )
    content = inside(valid, images.shape[-1])
    if mean is None or std is None:
        low = torch.where(content, images, 255).amin((1, 2, 3), keepdim=True).float()
        high = torch.where(content, images, 0).amax((1, 2, 3), keepdim=True).float()
        mean_, std_ = low, (high - low).clamp(min=1)  # an image of one value becomes 0
    else:
        mean_, std_ = per_channel(mean, images.device), per_channel(std, images.device)
    # Channels last: convolutions on a CPU, depthwise ones above all, run up to three times faster.
    pixels = images.float().contiguous(memory_format=torch.channels_last)
    return (pixels - mean_) / std_ * content
