"""One epoch of training, one pass of evaluation: plain functions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autosam.calibration import THRESHOLDS, choose
from autosam.data.geometry import restore
from autosam.data.labels import class_masks, known
from autosam.errors import TrainingError
from autosam.metrics import dice, predict_label, score
from autosam.models.losses import SegmentationLoss
from autosam.models.normalize import inside
from autosam.models.segmenter import Segmenter
from autosam.types import Batch, Prompt
from autosam.utils.device import half_precision

OnStep = Callable[[int, float], None]
"""Called after each batch with its number of images and its loss."""


ONE_VALUE = "Expected more than 1 value per channel"
"""What torch says where BatchNorm has one value to learn from."""


def one_value(error: Exception) -> str:
    """The sentence for it."""
    return (
        f"BatchNorm cannot learn from a single image whose last map is one cell ({error}). Take "
        "--train.batch_size 2 or more (and as many images), a larger --model.view_size, or another "
        "--model.backbone."
    )


@dataclass
class Sums:
    """What an epoch has come to so far: its figures are means of these."""

    batches: int = 0
    images: int = 0
    """Of all processes."""
    parts: dict[str, float] = field(default_factory=dict)
    """Sum over batches of each part of the loss."""
    norms: int = 0
    norm: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def means(self) -> dict[str, float]:
        """See `train_one_epoch`."""
        return {name: value / self.batches for name, value in self.parts.items()} | {
            "grad_norm": self.norm / max(1, self.norms),
            "images_per_second": self.images / self.seconds,
            "data_wait": self.waited / self.seconds,
        }


def losses_of(
    model: nn.Module,
    batch: Batch,
    criterion: SegmentationLoss,
    device: torch.device,
    bf16: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a training step brings down, and its parts; the arguments are those of
    `train_one_epoch`."""
    with half_precision(device, bf16):
        logits, beside = model(batch, beside=True)
    parts = criterion(logits, batch.targets, batch.weights)
    total = parts["loss"]
    if beside is not None:
        parts["surrogate"] = criterion(beside, batch.targets, batch.weights)["loss"]
        total = total + parts["surrogate"]
    return total, parts


def train_one_epoch(
    model: nn.Module,
    loader: Iterable[Batch],
    criterion: SegmentationLoss,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    accelerator: Accelerator,
    clip: float,
    bf16: bool = False,
    on_step: OnStep = lambda images, loss: None,
    sums: Sums | None = None,
) -> dict[str, float]:
    """Train once over the data, or over what is left of them.

    Args:
        model: a segmenter, prepared by the accelerator.
        loader: batches with targets.
        criterion: gives the loss and its parts.
        optimizer, scheduler: stepped once per accumulated batch.
        accelerator: device, processes, accumulation.
        clip: largest gradient norm.
        bf16: forward pass in bfloat16 where it is safe; the loss stays float32.
        on_step: progress.
        sums: those of the batches of this epoch that `loader` leaves out, if any; added to.

    Returns:
        Means over the batches of all processes of each loss part, and of the surrogate's whole
        loss; `grad_norm`; `lr` at the end; `images_per_second`; `data_wait`, the share of time
        spent waiting for data.

    Raises:
        TrainingError: the loss or its gradient is not finite; the weights are those before that
            batch.
    """
    model.train()
    sums = Sums() if sums is None else sums
    before = time.perf_counter()
    for batch in loader:
        fetched = time.perf_counter()
        with accelerator.accumulate(model):
            total, parts = losses_of(model, batch, criterion, accelerator.device, bf16)
            if not torch.isfinite(total):
                raise TrainingError(
                    f"the loss is {total.item()} at batch {sums.batches + 1} "
                    f"({', '.join(batch.names[:4])}...). Lower --train.lr, or look at these images."
                )
            accelerator.backward(total)
            if accelerator.sync_gradients:
                groups = accelerator.unwrap_model(model).learners()
                norms = [float(accelerator.clip_grad_norm_(group, clip)) for group in groups]
                if not all(map(math.isfinite, norms)):
                    raise TrainingError(
                        f"the gradient is not finite at batch {sums.batches + 1} "
                        f"({', '.join(batch.names[:4])}...). Lower --train.lr, try "
                        "--train.precision no, or look at these images."
                    )
                sums.norm, sums.norms = sums.norm + norms[0], sums.norms + 1
            optimizer.step()
            if accelerator.sync_gradients:
                scheduler.step()
            optimizer.zero_grad()
        for name, value in parts.items():
            sums.parts[name] = sums.parts.get(name, 0.0) + value.item()
        sums.batches += 1
        sums.images += len(batch) * accelerator.num_processes
        now = time.perf_counter()
        sums.waited, sums.seconds = sums.waited + fetched - before, sums.seconds + now - before
        on_step(len(batch), parts["loss"].item())
        before = time.perf_counter()
    means = sums.means()
    if accelerator.num_processes > 1:  # each has seen its share of the batches
        values = torch.tensor(
            [means[name] for name in sums.parts], dtype=torch.float64, device=accelerator.device
        )
        shared = accelerator.reduce(values, reduction="mean")
        means |= dict(zip(sums.parts, cast(torch.Tensor, shared).tolist(), strict=True))
    return means | {"lr": float(scheduler.get_last_lr()[0])}


@torch.no_grad()
def fit_rule(segmenter: Segmenter, loader: Iterable[Batch], pictures: int = 100) -> int:
    """Fit the rule that says which of SAM's masks are of which class.

    Args:
        segmenter: with a rule.
        loader: batches with targets, unaugmented training pictures.
        pictures: how many are enough.

    Returns:
        How many masks the rule was fitted on.
    """
    assert segmenter.rule is not None
    looks, labels, seen = [], [], 0
    for batch in loader:
        assert batch.targets is not None
        assert batch.weights is not None
        proposed = segmenter.propose(batch)
        for target, weight, (masks, found) in zip(
            batch.targets, batch.weights, proposed, strict=True
        ):
            shares = torch.cat([1 - target.sum(0, keepdim=True).clamp(max=1), target]) * weight
            shares = F.interpolate(shares[None], masks.shape[-2:], mode="area")[0]
            covered = masks.flatten(1).to(shares) @ shares.flatten(1).T
            seen_there = covered.sum(1) > 0  # a mask of unlabelled pixels is of no known class
            looks.append(found[seen_there])
            labels.append(covered[seen_there].argmax(1))
        seen += len(batch)
        if seen >= pictures:
            break
    segmenter.rule.fit(torch.cat(looks), torch.cat(labels))
    return sum(map(len, labels))


@torch.no_grad()
def calibrate(
    segmenter: Segmenter,
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
    frame = segmenter.frame
    rows: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
    for batch in loader:
        logits = segmenter(batch).float()
        for i, name in enumerate(batch.names):
            full = restore(logits[i], batch.sizes[i], frame.image_size, frame.geometry)
            label = batch.labels[i]
            assert label is not None
            truth, seen = class_masks(label, len(full)), known(label)
            valid = batch.valid[i] if batch.valid else None
            scores, areas = [], []
            for threshold in THRESHOLDS:
                masks = predict_label(full, exclusive, threshold, valid=valid)
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
        shown = inside((batch.image_valid * side / image_size).ceil(), side)
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
    segmenter: Segmenter,
    loader: Iterable[Batch],
    exclusive: bool,
    names: tuple[str, ...] = ("dice", "iou"),
    criterion: SegmentationLoss | None = None,
    accelerator: Accelerator | None = None,
    bf16: bool = False,
    classes: Sequence[str] = (),
) -> dict[str, dict[str, float]]:
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
    frame = segmenter.frame
    rows: list[tuple[str, dict[str, float]]] = []
    for batch in loader:
        with half_precision(batch.views.device, bf16):
            logits, prompt = segmenter.segment(batch)
        logits = logits.float()
        trusted: list[dict[str, float]] = [{}] * len(batch)
        if prompt is not None and not (segmenter.fast or segmenter.blank):
            trusted = trust(prompt, batch, frame.image_size)
        for i, name in enumerate(batch.names):
            full = restore(logits[i], batch.sizes[i], frame.image_size, frame.geometry)
            label = batch.labels[i]
            assert label is not None
            valid = batch.valid[i] if batch.valid else None
            predicted = predict_label(
                full, exclusive, segmenter.threshold, segmenter.min_area, valid
            )
            scores = score(predicted, label, names, classes)
            if criterion is not None and batch.targets is not None and batch.weights is not None:
                one = slice(i, i + 1)
                parts = criterion(logits[one], batch.targets[one], batch.weights[one])
                scores["loss"] = parts["loss"].item()
            rows.append((name, scores | trusted[i]))
    if accelerator is not None and accelerator.num_processes > 1:
        rows = gather_object(rows)
    return dict(rows)
