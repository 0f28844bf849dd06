"""Labels: the class of each pixel of an image.

A label is H x W. uint8: class numbers, 0 background, 1..K, `IGNORED` where unknown. int32, a
bitmask for overlapping classes: bit k - 1 is set where class k is; `IGNORED_BITS` where unknown.
"""

from __future__ import annotations

import numpy as np

IGNORED = 255
"""Value of pixels without a known class: they have no loss and no score."""
IGNORED_BITS = -(2**31)
"""The same in a bitmask."""


def class_masks(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Convert a label H x W to bool K x H x W."""
    classes = np.arange(num_classes)[:, None, None]
    if label.dtype == np.int32:
        return np.asarray((label >> classes & 1) > 0)
    return label == (classes + 1).astype(np.uint8)


def known(label: np.ndarray) -> np.ndarray:
    """Where the class is known, bool H x W."""
    if label.dtype == np.int32:
        return label >= 0
    return label != IGNORED


def without(label: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Mark pixels as unknown where `valid` (bool H x W, or None) is False."""
    if valid is None:
        return label
    unknown = IGNORED_BITS if label.dtype == np.int32 else IGNORED
    return np.where(valid, label, np.array(unknown, label.dtype))


def pack(masks: np.ndarray) -> np.ndarray:
    """Convert masks that may overlap, bool K x H x W, to a bitmask, int32 H x W."""
    weights = (1 << np.arange(len(masks), dtype=np.int32))[:, None, None]
    return (masks * weights).sum(0, dtype=np.int32)
