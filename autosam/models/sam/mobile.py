"""MobileSAM of Zhang et al. (2023, arXiv 2306.14289): SAM with a small image encoder.

The encoder is timm's TinyViT (Wu et al. 2022, arXiv 2207.10666); prompt encoder and mask decoder
are SAM's.
"""

from __future__ import annotations

import re
from typing import Any, cast

from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn

from autosam.models.sam.base import SamSpec
from autosam.models.sam.blocks import BlockEncoder, State
from autosam.models.sam.meta import SegmentAnything, prompt_parts

WIDTH = 256
STRIDE = 16

# TinyViT's ImageNet classifier: part of MobileSAM's file, but never used.
CLASSIFIER = {
    "image_encoder.norm_head.weight",
    "image_encoder.norm_head.bias",
    "image_encoder.head.weight",
    "image_encoder.head.bias",
}


class MobileEncoder(BlockEncoder):
    """float B x 3 x S x S -> float B x 256 x S/16 x S/16, layer-normalised over channels."""

    def __init__(
        self,
        dims: tuple[int, ...],
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        windows: tuple[int, ...],
    ) -> None:
        """
        Args:
            dims: channels of each stage.
            depths: blocks of each stage.
            heads: attention heads of each stage; the first, a convolutional one, has none.
            windows: side of the attention windows of each stage, cells; the first is not used.
        """
        super().__init__()
        trunk = TinyVit(
            embed_dims=dims,
            depths=depths,
            num_heads=heads,
            window_sizes=windows,
            drop_path_rate=0.0,
        )
        # TinyViT has a stride of 32; SAM's mask decoder needs 16.
        cast(Any, trunk.stages[-1]).downsample.conv2.conv.stride = (1, 1)
        self.patch_embed = trunk.patch_embed
        self.stages = trunk.stages
        self.neck = nn.Sequential(
            nn.Conv2d(dims[-1], WIDTH, 1, bias=False),
            LayerNorm2d(WIDTH),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            LayerNorm2d(WIDTH),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.neck(self.stages(self.patch_embed(pixels)))

    def each_block(self) -> list[nn.Module]:
        """See `BlockEncoder.each_block`."""
        return [block for stage in self.stages for block in cast(Any, stage).blocks]

    def begin(self, pixels: Tensor) -> State:
        """See `BlockEncoder.begin`; tokens are B x width x rows x columns."""
        return (self.patch_embed(pixels),)

    def step(self, number: int, state: State) -> State:
        """See `BlockEncoder.step`."""
        x = state[0]
        for i, stage in enumerate(cast(Any, self.stages)):
            if number < len(stage.blocks):
                if i == 0:  # of convolutions
                    return (stage.blocks[number](x),)
                x = stage.downsample(x) if number == 0 else x
                return (stage.blocks[number](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),)
            number -= len(stage.blocks)
        raise IndexError(number)

    def finish(self, state: State) -> Tensor:
        """See `BlockEncoder.finish`."""
        return self.neck(state[0])


def from_mobile_sam(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of MobileSAM's file to those of timm's TinyViT; values are not changed."""

    def rename(key: str) -> str:
        if not key.startswith("image_encoder."):
            return key
        key = key.replace(".patch_embed.seq.0.", ".patch_embed.conv1.")
        key = key.replace(".patch_embed.seq.2.", ".patch_embed.conv2.")
        key = key.replace(".c.weight", ".conv.weight")
        # Downsampling ends the finer stage there, and begins the coarser stage in timm.
        key = re.sub(
            r"\.layers\.(\d)\.downsample", lambda m: f".stages.{int(m[1]) + 1}.downsample", key
        )
        return key.replace(".layers.", ".stages.")

    return {rename(key): value for key, value in state.items() if key not in CLASSIFIER}


def tiny_vit(
    dims: tuple[int, ...] = (64, 128, 160, 320),
    depths: tuple[int, ...] = (2, 2, 6, 2),
    heads: tuple[int, ...] = (2, 4, 5, 10),
    windows: tuple[int, ...] = (7, 7, 14, 7),
) -> MobileEncoder:
    """The image encoder with random weights; the defaults are TinyViT-5M, other sizes are for
    tests."""
    return MobileEncoder(dims, depths, heads, windows)


def build_mobile(spec: SamSpec, **sizes: tuple[int, ...]) -> SegmentAnything:
    """MobileSAM with random weights; `sizes`: see `tiny_vit`."""
    return SegmentAnything(
        spec,
        tiny_vit(**sizes),
        *prompt_parts(spec, WIDTH, STRIDE, mlp_dim=2048, num_heads=8),
    )
