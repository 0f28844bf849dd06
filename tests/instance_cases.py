"""Instances that tests draw, and their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
