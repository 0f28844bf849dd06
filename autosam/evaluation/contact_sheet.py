"""The contact sheet of a run, and a look at one image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch

from autosam.data.dataset import PairDataset
from autosam.data.geometry import restore
from autosam.data.labels import class_masks
from autosam.evaluation import visualize
from autosam.evaluation.metrics import dice, predict_label
from autosam.models.segmenter import Segmenter
from autosam.types import Batch

SIDE = 224
"""Pixels of an image in the contact sheet."""


@dataclass
class Explanation:
    """An image, segmented, and its prompt."""

    logits: torch.Tensor
    """float K x H x W."""
    heatmaps: dict[str, np.ndarray] = field(default_factory=dict)
    """uint8 H x W x 3, what each map of a learned prompt highlights (the mean over classes), by the
    map's size, coarse to fine."""
    surrogate: torch.Tensor | None = None
    """float K x H x W, the logits that it says by itself."""


@torch.no_grad()
def explain(segmenter: Segmenter, batch: Batch) -> Explanation:
    """Segment a single image and look at its prompt, with one pass of the image encoder."""
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


@torch.no_grad()
def contact_sheet(
    segmenter: Segmenter,
    dataset: PairDataset,
    positions: list[int],
    exclusive: bool,
    device: torch.device,
    colours: np.ndarray = visualize.COLOURS,
) -> np.ndarray:
    """Image, truth, prediction, what each map of the prompt highlights and the mask that it makes
    without SAM, a row per position; uint8 RGB."""
    segmenter.eval()
    rows, notes = [], []
    for position in positions:
        sample = dataset[0, position]
        batch = Batch.collate([sample]).to(device)
        seen = explain(segmenter, batch)
        predicted = predict_label(
            seen.logits, exclusive, segmenter.threshold, segmenter.min_area, sample.valid
        )
        assert sample.label is not None
        truth = class_masks(sample.label, segmenter.num_classes)
        image = dataset.pairs[position].image.read()
        shown = visualize.overlay(image, truth, colours)
        if sample.prompts is not None:
            shown = visualize.draw_prompts(shown, sample.prompts, sample.sam_valid)
        row = [image, shown, visualize.overlay(image, predicted, colours)]
        row += seen.heatmaps.values()
        if seen.surrogate is not None:
            alone = predict_label(
                seen.surrogate,
                exclusive,
                segmenter.fast_threshold,
                segmenter.fast_min_area,
                sample.valid,
            )
            row.append(visualize.overlay(image, alone, colours))
        rows.append([visualize.fit(cell, SIDE) for cell in row])  # large ones are not kept
        score = np.mean([dice(p, t) for p, t in zip(predicted, truth, strict=True)])
        notes.append(f"{sample.name[:18]}  Dice {score:.2f}")
    truth_title = "truth" if segmenter.prompts is None else "truth and prompt"
    highlights = [f"prompt, {title}" for title in seen.heatmaps] if positions else []
    titles = ["image", truth_title, "prediction", *highlights, "prompt without SAM"]
    return visualize.contact_sheet(rows, titles[: len(rows[0])], notes, SIDE)
