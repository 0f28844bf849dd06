"""Score every image at its own size, and choose a threshold on validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from autosam.data.labels import class_masks, known
from autosam.evaluation.calibration import THRESHOLDS, choose
from autosam.evaluation.metrics import dice, score
from autosam.evaluation.prediction import predict_batch, predict_label
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
    """The threshold and the smallest area that `calibration.choose` makes of these images.

    Args:
        segmenter, loader, exclusive, accelerator: as for `evaluate`; of several exclusive classes
            the most probable wins, and no threshold matters.
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
    found = {row[0]: row[1:] for row in rows}.values()
    if not found:
        return 0.5, 0.0
    scores_of, areas_of, empty_of = (np.concatenate(parts) for parts in zip(*found, strict=True))
    image_of = np.repeat(np.arange(len(found)), [len(empty) for _, _, empty in found])
    return choose(scores_of, areas_of, empty_of, image_of)


TRUST = ("trust", "trust_2x", "trust_4x")
"""Names of how far the levels of SAM's image embedding are trusted, coarse to fine."""


def trust(prompt: Prompt, batch: Batch, image_size: int) -> list[dict[str, float]]:
    """How far prompts trust what SAM sees: the mean of each gate over the cells of the image and
    its classes, for each image of the batch; empty without gates.

    Args:
        prompt: P = B*K prompts.
        batch: B images.
        image_size: S.
    """
    found: list[dict[str, float]] = [{} for _ in batch.names]
    for name, gate in zip(TRUST, prompt.gates, strict=False):
        side = gate.shape[-1]
        shown = inside((batch.sam_valid * side / image_size).ceil(), side)
        sums = (gate.float() * shown[prompt.image_index]).sum((1, 2, 3))
        means = sums.view(len(batch), -1).mean(1) / shown.sum((1, 2, 3))
        for row, mean in zip(found, means.tolist(), strict=True):
            row[name] = mean
    return found


def trust_in_words(means: Mapping[str, float]) -> str:
    """`12%, 30%, 7%`: the means of what `trust` finds, coarse to fine; empty without gates."""
    return ", ".join(f"{means[name]:.0%}" for name in TRUST if name in means)


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
    """Score every image at its own size.

    Args:
        segmenter: put into evaluation mode and left there.
        loader: batches with labels, on the segmenter's device.
        exclusive: see `predict_label`.
        names: metrics.
        criterion: adds the image's `loss` to each row.
        accelerator: gathers rows over processes; an image that padding of the shards repeated
            counts once.
        bf16: see `train_one_epoch`.
        classes: their names.

    Returns:
        Scores by image name; and how far SAM was trusted, see `trust`, where it saw the image.
    """
    segmenter.eval()
    rows: list[tuple[str, dict[str, float]]] = []
    for batch in loader:
        predicted = predict_batch(segmenter, batch, bf16)
        trusted: list[dict[str, float]] = [{}] * len(batch)
        if predicted.prompt is not None and segmenter.sees_image:
            trusted = trust(predicted.prompt, batch, segmenter.input_spec.image_size)
        for i, name in enumerate(batch.names):
            label = batch.labels[i]
            assert label is not None
            scores = score(predicted.masks(i, exclusive), label, names, classes)
            if criterion is not None and batch.targets is not None and batch.weights is not None:
                one = slice(i, i + 1)
                parts = criterion(predicted.logits[one], batch.targets[one], batch.weights[one])
                scores["loss"] = parts["loss"].item()
            rows.append((name, scores | trusted[i]))
    if accelerator is not None and accelerator.num_processes > 1:
        rows = gather_object(rows)
    return dict(rows)
