"""Objects too small for a grid on which each cell can find one object."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MAY_BE_SMALLER = 0.01
"""Share of objects that may stay smaller than a cell, with the tile or input size proposed."""
STEP = 32
"""Proposed tiles are multiples of it, pixels."""


@dataclass(frozen=True)
class SmallObjects:
    """Objects smaller than a cell of a grid, and what would help."""

    total: int
    """Number of objects."""
    small: int
    """Those whose area is below that of a cell."""
    tile: int
    """Side of tiles, in pixels of the image, with which all but `MAY_BE_SMALLER` of the objects are
    at least as large as a cell; 0 if they are already, or tiles of `STEP` are too large."""
    image_size: int
    """Input size of the network with the same effect, without tiles; 0 if they are already."""

    @property
    def share(self) -> float:
        """Share of the objects that are small, 0..1."""
        return self.small / max(1, self.total)


def square_side(height: int, width: int, geometry: str) -> float:
    """Side of the square that an image fills, in pixels of the image: the longest side, or with
    `square` (which stretches) that of a square of equal area."""
    return math.sqrt(height * width) if geometry == "square" else float(max(height, width))


def small_objects(areas: np.ndarray, sides: np.ndarray, grid: int, image_size: int) -> SmallObjects:
    """Count objects smaller than a cell.

    Args:
        areas: of n objects, in pixels of their images.
        sides: of the n images that they are in, see `square_side`.
        grid: cells along a side of the square.
        image_size: S, input size of the network with that grid; another has proportionally many
            cells.
    """
    if not len(areas):
        return SmallObjects(0, 0, 0, 0)
    diameters = np.sqrt(np.asarray(areas, float))
    cells = diameters / sides * grid
    small = int((cells < 1).sum())
    spared = int(MAY_BE_SMALLER * len(cells))
    least = float(np.sort(cells)[spared])
    if least >= 1:
        return SmallObjects(len(cells), small, 0, 0)
    # A tile of t pixels has cells of t / grid.
    tile = grid * float(np.sort(diameters)[spared])
    needed = math.ceil(grid / least - 1e-9)
    return SmallObjects(len(cells), small, int(tile // STEP * STEP), needed * image_size // grid)
