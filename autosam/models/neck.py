"""Merge backbone levels into one map by a top-down path with skips (as in U-Net and AutoSAM)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_block(inputs: int, outputs: int) -> nn.Sequential:
    """3 x 3 convolution, BatchNorm, ReLU; the spatial size is kept."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Neck(nn.Module):
    """Merge feature maps from coarse to fine.

    Args:
        channels, strides: of the maps, finest first.
        width: channels at stride 16 and coarser; half as many at each finer stride.

    Attributes:
        channels, stride: of the output map, which has the finest input's size.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int) -> None:
        super().__init__()
        blocks = []
        above = channels[-1]
        for skip, stride in list(zip(channels, strides, strict=True))[-2::-1]:
            out = max(16, width * min(stride, 16) // 16)
            blocks.append(conv_block(above + skip, out))
            above = out
        if not blocks:  # a backbone with one stride only, such as a plain ViT
            blocks.append(conv_block(above, width))
            above = width
        self.blocks = nn.ModuleList(blocks)
        self.channels = above
        self.stride = strides[0]

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Maps finest first -> float B x channels x G/stride x G/stride."""
        x, skips = levels[-1], levels[-2::-1]
        if not skips:
            return self.blocks[0](x)
        for block, skip in zip(self.blocks, skips, strict=True):
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear")
            x = block(torch.cat([x, skip], dim=1))
        return x
