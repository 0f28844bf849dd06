"""Draw the objects of an image, each in a colour of its own."""

from __future__ import annotations

import cv2
import numpy as np

from autosam.evaluation.visualize import COLOURS, scale

VIVID = np.array(
    [
        *COLOURS, (70, 130, 255), (255, 130, 220), (0, 220, 160), (255, 60, 40), (190, 220, 0),
        (205, 160, 110),
    ],
    dtype=np.uint8,
)  # fmt: skip
"""RGB that stand out from dark and from light images; consecutive ones are far apart."""
INSTANCE_COLOURS = np.concatenate([VIVID, VIVID // 2 + 127])
"""RGB of the objects: the vivid colours, then paler ones in case those do not suffice."""
REACH = 3
"""Objects up to this many pixels apart along a row, a column or a diagonal are neighbours."""


def instance_colours(ids: np.ndarray) -> np.ndarray:
    """Choose a colour for each object, different from those of its neighbours.

    Object i has the vivid colour i - 1, repeated if there are more objects, unless a neighbour has
    it; then the next that is free. Objects with many neighbours choose first, so that neighbours
    hardly ever share a colour: only where all colours are taken around an object.

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
    vivid, total = len(VIVID), len(INSTANCE_COLOURS)
    for i in sorted(range(count), key=lambda i: -len(neighbours[i])):
        taken = {int(chosen[other]) for other in neighbours[i]}
        options = [*((i + step) % vivid for step in range(vivid)), *range(vivid, total)]
        chosen[i] = next((option for option in options if option not in taken), i % vivid)
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
    table = np.concatenate([np.zeros((1, 3), np.uint8), colours])
    own = table[np.maximum(ids, 0)]
    tinted = cv2.addWeighted(image, 1 - alpha, own, alpha, 0)
    result = np.where((ids > 0)[..., None], tinted, image)
    edge = outlines(ids, max(1, round(max(ids.shape) / 600)))
    result[edge] = own[edge]
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

    Objects smaller than a pixel of the cell may be missing.

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
