"""Distances between the contours of two masks, which `hd95` and `nsd` are computed from."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from scipy.spatial import KDTree

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
DENSE = 50
"""With fewer pixels than this for each pixel of a contour, a distance transform is faster than a
search tree."""
LARGEST = 2**15
"""Side of a box in pixels above which OpenCV's transform would cut distances off."""


def contour_distances(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the distance of each pixel of a mask's contour to the contour of the other.

    A contour is the pixels of a mask with a neighbour (of 4) outside the mask or the image, as in
    MONAI. Only the box that holds both masks is looked at: all contours lie in it. The last result
    is kept, so the metrics of one image share it.

    Args:
        predicted: bool H x W, not empty.
        truth: bool H x W, not empty.

    Returns:
        Distances in pixels of the prediction's contour to that of the truth, float64 N; and of the
        truth's contour to that of the prediction, float64 M.
    """
    x, y, width, height = cv2.boundingRect((predicted | truth).view(np.uint8))
    box = slice(y, y + height), slice(x, x + width)
    packed = (np.packbits(mask[box]).tobytes() for mask in (predicted, truth))
    return _distances((height, width), *packed)


@functools.lru_cache(1)
def _distances(shape: tuple[int, int], one: bytes, other: bytes) -> tuple[np.ndarray, np.ndarray]:
    """See `contour_distances`; the masks are packed, 8 pixels in a byte."""
    a, b = _contour(one, shape), _contour(other, shape)
    return _distances_to(b, a), _distances_to(a, b)


def _contour(packed: bytes, shape: tuple[int, int]) -> np.ndarray:
    """The contour of a packed mask, uint8 H x W: 1 on it."""
    count = shape[0] * shape[1]
    mask = np.unpackbits(np.frombuffer(packed, np.uint8), count=count).reshape(shape)
    inside: np.ndarray = cv2.erode(mask, CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(mask > inside, np.uint8)


def _distances_to(target: np.ndarray, contour: np.ndarray) -> np.ndarray:
    """Distances of the pixels of a contour to the nearest of another, float64 N."""
    points, targets = _points(contour), _points(target)
    dense = (len(points) + len(targets)) * DENSE > 2 * target.size
    if dense and max(target.shape) < LARGEST:
        found = cv2.distanceTransform(1 - target, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # Squares of distances are whole numbers: this undoes the rounding to float32.
        return np.sqrt(np.rint(np.square(found[contour > 0], dtype=float)))
    return np.asarray(KDTree(targets, leafsize=32).query(points)[0])


def _points(contour: np.ndarray) -> np.ndarray:
    """Row and column of each pixel of a contour, int64 N x 2, in the order of rows."""
    return np.stack(np.divmod(np.flatnonzero(contour), contour.shape[1]), 1)
