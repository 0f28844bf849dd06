"""Number the objects of an image, and keep their identities while the image is changed.

An object may consist of several parts: numbers say what belongs together, not contact. Objects do
not overlap; see `autosam.types.Instances`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from autosam.data.labels import IGNORED, class_masks, known
from autosam.data.readers.polygons import Patch
from autosam.errors import DataError
from autosam.types import Instances

log = logging.getLogger("autosam")

UNKNOWN = -1
"""Value of `Instances.ids` where it is unknown which object a pixel belongs to."""
DENSE = 2**24
"""Up to this number a table of all numbers is faster than sorting those that occur."""


_reported: set[Path] = set()
"""Folders of which hidden objects were reported."""


def compact(instances: Instances) -> Instances:
    """Drop objects without a pixel, and number the others from 1 in their order."""
    count = len(instances)
    pixels = np.bincount(instances.ids.ravel() + 1, minlength=count + 2)[2:]
    left = pixels > 0
    if left.all():
        return instances
    # The last entry is that of UNKNOWN, which is -1.
    numbers = np.concatenate([[0], np.cumsum(left) * left, [UNKNOWN]]).astype(np.int32)
    scores = None if instances.scores is None else instances.scores[left]
    return Instances(numbers[instances.ids], instances.classes[left], scores)


def change(instances: Instances, move: Callable[[np.ndarray], np.ndarray]) -> Instances:
    """Resize, crop or augment objects. The parts of an object that is cut in two stay one object;
    objects without a pixel are dropped, see `compact`.

    Args:
        instances: the objects.
        move: what is done to `ids`, int32 H x W -> h x w: any function that copies values and does
            not mix them (`resize_label`, `Augment.move`, `autosam.data.dataset.place`).
    """
    return compact(Instances(move(instances.ids), instances.classes, instances.scores))


def without_objects(instances: Instances, valid: np.ndarray | None) -> Instances:
    """Mark pixels as unknown where `valid` (bool H x W, or None) is False."""
    if valid is None:
        return instances
    return change(instances, lambda ids: np.where(valid, ids, np.int32(UNKNOWN)))


def label_of(instances: Instances) -> np.ndarray:
    """The class of each pixel, uint8 H x W, see `autosam.data.labels`."""
    values = np.concatenate([[0], instances.classes, [IGNORED]]).astype(np.uint8)
    return values[instances.ids]  # the last entry is that of UNKNOWN, which is -1


def from_numbers(
    numbers: np.ndarray, unknown: np.ndarray | None = None, class_number: int = 1
) -> Instances:
    """Objects of an array in which each has its own number.

    Args:
        numbers: integers H x W, 0 background; other numbers, in any order, are objects.
        unknown: bool H x W, where the object is unknown; None: nowhere.
        class_number: class of all objects, 1..K.

    Returns:
        The objects in the order of their numbers.

    Raises:
        DataError: not H x W, or not whole numbers.
    """
    if numbers.ndim != 2 or numbers.dtype.kind not in "iu" or not numbers.size:
        raise DataError(
            f"object numbers: an array of {numbers.dtype} of shape {numbers.shape}; expected whole "
            "numbers H x W. For a mask of foreground pass `from_label(mask.astype(np.uint8))`."
        )
    if numbers.min() >= 0 and numbers.max() < DENSE:
        found = np.flatnonzero(np.bincount(numbers.ravel()))
        table = np.zeros(int(found[-1]) + 1, np.int32)
        table[found[found > 0]] = np.arange(1, 1 + np.count_nonzero(found))
        ids = table[numbers]
    else:
        found, index = np.unique(numbers, return_inverse=True)
        ids = (np.cumsum(found != 0) * (found != 0)).astype(np.int32)[index.reshape(numbers.shape)]
    if unknown is not None:
        ids[unknown] = UNKNOWN
    classes = np.full(np.count_nonzero(found), class_number, np.uint8)
    return compact(Instances(ids, classes))


def from_label(label: np.ndarray) -> Instances:
    """The connected components (4 neighbours) of each class of a label: touching objects of one
    class are one object.

    Args:
        label: H x W, see `autosam.data.labels`. Of overlapping classes the last lies on top.

    Returns:
        The objects by class, and those of a class from top to bottom.
    """
    is_known = known(label)
    if label.dtype == np.int32:
        most = int(np.max(label, where=is_known, initial=0)).bit_length()
        masks = [(k, m) for k, m in enumerate(class_masks(label, most), 1) if m.any()]
    else:
        present = np.flatnonzero(np.bincount(label.ravel(), minlength=1)).tolist()
        masks = [(k, label == k) for k in present if k not in (0, IGNORED)]
    ids = np.zeros(label.shape, np.int32)
    classes: list[int] = []
    for k, mask in masks:
        count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
        ids[mask] = parts[mask] + len(classes)
        classes += [k] * (count - 1)
    ids[~is_known] = UNKNOWN
    return compact(Instances(ids, np.array(classes, np.uint8)))


def from_patches(
    shape: tuple[int, int],
    objects: Iterable[tuple[int, Patch]],
    path: Path,
    unknown: Iterable[Patch] = (),
    holes: Iterable[Patch] = (),
) -> Instances:
    """Draw objects one after the other, small ones over large ones, and of the same size the later
    one on top. Where that hides a pixel, or a whole object, the log says so, once for each folder.

    Args:
        shape: H, W.
        objects: class 1..K and pixels of each object, in the order of the file.
        path: the file, for messages.
        unknown: regions in which objects are not told apart, except those in `objects` (crowds).
        holes: regions that are cut out of every object.

    Returns:
        The objects in the order of the file, without those that are hidden or empty.
    """
    ids = np.zeros(shape, np.int32)
    listed = list(objects)
    areas = [int(patch.mask.sum()) for _, patch in listed]
    overlap, shown = False, sum(area > 0 for area in areas)
    for i in sorted(range(len(listed)), key=lambda i: -areas[i]):
        patch = listed[i][1]
        part = ids[patch.window]
        overlap = overlap or bool(part[patch.mask].any())
        part[patch.mask] = i + 1
    visible = len(np.unique(ids[ids > 0]))
    for patch in holes:
        ids[patch.window][patch.mask] = 0
    for patch in unknown:
        part = ids[patch.window]
        part[patch.mask & (part == 0)] = UNKNOWN
    found = compact(Instances(ids, np.array([k for k, _ in listed], np.uint8)))
    if overlap:
        _report_overlap(path.parent)
    if visible < shown:
        _report_lost(
            path.parent,
            f"{path}: {shown - visible} of {shown} objects lie wholly under smaller or later ones "
            "and are lost, perhaps also in other files of the folder. Remove what is listed twice.",
        )
    if len(found) < visible:
        _report_lost(
            path.parent,
            f"{path}: {visible - len(found)} of {shown} objects lie wholly in holes, which are cut "
            "out of every object, and are lost, perhaps also in other files of the folder.",
        )
    return found


def _report_lost(folder: Path, message: str) -> None:
    """Warn of lost objects, once for each folder."""
    if folder not in _reported:
        _reported.add(folder)
        log.warning("%s", message)


@cache
def _report_overlap(folder: Path) -> None:
    log.info("%s: objects overlap; where they do, the smaller one lies on top.", folder)


def stack(layers: list[Instances]) -> Instances:
    """Join the objects of several layers of one image; later ones lie on top of earlier ones, and
    a pixel that is unknown in any layer is unknown."""
    ids, count = np.zeros_like(layers[0].ids), 0
    for layer in layers:
        ids = np.where(layer.ids > 0, layer.ids + np.int32(count), ids)
        count += len(layer)
    ids[np.any([layer.ids == UNKNOWN for layer in layers], axis=0)] = UNKNOWN
    return compact(Instances(ids, np.concatenate([layer.classes for layer in layers])))
