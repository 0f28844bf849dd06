"""What a label is: the class of each pixel of an image.

A label is H x W. uint8: class numbers, 0 background, 1..K, `IGNORED` where unknown. int32: bit
k - 1 says that class k is present, for classes that overlap; `IGNORED_BITS` where unknown.
"""

from __future__ import annotations

import numpy as np

IGNORED = 255
"""Pixels without a known class: no loss, no score."""
IGNORED_BITS = -(2**31)
"""The same in a label of bits."""


def class_masks(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Label H x W -> bool K x H x W."""
    classes = np.arange(num_classes)[:, None, None]
    if label.dtype == np.int32:
        return np.asarray((label >> classes & 1) > 0)
    return label == (classes + 1).astype(np.uint8)


def known(label: np.ndarray) -> np.ndarray:
    """bool H x W: where the class is known."""
    if label.dtype == np.int32:
        return label >= 0
    return label != IGNORED


def without(label: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """The label, its class unknown where `valid` (bool H x W, or None) is False."""
    if valid is None:
        return label
    unknown = IGNORED_BITS if label.dtype == np.int32 else IGNORED
    return np.where(valid, label, np.array(unknown, label.dtype))


def pack(masks: np.ndarray) -> np.ndarray:
    """bool K x H x W that may overlap -> label of bits, int32 H x W."""
    weights = (1 << np.arange(len(masks), dtype=np.int32))[:, None, None]
    return (masks * weights).sum(0, dtype=np.int32)
