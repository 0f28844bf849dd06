"""Prompters: they make the prompts of SAM's mask decoder, and classes of its masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosam.models.automatic import LEAST, MaskClassifier, describe, grid_points, vote
from autosam.models.normalize import cells_inside
from autosam.models.sam.base import Sam
from autosam.types import Batch, ImageEmbedding, ObjectPrompts, Prompt
from autosam.utils.device import is_traced

ABSENT = -20.0
"""Logit where no object of a class was prompted."""
CELLS = {"cpu": 2 * 64 * 64}
"""Cells of the image embedding that are decoded at a time, by kind of device. On a CPU the memory
of larger tensors (32 MiB) is mapped again for each, which takes as long as much of the
arithmetic."""
MOST_CELLS = 64 * 64 * 64
"""The same on other devices; an image may hold hundreds of objects."""


class Prompter(nn.Module):
    """Base class: one prompt for each class of each image.

    Args:
        num_classes: K.
    """

    reads: Literal["box", "points", "objects"] | None = None
    """The kind of prompts that every batch must hold, if any."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(
        self, batch: Batch, embedding: ImageEmbedding | None, sam: Sam
    ) -> Prompt | ObjectPrompts:
        """Prompts for the images of a batch.

        Args:
            batch: B images.
            embedding: of these images; None without SAM's image encoder (`--fast`).
            sam: the SAM that is prompted.

        Returns:
            P = B*K embedded prompts, ordered by image, then by class; or boxes and points, which
            `decode` embeds.
        """
        raise NotImplementedError

    def decode(
        self, batch: Batch, embedding: ImageEmbedding, prompt: Prompt | ObjectPrompts, sam: Sam
    ) -> Tensor:
        """Decode prompts into the logits of classes.

        Args:
            batch: B images.
            embedding: of these images.
            prompt: the result of `forward`.
            sam: the SAM that is prompted.

        Returns:
            Logits float B x K x m x m.
        """
        assert isinstance(prompt, Prompt)
        logits = decode_in_parts(embedding, prompt, sam)
        return logits[:, 0].view(-1, self.num_classes, *logits.shape[-2:])

    def no_prompts(self, batch: Batch, sam: Sam) -> Prompt:
        """SAM's own embedding of "no prompt" for each class of each image, P = B*K."""
        images = torch.arange(len(batch), device=batch.generator_input.device)
        empty = sam.no_prompt(len(batch) * self.num_classes)
        return replace(empty, image_index=images.repeat_interleave(self.num_classes))


class ClassTokens(Prompter):
    """No prompt, and one learned sparse token for each class where there are several: K identical
    prompts would give K identical masks.

    Args:
        num_classes: K.
        width: C.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(num_classes)
        several = num_classes > 1
        self.tokens = nn.Parameter(torch.randn(num_classes, 1, width) * 0.1) if several else None

    def forward(self, batch: Batch, embedding: ImageEmbedding | None, sam: Sam) -> Prompt:
        """See `Prompter.forward`."""
        empty = self.no_prompts(batch, sam)
        if self.tokens is None:
            return empty
        sparse = torch.cat([empty.sparse, self.tokens.repeat(len(batch), 1, 1)], dim=1)
        return replace(empty, sparse=sparse)


class ObjectPrompter(Prompter):
    """Boxes or points on the objects of a batch: of the true masks, or of the color prior.

    Args:
        num_classes: K.
        reads: which of the two it uses.
        multimask: see `PromptConfig.multimask`.
    """

    def __init__(self, num_classes: int, reads: Literal["box", "points"], multimask: str) -> None:
        super().__init__(num_classes)
        self.reads, self.multimask = reads, multimask

    def forward(self, batch: Batch, embedding: ImageEmbedding | None, sam: Sam) -> ObjectPrompts:
        """See `Prompter.forward`."""
        if batch.prompts is None:
            raise ValueError("this segmenter is prompted by boxes or points; the batch has none")
        return batch.prompts

    def decode(
        self, batch: Batch, embedding: ImageEmbedding, prompt: Prompt | ObjectPrompts, sam: Sam
    ) -> Tensor:
        """See `Prompter.decode`; a class is the union of its objects."""
        assert isinstance(prompt, ObjectPrompts)
        masks, _ = self.decode_each(embedding, prompt, sam)
        merged = merge_objects(masks, prompt, len(embedding), self.num_classes)
        if len(prompt) == 0 and torch.is_grad_enabled():
            # Without objects no parameter would get a gradient, which other processes wait for.
            idle, _ = sam.decode_mask(embedding, sam.no_prompt(len(embedding)))
            merged = merged + 0 * idle.mean()
        return merged

    def decode_each(
        self, embedding: ImageEmbedding, prompt: ObjectPrompts, sam: Sam
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts into the masks of objects.

        Args:
            embedding: of B images.
            prompt: M objects.
            sam: the SAM that is prompted.

        Returns:
            Logits float M x m x m; SAM's estimates of their IoU, float M.
        """
        count = at_once(embedding)
        size = 4 * sam.grid[0]
        masks = [embedding.features.new_zeros(0, size, size)]
        estimates = [embedding.features.new_zeros(0)]
        for start in range(0, len(prompt), count):
            part = prompt.part(start, start + count)
            logits, iou = sam.decode_mask(embedding, embed(part, sam), self.multimask != "single")
            if self.multimask == "single":
                masks.append(logits[:, 0])
            else:
                masks.append(choose_mask(logits, iou, self.multimask, part.masks))
            estimates.append(iou.amax(1))
        return torch.cat(masks), torch.cat(estimates)


class GridPrompter(Prompter):
    """Points on a grid over each image; a classifier gives each of SAM's masks a class.

    Args:
        num_classes: K.
        side: points in each row and column.
    """

    def __init__(self, num_classes: int, side: int) -> None:
        super().__init__(num_classes)
        self.side = side
        self.mask_classifier = MaskClassifier(num_classes)

    def forward(self, batch: Batch, embedding: ImageEmbedding | None, sam: Sam) -> ObjectPrompts:
        """See `Prompter.forward`."""
        points = torch.cat([grid_points(self.side, valid) for valid in batch.sam_valid])
        images = torch.arange(len(batch), device=points.device).repeat_interleave(self.side**2)
        labels = torch.ones(points.shape[:2], dtype=torch.int64, device=points.device)
        return ObjectPrompts(images, torch.zeros_like(images), points=points, labels=labels)

    def decode(
        self, batch: Batch, embedding: ImageEmbedding, prompt: Prompt | ObjectPrompts, sam: Sam
    ) -> Tensor:
        """See `Prompter.decode`; the masks of each image vote for the class of its cells."""
        assert isinstance(prompt, ObjectPrompts)
        proposals = self.propose(batch, embedding, prompt, sam)
        votes = [vote(masks, self.mask_classifier(found), ABSENT) for masks, found in proposals]
        return torch.stack(votes)

    def propose(
        self, batch: Batch, embedding: ImageEmbedding, prompt: ObjectPrompts, sam: Sam
    ) -> list[tuple[Tensor, Tensor]]:
        """SAM's masks at the points of the grid, for each image.

        Args:
            batch, embedding, prompt, sam: see `decode`.

        Returns:
            Masks bool N x m x m, and their features float N x FEATURES.
        """
        size = 4 * sam.grid[0]
        pixels = F.interpolate(batch.generator_input.float() / 255, (size, size), mode="area")
        proposals = []
        for i, shown in enumerate(cells_inside(batch.sam_valid, size, sam.spec.image_size)):
            points = prompt.select(prompt.images == i)
            points.images = torch.zeros_like(points.images)
            found, count = [], at_once(embedding)
            for start in range(0, len(points), count):
                part = embed(points.part(start, start + count), sam)
                logits, _ = sam.decode_mask(embedding.part(i), part, multimask=True)
                found.append((logits.flatten(0, 1) > 0) & shown)
            masks = torch.cat(found)
            masks = masks[masks.sum((1, 2)) >= LEAST]
            proposals.append((masks, describe(masks, pixels[i])))
        return proposals


def at_once(embedding: ImageEmbedding) -> int:
    """How many prompts to decode at a time."""
    features = embedding.features
    rows, columns = features.shape[-2:]
    return max(1, CELLS.get(features.device.type, MOST_CELLS) // (rows * columns))


def decode_in_parts(embedding: ImageEmbedding, prompt: Prompt, sam: Sam) -> Tensor:
    """Decode any number of prompts, see `Sam.decode_mask`: logits float P x 1 x 4h x 4w."""
    count = len(prompt.image_index) if is_traced() else at_once(embedding)
    return torch.cat([sam.decode_mask(embedding, part)[0] for part in prompt.split(count)])


def embed(prompts: ObjectPrompts, sam: Sam) -> Prompt:
    """Boxes or points -> prompt embeddings of `sam`."""
    points = None
    if prompts.points is not None and prompts.labels is not None:
        points = (prompts.points, prompts.labels)
    return sam.encode_prompt(points, prompts.boxes, image_index=prompts.images)


def iou_of(predicted: Tensor, truth: Tensor) -> Tensor:
    """IoU over the last two axes of bool tensors; 1 where both are empty."""
    both, either = (predicted & truth).sum((-2, -1)), (predicted | truth).sum((-2, -1))
    return torch.where(either == 0, 1.0, both / either.clamp(min=1))


def choose_mask(logits: Tensor, iou: Tensor, how: str, truth: Tensor | None = None) -> Tensor:
    """One mask for each prompt out of SAM's three.

    Args:
        logits: float P x 3 x m x m.
        iou: float P x 3, SAM's own estimates.
        how: `best` by the estimate, `true` by the IoU with `truth` (by the estimate without), or
            `mean` of the logits.
        truth: float P x m x m in [0, 1].

    Returns:
        float P x m x m.
    """
    if how == "mean":
        return logits.mean(1)
    quality = iou
    if how == "true" and truth is not None:
        quality = iou_of(logits > 0, (truth > 0.5)[:, None])
    return logits[torch.arange(len(logits), device=logits.device), quality.argmax(1)]


def merge_objects(logits: Tensor, prompts: ObjectPrompts, batch: int, classes: int) -> Tensor:
    """The union of the objects of each class: the largest logit at each cell.

    Args:
        logits: float P x m x m, one for each object.
        prompts: the image and class of each object.
        batch: B.
        classes: K.

    Returns:
        float B x K x m x m; `ABSENT` where a class has no object.
    """
    size = logits.shape[-2:]
    merged = logits.new_full((batch * classes, *size), ABSENT)
    slot = prompts.images * classes + prompts.classes
    rows = slot[:, None, None].expand_as(logits)
    merged = merged.scatter_reduce(0, rows, logits, "amax", include_self=False)
    return merged.view(batch, classes, *size)
