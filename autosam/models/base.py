"""The base class of the networks of all runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autosam.models.prompters import Prompter
from autosam.models.sam.base import Sam
from autosam.models.surrogate import SurrogateDecoder
from autosam.types import Batch, Decision, InputSpec, Prompt


class SegmentationModel(nn.Module):
    """A network from a batch to the logits of K classes.

    A subclass registers its parts, then calls `set_trainable` once.

    Args:
        num_classes: K.

    Attributes:
        sam: the SAM, or None.
        prompter: makes the prompts, or None.
        surrogate: the surrogate decoder, or None.
        decision: threshold and minimum area of predicted masks, chosen on validation.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.decision = Decision()
        self.sam: Sam | None = None
        self.prompter: Prompter | None = None
        self.surrogate: SurrogateDecoder | None = None
        self._trainable: list[nn.Module] = []

    def set_trainable(self, modules: Sequence[nn.Module]) -> None:
        """Freeze everything but `modules`."""
        self._trainable = list(modules)
        self.to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        for module in self._trainable:
            module.requires_grad_(True)
        if self.sam is not None:
            # They get no gradient, which DDP would wait for.
            for module in self.sam.no_grad_modules:
                module.requires_grad_(False)
        self.train()

    @property
    def input_spec(self) -> InputSpec:
        """The sizes of inputs and targets."""
        raise NotImplementedError

    @property
    def sees_image(self) -> bool:
        """Whether the masks depend on SAM's image embedding."""
        return False

    @property
    def pretrained(self) -> list[nn.Module]:
        """Parts that usually start from pretrained weights; some of them may be trained."""
        raise NotImplementedError

    def segment(self, batch: Batch) -> tuple[Tensor, Prompt | None]:
        """Segment a batch.

        Args:
            batch: B images.

        Returns:
            Logits float B x K x m x m; and the P = B*K prompts, or None if the run has no prompt
            for each class.
        """
        raise NotImplementedError

    def forward(
        self, batch: Batch, with_surrogate: bool = False
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """Segment a batch.

        Args:
            batch: B images.
            with_surrogate: also return the logits of the surrogate decoder.

        Returns:
            Logits float B x K x m x m; with `with_surrogate` a pair of these and the surrogate's
            (None if there is no surrogate decoder).
        """
        logits, _ = self.segment(batch)
        return (logits, None) if with_surrogate else logits

    def decode_surrogate(self, prompt: Prompt) -> Tensor:
        """Decode prompts without SAM. No gradient reaches the prompt generator.

        Args:
            prompt: P = B*K prompts.

        Returns:
            Logits float B x K x m x m.
        """
        assert self.surrogate is not None
        logits = self.surrogate(prompt.map(Tensor.detach))
        return logits.view(-1, self.num_classes, *logits.shape[-2:])

    def train(self, mode: bool = True) -> SegmentationModel:
        """Training mode for the trainable parts only."""
        super().train(False)
        for module in self._trainable:
            module.train(mode)
        return self

    def param_groups(self) -> list[list[nn.Parameter]]:
        """Trainable parameters in groups whose gradients are clipped separately, so that large
        gradients of the surrogate do not scale down the others."""
        surrogate = list(self.surrogate.parameters()) if self.surrogate is not None else []
        separate = {id(p) for p in surrogate}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in separate]
        return [group for group in (rest, surrogate) if group]

    def trainable_state(self) -> dict[str, Tensor]:
        """State dict of what training changes: the trainable parts with their buffers, and the
        prompter, whose mask classifier is fitted without gradients."""
        parts = [*self._trainable, *([self.prompter] if self.prompter is not None else [])]
        kept = {id(t) for m in parts for t in m.state_dict(keep_vars=True).values()}
        return {
            key: value.detach()
            for key, value in self.state_dict(keep_vars=True).items()
            if id(value) in kept
        }

    def trainable_buffers(self) -> list[Tensor]:
        """Buffers of the trainable parts: a forward pass in training mode changes them."""
        return [buffer for module in self._trainable for buffer in module.buffers()]
