"""Split masks into connected components, and trace their contours as polygons with holes."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np


def components(mask: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
    """Split a mask into its 4-connected components.

    Args:
        mask: bool H x W.

    Yields:
        The component in its box, bool h x w, and the left column and the top row of the box.
    """
    count, parts, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    for number in range(1, count):
        left, top, width, height = boxes[number, :4].tolist()
        yield parts[top : top + height, left : left + width] == number, left, top


def polygons_of(mask: np.ndarray, left: int = 0, top: int = 0) -> list[list[list[list[float]]]]:
    """Trace each 4-connected component of an object.

    Args:
        mask: bool h x w, the object in its box.
        left: left column of the box in the image.
        top: top row of the box in the image.

    Returns:
        The rings of each component in the image, see `rings_of`.
    """
    return [rings_of(part, left + x, top + y) for part, x, y in components(mask)]


def rings_of(part: np.ndarray, left: int = 0, top: int = 0) -> list[list[list[float]]]:
    """Trace the pixel edges of a connected component.

    OpenCV's contours pass through pixel centres and so omit half a pixel on every side. In an image
    of twice the size these centres are a quarter of a pixel from the edges; they are rounded to it.

    Args:
        part: bool h x w, one component, in its box or in the image.
        left: column of the image at which `part` begins.
        top: row of the image at which `part` begins.

    Returns:
        Closed rings of (x, y) in pixels from the top left corner of the image, the outer ring
        first, then the holes. The outer ring is counter-clockwise and holes are clockwise in a
        coordinate system with y upwards, as RFC 7946 requires.
    """
    large = cv2.resize(part.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, levels = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = []
    for contour, level in zip(contours, levels[0], strict=True):
        corners = (contour[:, 0] / 2 + 0.25).round() + np.array([left, top])
        corners = corners[(corners != np.roll(corners, 1, axis=0)).any(1)]
        steps = corners - np.roll(corners, 1, axis=0)
        turns = (steps != 0) != (np.roll(steps, -1, axis=0) != 0)
        corners = corners[turns.any(1)]  # drop points on straight edges
        x, y = corners.T
        counter_clockwise = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0
        is_hole = level[3] >= 0
        if counter_clockwise == is_hole:
            corners = corners[::-1]
        rings.append((is_hole, [*corners.tolist(), corners[0].tolist()]))
    return [ring for _, ring in sorted(rings, key=lambda entry: entry[0])]
