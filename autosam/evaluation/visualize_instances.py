"""Draw the objects of an image, each in a colour of its own."""

from __future__ import annotations

import cv2
import numpy as np

from autosam.evaluation.visualize import scale

HUES = 12
"""Number of hues on the colour wheel."""
STRIDE = 5
"""Steps on the colour wheel from one colour to the next; has no common factor with `HUES`."""
REACH = 3
"""Objects up to this many pixels apart along a row, a column or a diagonal are neighbours."""


def _wheel() -> np.ndarray:
    """The colours by preference: first all full hues, then all pale ones; uint8 2 HUES x 3."""
    hues = np.arange(HUES) * STRIDE % HUES * (180 // HUES)  # OpenCV's hues end at 180
    hsv = [(hue, saturation, 255) for saturation in (230, 90) for hue in hues]
    return cv2.cvtColor(np.array([hsv], np.uint8), cv2.COLOR_HSV2RGB)[0]


INSTANCE_COLOURS = _wheel()
"""RGB of the objects. Consecutive ones are far apart."""


def instance_colours(ids: np.ndarray) -> np.ndarray:
    """Choose a colour for each object, different from those of its neighbours.

    Object i has full hue i - 1 (modulo `HUES`), unless a neighbour has it; then the next that is
    free. Objects with many neighbours choose first, so that neighbours only share a colour if all
    colours are taken around an object.

    Args:
        ids: int32 H x W, see `Instances`.

    Returns:
        uint8 n x 3, RGB; the same for the same `ids`.
    """
    count = int(ids.max(initial=0))
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for one, other in neighbour_pairs(ids).tolist():
        neighbours[one - 1].append(other - 1)
        neighbours[other - 1].append(one - 1)
    chosen = np.full(count, -1)
    total = len(INSTANCE_COLOURS)
    for i in sorted(range(count), key=lambda i: -len(neighbours[i])):
        taken = {int(chosen[other]) for other in neighbours[i]}
        full = [(i + step) % HUES for step in range(HUES)]
        options = [*full, *range(HUES, total)]
        chosen[i] = next((option for option in options if option not in taken), full[0])
    return INSTANCE_COLOURS[chosen]


def neighbour_pairs(ids: np.ndarray) -> np.ndarray:
    """List the pairs of objects that lie at most `REACH` pixels apart.

    Args:
        ids: int32 H x W, see `Instances`.

    Returns:
        int64 pairs x 2, object numbers, the smaller first; sorted.
    """
    height, width = ids.shape
    total = int(ids.max(initial=0)) + 1
    found = [np.zeros(0, np.int64)]
    for distance in range(1, REACH + 1):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            y, x = down * distance, abs(right) * distance
            one, other = ids[: max(height - y, 0)], ids[y:]
            one, other = one[:, : max(width - x, 0)], other[:, x:]
            if right < 0:
                one, other = ids[: max(height - y, 0), x:], ids[y:, : max(width - x, 0)]
            differ = (one != other) & (one > 0) & (other > 0)
            pairs = np.stack([one[differ], other[differ]]).astype(np.int64)
            found.append(np.unique(pairs.min(0) * total + pairs.max(0)))
    packed = np.unique(np.concatenate(found))
    return np.stack([packed // total, packed % total], 1)


def overlay_instances(
    image: np.ndarray,
    ids: np.ndarray,
    colours: np.ndarray | None = None,
    alpha: float = 0.35,
) -> np.ndarray:
    """Tint the objects of an image, and draw their outlines on their own pixels.

    Args:
        image: uint8 H x W x 3.
        ids: int32 H x W, see `Instances`; unknown pixels stay as they are.
        colours: uint8 n x 3, RGB of the objects; None for `instance_colours`.
        alpha: strength of the tint, in [0, 1].

    Returns:
        uint8 H x W x 3.
    """
    colours = instance_colours(ids) if colours is None else colours
    result = image.copy()
    inside = ids > 0
    own = colours[ids[inside] - 1]
    result[inside] = ((1 - alpha) * image[inside] + alpha * own).astype(np.uint8)
    edge = outlines(ids, max(1, round(max(ids.shape) / 600)))
    result[edge] = colours[ids[edge] - 1]
    return result


def outlines(ids: np.ndarray, thickness: int) -> np.ndarray:
    """Find the pixels of objects that lie at most `thickness` pixels from another object or from
    background.

    Args:
        ids: int32 H x W, see `Instances`. Above 2^24 objects neighbours may be confused.
        thickness: pixels.

    Returns:
        bool H x W.
    """
    values = ids.astype(np.float32)  # OpenCV has no 32-bit integers here
    square = np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8)
    return (ids > 0) & (cv2.erode(values, square) != cv2.dilate(values, square))


def instances_cell(image: np.ndarray, ids: np.ndarray, side: int) -> np.ndarray:
    """Draw objects on an image for a contact sheet, in the colours that they have in the overlay.

    Args:
        image: uint8 H x W x 3.
        ids: int32 H x W, see `Instances`.
        side: side of the cell, pixels.

    Returns:
        uint8 h x w x 3, with a longest side of `side` pixels.
    """
    cell = scale(image, side)
    size = cell.shape[1], cell.shape[0]
    small = cv2.resize(ids.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    return overlay_instances(cell, small.astype(np.int32), instance_colours(ids))
