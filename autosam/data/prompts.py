"""Prompts taken from masks: objects, boxes, points, correction points.

Coordinates are those of SAM's prompt encoder: x, y in pixels of the mask, with integers at pixel
centres (SAM adds the half pixel).
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch

from autosam.config import PromptConfig
from autosam.data.geometry import average_cells, pad
from autosam.data.labels import class_masks, pack
from autosam.types import InputSpec, Instances, ObjectPrompts

MIN_AREA = 10
"""Connected components of fewer pixels are annotation or compression artefacts and not prompted."""


def objects_of(mask: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Number the connected components of a mask.

    Args:
        mask: bool H x W.

    Returns:
        int32 H x W, the number of each pixel's component; and the numbers of components of at
        least `MIN_AREA` pixels, largest first.
    """
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    order = 1 + np.argsort(-areas[1:], kind="stable")
    return parts, [int(i) for i in order if areas[i] >= MIN_AREA]


def box_from_mask(
    mask: np.ndarray, rng: np.random.Generator, jitter: float = 0.0, pixels: float = 0.0
) -> np.ndarray:
    """Bounding box of a mask, with random jitter on each side.

    Args:
        mask: bool H x W, not empty.
        rng: random generator.
        jitter: largest move as a share of the box's width or height, 0..1.
        pixels: largest additional move in pixels.

    Returns:
        float32 4: x0, y0, x1, y1 of the first and the last pixel, clipped to the image.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)
    side = np.tile(box[2:] - box[:2] + 1, 2)
    box += rng.uniform(-1, 1, 4).astype(np.float32) * (jitter * side + pixels)
    height, width = mask.shape
    edge = np.array([width, height, width, height], dtype=np.float32) - 1
    box = np.clip(box, 0, edge)
    # A large move can swap two opposite sides.
    return np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])])


def points_from_mask(
    mask: np.ndarray,
    rng: np.random.Generator,
    count: int,
    erosion: float = 0.3,
    spacing: float = 0.5,
) -> np.ndarray:
    """Points inside a mask, away from its edge and from each other.

    Both distances are relative to the object, so points fit into every object. For points on the
    background pass the background's mask.

    Args:
        mask: bool H x W, not empty.
        rng: random generator.
        count: N.
        erosion: smallest distance from the edge, as a share of the mask's largest inner radius.
        spacing: smallest distance between points as a share of the square root of the mask's area.
            Halved until the points fit.

    Returns:
        float32 N x 2: x, y.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(mask & (depth >= erosion * depth.max()))
    places = np.stack([columns, rows], 1).astype(np.float32)
    distance = spacing * float(np.sqrt(mask.sum()))
    chosen: list[np.ndarray] = [places[rng.integers(len(places))]]
    free = places
    while len(chosen) < count:
        free = free[np.linalg.norm(free - chosen[-1], axis=1) >= distance]
        while len(free) == 0:
            distance = distance / 2 if distance > 0.5 else 0.0
            nearest = np.min([np.linalg.norm(places - p, axis=1) for p in chosen], axis=0)
            free = places[nearest >= distance]
        chosen.append(free[rng.integers(len(free))])
    return np.stack(chosen)


def correction_point(
    truth: np.ndarray, predicted: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Draw a point where the prediction is wrong (SAM paper, appendix A, "Training algorithm").

    Args:
        truth: bool H x W, not empty.
        predicted: bool H x W.
        rng: random generator.

    Returns:
        float32 2 (x, y) and its label: 1 for a false negative, 0 for a false positive. A perfect
        prediction gives a foreground point.
    """
    wrong = truth ^ predicted
    rows, columns = np.nonzero(wrong if wrong.any() else truth)
    i = rng.integers(len(rows))
    return np.array([columns[i], rows[i]], dtype=np.float32), int(truth[rows[i], columns[i]])


def points_around(
    mask: np.ndarray, others: np.ndarray, rng: np.random.Generator, count: int, prompt: PromptConfig
) -> np.ndarray:
    """Points on the background near an object: in its box enlarged by half its size on each side.

    Args:
        mask: bool H x W, the object.
        others: bool H x W, the foreground of all objects.
        rng: random generator.
        count: N.
        prompt: spacing and erosion.

    Returns:
        float32 N x 2: x, y; from anywhere outside of the object if the box has no background.
    """
    x0, y0, x1, y1 = box_from_mask(mask, rng).astype(int)
    dx, dy = (x1 - x0 + 1) // 2 + 2, (y1 - y0 + 1) // 2 + 2
    near = np.zeros_like(mask)
    near[max(0, y0 - dy) : y1 + dy + 1, max(0, x0 - dx) : x1 + dx + 1] = True
    free = near & ~others
    if not free.any():
        free = ~mask
    if not free.any():  # the object fills the image
        free = np.ones_like(mask)
    return points_from_mask(free, rng, count, min(prompt.erosion, 0.2), prompt.spacing / 2)


def draw_prompts(
    label: np.ndarray,
    input_spec: InputSpec,
    prompt: PromptConfig,
    rng: np.random.Generator,
    train: bool,
    num_classes: int = 1,
    prior: np.ndarray | None = None,
    instances: Instances | None = None,
) -> tuple[ObjectPrompts, np.ndarray]:
    """Find the objects of an image and prompt each.

    Args:
        label: h x w inside the S x S square (before padding), see `autosam.data.labels`.
        input_spec: sizes, and the kind of prompt.
        prompt: the prompt settings.
        rng: random generator.
        train: jitter the prompts, and use at most `prompt.objects` random objects; otherwise all
            objects, without jitter.
        num_classes: K.
        prior: uint8 h x w, 0 or 1: a map (of regions, or a rough mask) whose connected components
            are prompted as the single class, in place of those of `label`; in training only the
            largest.
        instances: the objects of `label`, if they are told apart: they are prompted in place of the
            connected components.

    Returns:
        The prompts; and the label, in which the objects that were not drawn become background (not
        with a prior, whose components do not match the label's pixels).
    """
    masks_of = class_masks(label, num_classes) if prior is None else np.asarray(prior[None] > 0)
    if instances is None or prior is not None:
        numbered = [objects_of(mask) for mask in masks_of]
    else:
        numbered = [
            (instances.ids, (1 + np.flatnonzero(instances.classes == k + 1)).tolist())
            for k in range(num_classes)
        ]
    found = [(k, number) for k, (_, numbers) in enumerate(numbered) for number in numbers]
    if train and prior is not None:
        found = found[: prompt.objects]
    elif train:
        if len(found) > prompt.objects:
            found = [found[i] for i in rng.permutation(len(found))[: prompt.objects]]
        kept = [
            np.isin(parts, [number for of, number in found if of == k])
            for k, (parts, _) in enumerate(numbered)
        ]
        label = _without(label, masks_of, np.stack(kept))

    def masks() -> Iterator[np.ndarray]:
        for k, number in found:
            yield numbered[k][0] == number

    count = len(found)
    drawn = ObjectPrompts(
        images=torch.zeros(count, dtype=torch.int64),
        classes=torch.tensor([k for k, _ in found], dtype=torch.int64),
    )
    if input_spec.prompts == "box":
        jitter = (prompt.box_jitter, prompt.box_pixels) if train else (0.0, 0.0)
        boxes = [box_from_mask(mask, rng, *jitter) for mask in masks()]
        drawn.boxes = torch.tensor(np.array(boxes, dtype=np.float32)).view(count, 4)
    else:
        points, taken = [], np.asarray(masks_of.any(0))
        for mask in masks():
            on = points_from_mask(mask, rng, prompt.points, prompt.erosion, prompt.spacing)
            if prompt.negative_points:
                beside = points_around(mask, taken, rng, prompt.negative_points, prompt)
                on = np.concatenate([on, beside])
            points.append(on)
        total = prompt.points + prompt.negative_points
        drawn.points = torch.tensor(np.array(points, dtype=np.float32)).view(count, total, 2)
        drawn.labels = (torch.arange(total) < prompt.points).long().expand(count, -1)
    if train and prompt.multimask == "true":
        squares = np.array([pad(mask, input_spec.image_size) for mask in masks()], dtype=np.float32)
        whole = torch.from_numpy(
            squares.reshape(count, input_spec.image_size, input_spec.image_size)
        )
        drawn.masks = average_cells(whole, input_spec.mask_size)
    return drawn, label


def _without(label: np.ndarray, masks: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Set a label to background in `masks`, except in `kept`; both bool K x h x w."""
    if label.dtype == np.int32:
        return pack(masks & kept)
    return np.where(masks.any(0) & ~kept.any(0), 0, label).astype(label.dtype)
