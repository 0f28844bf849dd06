"""Fit the mask classifier of the run sam-auto."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import functional as F

from autosam.models.base import SegmentationModel
from autosam.models.prompters import GridPrompter
from autosam.models.segmenter import Segmenter
from autosam.types import Batch


@torch.no_grad()
def fit_mask_classifier(
    segmenter: SegmentationModel, loader: Iterable[Batch], images: int = 100
) -> int:
    """Fit the mask classifier, which assigns a class to each of SAM's masks.

    Args:
        segmenter: a segmenter that is prompted with a grid of points.
        loader: batches of training images with targets, without augmentation.
        images: number of images to fit on; the last batch may exceed it.

    Returns:
        The number of masks that it was fitted on.
    """
    assert isinstance(segmenter, Segmenter)
    prompter = segmenter.prompter
    assert isinstance(prompter, GridPrompter)
    features, labels, seen = [], [], 0
    for batch in loader:
        assert batch.targets is not None
        assert batch.weights is not None
        embedding = segmenter.encode_image(batch)
        grid = prompter(batch, embedding, segmenter.sam)
        proposed = prompter.propose(batch, embedding, grid, segmenter.sam)
        for target, weight, (masks, found) in zip(
            batch.targets, batch.weights, proposed, strict=True
        ):
            shares = torch.cat([1 - target.sum(0, keepdim=True).clamp(max=1), target]) * weight
            shares = F.interpolate(shares[None], masks.shape[-2:], mode="area")[0]
            covered = masks.flatten(1).to(shares) @ shares.flatten(1).T
            labelled = covered.sum(1) > 0  # masks of unlabelled pixels have no class
            features.append(found[labelled])
            labels.append(covered[labelled].argmax(1))
        seen += len(batch)
        if seen >= images:
            break
    prompter.mask_classifier.fit(torch.cat(features), torch.cat(labels))
    return sum(map(len, labels))
