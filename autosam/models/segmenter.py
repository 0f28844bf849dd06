"""A run as a network: a prompter, a mask decoder, and a set of trainable parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosam.config import RUNS, Config
from autosam.config.validation import check_settings
from autosam.errors import CheckpointError
from autosam.models.automatic import LEAST, MaskClassifier, describe, grid_points, vote
from autosam.models.normalize import inside
from autosam.models.plain import PlainHead
from autosam.models.prompt_generator import PromptGenerator
from autosam.models.prompters import ABSENT, choose_mask, merge_objects
from autosam.models.sam import SAMS, AbsentSam, Sam, load_sam
from autosam.models.sam.encode import encode_frozen
from autosam.models.surrogate import SurrogateDecoder
from autosam.types import Batch, ImageEmbedding, InputSpec, ObjectPrompts, Prompt

AT_ONCE = 64
"""Prompts decoded at a time where nothing is learned: an image may hold hundreds of objects."""


def min_max(logits: Tensor) -> Tensor:
    """Logits whose sigmoid runs from 0 to 1 within each B x K x m x m map, padding included."""
    logits = logits.float()  # in bfloat16 1 - 1e-6 is 1, whose logit is infinite
    low, high = logits.amin((2, 3), keepdim=True), logits.amax((2, 3), keepdim=True)
    return torch.logit((logits - low) / (high - low).clamp(min=1e-6), eps=1e-6)


class ClassPrompt(nn.Module):
    """The prompt of a run whose prompter is `none`: SAM's own "no prompt".

    With several classes the K identical prompts would give K identical masks, so each class then
    adds one learned sparse token that tells it from the others.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        count = num_classes if num_classes > 1 else 0
        self.tokens = nn.Parameter(torch.randn(count, 1, width) * 0.1) if count else None

    def forward(self, no_prompt: Prompt) -> Prompt:
        """P = B*K empty prompts -> the same, told apart by class."""
        if self.tokens is None:
            return no_prompt
        images = len(no_prompt.dense) // len(self.tokens)
        sparse = torch.cat([no_prompt.sparse, self.tokens.repeat(images, 1, 1)], dim=1)
        return Prompt(sparse, no_prompt.dense, no_prompt.image_index)


class Segmenter(nn.Module):
    """Composes the parts; what is not trainable holds no gradient and never enters training mode.

    Args:
        num_classes: K.
        sam: frozen SAM, or None for the run without it.
        generator: the learned prompter, or None for SAM's "no prompt".
        head: the plain network that stands in for SAM, or None.
        trainable: which of `prompter` and `decoder` learn.
        view_size: G.
        prompts: the kind of prompt that each batch brings along, where none is learned.
        multimask: see `PromptConfig.multimask`.
        half_encoder: whether a large image encoder may compute in bfloat16, where that is faster.
        surrogate: learns beside the generator what its prompt says, or None.
        blank: image embeddings are zeros, for a control.
        stretch: logits are stretched as the published code does, see `PaperConfig`.
        mask_classifier: which masks of a grid of points count, or None where there is no grid.
        grid: points in each row and column of it.

    Attributes:
        fast: masks come from the surrogate decoder, SAM takes no part.
        threshold: probability from which on a pixel is foreground; the checkpoint's, chosen on
            validation.
        min_area: share of the image below which a class counts as not found; likewise.
        fast_threshold, fast_min_area: those of the surrogate decoder's masks.
    """

    def __init__(
        self,
        num_classes: int,
        sam: Sam | None = None,
        generator: PromptGenerator | None = None,
        head: PlainHead | None = None,
        trainable: tuple[str, ...] = (),
        view_size: int = 256,
        prompts: Literal["box", "points"] | None = None,
        multimask: str = "single",
        half_encoder: bool = False,
        surrogate: SurrogateDecoder | None = None,
        blank: bool = False,
        stretch: bool = False,
        mask_classifier: MaskClassifier | None = None,
        grid: int = 8,
    ) -> None:
        super().__init__()
        self.mask_classifier, self.grid, self.stretch = mask_classifier, grid, stretch
        self.surrogate, self.blank, self.fast = surrogate, blank, False
        self.threshold, self.min_area = 0.5, 0.0
        self.fast_threshold, self.fast_min_area = 0.5, 0.0
        self.prompts, self.multimask, self.half_encoder = prompts, multimask, half_encoder
        self.num_classes = num_classes
        self.sam = cast("Sam | None", sam)
        self.generator = generator
        self.head = head
        self.class_prompt = None
        if sam is not None and generator is None and prompts is None and mask_classifier is None:
            self.class_prompt = ClassPrompt(num_classes, sam.width)
        self.view_size = view_size
        decoder: nn.Module | None = head if sam is None else sam.mask_decoder
        parts: dict[str, list[nn.Module | None]] = {
            "prompter": [self.generator, self.surrogate],
            "decoder": [decoder, self.class_prompt],
        }
        self._trainable = [
            module for name in trainable for module in parts[name] if module is not None
        ]
        self.to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        for module in self._trainable:
            module.requires_grad_(True)
        if sam is not None:
            # No loss reaches the IoU estimate; DDP would wait for its gradient for ever.
            for part in sam.no_grad_modules:
                part.requires_grad_(False)
        self.train()

    def param_groups(self) -> list[list[nn.Parameter]]:
        """Trainable parameters in groups whose gradients are clipped apart: what the surrogate
        learns must not slow the rest."""
        beside = list(self.surrogate.parameters()) if self.surrogate is not None else []
        apart = {id(p) for p in beside}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in apart]
        return [group for group in (rest, beside) if group]

    @property
    def pretrained(self) -> list[nn.Module]:
        """Parts that do not start at random, as a rule; some of them may learn."""
        whole = [part for part in (self.generator, self.head) if part is not None]
        sam = [] if self.sam is None else [cast(nn.Module, self.sam)]
        return [*(part.backbone for part in whole), *sam]

    @property
    def input_spec(self) -> InputSpec:
        """The sizes of inputs and targets."""
        if self.sam is None:
            assert self.head is not None
            return InputSpec(self.view_size, self.view_size, self.head.mask_size, needs_image=False)
        spec = self.sam.spec
        size = 4 * self.sam.grid[0]
        sees = not self.fast
        return InputSpec(spec.image_size, self.view_size, size, spec.geometry, sees, self.prompts)

    def train(self, mode: bool = True) -> Segmenter:
        """Training mode for the trainable parts only."""
        super().train(False)
        for module in self._trainable:
            module.train(mode)
        return self

    def trainable_state(self) -> dict[str, Tensor]:
        """State of the trainable parts (buffers included) and of the mask classifier, by key."""
        parts = [
            *self._trainable,
            *([self.mask_classifier] if self.mask_classifier is not None else []),
        ]
        kept = {id(t) for m in parts for t in m.state_dict(keep_vars=True).values()}
        return {
            key: value.detach()
            for key, value in self.state_dict(keep_vars=True).items()
            if id(value) in kept
        }

    def trainable_buffers(self) -> list[Tensor]:
        """Of the trainable parts: what a forward pass in training mode changes."""
        return [buffer for module in self._trainable for buffer in module.buffers()]

    def encode_image(self, batch: Batch) -> ImageEmbedding:
        """Frozen image embeddings, without gradient: the batch's own, or computed now."""
        assert self.sam is not None
        if batch.embedding is not None:
            embedding = batch.embedding.map(Tensor.float)
        else:
            assert batch.sam_input is not None
            embedding = encode_frozen(self.sam, batch.sam_input, batch.sam_valid, self.half_encoder)
        return embedding.map(torch.zeros_like) if self.blank else embedding

    def prompt(self, batch: Batch) -> Prompt:
        """P = B*K prompts, the K of one image next to each other."""
        assert self.sam is not None
        images = torch.arange(len(batch), device=batch.generator_input.device)
        empty = self.sam.no_prompt(len(batch) * self.num_classes)
        empty = replace(empty, image_index=images.repeat_interleave(self.num_classes))
        if self.generator is not None:
            return self.generator(batch.generator_input, batch.generator_valid, empty)
        assert self.class_prompt is not None
        return self.class_prompt(empty)

    def decode_mask(self, embedding: ImageEmbedding, prompt: Prompt) -> Tensor:
        """Image embeddings and their P = B*K prompts -> logits float B x K x m x m."""
        assert self.sam is not None
        logits, _ = self.sam.decode_mask(embedding, prompt)
        logits = logits[:, 0].view(-1, self.num_classes, *logits.shape[-2:])
        return min_max(logits) if self.stretch else logits

    def decode_surrogate(self, prompt: Prompt) -> Tensor:
        """What P = B*K prompts say by themselves: logits float B x K x m x m. Nothing learned here
        reaches the generator."""
        assert self.surrogate is not None
        logits = self.surrogate(prompt.map(Tensor.detach))
        return logits.view(-1, self.num_classes, *logits.shape[-2:])

    def forward(
        self, batch: Batch, with_surrogate: bool = False
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """-> logits float B x K x m x m; `with_surrogate`: also the surrogate's, if any."""
        logits, prompt = self.segment(batch)
        if not with_surrogate:
            return logits
        if prompt is None or self.surrogate is None or self.fast:
            return logits, None
        return logits, self.decode_surrogate(prompt)

    def segment(self, batch: Batch) -> tuple[Tensor, Prompt | None]:
        """Logits float B x K x m x m, and the prompts that they were made by, P = B*K, where there
        is one for each class."""
        if self.sam is None:
            assert self.head is not None
            return self.head(batch.generator_input, batch.generator_valid), None
        if self.prompts is not None:
            if batch.prompts is None:
                raise ValueError(
                    "this segmenter is prompted by boxes or points; the batch has none"
                )
            return self.decode_objects(self.encode_image(batch), batch.prompts), None
        if self.mask_classifier is not None:
            return self.decode_grid(batch), None
        prompt = self.prompt(batch)
        if self.fast:
            return self.decode_surrogate(prompt), prompt
        return self.decode_mask(self.encode_image(batch), prompt), prompt

    def propose(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """SAM's masks at the points of a grid, of each image: bool N x m x m, and their
        features, float N x FEATURES."""
        assert self.sam is not None
        embedding, size = self.encode_image(batch), self.input_spec.mask_size
        pixels = F.interpolate(batch.generator_input.float() / 255, (size, size), mode="area")
        cells = (batch.sam_valid * size / self.input_spec.image_size).ceil()
        found = []
        for i, shown in enumerate(inside(cells, size)):
            points = grid_points(self.grid, batch.sam_valid[i])
            drawn = []
            for part in points.split(AT_ONCE):
                labels = torch.ones(part.shape[:2], dtype=torch.int64, device=part.device)
                here = torch.zeros(len(part), dtype=torch.int64, device=part.device)
                prompt = self.sam.encode_prompt((part, labels), image_index=here)
                logits, _ = self.sam.decode_mask(embedding.part(i), prompt, multimask=True)
                drawn.append((logits.flatten(0, 1) > 0) & shown)
            masks = torch.cat(drawn)
            masks = masks[masks.sum((1, 2)) >= LEAST]
            found.append((masks, describe(masks, pixels[i])))
        return found

    def decode_grid(self, batch: Batch) -> Tensor:
        """SAM's masks on a grid, weighed by the mask classifier: logits float B x K x m x m."""
        assert self.mask_classifier is not None
        return torch.stack(
            [
                vote(masks, self.mask_classifier(features), ABSENT)
                for masks, features in self.propose(batch)
            ]
        )

    def decode_objects(self, embedding: ImageEmbedding, prompts: ObjectPrompts) -> Tensor:
        """Image embeddings and the prompts of their objects -> logits float B x K x m x m."""
        assert self.sam is not None
        count = max(1, len(prompts) if torch.is_grad_enabled() else AT_ONCE)
        size = self.input_spec.mask_size
        masks = [embedding.features.new_zeros(0, size, size)]
        for start in range(0, len(prompts), count):
            part = prompts.part(start, start + count)
            points = None
            if part.points is not None and part.labels is not None:
                points = (part.points, part.labels)
            prompt = self.sam.encode_prompt(points, part.boxes, image_index=part.images)
            logits, iou = self.sam.decode_mask(embedding, prompt, self.multimask != "single")
            masks.append(
                logits[:, 0]
                if self.multimask == "single"
                else choose_mask(logits, iou, self.multimask, part.masks)
            )
        merged = merge_objects(torch.cat(masks), prompts, len(embedding), self.num_classes)
        if len(prompts) == 0 and torch.is_grad_enabled():
            # Nothing was prompted, so nothing would get a gradient, for which other processes wait.
            idle, _ = self.sam.decode_mask(embedding, self.sam.no_prompt(len(embedding)))
            merged = merged + 0 * idle.mean()
        return min_max(merged) if self.stretch else merged


def build_segmenter(
    config: Config,
    backbone_weights: str | None = None,
    encoder: bool = True,
    fast: bool = False,
) -> Segmenter:
    """Build what a config describes.

    Args:
        config: the run.
        backbone_weights: overrides `config.model.backbone_weights` (a checkpoint brings its own).
        encoder: False leaves SAM's image encoder out: every batch brings its embedding.
        fast: leaves SAM out altogether: masks come from the surrogate decoder.

    Raises:
        ConfigError: settings that cannot work.
        CheckpointError: weights that cannot be had.
    """
    check_settings(config)
    composition, model = RUNS[config.run], config.model
    weights = backbone_weights or model.backbone_weights
    classes = config.data.num_classes
    has_surrogate = composition.prompter == "learned" and model.prompt_has_maps
    if fast and not has_surrogate:
        raise CheckpointError(
            "--fast asks for the surrogate decoder, which only runs with a learned dense or "
            f"high-resolution prompt have; this is {config.title!r}."
        )
    if composition.decoder == "head":
        head = PlainHead(model.backbone, weights, model.view_size, model.width, classes)
        return Segmenter(
            classes, head=head, trainable=composition.trainable, view_size=model.view_size
        )
    with torch.random.fork_rng(devices=[]):  # the generator starts the same beside any SAM
        if fast:
            sam = cast(Sam, AbsentSam(SAMS[config.sam]))
        else:
            twice = config.paper.double_normalisation
            sam = load_sam(config.sam, config.sam_checkpoint, encoder, twice)
    given: Literal["box", "points"] | None = None
    if composition.prompter in ("box", "points"):
        given = composition.prompter
    elif composition.prompter == "rough":
        given = config.rough.prompt
    generator = None
    if composition.prompter == "learned":
        generator = PromptGenerator(
            model.backbone,
            weights,
            model.view_size,
            model.width,
            classes,
            sam.width,
            sam.grid,
            model.prompt_kinds,
            model.sparse_tokens,
            sam.levels if model.gate else 0,
        )
    surrogate = None
    if has_surrogate:
        with torch.random.fork_rng(devices=[]):
            surrogate = SurrogateDecoder(sam.width, model.prompt_kinds)
    segmenter = Segmenter(
        classes,
        sam,
        generator,
        trainable=composition.trainable,
        view_size=model.view_size,
        prompts=given,
        multimask=config.prompt.multimask,
        half_encoder=config.train.precision != "no",
        surrogate=surrogate,
        blank=config.embedding == "blank",
        stretch=config.paper.min_max_logits,
        mask_classifier=MaskClassifier(classes) if composition.prompter == "grid" else None,
        grid=config.prompt.grid,
    )
    segmenter.fast = fast
    return segmenter
