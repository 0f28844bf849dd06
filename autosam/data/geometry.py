"""The only place that resizes, pads, and undoes it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def content_size(height: int, width: int, size: int, geometry: str) -> tuple[int, int]:
    """Rows and columns that an H x W picture takes up in a size x size square.

    `longest-pad` scales the longest side to `size`, rounding as `segment_anything` does; `square`
    stretches both sides.
    """
    if geometry == "square":
        return size, size
    scale = size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """uint8 H x W x 3 -> uint8 h x w x 3, antialiased bilinear as in `segment_anything`."""
    if image.shape[:2] == shape:
        return image
    return np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BILINEAR))


def resize_label(label: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """uint8 H x W -> uint8 h x w, nearest pixel: class numbers are never mixed."""
    if label.shape == shape:
        return label
    return np.asarray(Image.fromarray(label).resize(shape[::-1], Image.Resampling.NEAREST))


def pad(array: np.ndarray, size: int) -> np.ndarray:
    """h x w (x 3) -> size x size (x 3), zeros at the bottom and right."""
    height, width = array.shape[:2]
    extra = [(0, size - height), (0, size - width)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, extra)


def restore(
    logits: Tensor, shape: tuple[int, int], image_size: int, geometry: str = "longest-pad"
) -> Tensor:
    """The exact inverse for logits: up to the square, cut the padding off, to the picture's size.

    Args:
        logits: float K x m x m.
        shape: H, W of the picture.
        image_size: S, side of the square.
        geometry: as in `content_size`.

    Returns:
        float K x H x W.
    """
    height, width = content_size(*shape, image_size, geometry)
    square = F.interpolate(logits[None], (image_size, image_size), mode="bilinear")
    return F.interpolate(square[..., :height, :width], shape, mode="bilinear")[0]


def class_shares(label: np.ndarray, num_classes: int, image_size: int, mask_size: int) -> Tensor:
    """The share of each mask cell that each class covers.

    Args:
        label: uint8 h x w inside the S x S square (before padding), 0 background, 1..K classes.
        num_classes: K.
        image_size: S; a multiple of `mask_size`.
        mask_size: m.

    Returns:
        float32 K x m x m in [0, 1].
    """
    square = torch.from_numpy(pad(label, image_size))
    classes = torch.arange(1, num_classes + 1, dtype=torch.uint8)[:, None, None]
    return F.avg_pool2d((square == classes).float()[None], image_size // mask_size)[0]


def cell_weight(valid: tuple[int, int], image_size: int, mask_size: int) -> Tensor:
    """float32 1 x m x m: 1 for cells at least half of which hold picture, else 0."""
    cover = torch.zeros(1, image_size, image_size)
    cover[:, : valid[0], : valid[1]] = 1
    return (F.avg_pool2d(cover[None], image_size // mask_size)[0] >= 0.5).float()
