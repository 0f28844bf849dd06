"""What a label is: the class of each pixel of a picture.

A label is H x W. uint8: class numbers, 0 background, 1..K, `IGNORED` where nobody knows. int32: bit
k - 1 says that class k is there, for classes that overlap.
"""

from __future__ import annotations

import numpy as np

IGNORED = 255
"""Pixels without a known class: no loss, no score."""


def class_masks(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Label H x W -> bool K x H x W."""
    classes = np.arange(num_classes)[:, None, None]
    if label.dtype == np.int32:
        return np.asarray((label >> classes & 1) > 0)
    return label == (classes + 1).astype(np.uint8)


def known(label: np.ndarray) -> np.ndarray:
    """bool H x W: where the class is known."""
    if label.dtype == np.int32:
        return np.ones(label.shape, bool)
    return label != IGNORED


def pack(masks: np.ndarray) -> np.ndarray:
    """bool K x H x W that may overlap -> label of bits, int32 H x W."""
    weights = (1 << np.arange(len(masks), dtype=np.int32))[:, None, None]
    return (masks * weights).sum(0, dtype=np.int32)
