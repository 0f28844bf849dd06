"""Score a segmenter on a data set, and choose its threshold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from autosam.data.labels import class_masks, known
from autosam.evaluation.calibration import THRESHOLDS, choose
from autosam.evaluation.instance_matching import Matches, match_instances
from autosam.evaluation.instance_metrics import score_instances
from autosam.evaluation.metrics import score
from autosam.evaluation.predict_batch import most_probable, parts_of, predict_batch
from autosam.evaluation.predict_instances import Separation, masks_of, predict_instances
from autosam.evaluation.scores import Scores
from autosam.evaluation.volume_scores import Counts, count_pixels
from autosam.models.base import SegmentationModel
from autosam.models.find_objects import draws_objects
from autosam.models.losses import SegmentationLoss
from autosam.models.normalize import cells_inside
from autosam.types import Batch, Prompt
from autosam.utils.device import half_precision


@torch.no_grad()
def calibrate(
    segmenter: SegmentationModel,
    loader: Iterable[Batch],
    exclusive: bool,
    accelerator: Accelerator | None = None,
    how: Separation | None = None,
) -> tuple[float, float]:
    """Choose the threshold and the smallest area on a data set, see `calibration.choose`.

    Args:
        segmenter: put into evaluation mode and left there.
        loader: batches with labels, on the segmenter's device.
        exclusive: see `predict_label`.
        accelerator: gathers the scores of all processes.
        how: see `evaluate`; the threshold is then chosen by the panoptic quality.

    Returns:
        threshold: probability from which on a pixel is foreground.
        min_area: share of the image, 0 for none.
    """
    segmenter.eval()
    rows: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
    for batch in loader:
        if how is not None:
            rows += _rows_of_objects(segmenter, batch, exclusive, how)
            continue
        predicted = predict_batch(segmenter, batch)
        for i, name in enumerate(batch.names):
            logits, label = predicted.full_logits(i), batch.labels[i]
            assert label is not None
            truth, seen = class_masks(label, len(logits)), known(label)
            if seen.any():
                scores, areas = at_thresholds(logits, truth, seen, exclusive, predicted.valid(i))
                empty = np.asarray(~truth.any((1, 2)))
                rows.append((name, scores, areas, empty))
    if accelerator is not None and accelerator.num_processes > 1:
        rows = gather_object(rows)
    found = {row[0]: row[1:] for row in rows}.values()  # an image repeated as padding counts once
    if not found:
        return segmenter.decision.threshold, 0.0
    all_scores, all_areas, all_empty = (np.concatenate(part) for part in zip(*found, strict=True))
    image = np.repeat(np.arange(len(found)), [len(empty) for _, _, empty in found])
    return choose(all_scores, all_areas, all_empty, image, segmenter.decision.threshold)


def at_thresholds(
    logits: Tensor,
    truth: np.ndarray,
    seen: np.ndarray,
    exclusive: bool,
    valid: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Score masks at each of `THRESHOLDS`, from one histogram of the logits of each class.

    Args:
        logits: float K x H x W.
        truth: bool K x H x W.
        seen: bool H x W, the pixels that are scored.
        exclusive: see `predict_label`.
        valid: bool H x W, the pixels that hold data; all others are background. None for all.

    Returns:
        Dice, and the share of the image that is predicted: float K x T each.
    """
    edges = torch.tensor([math.log(t / (1 - t)) for t in THRESHOLDS], device=logits.device)
    found = torch.bucketize(logits, edges, out_int32=True)  # how many thresholds are exceeded
    if exclusive and len(logits) > 1:
        found *= most_probable(logits)
    levels = found.to(torch.uint8).cpu().numpy()
    if valid is not None:
        levels[:, ~valid] = 0
    bins = len(THRESHOLDS) + 1
    scores, areas = [], []
    for level, true in zip(levels, truth, strict=True):
        kind = np.where(true, np.uint8(2 * bins), np.uint8(bins) * seen)  # 0 where it is not scored
        counts = np.bincount((level + kind).ravel(), minlength=3 * bins).reshape(3, bins)
        above = counts[:, ::-1].cumsum(1)[:, -2::-1]  # pixels that exceed each threshold
        total = above[1] + above[2] + true.sum()
        scores.append(np.where(total > 0, 2 * above[2] / np.maximum(total, 1), 1.0))
        areas.append(above.sum(0) / level.size)
    return np.stack(scores), np.stack(areas)


def _rows_of_objects(
    segmenter: SegmentationModel, batch: Batch, exclusive: bool, how: Separation
) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """The panoptic quality of each image at each of `THRESHOLDS`, as rows of `calibrate`."""
    rows = []
    for i, decide in enumerate(predict_instances(segmenter, batch, exclusive, how)):
        truth = batch.instances[i]
        assert truth is not None
        scores = [
            score_instances(match_instances(truth, decide(t)[1], segmenter.num_classes))["pq"]
            for t in THRESHOLDS
        ]
        if not np.isnan(scores).any():
            own = np.array([scores])
            rows.append((batch.names[i], own, np.zeros_like(own), np.array([not len(truth)])))
    return rows


GATES = {1: "trust", 2: "trust_2x", 4: "trust_4x"}
"""Score names of the learned gates on the levels of SAM's image embedding, by their scale."""


def gate_means(prompt: Prompt, batch: Batch, image_size: int) -> list[dict[str, float]]:
    """Average the learned gates over the classes and the cells of each row, without padding.

    Args:
        prompt: P = B*K prompts.
        batch: B rows.
        image_size: side S of the SAM input, pixels.

    Returns:
        For each row the mean of each gate in [0, 1], by the names of `GATES`; empty for prompts
        without gates.
    """
    found: list[dict[str, float]] = [{} for _ in range(len(batch))]
    for gate in prompt.gates:
        side = gate.shape[-1]
        name = GATES[side // prompt.gates[0].shape[-1]]
        shown = cells_inside(batch.sam_valid, side, image_size)
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
    how: Separation | None = None,
    matches: dict[str, Matches] | None = None,
    counts: Counts | None = None,
) -> Scores:
    """Score each image at its own size.

    Args:
        segmenter: put into evaluation mode and left there.
        loader: batches with labels, on the segmenter's device.
        exclusive: see `predict_label`.
        names: keys of `METRICS`.
        criterion: if given, each row also has the `loss` of the image; if objects are scored, that
            of its batch.
        accelerator: gathers the rows of all processes; an image repeated as padding counts once.
        bf16: whether to compute in bfloat16.
        classes: names of the classes.
        how: score the objects, too; how masks become objects where a run predicts classes. None:
            the masks of classes alone.
        matches: gets the matched objects of each image by its name, with all candidates.
        counts: gets the counted pixels of each image by its name, see `count_pixels`.

    Returns:
        Scores by image; with a learned prompt and SAM's image embedding also `gate_means`.
    """
    segmenter.eval()
    rows: list[tuple[str, dict[str, float]]] = []
    for batch in loader:
        if how is not None:
            candidates = matches is not None
            own, matched, counted = _score_objects(
                segmenter, batch, exclusive, names, bf16, classes, how, candidates
            )
            if counts is not None:
                counts.update(counted)
            if criterion is not None and batch.weights is not None:
                losses = []
                for part in parts_of(batch):
                    with half_precision(batch.generator_input.device, bf16):
                        output, _ = segmenter(part, with_surrogate=True)
                    losses.append(criterion.of(output, part)["loss"].item())
                loss = float(np.mean(losses))
                own = [(name, scores | {"loss": loss}) for name, scores in own]
            rows += own
            if matches is not None:
                matches.update(matched)
            continue
        predicted = predict_batch(segmenter, batch, bf16)
        gates: list[dict[str, float]] = [{}] * len(batch)
        if predicted.prompts and segmenter.sees_image:
            side = segmenter.input_spec.image_size
            each = [gate_means(prompt, part, side) for part, prompt in predicted.prompts]
            gates = [row for rows_of_part in each for row in rows_of_part]
        for i, name in enumerate(batch.names):
            label = batch.labels[i]
            assert label is not None
            masks = predicted.masks(i, exclusive)
            scores = score(masks, label, names, classes)
            if counts is not None:
                counts[name] = count_pixels(masks, label)
            tiles = batch.rows(i)
            if criterion is not None and batch.targets is not None and batch.weights is not None:
                one = slice(tiles.start, tiles.stop)
                parts = criterion(predicted.logits[one], batch.targets[one], batch.weights[one])
                scores["loss"] = parts["loss"].item()
            scores |= {gate: float(np.mean([gates[j][gate] for j in tiles])) for gate in gates[i]}
            rows.append((name, scores))
    if accelerator is not None and accelerator.num_processes > 1:
        rows = gather_object(rows)
        if matches is not None:
            matches.update(gather_object([*matches.items()]))
        if counts is not None:
            counts.update(gather_object([*counts.items()]))
    return dict(rows)


def _score_objects(
    segmenter: SegmentationModel,
    batch: Batch,
    exclusive: bool,
    names: tuple[str, ...],
    bf16: bool,
    classes: Sequence[str],
    how: Separation,
    candidates: bool,
) -> tuple[list[tuple[str, dict[str, float]]], dict[str, Matches], Counts]:
    """Score the objects of a batch, and the masks of classes that they add up to. `candidates`:
    average precision is that of all objects that are found, not of those above the threshold."""
    rows, matches, counts, threshold = [], {}, {}, segmenter.decision.threshold
    lower = candidates and draws_objects(segmenter)  # of classes it would move the outlines
    least = min(threshold, THRESHOLDS[0]) if lower else threshold
    for i, decide in enumerate(predict_instances(segmenter, batch, exclusive, how, bf16, least)):
        truth, label = batch.instances[i], batch.labels[i]
        assert truth is not None
        assert label is not None
        _, found = decide(threshold)
        matched = match_instances(truth, found, segmenter.num_classes)
        if least < threshold:
            every = decide(least)[1]
            matched.candidates = match_instances(truth, every, segmenter.num_classes)
        matches[batch.names[i]] = matched
        masks = masks_of(found, segmenter.num_classes)
        scores = score(masks, label, names, classes) | score_instances(matched, classes)
        counts[batch.names[i]] = count_pixels(masks, label)
        rows.append((batch.names[i], scores))
    return rows, matches, counts
