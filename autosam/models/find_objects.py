"""Find single objects with a segmenter that draws them one by one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from autosam.models.base import SegmentationModel
from autosam.models.instance_prompter import InstancePrompter, center_probabilities
from autosam.models.peaks import find_peaks, points_at
from autosam.models.prompters import GridPrompter, ObjectPrompter, at_once
from autosam.models.segmenter import Segmenter
from autosam.types import Batch


@dataclass
class FoundObjects:
    """The objects that were found in an image, by falling score."""

    masks: list[tuple[int, int, np.ndarray]]
    """Row and column of the corner, and logits float32 h x w, of each mask: the part of its m x m
    cells that holds foreground, with a margin of one cell."""
    classes: np.ndarray
    """uint8 n, 1..K."""
    scores: np.ndarray
    """float32 n in 0..1."""
    given: bool = False
    """Whether each was asked for by a prompt from the truth, so that no score removes one."""


@torch.no_grad()
def find_objects(segmenter: SegmentationModel, batch: Batch, least: float) -> list[FoundObjects]:
    """Find the objects of each image.

    Args:
        segmenter: in evaluation mode; one that `draws_objects`.
        batch: B images.
        least: smallest score, 0..1.

    Returns:
        The objects of each image.
    """
    assert isinstance(segmenter, Segmenter)
    prompter = segmenter.prompter
    if isinstance(prompter, InstancePrompter):
        return _at_peaks(segmenter, prompter, batch, least)
    if isinstance(prompter, ObjectPrompter):
        return _at_prompts(segmenter, prompter, batch)
    assert isinstance(prompter, GridPrompter)
    return _on_grid(segmenter, prompter, batch, least)


def draws_objects(segmenter: SegmentationModel) -> bool:
    """Whether a segmenter draws objects one by one, not the masks of classes."""
    return isinstance(segmenter.prompter, InstancePrompter | ObjectPrompter | GridPrompter)


def _at_peaks(
    segmenter: Segmenter, prompter: InstancePrompter, batch: Batch, least: float
) -> list[FoundObjects]:
    sam = segmenter.sam
    embedding = segmenter.encode_image(batch)
    maps = prompter.maps(batch, embedding, sam)
    size = sam.spec.image_size
    centers = center_probabilities(maps.centers, batch, size)
    count = at_once(embedding)
    found = []
    for i in range(len(batch)):
        cells, classes, values = find_peaks(centers[i], least)
        points = points_at(cells, centers.shape[-1], size)
        masks, quality = [], [values.new_zeros(0)]
        for own in points.split(count):
            if len(own) == 0:
                continue
            prompt, _ = prompter.prompt(maps, torch.full_like(own[:, 0], i).long(), own, sam)
            logits, iou = sam.decode_mask(embedding, prompt)
            masks += crop_masks(logits[:, 0])
            quality.append(iou[:, 0].float().clamp(0, 1))
        found.append(ranked(masks, classes, values * torch.cat(quality), least))
    return found


def _at_prompts(segmenter: Segmenter, prompter: ObjectPrompter, batch: Batch) -> list[FoundObjects]:
    embedding = segmenter.encode_image(batch)
    prompts = prompter(batch, embedding, segmenter.sam)
    found = []
    for i in range(len(batch)):
        own = prompts.select(prompts.images == i)
        logits, iou = prompter.decode_each(embedding, own, segmenter.sam)
        objects = ranked(crop_masks(logits), own.classes, iou.float().clamp(0, 1), 0.0)
        found.append(dataclasses.replace(objects, given=True))
    return found


def _on_grid(
    segmenter: Segmenter, prompter: GridPrompter, batch: Batch, least: float
) -> list[FoundObjects]:
    embedding = segmenter.encode_image(batch)
    prompts = prompter(batch, embedding, segmenter.sam)
    found = []
    for masks, features in prompter.propose(batch, embedding, prompts, segmenter.sam):
        likely = prompter.mask_classifier(features)
        scores, classes = likely[:, 1:].max(1)
        cropped = crop_masks(torch.where(masks, 1.0, -1.0))
        found.append(ranked(cropped, classes, scores, least))
    return found


def ranked(
    masks: list[tuple[int, int, np.ndarray]], classes: Tensor, scores: Tensor, least: float
) -> FoundObjects:
    """Objects of at least a score, by falling score. `classes` are 0..K-1."""
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= least]
    numbers = (classes[order] + 1).cpu().numpy().astype(np.uint8)
    return FoundObjects([masks[i] for i in order.tolist()], numbers, scores[order].cpu().numpy())


def crop_masks(logits: Tensor) -> list[tuple[int, int, np.ndarray]]:
    """Cut each object out of its cells: the largest connected part of its mask.

    Args:
        logits: float P x m x m.

    Returns:
        See `FoundObjects.masks`; of an empty mask nothing. Other parts of a mask change their sign.
    """
    cropped = []
    for mask in logits.float().cpu().numpy():
        count, parts, stats, _ = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8))
        if count == 1:
            cropped.append((0, 0, mask[:0, :0].copy()))
            continue
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        left, top, width, height = stats[largest, :4].tolist()
        rows, columns = (
            slice(max(0, top - 1), top + height + 1),
            slice(max(0, left - 1), left + width + 1),
        )
        own, part = mask[rows, columns], parts[rows, columns]
        cropped.append(
            (rows.start, columns.start, np.where((part == 0) | (part == largest), own, -own))
        )
    return cropped
