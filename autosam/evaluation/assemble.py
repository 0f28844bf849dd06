"""Make the objects of an image: of the masks of single objects, or of the masks of classes."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from autosam.data.geometry import cell_positions, content_size
from autosam.data.instances import compact, from_label
from autosam.data.object_targets import edge_distance
from autosam.errors import ConfigError
from autosam.models.find_objects import FoundObjects
from autosam.models.peaks import drop_duplicates
from autosam.models.prompters import ABSENT
from autosam.types import InputSpec, Instances

OVERLAP = 0.5
"""Share of the smaller of two masks in both of them above which they are one object."""
DEPTH = 1.0
"""Least difference of depth between two objects and the saddle between them, pixels."""


def assemble(
    found: FoundObjects,
    size: tuple[int, int],
    input_spec: InputSpec,
    num_classes: int,
    threshold: float,
) -> tuple[np.ndarray, Instances]:
    """Draw the objects that were found into one image.

    Of objects that are mostly the same the one with the higher score is kept. Where others overlap,
    a pixel belongs to the object with the largest logit.

    Args:
        found: objects by falling score.
        size: H, W of the image.
        input_spec: the sizes that they were found at.
        num_classes: K.
        threshold: smallest score; not of objects that were given.

    Returns:
        Logits float32 K x H x W: of each class the largest of its objects, `ABSENT` elsewhere; and
        the objects, by falling score.
    """
    count = len(found.scores) if found.given else int((found.scores >= threshold).sum())
    side = input_spec.mask_size
    masks = [(row, column, mask > 0) for row, column, mask in found.masks[:count]]
    kept = drop_duplicates(masks, side, OVERLAP)
    content = content_size(*size, input_spec.image_size, input_spec.geometry)
    rows, columns = (
        cell_positions(length, inner, input_spec.image_size, side)
        for length, inner in zip(size, content, strict=True)
    )
    logits = np.full((num_classes, *size), ABSENT, np.float32)
    best, ids = np.zeros(size, np.float32), np.zeros(size, np.int32)
    for number, i in enumerate(kept, 1):
        top, left, mask = found.masks[i]
        y, up = _window(rows, top, mask.shape[0])
        x, across = _window(columns, left, mask.shape[1])
        values = up @ mask @ across.T
        own = logits[found.classes[i] - 1, y, x]
        np.maximum(own, values, out=own)
        ahead = values > best[y, x]
        best[y, x][ahead] = values[ahead]
        ids[y, x][ahead] = number
    scores = found.scores[kept].astype(np.float32)
    return logits, compact(Instances(ids, found.classes[kept], scores))


def _window(positions: np.ndarray, start: int, length: int) -> tuple[slice, np.ndarray]:
    """The pixels along a side that a part of a mask covers, and the weights of its cells for each:
    linear interpolation.

    Args:
        positions: see `cell_positions`.
        start, length: cells of the part.
    """
    first = np.searchsorted(positions, start, "left")
    last = np.searchsorted(positions, start + length - 1, "right")
    inner = positions[first:last] - start
    low = np.floor(inner).astype(np.int64).clip(0, max(length - 2, 0))
    share = (inner - low).astype(np.float32)
    weights = np.zeros((len(inner), length), np.float32)
    index = np.arange(len(inner))
    weights[index, low] = 1 - share
    weights[index, np.minimum(low + 1, length - 1)] += share
    return slice(first, last), weights


def separate(masks: np.ndarray, probabilities: np.ndarray, how: str) -> Instances:
    """Divide the masks of classes into objects.

    Args:
        masks: bool K x H x W; of overlapping classes the last lies on top.
        probabilities: float K x H x W in [0, 1]; an object's score is the mean of its pixels.
        how: `components`: 4-connected parts. `watershed`: of the distance to the mask's edge, from
            its maxima that stand out by `DEPTH`.
    """
    numbers = np.arange(1, len(masks) + 1, dtype=np.uint8)
    label = (masks * numbers[:, None, None]).max(0)
    parts = from_label(label)
    if how == "watershed":
        parts = _watershed(label)
    if len(parts) == 0:
        return Instances(parts.ids, parts.classes, np.zeros(0, np.float32))
    shown = np.take_along_axis(probabilities, np.maximum(label, 1)[None].astype(np.int64) - 1, 0)[0]
    scores = ndimage.mean(shown, parts.ids, np.arange(1, len(parts) + 1))
    return Instances(parts.ids, parts.classes, np.asarray(scores, np.float32).clip(0, 1))


def _watershed(label: np.ndarray) -> Instances:
    try:
        from skimage.morphology import h_maxima
        from skimage.segmentation import watershed
    except ImportError:
        raise ConfigError(
            "--separate watershed: needs scikit-image: pip install 'autosam[instances]'; or choose "
            "--separate components."
        ) from None
    ids = np.zeros(label.shape, np.int32)
    classes: list[int] = []
    for k in range(1, int(label.max(initial=0)) + 1):
        mask = label == k
        depth = edge_distance(mask)
        # Framed: in an image without a 0, such as a mask 2 px high, scikit-image finds no maxima.
        peaks = h_maxima(np.pad(depth, 1), DEPTH)[1:-1, 1:-1]
        seeds, _ = ndimage.label(peaks, np.ones((3, 3)))
        parts = watershed(-depth, seeds, connectivity=2, mask=mask).astype(np.int32)
        ids[mask] = parts[mask] + len(classes)
        classes += [k] * int(parts.max(initial=0))
    return compact(Instances(ids, np.array(classes, np.uint8)))
