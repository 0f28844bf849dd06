"""Instances that tests draw, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from autosam.evaluation.instance_matching import match_instances
from autosam.evaluation.instance_metrics import score_instances
from autosam.types import Instances


def drawn(rows: str, classes: Sequence[int] = (), scores: Sequence[float] | None = None):
    """Instances out of rows of digits; "." is background and "?" unknown."""
    cells = [["?.123456789".index(c) - 1 for c in row] for row in rows.split()]
    ids = np.array(cells, np.int32)
    classes = classes or [1] * ids.max()
    return Instances(
        ids,
        np.array(classes, np.uint8),
        None if scores is None else np.array(scores, np.float32),
    )


def compact(ids: np.ndarray) -> np.ndarray:
    """Number the objects 1..n; -1 and 0 stay."""
    found = np.unique(ids[ids > 0])
    return np.where(ids > 0, np.searchsorted(found, ids) + 1, ids).astype(np.int32)


def predicted(ids: np.ndarray, rng: np.random.Generator, classes: int = 1) -> Instances:
    n = ids.max()
    return Instances(
        ids, rng.integers(1, classes + 1, n).astype(np.uint8), rng.random(n).astype(np.float32)
    )


def cells(rng: np.random.Generator, count: int, size: int, radius: float) -> np.ndarray:
    """Discs that touch, cut where they would overlap: int32 size x size."""
    centres = rng.uniform(0, size, (count, 2))
    distance, nearest = cKDTree(centres).query(np.moveaxis(np.mgrid[:size, :size], 0, -1))
    radii = rng.uniform(0.5, 1, count) * radius
    return compact(np.where(distance < radii[nearest], nearest + 1, 0))


def disturbed(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Objects moved by some pixels; some are missing, merged, split or false."""
    ids = np.roll(ids, rng.integers(-2, 3, 2), (0, 1))
    for k in range(2, ids.max() + 1):
        match rng.integers(10):
            case 0:
                ids[ids == k] = 0
            case 1:
                ids[ids == k] = k - 1
            case 2:
                rows, columns = np.nonzero(ids == k)
                ids[rows[::2], columns[::2]] = ids.max() + 1
    ids[:4, :4] = ids.max() + 1
    return compact(ids)


def scored(truth: Instances, prediction: Instances, classes: int = 1) -> dict[str, float]:
    return score_instances(match_instances(truth, prediction, classes))


def single(instances: Instances) -> Instances:
    return Instances(instances.ids, np.ones_like(instances.classes), instances.scores)


def write_cells(folder: Path, count: int, start: int = 0, size: tuple[int, int] = (40, 56)) -> None:
    """`count` dark images with touching bright discs, and their label images of 16 bits; every
    fourth image has no object."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        rng = np.random.default_rng(i)
        side = max(size)
        ids = cells(rng, 6, side, 12)[: size[0], : size[1]] * (i % 4 != 3)
        image = rng.integers(0, 60, (*size, 3))
        image[ids > 0] += rng.integers(90, 190, (ids.max() + 1, 3))[ids[ids > 0]]
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"img{i:02d}.png")
        Image.fromarray(ids.astype(np.uint16)).save(folder / "masks" / f"img{i:02d}.png")


def cell_folders(root: Path) -> Path:
    """root/{train,validation,test}/{images,masks} with 6, 4 and 4 images."""
    for start, split, count in ((0, "train", 6), (6, "validation", 4), (10, "test", 4)):
        write_cells(root / split, count, start)
    return root


def odd_cells(seed: int, size: tuple[int, int] = (44, 60)) -> np.ndarray:
    """Discs that touch, are cut by borders, lie in several parts, have one pixel, or are unknown in
    part: int32 H x W."""
    rng = np.random.default_rng(seed)
    ids = cells(rng, 14, max(size), 10)[: size[0], : size[1]]
    ids[rng.integers(0, size[0], 3), rng.integers(0, size[1], 3)] = 50 + np.arange(3)
    ids[ids == 4] = 2  # an object of two parts
    ids[rng.random(size) < 0.02] = -1
    ids[:3, -9:] = -1
    return compact(ids)


def of_ids(ids: np.ndarray, rng: np.random.Generator, classes: int = 1) -> Instances:
    """True objects of random classes."""
    return Instances(ids, rng.integers(1, classes + 1, ids.max(initial=0)).astype(np.uint8))
