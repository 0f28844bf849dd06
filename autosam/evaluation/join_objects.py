"""Join the objects of the tiles of an image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autosam.data.instances import compact
from autosam.evaluation.assemble import OVERLAP
from autosam.models.peaks import Placed, covered, drop_duplicates, shared_cells
from autosam.types import Instances, Region

NEAR = 1 / 64
"""Share of a tile's side within which an object counts as cut by its border: masks have cells, so
one that is cut may end a little before it."""


@dataclass(frozen=True)
class _Found:
    """An object of a tile."""

    mask: Placed
    """Row and column of its box in the image, and its pixels in it."""
    category: int
    score: float
    tile: Region
    """The tile that shows it."""
    cut: bool
    """Whether it reaches a border of its tile inside the image: the rest may lie in the next."""

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.mask[2].sum())


def join_objects(
    tiles: Iterable[tuple[Region, np.ndarray, Instances]], size: tuple[int, int, int]
) -> tuple[np.ndarray, Instances]:
    """Join the objects of the tiles of an image.

    An object that several tiles show is kept once: as the tile shows it that does not cut it, or
    else its largest part. Only objects larger than the overlap of the tiles may be cut in all. Of
    such a part and something smaller inside it the one with the better score is kept. Masks of an
    object differ between tiles: a small cut part that touches a larger object of a tile that shows
    the place of the part uncut is taken for the edge of that object, and dropped.

    Args:
        tiles: cover the image; the region of each, its logits float32 K x h x w, and its objects
            with scores.
        size: K, and H, W of the image.

    Returns:
        Logits float32 K x H x W, the largest of the tiles; and the objects.
    """
    logits, shape = np.full(size, -np.inf, np.float32), size[1:]
    found = []
    for region, values, objects in tiles:
        y, x, height, width = region
        own = logits[:, y : y + height, x : x + width]
        np.maximum(own, values, out=own)
        found += _objects_of(objects, region, shape)
    side = max(shape)
    whole = [one for one in found if not one.cut]
    parts = sorted((one for one in found if one.cut), key=lambda one: -one.area)
    shown = covered([one.mask for one in parts], [one.mask for one in whole], side, OVERLAP)
    parts = [one for one, again in zip(parts, shown, strict=True) if not again]
    edges = _edges(parts, found, shape)
    parts = _distinct([one for i, one in enumerate(parts) if i not in edges], side)
    kept = _distinct(sorted(whole + parts, key=lambda one: -one.score), side)
    ids = np.zeros(shape, np.int32)
    for number, one in reversed([*enumerate(kept, 1)]):
        top, left, mask = one.mask
        ids[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = number
    classes = np.array([one.category for one in kept], np.uint8)
    scores = np.array([one.score for one in kept], np.float32)
    return logits, compact(Instances(ids, classes, scores))


def _distinct(found: list[_Found], side: int) -> list[_Found]:
    """The objects in their order, without those that are another one."""
    return [found[i] for i in drop_duplicates([one.mask for one in found], side, OVERLAP)]


def _edges(parts: list[_Found], found: list[_Found], size: tuple[int, int]) -> set[int]:
    """Indices of the parts that are the edge of another tile's object, see `join_objects`."""
    masks = [_widened(part, size) for part in parts]
    touching = shared_cells(masks, [one.mask for one in found], max(size))
    edges = set()
    for i, j in zip(touching.row.tolist(), touching.col.tolist(), strict=True):
        part, other = parts[i], found[j]
        if part.area < OVERLAP * other.area and not _cuts(other.tile, part.mask, size):
            edges.add(i)
    return edges


def _widened(part: _Found, size: tuple[int, int]) -> Placed:
    """The mask of a part with all pixels near it, in an image of `size` (H, W)."""
    (row, column, mask), near = part.mask, max(_near(part.tile), 1)
    wide = ndimage.binary_dilation(np.pad(mask, near), iterations=near)
    row, column = row - near, column - near
    top, left = max(-row, 0), max(-column, 0)
    return row + top, column + left, wide[top : size[0] - row, left : size[1] - column]


def _objects_of(instances: Instances, region: Region, size: tuple[int, int]) -> list[_Found]:
    """The objects of a tile of an image of `size` (H, W)."""
    y, x = region[:2]
    assert instances.scores is not None
    found = []
    for i, (rows, columns) in enumerate(ndimage.find_objects(instances.ids)):
        mask = y + rows.start, x + columns.start, instances.ids[rows, columns] == i + 1
        category, score = int(instances.classes[i]), float(instances.scores[i])
        found.append(_Found(mask, category, score, region, _cuts(region, mask, size)))
    return found


def _cuts(tile: Region, placed: Placed, size: tuple[int, int]) -> bool:
    """Whether a mask reaches a border of a tile inside the image, or lies beyond it."""
    (y, x, height, width), (top, left, mask), near = tile, placed, _near(tile)
    bottom, right = top + mask.shape[0], left + mask.shape[1]
    return (
        (top <= y + near and y > 0)
        or (left <= x + near and x > 0)
        or (bottom >= y + height - near and y + height < size[0])
        or (right >= x + width - near and x + width < size[1])
    )


def _near(tile: Region) -> int:
    return round(NEAR * max(tile[2:]))
