"""The surrogate decoder: a mask from a learned prompt alone, without SAM.

Shaharabany et al. 2023 (arXiv 2306.06370), section 3: a shallow network turns g(I) into a mask.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from autosam.types import Decision, Prompt

UPSCALE = 4
"""Mask cells per cell of the dense prompt along each axis, as in SAM's masks."""


class SurrogateDecoder(nn.Module):
    """Dense and high-resolution prompt embeddings of P prompts -> logits float P x 4h x 4w.

    Each cell of each map is decoded separately (a transposed convolution whose kernels do not
    overlap), and the logits are summed. So the mask shows the content of the prompt and no shapes
    learned by this network. It costs about 1 % of a training step.

    Args:
        width: C.
        kinds: the kinds of prompt that the generator emits; at least one of `dense`, `high_res`.

    Attributes:
        decision: threshold and minimum area of its masks, chosen on validation.
    """

    def __init__(self, width: int, kinds: Collection[str] = ("dense",)) -> None:
        super().__init__()
        self.decision = Decision()
        self.layers = cell_decoder(width, UPSCALE) if "dense" in kinds else None
        self.high_res = None
        if "high_res" in kinds:
            self.high_res = nn.ModuleList(
                [cell_decoder(width // 4, 2), cell_decoder(width // 8, 1)]
            )

    def forward(self, prompt: Prompt) -> Tensor:
        logits = [] if self.layers is None else [self.layers(prompt.dense)]
        if self.high_res is not None:
            maps = zip(self.high_res, prompt.high_res, strict=True)
            logits += [layers(level) for layers, level in maps]
        return sum(logits[1:], logits[0])[:, 0]


def cell_decoder(width: int, upscale: int) -> nn.Sequential:
    """float P x width x n x n -> float P x 1 x (upscale n) x (upscale n), cell by cell."""
    inner = max(1, width // 4)
    return nn.Sequential(
        nn.Conv2d(width, inner, 1),
        nn.GELU(),
        nn.Conv2d(inner, upscale**2, 1),
        nn.PixelShuffle(upscale),
    )
