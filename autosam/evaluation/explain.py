"""Segment one image and draw its learned prompt as heatmaps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from autosam.evaluation import visualize
from autosam.evaluation.predict_batch import full_size, parts_of
from autosam.evaluation.predict_instances import Decide
from autosam.models.base import SegmentationModel
from autosam.models.instance_segmenter import InstanceSegmenter
from autosam.models.prompt_generator import PromptGenerator
from autosam.models.sam.encode import encode_frozen
from autosam.models.segmenter import Segmenter
from autosam.types import Batch, Prompt


@dataclass
class Explanation:
    """The logits of one image and heatmaps of its learned prompt."""

    logits: torch.Tensor
    """float K x H x W."""
    heatmaps: dict[str, np.ndarray] = field(default_factory=dict)
    """uint8 H x W x 3 RGB by the size of the prompt's map, coarse to fine: the mean over classes.
    Empty without a learned prompt."""
    surrogate: torch.Tensor | None = None
    """float K x H x W, logits of the surrogate decoder, which sees the prompt alone."""
    decide: Decide | None = None
    """The objects, for any threshold; None where a run predicts classes."""


@torch.no_grad()
def with_embedding(segmenter: SegmentationModel, batch: Batch) -> Batch:
    """Encode the images of a batch once, for more than one use of a run that draws objects.

    Args:
        segmenter: in evaluation mode.
        batch: on the segmenter's device.

    Returns:
        The batch with embeddings; that of other runs as it is.
    """
    if not isinstance(segmenter, InstanceSegmenter) or batch.sam_input is None:
        return batch
    half = segmenter.encoding.half
    embedding = encode_frozen(segmenter.sam, batch.sam_input, batch.sam_valid, half)
    return replace(batch, embedding=embedding)


@torch.no_grad()
def center_heatmap(segmenter: SegmentationModel, batch: Batch) -> dict[str, np.ndarray]:
    """Draw the map of centres of one image.

    Args:
        segmenter: in evaluation mode.
        batch: one image (or its tiles), on the segmenter's device.

    Returns:
        uint8 H x W x 3 RGB by title; empty if the run does not look for centres.
    """
    if not isinstance(segmenter, InstanceSegmenter):
        return {}
    centers = torch.cat([segmenter.centers(part) for part in parts_of(batch)])
    shown = full_size(batch, centers.amax(1, keepdim=True), 0, segmenter.input_spec)
    return {"centres": visualize.heatmap(shown[0].cpu().numpy())}


@torch.no_grad()
def explain(segmenter: SegmentationModel, batch: Batch) -> Explanation:
    """Segment one image and draw its learned prompt, with one pass of the image encoder.

    Args:
        segmenter: in evaluation mode.
        batch: one image (or its tiles), on the segmenter's device.

    Returns:
        Logits and heatmaps at the image's own size.
    """
    rows = [_explain_row(segmenter, batch.part(i, i + 1)) for i in range(len(batch))]

    def whole(maps: list[torch.Tensor]) -> torch.Tensor:
        return full_size(batch, torch.stack(maps).float(), 0, segmenter.input_spec)

    heatmaps = {
        title: visualize.heatmap(whole([row.maps[title] for row in rows])[0].cpu().numpy())
        for title in rows[0].maps
    }
    alone = [row.surrogate for row in rows if row.surrogate is not None]
    return Explanation(
        whole([row.logits for row in rows]), heatmaps, whole(alone) if alone else None
    )


@dataclass
class _Row:
    """What `Explanation` is made of, for one image or tile."""

    logits: torch.Tensor
    """K x m x m."""
    maps: dict[str, torch.Tensor] = field(default_factory=dict)
    """1 x m x m each."""
    surrogate: torch.Tensor | None = None
    """K x m x m."""


def _explain_row(segmenter: SegmentationModel, batch: Batch) -> _Row:
    if not isinstance(segmenter.prompter, PromptGenerator):
        return _Row(segmenter(batch)[0])
    baseline = None
    if isinstance(segmenter, Segmenter):
        embedding = segmenter.encode_image(batch)
        prompt = segmenter.prompter(batch, embedding, segmenter.sam)
        logits = segmenter.decode_mask(batch, embedding, prompt)[0]
        if segmenter.prompter.neck is None:  # the prompt has sparse tokens only
            empty = segmenter.prompter.no_prompts(batch, segmenter.sam)
            baseline = segmenter.decode_mask(batch, embedding, empty)[0]
    else:
        (logits, *_), prompt = segmenter.segment(batch)
    assert isinstance(prompt, Prompt)
    rows, columns = (batch.generator_valid[0] / segmenter.input_spec.generator_size).tolist()
    learned = segmenter.prompter.maps_of(prompt)
    maps = visualize.prompt_maps(learned, logits, baseline, (rows, columns))
    alone = None
    if segmenter.surrogate is not None:
        alone = segmenter.decode_surrogate(prompt)[0]
    means = {title: shown.float().mean(0, keepdim=True) for title, shown in maps.items()}
    return _Row(logits, means, alone)
