"""What SAM's image encoder saw, as an input of the prompt generator.

RSPrompter (Chen et al. 2023, arXiv 2306.16269, section 3.2) makes prompts of features of several
blocks of SAM's image encoder, each reduced to few channels; Sam2Rad (Wahd et al. 2024, arXiv
2409.06821) needs no other network for its prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosam.types import ImageEmbedding

BLOCKS = 6
"""Most blocks whose features are read."""


def blocks_to_read(count: int) -> tuple[int, ...]:
    """Which of `count` blocks are read: every second one, or `BLOCKS` evenly if that is less."""
    chosen = max(1, min(BLOCKS, count // 2))
    return tuple(round(count * (i + 1) / chosen) - 1 for i in range(chosen))


class SamFeatures(nn.Module):
    """Adds SAM's maps to the levels of a backbone, or makes levels of them alone.

    Each map is projected to a few channels and resized to the level whose stride is nearest to its
    own; the projections for one level are added up and concatenated to it.

    Args:
        shapes: channels, rows and columns of each tensor of the embedding.
        size: G.
        channels, strides: of the backbone's levels, finest first; empty without a backbone.

    Attributes:
        channels, strides: of the levels that `forward` returns.
    """

    BESIDE, ALONE = 32, 128
    """Channels of a projection, beside a backbone and without one."""

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        size: int,
        channels: Sequence[int] = (),
        strides: Sequence[int] = (),
    ) -> None:
        super().__init__()
        width = self.BESIDE if channels else self.ALONE
        self.size = size
        self.project = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(of_map, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            )
            for of_map, _, _ in shapes
        )
        own = [size / rows for _, rows, _ in shapes]
        self.strides = list(strides) or sorted({nearest((4, 8, 16, 32), stride) for stride in own})
        self.places = [nearest(self.strides, stride) for stride in own]
        before = channels or [0] * len(self.strides)
        self.channels = [
            count + width * (stride in self.places)
            for count, stride in zip(before, self.strides, strict=True)
        ]

    def forward(self, levels: list[Tensor], embedding: ImageEmbedding) -> list[Tensor]:
        """Levels of the backbone (none without one) float B x channels x G/stride x G/stride, and
        the image embedding -> the levels with SAM's maps."""
        sizes = [torch.Size((self.size // stride,) * 2) for stride in self.strides]
        if levels:
            sizes = [level.shape[-2:] for level in levels]
        seen: dict[int, Tensor] = {}
        for project, tensor, stride in zip(
            self.project, embedding.tensors, self.places, strict=True
        ):
            x = resize(project(tensor), sizes[self.strides.index(stride)])
            seen[stride] = seen[stride] + x if stride in seen else x
        own: list[Tensor | None] = [*levels] if levels else [None] * len(self.strides)
        pairs = zip(own, (seen.get(stride) for stride in self.strides), strict=True)
        return [torch.cat([part for part in pair if part is not None], 1) for pair in pairs]


def nearest(strides: Sequence[int], stride: float) -> int:
    """The one of `strides` whose ratio to `stride` is nearest to 1."""
    return min(strides, key=lambda other: abs(math.log2(other / stride)))


def resize(x: Tensor, size: torch.Size) -> Tensor:
    """float B x channels x rows x columns -> the same at `size`, averaged where it shrinks."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="area" if size[0] < x.shape[-2] else "bilinear")
