"""Draw the contact sheet of a run: images with truth, prediction and prompt, one row each."""

from __future__ import annotations

import numpy as np
import torch

from autosam.data.dataset import PairDataset
from autosam.data.labels import class_masks
from autosam.evaluation import visualize
from autosam.evaluation.explain import center_heatmap, explain
from autosam.evaluation.instance_matching import match_instances
from autosam.evaluation.instance_metrics import score_instances
from autosam.evaluation.metrics import dice
from autosam.evaluation.predict_batch import predict_label
from autosam.evaluation.predict_instances import Separation, predict_instances
from autosam.evaluation.visualize_instances import instances_cell
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
    how: Separation | None = None,
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
        how: see `predict_instances`: draw objects.

    Returns:
        uint8 H x W x 3, RGB.
    """
    segmenter.eval()
    if how is not None:
        return objects_sheet(segmenter, dataset, positions, exclusive, device, how)
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
        if sample.prompts is not None:  # none of an image in tiles
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


def objects_sheet(
    segmenter: SegmentationModel,
    dataset: PairDataset,
    positions: list[int],
    exclusive: bool,
    device: torch.device,
    how: Separation,
) -> np.ndarray:
    """Draw one row for each image: image, true objects and predicted ones, see `contact_sheet`."""
    rows, notes, threshold = [], [], segmenter.decision.threshold
    for position in positions:
        sample = dataset[0, position]
        batch = Batch.collate([sample]).to(device)
        [decide] = predict_instances(segmenter, batch, exclusive, how, least=threshold)
        _, found = decide(threshold)
        truth = sample.instances
        assert truth is not None
        image = dataset.pairs[position].image.read()
        cells = [instances_cell(image, objects.ids, SIDE) for objects in (truth, found)]
        heatmaps = center_heatmap(segmenter, batch)
        cells = [image, *cells, *heatmaps.values()]
        rows.append([visualize.fit(cell, SIDE) for cell in cells])
        matches = match_instances(truth, found, segmenter.num_classes)
        quality = score_instances(matches)["pq"]
        notes.append(f"{sample.name[:18]}  PQ {quality:.2f}  {len(found)} of {len(truth)}")
    titles = ["image", "truth", "prediction", "centres"]
    return visualize.image_grid(rows, titles[: len(rows[0])], notes, SIDE, None)
