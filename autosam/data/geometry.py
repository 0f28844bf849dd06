"""Resize and pad images and labels, and invert both. No other module does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from autosam.data.labels import class_masks, known

PILLOW = 2.0**22
"""Resolution of Pillow's fixed-point weights for resizing 8-bit images: steps between 0 and 1."""


def content_size(height: int, width: int, size: int, geometry: str) -> tuple[int, int]:
    """Size of an H x W image inside a size x size square.

    Args:
        height: H.
        width: W.
        size: side of the square.
        geometry: `longest-pad` scales the longest side to `size`, with the rounding of
            `segment_anything`; `square` stretches both sides.

    Returns:
        Rows and columns.
    """
    if geometry == "square":
        return size, size
    scale = size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize an image, uint8 H x W x C, to h x w; antialiased bilinear as in `segment_anything`."""
    if image.shape[:2] == shape:
        return image
    if image.shape[2] != 3:  # one by one, which gives the same
        bands = [Image.fromarray(image[..., i]) for i in range(image.shape[2])]
        fitted = [band.resize(shape[::-1], Image.Resampling.BILINEAR) for band in bands]
        return np.dstack([np.asarray(band) for band in fitted])
    return np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BILINEAR))


def resize_label(label: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a label H x W to h x w by nearest neighbour, which keeps class numbers."""
    if label.shape == shape:
        return label
    return np.asarray(Image.fromarray(label).resize(shape[::-1], Image.Resampling.NEAREST))


def pad(array: np.ndarray, size: int) -> np.ndarray:
    """Pad h x w (x C) with zeros at the bottom and right to size x size (x C)."""
    height, width = array.shape[:2]
    extra = [(0, size - height), (0, size - width)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, extra)


def restore(
    logits: Tensor, shape: tuple[int, int], image_size: int, geometry: str = "longest-pad"
) -> Tensor:
    """Undo resizing and padding for logits: upsample to the square, crop, resize to the image.

    Args:
        logits: float K x m x m.
        shape: H, W of the image.
        image_size: S, side of the square.
        geometry: as in `content_size`.

    Returns:
        float K x H x W.
    """
    height, width = content_size(*shape, image_size, geometry)
    square = F.interpolate(logits[None], (image_size, image_size), mode="bilinear")
    return F.interpolate(square[..., :height, :width], shape, mode="bilinear")[0]


def class_shares(label: np.ndarray, num_classes: int, image_size: int, mask_size: int) -> Tensor:
    """Share of each class among the known pixels of each mask cell. Padding and pixels without a
    known class do not count as background.

    Args:
        label: h x w inside the S x S square (before padding), see `autosam.data.labels`.
        num_classes: K.
        image_size: S.
        mask_size: m.

    Returns:
        float32 K x m x m in [0, 1]; 0 in cells without a known pixel, see `cell_weight`.
    """
    covered = _cells(class_masks(label, num_classes), image_size, mask_size)
    return covered / cell_weight(known(label), image_size, mask_size).clamp(min=1e-9)


def cell_weight(known: np.ndarray, image_size: int, mask_size: int) -> Tensor:
    """Weight of each mask cell in the loss: its share of known pixels, so that all pixels of the
    image have equal weight.

    Args:
        known: bool h x w inside the S x S square: where the class of a pixel is known.
        image_size: S.
        mask_size: m.

    Returns:
        float32 1 x m x m in [0, 1].
    """
    return _cells(known[None], image_size, mask_size)


def object_shares(
    ids: np.ndarray,
    chosen: Sequence[int] | np.ndarray,
    size: tuple[float, float],
    mask_size: int,
) -> Tensor:
    """Share of each mask cell that each chosen object covers, as exact areas: where an edge between
    cells cuts a pixel, each cell gets its part. Padding counts as not covered. Masks of single
    objects are not made, so that time and memory grow with the chosen objects alone.

    Args:
        ids: int32 h x w, see `autosam.types.Instances`; pixels of other values are not looked at.
        chosen: n different object numbers.
        size: rows and columns of the padded square, in pixels of `ids`, at least h and w: S, S for
            ids that were placed in the S x S square; for those of the image itself H, W if the
            geometry is `square`, else the longest side for both.
        mask_size: m.

    Returns:
        float32 n x m x m in [0, 1].
    """
    chosen = np.asarray(chosen, np.int64)
    place = np.full(max(int(ids.max(initial=0)), int(chosen.max(initial=0))) + 2, -1, np.int32)
    place[chosen] = np.arange(len(chosen))  # the last entry is that of unknown pixels, -1
    rows, columns = np.nonzero(place[ids] >= 0)
    owner = place[ids[rows, columns]]
    shares = np.zeros((len(chosen), mask_size, mask_size), np.float32)
    for y, y_part in _cell_parts(ids.shape[0], size[0], mask_size):
        for x, x_part in _cell_parts(ids.shape[1], size[1], mask_size):
            part = y_part[rows] * x_part[columns]
            np.add.at(shares, (owner, y[rows], x[columns]), part)
    return torch.from_numpy(shares).clamp_(max=1)


def _cell_parts(length: int, size: float, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The cells that pixels along an axis lie in: for the first, second, ... cell that a pixel
    touches its number, int64 length, and the share of the cell that the pixel covers, float64
    length."""
    starts = np.arange(length) * (count / size)
    ends = np.arange(1, length + 1) * (count / size)
    first = np.floor(starts).astype(np.int64)
    last = np.ceil(ends).astype(np.int64) - 1
    for step in range(int((last - first).max(initial=0)) + 1):
        cell = first + step
        part = np.minimum(ends, cell + 1) - np.maximum(starts, cell)
        yield cell.clip(max=count - 1), part.clip(min=0)


def _cells(masks: np.ndarray, image_size: int, mask_size: int) -> Tensor:
    """Average masks, bool N x h x w, over the cells of the padded square; float32 N x m x m."""
    height, width = masks.shape[1:]
    square = torch.zeros(len(masks), image_size, image_size)
    square[:, :height, :width] = torch.from_numpy(masks)
    return average_cells(square, mask_size)


def average_cells(square: Tensor, mask_size: int) -> Tensor:
    """Average over the cells of the square, exact where an edge between cells cuts a pixel (as in
    SAM 3, whose cells are 3.5 pixels wide).

    Args:
        square: float N x S x S.
        mask_size: m.

    Returns:
        float N x m x m.
    """
    size = square.shape[-1]
    pieces = mask_size // math.gcd(size, mask_size)  # of each pixel along each axis, 1 to 4
    if pieces > 1:
        square = square.repeat_interleave(pieces, -1).repeat_interleave(pieces, -2)
    return F.avg_pool2d(square[None], size * pieces // mask_size)[0]


def content_sizes(height: Tensor, width: Tensor, size: int, geometry: str) -> tuple[Tensor, Tensor]:
    """`content_size` with tensors, for exported graphs that accept images of any size.

    Args:
        height: H, float64 scalar.
        width: W, float64 scalar.
        size: side of the square.
        geometry: see `content_size`.

    Returns:
        Rows and columns, float64 scalars.
    """
    if geometry == "square":
        return torch.full_like(height, size), torch.full_like(width, size)
    scale = size / torch.maximum(height, width)
    rows, columns = ((side * scale + 0.5).floor().clamp(min=1) for side in (height, width))
    return rows, columns


def resize_matrix(length: int, content: Tensor, size: int) -> Tensor:
    """`resize_image` and `pad` along one axis as a matrix: a triangle filter as wide as an output
    pixel, or an input pixel if that is wider. Weights are fixed-point numbers as in Pillow, so
    products with pixels are exact.

    Args:
        length: size of the image along the axis.
        content: float64 scalar, size of the image inside the square.
        size: side of the square.

    Returns:
        float64 size x length; rows of padding are 0.
    """
    target = torch.arange(size, dtype=torch.float64)
    source = torch.arange(length, dtype=torch.float64)
    factor = length / content
    distance = (source + 0.5 - ((target + 0.5) * factor)[:, None]).abs()
    weights = (1 - distance / factor.clamp(min=1)).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
    weights = (weights * PILLOW + 0.5).floor() / PILLOW
    return weights * (target < content)[:, None]


def restore_matrix(length: int, content: Tensor, size: int, mask_size: int) -> Tensor:
    """`restore` along one axis as a matrix.

    Args:
        length: size of the image along the axis.
        content: float64 scalar, size of the image inside the square.
        size: S, side of the square.
        mask_size: m, side of the logits.

    Returns:
        float32 length x m.
    """
    square, whole = torch.full_like(content, size), torch.full_like(content, mask_size)
    up = _bilinear(size, square, mask_size, whole)
    return (_bilinear(length, torch.full_like(content, length), size, content) @ up).float()


def _bilinear(rows: int, count: Tensor, columns: int, content: Tensor) -> Tensor:
    """Bilinear weights of F.interpolate, float64 rows x columns, from the first `content` cells to
    `rows` cells; `count` is `rows` as a tensor."""
    target = torch.arange(rows, dtype=torch.float64)
    place = ((target + 0.5) * (content / count) - 0.5).clamp(min=0)
    place = torch.minimum(place, content - 1)
    source = torch.arange(columns, dtype=torch.float64)
    return (1 - (place[:, None] - source).abs()).clamp(min=0)


def cell_positions(length: int, content: int, image_size: int, mask_size: int) -> np.ndarray:
    """Where the pixels of an image lie among the cells of a mask, along one side.

    Args:
        length: H or W, pixels of the image.
        content: rows or columns of the S x S square that hold image, see `content_size`.
        image_size: S.
        mask_size: m.

    Returns:
        float64 `length`, in cells; centres of cells are whole numbers. Rising, from 0 to m - 1.
    """
    centres = (np.arange(length) + 0.5) * (content / length) * (mask_size / image_size) - 0.5
    return centres.clip(0, mask_size - 1)
