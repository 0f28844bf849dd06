"""The network of a run that uses SAM: image embedding, prompt, logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autosam.models.base import SegmentationModel
from autosam.models.prompt_generator import PromptGenerator
from autosam.models.prompters import Prompter
from autosam.models.sam import AbsentSam
from autosam.models.sam.base import Sam
from autosam.models.sam.encode import encode_frozen, encode_rest
from autosam.models.surrogate import SurrogateDecoder
from autosam.types import Batch, ImageEmbedding, InputSpec, ObjectPrompts, Prompt


@dataclass(frozen=True)
class Encoding:
    """How a segmenter computes image embeddings."""

    half: bool = False
    """Whether a large image encoder may compute in bfloat16 where that is faster."""
    blank: bool = False
    """Whether the mask decoder gets zeros instead of the embedding, as a control."""


class Segmenter(SegmentationModel):
    """A SAM and a prompter as one network.

    Args:
        sam: its image encoder and prompt encoder stay frozen.
        prompter: makes the prompts, and turns SAM's masks into classes.
        surrogate: learns to decode the prompts without SAM, or None.
        trainable: the parts that are trained.
        generator_size: G.
        encoding: how images are encoded.
    """

    sam: Sam
    prompter: Prompter

    def __init__(
        self,
        sam: Sam,
        prompter: Prompter,
        surrogate: SurrogateDecoder | None = None,
        trainable: Sequence[nn.Module] = (),
        generator_size: int = 256,
        encoding: Encoding = Encoding(),
    ) -> None:
        super().__init__(prompter.num_classes)
        # The order of parameters in optimizer states: surrogate, SAM, prompter.
        self.surrogate = surrogate
        self.sam = sam
        self.prompter = prompter
        self.generator_size, self.encoding = generator_size, encoding
        self.set_trainable(trainable)

    @property
    def input_spec(self) -> InputSpec:
        """The sizes of inputs and targets."""
        return _input_spec(self.sam, self.generator_size, self.prompter, needs_image=True)

    @property
    def pretrained(self) -> list[nn.Module]:
        """Parts that usually start from pretrained weights; some of them may be trained."""
        return [*_backbones(self.prompter), self.sam]

    @property
    def sees_image(self) -> bool:
        """Whether the masks depend on SAM's image embedding."""
        return not self.encoding.blank

    def segment(self, batch: Batch) -> tuple[Tensor, Prompt | None]:
        """See `SegmentationModel.segment`."""
        embedding = self.encode_image(batch)
        prompt = self.prompter(batch, embedding, self.sam)
        logits = self.decode_mask(batch, embedding, prompt)
        return logits, prompt if isinstance(prompt, Prompt) else None

    def forward(
        self, batch: Batch, with_surrogate: bool = False
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """See `SegmentationModel.forward`."""
        logits, prompt = self.segment(batch)
        if not with_surrogate:
            return logits
        if self.surrogate is None or prompt is None:
            return logits, None
        return logits, self.decode_surrogate(prompt)

    def encode_image(self, batch: Batch) -> ImageEmbedding:
        """Image embeddings: those in the batch, or else computed. Only adapters get gradients."""
        half = self.encoding.half
        if batch.embedding is not None:
            embedding = batch.embedding.map(Tensor.float)
        else:
            assert batch.sam_input is not None
            embedding = encode_frozen(self.sam, batch.sam_input, batch.sam_valid, half)
            embedding = embedding.map(Tensor.float)  # what follows may compute in float32
        embedding = encode_rest(self.sam, embedding, half and not torch.is_grad_enabled())
        return embedding.map(torch.zeros_like) if self.encoding.blank else embedding

    def decode_mask(
        self, batch: Batch, embedding: ImageEmbedding, prompt: Prompt | ObjectPrompts
    ) -> Tensor:
        """Decode the prompter's prompts: logits float B x K x m x m."""
        return self.prompter.decode(batch, embedding, prompt, self.sam)

    def without_sam(self) -> SurrogateSegmenter:
        """The same prompt generator with the surrogate decoder instead of SAM."""
        assert isinstance(self.prompter, PromptGenerator)
        assert self.surrogate is not None
        absent = AbsentSam(self.sam)
        return SurrogateSegmenter(absent, self.prompter, self.surrogate, self.generator_size)


class SurrogateSegmenter(SegmentationModel):
    """A prompt generator and its surrogate decoder: masks without SAM (`--fast`).

    Args:
        absent: the sizes of the SAM that the prompts were learned for.
        prompter: the prompt generator.
        surrogate: decodes its prompts.
        generator_size: G.
    """

    prompter: PromptGenerator
    surrogate: SurrogateDecoder

    def __init__(
        self,
        absent: AbsentSam,
        prompter: PromptGenerator,
        surrogate: SurrogateDecoder,
        generator_size: int,
    ) -> None:
        super().__init__(prompter.num_classes)
        self.surrogate, self.prompter = surrogate, prompter
        self.absent, self.generator_size = absent, generator_size
        self.decision = surrogate.decision
        self.set_trainable([prompter, surrogate])

    @property
    def input_spec(self) -> InputSpec:
        """The sizes of inputs and targets."""
        return _input_spec(self.absent, self.generator_size, self.prompter, needs_image=False)

    @property
    def pretrained(self) -> list[nn.Module]:
        """Parts that usually start from pretrained weights."""
        return _backbones(self.prompter)

    def segment(self, batch: Batch) -> tuple[Tensor, Prompt | None]:
        """See `SegmentationModel.segment`."""
        prompt = self.prompter(batch, None, self.absent)
        return self.decode_surrogate(prompt), prompt


def _input_spec(sam: Sam, generator_size: int, prompter: Prompter, needs_image: bool) -> InputSpec:
    return InputSpec(
        image_size=sam.spec.image_size,
        generator_size=generator_size,
        mask_size=4 * sam.grid[0],
        geometry=sam.spec.geometry,
        stretch=sam.spec.stretch,
        needs_image=needs_image,
        prompts=prompter.reads,
    )


def _backbones(prompter: Prompter) -> list[nn.Module]:
    own = prompter.backbone if isinstance(prompter, PromptGenerator) else None
    return [] if own is None else [own]
