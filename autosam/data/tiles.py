"""Where the crops and tiles of an image lie."""

from __future__ import annotations

import itertools

import numpy as np

from autosam.data.ground import ground_size
from autosam.data.labels import known
from autosam.data.pairs import Pixels, read_valid
from autosam.data.readers.raster import cut
from autosam.types import Region

OVERLAP = 0.25
"""Overlap of neighbouring tiles in evaluation and prediction, as a share of their size."""


def starts(length: int, size: int, overlap: float) -> list[int]:
    """Compute where tiles start along a side, evenly spaced; the last tile ends with the side.

    Args:
        length: of the side, pixels.
        size: of a tile, pixels.
        overlap: smallest share of a tile that the next one covers too, in [0, 1).

    Returns:
        Offsets in pixels.
    """
    if length <= size:
        return [0]
    count = 1 + int(np.ceil((length - size) / (size * (1 - overlap))))
    return np.linspace(0, length - size, count).round().astype(int).tolist()


def tile_side(image: Pixels, size: int, resolution: float | None) -> int:
    """Side of the tiles of an image, in its own pixels.

    Args:
        image: where it is read from.
        size: side of a tile, in pixels of `resolution`.
        resolution: metres of the ground that a pixel covers; None: `size` counts the pixels of
            each image.

    Raises:
        DataError: the size of the image's pixels on the ground is not known.
    """
    return size if resolution is None else max(1, round(size * resolution / ground_size(image)))


def tile_regions(shape: tuple[int, int], size: int, overlap: float = OVERLAP) -> list[Region]:
    """Cover an image with tiles, row by row.

    Args:
        shape: H, W of the image.
        size: side of a tile, pixels; where the image is smaller, the tile is.
        overlap: see `starts`.
    """
    height, width = shape
    corners = itertools.product(starts(height, size, overlap), starts(width, size, overlap))
    return [(y, x, min(size, height), min(size, width)) for y, x in corners]


def draw_crop(label: np.ndarray, size: int, foreground: float, rng: np.random.Generator) -> Region:
    """Draw a crop of an image at random.

    Args:
        label: H x W, see `autosam.data.labels`.
        size: side of the crop, pixels; where the image is smaller, the crop is.
        foreground: probability that the crop is centred on a foreground pixel (as far as the
            borders of the image allow), if there is one.
        rng: random numbers.
    """
    height, width = label.shape
    high, wide = min(size, height), min(size, width)
    if rng.random() < foreground:
        found = np.flatnonzero((label != 0) & known(label))
        if len(found):
            y, x = divmod(int(found[rng.integers(len(found))]), width)
            top = min(max(0, y - high // 2), height - high)
            left = min(max(0, x - wide // 2), width - wide)
            return top, left, high, wide
    top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
    return int(top), int(left), high, wide


def image_shape(image: Pixels) -> tuple[int, int]:
    """H, W of an image; pixels of files are not decoded."""
    shape: tuple[int, int] | None = getattr(image, "shape", None)
    return shape or read_valid(image)[0].shape[:2]


def read_region(image: Pixels, region: Region) -> tuple[np.ndarray, np.ndarray | None]:
    """A region of what `read_valid` returns; of files that allow it, nothing else is decoded."""
    read = getattr(image, "read_part", None)
    if read is not None:
        return read(region)
    colors, valid = read_valid(image)
    return cut(colors, region), None if valid is None else cut(valid, region)
