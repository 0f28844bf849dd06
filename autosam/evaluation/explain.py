"""One image segmented, and what its prompt highlights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch

from autosam.data.geometry import restore
from autosam.evaluation import visualize
from autosam.models.segmenter import Segmenter
from autosam.types import Batch


@dataclass
class Explanation:
    """An image, segmented, and its prompt."""

    logits: torch.Tensor
    """float K x H x W."""
    heatmaps: dict[str, np.ndarray] = field(default_factory=dict)
    """uint8 H x W x 3, what each map of a learned prompt highlights (the mean over classes), by the
    map's size, coarse to fine."""
    surrogate: torch.Tensor | None = None
    """float K x H x W, the logits that the surrogate decoder makes of the prompt alone."""


@torch.no_grad()
def explain(segmenter: Segmenter, batch: Batch) -> Explanation:
    """Segment one image and show its prompt, with one pass of the image encoder.

    Args:
        segmenter: in evaluation mode.
        batch: one image.
    """
    input_spec = segmenter.input_spec

    def full_size(values: torch.Tensor) -> torch.Tensor:
        return restore(values.float(), batch.sizes[0], input_spec.image_size, input_spec.geometry)

    if segmenter.sam is None or segmenter.generator is None:
        return Explanation(full_size(segmenter(batch)[0]))
    prompt, baseline = segmenter.prompt(batch), None
    if segmenter.fast:
        logits = segmenter.decode_surrogate(prompt)[0]
    else:
        embedding = segmenter.encode_image(batch)
        logits = segmenter.decode_mask(embedding, prompt)[0]
        if segmenter.surrogate is None:  # tokens alone
            empty = segmenter.sam.no_prompt(len(prompt.image_index))
            empty = dataclasses.replace(empty, image_index=prompt.image_index)
            baseline = segmenter.decode_mask(embedding, empty)[0]
    rows, columns = (batch.generator_valid[0] / input_spec.generator_size).tolist()
    maps = visualize.prompt_maps(prompt, logits, baseline, (rows, columns))
    heatmaps = {
        title: visualize.heatmap(full_size(shown.mean(0, keepdim=True))[0].cpu().numpy())
        for title, shown in maps.items()
    }
    alone = None
    if segmenter.surrogate is not None:
        alone = full_size(segmenter.decode_surrogate(prompt)[0])
    return Explanation(full_size(logits), heatmaps, alone)
