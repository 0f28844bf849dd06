"""Score a segmenter on a data set, and choose its threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from autosam.data.labels import class_masks, known
from autosam.evaluation.calibration import THRESHOLDS, choose
from autosam.evaluation.metrics import dice, score
from autosam.evaluation.predict_batch import predict_batch, predict_label
from autosam.evaluation.scores import Scores
from autosam.models.base import SegmentationModel
from autosam.models.losses import SegmentationLoss
from autosam.models.normalize import inside
from autosam.types import Batch, Prompt


@torch.no_grad()
def calibrate(
    segmenter: SegmentationModel,
    loader: Iterable[Batch],
    exclusive: bool,
    accelerator: Accelerator | None = None,
) -> tuple[float, float]:
    """Choose the threshold and the smallest area on a data set, see `calibration.choose`.

    Args:
        segmenter: put into evaluation mode and left there.
        loader: batches with labels, on the segmenter's device.
        exclusive: see `predict_label`; with several exclusive classes no threshold is used.
        accelerator: gathers the scores of all processes.

    Returns:
        threshold: probability from which on a pixel is foreground.
        min_area: share of the image, 0 for none.
    """
    segmenter.eval()
    rows: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
    for batch in loader:
        predicted = predict_batch(segmenter, batch)
        for i, name in enumerate(batch.names):
            logits, label = predicted.full_logits(i), batch.labels[i]
            assert label is not None
            truth, seen = class_masks(label, len(logits)), known(label)
            scores, areas = [], []
            for threshold in THRESHOLDS:
                masks = predict_label(logits, exclusive, threshold, valid=predicted.valid(i))
                areas.append(masks.mean((1, 2)))
                scores.append([dice(m & seen, t) for m, t in zip(masks, truth, strict=True)])
            if seen.any():
                empty = np.asarray(~truth.any((1, 2)))
                rows.append((name, np.transpose(scores), np.transpose(areas), empty))
    if accelerator is not None and accelerator.num_processes > 1:
        rows = gather_object(rows)
    found = {row[0]: row[1:] for row in rows}.values()  # an image repeated as padding counts once
    if not found:
        return 0.5, 0.0
    all_scores, all_areas, all_empty = (np.concatenate(part) for part in zip(*found, strict=True))
    image = np.repeat(np.arange(len(found)), [len(empty) for _, _, empty in found])
    return choose(all_scores, all_areas, all_empty, image)


GATES = {1: "trust", 2: "trust_2x", 4: "trust_4x"}
"""Score names of the learned gates on the levels of SAM's image embedding, by their scale."""


def gate_means(prompt: Prompt, batch: Batch, image_size: int) -> list[dict[str, float]]:
    """Average the learned gates over the classes and the cells of each image, without padding.

    Args:
        prompt: P = B*K prompts.
        batch: B images.
        image_size: side S of the SAM input, pixels.

    Returns:
        For each image the mean of each gate in [0, 1], by the names of `GATES`; empty for prompts
        without gates.
    """
    found: list[dict[str, float]] = [{} for _ in batch.names]
    for gate in prompt.gates:
        side = gate.shape[-1]
        name = GATES[side // prompt.gates[0].shape[-1]]
        shown = inside((batch.sam_valid * side / image_size).ceil(), side)
        sums = (gate.float() * shown[prompt.image_index]).sum((1, 2, 3))
        means = sums.view(len(batch), -1).mean(1) / shown.sum((1, 2, 3))
        for row, mean in zip(found, means.tolist(), strict=True):
            row[name] = mean
    return found


def format_gates(means: Mapping[str, float]) -> str:
    """Format mean gates as percentages: "12%", or "12%, 30%, 7% (coarse to fine)"; "" for none."""
    found = [means[name] for name in GATES.values() if name in means]
    shown = ", ".join("<1%" if 0 < mean < 0.005 else f"{mean:.0%}" for mean in found)
    return f"{shown} (coarse to fine)" if len(found) > 1 else shown


@torch.no_grad()
def evaluate(
    segmenter: SegmentationModel,
    loader: Iterable[Batch],
    exclusive: bool,
    names: tuple[str, ...] = ("dice", "iou"),
    criterion: SegmentationLoss | None = None,
    accelerator: Accelerator | None = None,
    bf16: bool = False,
    classes: Sequence[str] = (),
) -> Scores:
    """Score each image at its own size.

    Args:
        segmenter: put into evaluation mode and left there.
        loader: batches with labels, on the segmenter's device.
        exclusive: see `predict_label`.
        names: keys of `METRICS`.
        criterion: if given, each row also has the `loss` of the image.
        accelerator: gathers the rows of all processes; an image repeated as padding counts once.
        bf16: whether to compute in bfloat16.
        classes: names of the classes.

    Returns:
        Scores by image; with a learned prompt and SAM's image embedding also `gate_means`.
    """
    segmenter.eval()
    rows: list[tuple[str, dict[str, float]]] = []
    for batch in loader:
        predicted = predict_batch(segmenter, batch, bf16)
        gates: list[dict[str, float]] = [{}] * len(batch)
        if predicted.prompt is not None and segmenter.sees_image:
            gates = gate_means(predicted.prompt, batch, segmenter.input_spec.image_size)
        for i, name in enumerate(batch.names):
            label = batch.labels[i]
            assert label is not None
            scores = score(predicted.masks(i, exclusive), label, names, classes)
            if criterion is not None and batch.targets is not None and batch.weights is not None:
                one = slice(i, i + 1)
                parts = criterion(predicted.logits[one], batch.targets[one], batch.weights[one])
                scores["loss"] = parts["loss"].item()
            rows.append((name, scores | gates[i]))
    if accelerator is not None and accelerator.num_processes > 1:
        rows = gather_object(rows)
    return dict(rows)
