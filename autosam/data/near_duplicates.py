"""Near duplicates: images of one scene (a fixed camera, a video, copies).

Images of one size show one scene if their edge strengths on a coarse grid correlate; light and
weather change edges little. Each cell is standardized over the data set, so that content common to
all images (an endoscope's round border, a date stamp) has no weight.

The threshold was chosen by visual inspection of 292 river photographs and the 1000 images of
Kvasir-SEG: of the 20 groups above it one is false (images with the same green overlay).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.sparse.csgraph import connected_components

GRID = 64
"""Side of the grid in cells."""
ALIKE = 0.68
"""Correlation above which two images show one scene."""


def edges(image: np.ndarray) -> np.ndarray:
    """Edge strengths of an image on the grid.

    Args:
        image: uint8 H x W x 3 RGB.

    Returns:
        float32 GRID^2 of mean 0 and norm 1; 0 for an image without edges.
    """
    small = cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    return _unit(cv2.GaussianBlur(np.hypot(across, down), (0, 0), 1.0).ravel())


def scenes(features: np.ndarray, sizes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Group images by scene.

    Args:
        features: float N x GRID^2, from `edges`.
        sizes: N sizes (H, W); only images of one size can show one scene.

    Returns:
        int N, the number of each image's scene.
    """
    features = _unit((features - features.mean(0)) / (features.std(0) + 1e-3))
    numbers = np.zeros(len(features), int)
    start = 0
    by_size: dict[tuple[int, ...], list[int]] = {}
    for i, size in enumerate(sizes):
        by_size.setdefault(size, []).append(i)
    for index in by_size.values():
        chosen = features[index]
        count, labels = connected_components(chosen @ chosen.T > ALIKE)
        numbers[index] = start + labels
        start += count
    return numbers


def leaking_scenes(numbers: np.ndarray, splits: Sequence[str]) -> list[int]:
    """The numbers of the scenes that are in several splits.

    Args:
        numbers: int N, from `scenes`.
        splits: name of each image's split.
    """
    homes: dict[int, set[str]] = {}
    for number, split in zip(numbers.tolist(), splits, strict=True):
        homes.setdefault(number, set()).add(split)
    return [number for number, found in homes.items() if len(found) > 1]


def _unit(values: np.ndarray) -> np.ndarray:
    """Normalize to mean 0 and norm 1 along the last axis."""
    values = values - values.mean(-1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6)
