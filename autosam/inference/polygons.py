"""Split masks into connected components, and trace their contours as polygons with holes."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np


def connected_parts(mask: np.ndarray) -> Iterator[tuple[np.ndarray, list[list[list[float]]]]]:
    """Split a mask into its 4-connected components.

    Args:
        mask: bool H x W.

    Yields:
        The component, bool H x W, and its rings, see `rings_of`.
    """
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    for number in range(1, count):
        part = parts == number
        yield part, rings_of(part)


def rings_of(part: np.ndarray) -> list[list[list[float]]]:
    """Trace the pixel edges of a connected component.

    OpenCV's contours pass through pixel centres and so omit half a pixel on every side. In an image
    of twice the size these centres are a quarter of a pixel from the edges; they are rounded to it.

    Args:
        part: bool H x W, one component.

    Returns:
        Closed rings of (x, y) in pixels from the top left corner of the image, the outer ring
        first, then the holes. The outer ring is counter-clockwise and holes are clockwise in a
        coordinate system with y upwards, as RFC 7946 requires.
    """
    large = cv2.resize(part.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, levels = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = []
    for contour, level in zip(contours, levels[0], strict=True):
        corners = (contour[:, 0] / 2 + 0.25).round()
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
