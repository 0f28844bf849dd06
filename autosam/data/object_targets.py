"""Targets of a prompt generator that finds objects: a map of centres, and some of the objects."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from autosam.data.geometry import object_shares, pad
from autosam.data.instances import label_of
from autosam.data.labels import class_masks
from autosam.types import InputSpec, Instances, ObjectPrompts

SPREAD = 0.4
"""Standard deviation of an object's Gaussian, in units of its largest distance to its edge."""
NEAR = 0.5
"""Least heat of the points that training draws on an object."""
FLOOR = 1e-6
"""Least heat inside an object."""


def edge_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel of a mask to the nearest one outside, the same at each call: OpenCV's
    differs in the last bit with the place of arrays in memory, but squares are whole numbers.

    Args:
        mask: bool h x w; beyond the border of the image is outside.

    Returns:
        float32 h x w, pixels; 0 outside.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    found = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.sqrt(np.rint(found.astype(np.float64) ** 2)).astype(np.float32)


def heat_map(ids: np.ndarray) -> np.ndarray:
    """How near each pixel is to the centre of its object: a Gaussian around the pixel that is
    farthest from the object's edge (of several the one nearest to the object's mean), cut off at
    the edge. The border of the image is an edge.

    Args:
        ids: int32 h x w, see `Instances`.

    Returns:
        float32 h x w: above 0 and up to 1 on objects, 0 elsewhere.
    """
    inside = ids > 0
    framed = np.pad(ids, 1)
    here = framed[1:-1, 1:-1]
    alike = inside.copy()
    for beside in (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:]):
        alike &= here == beside
    depth = np.where(inside, edge_distance(alike) + 1, 0)
    heat = np.zeros(ids.shape, np.float32)
    for number, place in enumerate(ndimage.find_objects(np.maximum(ids, 0)), 1):
        y, x = np.nonzero(ids[place] == number)
        own = depth[place][y, x]
        deepest = np.flatnonzero(own == own.max())
        to_mean = (y[deepest] - y.mean()) ** 2 + (x[deepest] - x.mean()) ** 2
        center = deepest[to_mean.argmin()]
        squares = (y - y[center]) ** 2 + (x - x[center]) ** 2
        values = np.exp(-squares / (2 * (SPREAD * own.max()) ** 2))
        heat[place][y, x] = np.maximum(values, FLOOR)
    return heat


def center_map(
    instances: Instances, heat: np.ndarray, num_classes: int, input_spec: InputSpec
) -> torch.Tensor:
    """The target of the map of centres: in each cell the largest heat of a pixel, so that each
    object holds a cell of 1 however small it is.

    Args:
        instances: objects inside the S x S square (before padding).
        heat: float32 h x w, see `heat_map`.
        num_classes: K.
        input_spec: S and m.

    Returns:
        float32 K x m x m in [0, 1].
    """
    each = class_masks(label_of(instances), num_classes) * heat
    square = np.stack([pad(one, input_spec.image_size) for one in each])
    return F.adaptive_max_pool2d(torch.from_numpy(square), input_spec.mask_size)


def draw_objects(
    instances: Instances,
    heat: np.ndarray,
    input_spec: InputSpec,
    count: int,
    rng: np.random.Generator,
    train: bool,
) -> ObjectPrompts:
    """Draw some objects of an image, with what is learned of each.

    Args:
        instances: objects inside the S x S square (before padding).
        heat: float32 h x w, see `heat_map`.
        input_spec: S and m.
        count: largest number of objects.
        rng: draws the objects, and the points in training.
        train: whether a point may be any near the centre of the object, or is its centre.

    Returns:
        Box, point and mask of each object, in pixels of the S x S square.
    """
    chosen = 1 + rng.permutation(len(instances))[:count]
    places = ndimage.find_objects(np.maximum(instances.ids, 0))
    boxes, points = [], []
    for number in chosen:
        rows, columns = places[number - 1]
        own = np.where(instances.ids[rows, columns] == number, heat[rows, columns], 0)
        y, x = np.nonzero(own >= (NEAR if train else 1))
        i = rng.integers(len(y)) if train else len(y) // 2
        points.append((columns.start + x[i], rows.start + y[i]))
        boxes.append((columns.start, rows.start, columns.stop - 1, rows.stop - 1))
    side = input_spec.image_size
    return ObjectPrompts(
        images=torch.zeros(len(chosen), dtype=torch.int64),
        classes=torch.from_numpy(instances.classes[chosen - 1].astype(np.int64) - 1),
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        points=torch.tensor(points, dtype=torch.float32).view(-1, 1, 2),
        labels=torch.ones(len(chosen), 1, dtype=torch.int64),
        masks=object_shares(instances.ids, chosen, (side, side), input_spec.mask_size),
    )
