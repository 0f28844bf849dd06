"""Prompts taken from masks: boxes, points, correction points."""

from __future__ import annotations

import cv2
import numpy as np


def box_from_mask(mask: np.ndarray, rng: np.random.Generator, jitter: float = 0.0) -> np.ndarray:
    """Bounding box of a mask, each side moved by up to `jitter` of the box's own length.

    Args:
        mask: bool H x W, not empty.
        rng: source of the jitter.
        jitter: share of the box's width or height, 0..1.

    Returns:
        float32 4: x0, y0, x1, y1 in pixels (x1, y1 one past the last pixel), clipped to the mask.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
    side = np.tile(box[2:] - box[:2], 2)
    box += rng.uniform(-jitter, jitter, 4).astype(np.float32) * side
    height, width = mask.shape
    return np.clip(box, 0, np.array([width, height, width, height], dtype=np.float32))


def points_from_mask(
    mask: np.ndarray, rng: np.random.Generator, count: int, erosion: float = 0.3
) -> np.ndarray:
    """Points inside a mask, away from its edge.

    Args:
        mask: bool H x W, not empty.
        rng: source of the draw.
        count: number of points, drawn with replacement.
        erosion: points keep this share of the mask's largest inner radius from the edge.

    Returns:
        float32 count x 2: x, y of pixel centres.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(mask & (depth >= erosion * depth.max()))
    chosen = rng.integers(len(rows), size=count)
    return np.stack([columns[chosen], rows[chosen]], 1).astype(np.float32) + 0.5


def correction_point(
    truth: np.ndarray, predicted: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """A point where the prediction is wrong (SAM paper, appendix A, "Training algorithm").

    Args:
        truth, predicted: bool H x W; `truth` is not empty.

    Returns:
        float32 2 (x, y) and its label: 1 where foreground was missed, 0 where it was invented.
        A perfect prediction gives a foreground point.
    """
    wrong = truth ^ predicted
    rows, columns = np.nonzero(wrong if wrong.any() else truth)
    i = rng.integers(len(rows))
    point = np.array([columns[i], rows[i]], dtype=np.float32) + 0.5
    return point, int(truth[rows[i], columns[i]])
