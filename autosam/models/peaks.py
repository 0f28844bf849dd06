"""Find objects in a map of centres, and drop those found twice."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

WINDOW = 5
"""Side of the square of cells in which a peak is the largest. With 3 a large object has several
peaks, whose masks take 2.6 times as long to draw and are then dropped: the same scores."""
MOST = 4000
"""Largest number of peaks in an image."""

Placed = tuple[int, int, np.ndarray]
"""A mask: row and column of its corner, and its pixels, bool h x w."""


def find_peaks(centers: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Find the cells of a map that no other in the `WINDOW` around them exceeds.

    Args:
        centers: float K x m x m in [0, 1], of one image; 0 on padding.
        least: smallest value of a peak.

    Returns:
        int64 P x 2: column and row of each peak; its class int64 P, 0..K-1; its value float P. In
        falling order of the values, at most `MOST`.
    """
    best, classes = centers.max(0)
    around = F.max_pool2d(best[None], WINDOW, stride=1, padding=WINDOW // 2)[0]
    row, column = torch.nonzero((best == around) & (best >= least), as_tuple=True)
    values = best[row, column]
    order = values.argsort(descending=True, stable=True)[:MOST]
    row, column = row[order], column[order]
    return torch.stack([column, row], 1), classes[row, column], values[order]


def points_at(cells: Tensor, side: int, image_size: int) -> Tensor:
    """The centres of cells of a map.

    Args:
        cells: int64 P x 2: column and row.
        side: m, cells.
        image_size: S, pixels.

    Returns:
        float32 P x 2: x, y in pixels of the S x S square.
    """
    return (cells.float() + 0.5) * (image_size / side) - 0.5


def drop_duplicates(masks: list[Placed], side: int, share: float) -> list[int]:
    """Mask non-maximum suppression: keep masks in their order, unless most of one lies in another
    that was kept (or the other way round).

    Args:
        masks: row and column of the corner, and bool h x w, of each mask in a square of `side`.
        side: cells.
        share: of the smaller of two masks that both cover, above which they are one object.

    Returns:
        Indices of the masks that are kept; never those that are empty.
    """
    table = _cells_of(masks, side)
    by_cell, sizes = table.T.tocsr(), table.sum(1)
    dropped = sizes == 0
    kept = []
    for i in range(len(masks)):
        if dropped[i]:
            continue
        kept.append(i)
        # One row at a time: many masks on the same place are dropped before they are compared.
        both = (table[[i]] @ by_cell).toarray()[0]
        dropped |= both > share * np.minimum(sizes[i], sizes)
    return kept


def covered(
    masks: list[Placed],
    others: list[Placed],
    side: int,
    share: float,
) -> np.ndarray:
    """Whether more than a share of a mask lies in one of the others.

    Args:
        masks: see `drop_duplicates`.
        others: the same.
        side: cells.
        share: of the mask itself.

    Returns:
        bool, one for each of `masks`.
    """
    shared, sizes = shared_cells(masks, others, side), np.array([m.sum() for *_, m in masks])
    found = np.zeros(len(masks), bool)
    found[shared.row[shared.data > share * sizes[shared.row]]] = True
    return found


def shared_cells(masks: list[Placed], others: list[Placed], side: int) -> sparse.coo_array:
    """Count the cells that masks share.

    Args:
        masks: see `drop_duplicates`.
        others: the same.
        side: cells.

    Returns:
        int32, masks x others; only those that share a cell.
    """
    return (_cells_of(masks, side) @ _cells_of(others, side).T).tocoo()


def _cells_of(masks: list[Placed], side: int) -> sparse.csr_array:
    """The cells of each mask, as ones in an int32 matrix: masks x cells of the square."""
    cells = [
        ((row + rows) * side + column + columns)
        for row, column, mask in masks
        for rows, columns in (np.nonzero(mask),)
    ]
    owner = np.repeat(np.arange(len(cells)), [len(own) for own in cells])
    ones = np.ones(len(owner), np.int32)
    columns = np.concatenate([np.zeros(0, np.int64), *cells])
    return sparse.csr_array((ones, (owner, columns)), (len(cells), side**2))
