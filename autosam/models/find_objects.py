"""Find single objects with a segmenter that draws them one by one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from autosam.models.base import SegmentationModel
from autosam.models.instance_prompter import InstancePrompter, center_probabilities
from autosam.models.peaks import Placed, find_peaks, points_at
from autosam.models.prompters import GridPrompter, ObjectPrompter, at_once
from autosam.models.segmenter import Segmenter
from autosam.types import Batch


@dataclass
class FoundObjects:
    """The objects that were found in an image, by falling score."""

    masks: list[Placed]
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
    count, valid = at_once(embedding), batch.sam_valid.tolist()
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
            masks += crop_masks(logits[:, 0], shown_cells(valid[i], logits.shape[-1], size))
            quality.append(iou[:, 0].float().clamp(0, 1))
        found.append(ranked(masks, classes, values * torch.cat(quality), least))
    return found


def _at_prompts(segmenter: Segmenter, prompter: ObjectPrompter, batch: Batch) -> list[FoundObjects]:
    embedding = segmenter.encode_image(batch)
    prompts = prompter(batch, embedding, segmenter.sam)
    found, size = [], segmenter.sam.spec.image_size
    for i, valid in enumerate(batch.sam_valid.tolist()):
        own = prompts.select(prompts.images == i)
        logits, iou = prompter.decode_each(embedding, own, segmenter.sam)
        masks = crop_masks(logits, shown_cells(valid, logits.shape[-1], size))
        objects = ranked(masks, own.classes, iou.float().clamp(0, 1), 0.0)
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


def ranked(masks: list[Placed], classes: Tensor, scores: Tensor, least: float) -> FoundObjects:
    """Objects of at least a score, by falling score. `classes` are 0..K-1."""
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= least]
    numbers = (classes[order] + 1).cpu().numpy().astype(np.uint8)
    return FoundObjects([masks[i] for i in order.tolist()], numbers, scores[order].cpu().numpy())


def shown_cells(valid: Sequence[int], side: int, image_size: int) -> tuple[int, int]:
    """Rows and columns of cells that show an image.

    Args:
        valid: rows and columns of the image in the S x S square.
        side: m.
        image_size: S.
    """
    rows, columns = (math.ceil(length * side / image_size) for length in valid)
    return rows, columns


def crop_masks(logits: Tensor, shown: tuple[int, int] | None = None) -> list[Placed]:
    """Cut each object out of its cells: the largest 4-connected part of its mask.

    Args:
        logits: float P x m x m.
        shown: see `shown_cells`: of parts on padding nothing counts. None: all cells.

    Returns:
        See `FoundObjects.masks`; of an empty mask nothing. Other parts of a mask change their sign.
    """
    cropped = []
    rows, columns = shown or logits.shape[-2:]
    # One more of each: the pixels at the border are interpolated from it, too.
    for mask in logits[:, : rows + 1, : columns + 1].float().cpu().numpy():
        count, parts, stats, _ = cv2.connectedComponentsWithStats(
            (mask > 0).astype(np.uint8), connectivity=4
        )
        areas = np.bincount(parts[:rows, :columns].ravel(), minlength=count)
        areas[0] = 0
        largest = int(areas.argmax())
        if areas[largest] == 0:
            cropped.append((0, 0, mask[:0, :0].copy()))
            continue
        left, top, width, height = stats[largest, :4].tolist()
        first = max(0, top - 1), max(0, left - 1)
        window = slice(first[0], top + height + 1), slice(first[1], left + width + 1)
        own, part = mask[window], parts[window]
        cropped.append((*first, np.where((part == 0) | (part == largest), own, -own)))
    return cropped
