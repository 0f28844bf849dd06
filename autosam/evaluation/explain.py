"""Segment one image and draw its learned prompt as heatmaps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from autosam.data.geometry import restore
from autosam.evaluation import visualize
from autosam.evaluation.predict_instances import Decide
from autosam.models.base import SegmentationModel
from autosam.models.instance_segmenter import InstanceSegmenter
from autosam.models.prompt_generator import PromptGenerator
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
def center_heatmap(segmenter: SegmentationModel, batch: Batch) -> dict[str, np.ndarray]:
    """Draw the map of centres of one image.

    Args:
        segmenter: in evaluation mode.
        batch: one image, on the segmenter's device.

    Returns:
        uint8 H x W x 3 RGB by title; empty if the run does not look for centres.
    """
    if not isinstance(segmenter, InstanceSegmenter):
        return {}
    spec = segmenter.input_spec
    centers = segmenter.centers(batch)[0]
    shown = restore(centers.amax(0, keepdim=True), batch.sizes[0], spec.image_size, spec.geometry)
    return {"centres": visualize.heatmap(shown[0].cpu().numpy())}


@torch.no_grad()
def explain(segmenter: SegmentationModel, batch: Batch) -> Explanation:
    """Segment one image and draw its learned prompt, with one pass of the image encoder.

    Args:
        segmenter: in evaluation mode.
        batch: one image, on the segmenter's device.

    Returns:
        Logits and heatmaps at the image's own size.
    """
    input_spec = segmenter.input_spec

    def full_size(values: torch.Tensor) -> torch.Tensor:
        return restore(values.float(), batch.sizes[0], input_spec.image_size, input_spec.geometry)

    if not isinstance(segmenter.prompter, PromptGenerator):
        return Explanation(full_size(segmenter(batch)[0]))
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
    rows, columns = (batch.generator_valid[0] / input_spec.generator_size).tolist()
    learned = segmenter.prompter.maps_of(prompt)
    maps = visualize.prompt_maps(learned, logits, baseline, (rows, columns))
    heatmaps = {
        title: visualize.heatmap(full_size(shown.mean(0, keepdim=True))[0].cpu().numpy())
        for title, shown in maps.items()
    }
    alone = None
    if segmenter.surrogate is not None:
        alone = full_size(segmenter.decode_surrogate(prompt)[0])
    return Explanation(full_size(logits), heatmaps, alone)
