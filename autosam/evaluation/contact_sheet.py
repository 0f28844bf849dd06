"""Draw the contact sheet of a run: images with truth, prediction and prompt, one row each."""

from __future__ import annotations

import numpy as np
import torch

from autosam.data.dataset import PairDataset
from autosam.data.labels import class_masks
from autosam.evaluation import visualize
from autosam.evaluation.explain import explain
from autosam.evaluation.metrics import dice
from autosam.evaluation.predict_batch import predict_label
from autosam.models.base import SegmentationModel
from autosam.types import Batch

SIDE = 224
"""Side of a cell of the contact sheet, pixels."""


@torch.no_grad()
def contact_sheet(
    segmenter: SegmentationModel,
    dataset: PairDataset,
    positions: list[int],
    exclusive: bool,
    device: torch.device,
    classes: dict[str, np.ndarray],
) -> np.ndarray:
    """Draw one row for each image: image, truth, prediction, a heatmap of each map of the prompt,
    and the mask of the surrogate decoder.

    Args:
        segmenter: put into evaluation mode and left there.
        dataset: the images.
        positions: indices of the images to draw.
        exclusive: see `predict_label`.
        device: device of the segmenter.
        classes: uint8 RGB of each class by its name; several have a legend.

    Returns:
        uint8 H x W x 3, RGB.
    """
    segmenter.eval()
    rows, notes, colours = [], [], np.stack(list(classes.values()))
    for position in positions:
        sample = dataset[0, position]
        batch = Batch.collate([sample]).to(device)
        explained = explain(segmenter, batch)
        predicted = predict_label(
            explained.logits,
            exclusive,
            segmenter.decision.threshold,
            segmenter.decision.min_area,
            sample.valid,
        )
        assert sample.label is not None
        truth = class_masks(sample.label, segmenter.num_classes)
        image = dataset.pairs[position].image.read()
        shown = visualize.masked_cell(image, truth, SIDE, colours)
        if sample.prompts is not None:
            shown = visualize.draw_prompts(shown, sample.prompts, sample.sam_valid)
        row = [image, shown, visualize.masked_cell(image, predicted, SIDE, colours)]
        row += explained.heatmaps.values()
        if explained.surrogate is not None and segmenter.surrogate is not None:
            alone = predict_label(
                explained.surrogate,
                exclusive,
                segmenter.surrogate.decision.threshold,
                segmenter.surrogate.decision.min_area,
                sample.valid,
            )
            row.append(visualize.masked_cell(image, alone, SIDE, colours))
        rows.append([visualize.fit(cell, SIDE) for cell in row])  # full-size cells need memory
        score = np.mean([dice(p, t) for p, t in zip(predicted, truth, strict=True)])
        notes.append(f"{sample.name[:18]}  Dice {score:.2f}")
    truth_title = "truth" if segmenter.input_spec.prompts is None else "truth and prompt"
    highlights = [f"prompt, {title}" for title in explained.heatmaps] if positions else []
    titles = ["image", truth_title, "prediction", *highlights, "prompt without SAM"]
    legend = classes if len(classes) > 1 else None
    return visualize.image_grid(rows, titles[: len(rows[0])], notes, SIDE, legend)
