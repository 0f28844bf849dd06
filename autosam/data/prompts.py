"""Prompts taken from masks: objects, boxes, points, correction points.

Coordinates are those of SAM's prompt encoder: x, y index pixels of the mask, whole numbers being
pixel centres (SAM adds the half pixel itself).
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from autosam.config import PromptConfig
from autosam.data.geometry import pad
from autosam.data.labels import class_masks, pack
from autosam.types import InputSpec, ObjectPrompts

SPECK = 10
"""Connected parts of fewer pixels are crumbs of drawing or compression: they are not prompted."""


def objects_of(mask: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Number the connected parts of a mask, leaving out those below `SPECK` pixels.

    Args:
        mask: bool H x W.

    Returns:
        int32 H x W with a number for each part, and the numbers, largest part first. (Not a mask
        for each: an image may hold a thousand objects.)
    """
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    order = 1 + np.argsort(-areas[1:], kind="stable")
    return parts, [int(i) for i in order if areas[i] >= SPECK]


def box_from_mask(
    mask: np.ndarray, rng: np.random.Generator, jitter: float = 0.0, pixels: float = 0.0
) -> np.ndarray:
    """Bounding box of a mask, each side moved at random.

    Args:
        mask: bool H x W, not empty.
        rng: source of the jitter.
        jitter: largest move as a share of the box's own width or height, 0..1.
        pixels: largest move in pixels, on top of it.

    Returns:
        float32 4: x0, y0, x1, y1 of the first and the last pixel, clipped to the mask's input_spec.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)
    side = np.tile(box[2:] - box[:2] + 1, 2)
    box += rng.uniform(-1, 1, 4).astype(np.float32) * (jitter * side + pixels)
    height, width = mask.shape
    edge = np.array([width, height, width, height], dtype=np.float32) - 1
    box = np.clip(box, 0, edge)
    # A large move can carry one side past the other.
    return np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])])


def points_from_mask(
    mask: np.ndarray,
    rng: np.random.Generator,
    count: int,
    erosion: float = 0.3,
    spacing: float = 0.5,
) -> np.ndarray:
    """Points inside a mask, away from its edge and from each other.

    Both distances adapt to the object: they are shares of its own measures, so that every object
    has room for its points. For points on the background pass the background's mask.

    Args:
        mask: bool H x W, not empty.
        rng: source of the draw.
        count: N.
        erosion: points keep this share of the mask's largest inner radius from the edge, 0..1.
        spacing: wanted distance between points as a share of the root of the mask's area. Halved
            until the points fit.

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
    """A point where the prediction is wrong (SAM paper, appendix A, "Training algorithm").

    Args:
        truth, predicted: bool H x W; `truth` is not empty.

    Returns:
        float32 2 (x, y) and its label: 1 where foreground was missed, 0 where it was invented.
        A perfect prediction gives a foreground point.
    """
    wrong = truth ^ predicted
    rows, columns = np.nonzero(wrong if wrong.any() else truth)
    i = rng.integers(len(rows))
    return np.array([columns[i], rows[i]], dtype=np.float32), int(truth[rows[i], columns[i]])


def points_around(
    mask: np.ndarray, others: np.ndarray, rng: np.random.Generator, count: int, prompt: PromptConfig
) -> np.ndarray:
    """Points on the background near an object: in its box, enlarged by half its size on each side.

    Args:
        mask: bool H x W, the object.
        others: bool H x W, everything that is no background.
        rng: source of the draw.
        count: N.
        prompt: spacing and erosion.

    Returns:
        float32 N x 2: x, y. Where the neighbourhood has no background: from anywhere off the
        object.
    """
    x0, y0, x1, y1 = box_from_mask(mask, rng).astype(int)
    dx, dy = (x1 - x0 + 1) // 2 + 2, (y1 - y0 + 1) // 2 + 2
    near = np.zeros_like(mask)
    near[max(0, y0 - dy) : y1 + dy + 1, max(0, x0 - dx) : x1 + dx + 1] = True
    free = near & ~others
    if not free.any():
        free = ~mask
    if not free.any():  # the object fills the image: a point at its edge says least
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
) -> tuple[ObjectPrompts, np.ndarray]:
    """Find the objects of an image and prompt each.

    Args:
        label: h x w inside the S x S square (before padding), see `autosam.data.labels`.
        input_spec: sizes, and which kind of prompt.
        prompt: how.
        rng: source of every draw.
        train: jitter, and at most `prompt.objects` objects drawn at random; otherwise all of them,
            boxes exact.
        num_classes: K.
        prior: uint8 h x w, 0 or 1: a map (of regions, or a rough mask) whose connected parts are
            prompted, as the one class, instead of those of `label`. Of many parts the largest are.

    Returns:
        The prompts, and the label with background in place of the objects that were not drawn
        (unchanged where there is a prior: its parts do not say whose the pixels are).
    """
    masks_of = class_masks(label, num_classes) if prior is None else np.asarray(prior[None] > 0)
    numbered = [objects_of(mask) for mask in masks_of]
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
            squares.reshape(count, 1, input_spec.image_size, input_spec.image_size)
        )
        drawn.masks = F.avg_pool2d(whole, input_spec.image_size // input_spec.mask_size)[:, 0]
    return drawn, label


def _without(label: np.ndarray, masks: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The label with background where a class was, but not what is kept of it; bool K x h x w."""
    if label.dtype == np.int32:
        return pack(masks & kept)
    return np.where(masks.any(0) & ~kept.any(0), 0, label).astype(label.dtype)
