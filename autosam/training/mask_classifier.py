"""Fit the classifier of SAM's masks on a grid of points (run sam-auto)."""

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
    """Fit the mask classifier: which of SAM's masks are of which class.

    Args:
        segmenter: prompted on a grid.
        loader: batches with targets, unaugmented training images.
        images: how many are enough.

    Returns:
        How many masks it was fitted on.
    """
    assert isinstance(segmenter, Segmenter)
    prompter = segmenter.prompter
    assert isinstance(prompter, GridPrompter)
    features, labels, seen = [], [], 0
    for batch in loader:
        assert batch.targets is not None
        assert batch.weights is not None
        embedding, grid = segmenter.encode_image(batch), prompter(batch, segmenter.sam)
        proposed = prompter.propose(batch, embedding, grid, segmenter.sam)
        for target, weight, (masks, found) in zip(
            batch.targets, batch.weights, proposed, strict=True
        ):
            shares = torch.cat([1 - target.sum(0, keepdim=True).clamp(max=1), target]) * weight
            shares = F.interpolate(shares[None], masks.shape[-2:], mode="area")[0]
            covered = masks.flatten(1).to(shares) @ shares.flatten(1).T
            seen_there = covered.sum(1) > 0  # a mask of unlabelled pixels is of no known class
            features.append(found[seen_there])
            labels.append(covered[seen_there].argmax(1))
        seen += len(batch)
        if seen >= images:
            break
    prompter.mask_classifier.fit(torch.cat(features), torch.cat(labels))
    return sum(map(len, labels))
