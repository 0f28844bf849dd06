"""The parts of a network that a run may train."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from autosam.models.lora import adapter_modules
from autosam.models.plain import PlainHead
from autosam.models.prompters import ClassTokens, Prompter
from autosam.models.sam import Sam


def mask_decoder(sam: Sam, prompter: Prompter) -> list[nn.Module]:
    """SAM's mask decoder, and the class tokens, if the run has them."""
    return [sam.mask_decoder, *([prompter] if isinstance(prompter, ClassTokens) else [])]


PARTS: dict[str, Callable[[Sam, Prompter], list[nn.Module]]] = {
    "prompter": lambda sam, prompter: [prompter],
    "decoder": mask_decoder,
    "lora": lambda sam, prompter: adapter_modules(sam),
}
"""The parts that a run may train (`Composition.trainable`): their modules, out of SAM and the
prompter. They are trained, stored in the checkpoint and resumed; everything else is frozen."""

PLAIN_PARTS: dict[str, Callable[[PlainHead], list[nn.Module]]] = {
    "backbone": lambda head: [head.backbone],
    "decoder": lambda head: [head.neck, head.block, head.classify],
}
"""The same for runs without SAM: parts of the plain network."""
