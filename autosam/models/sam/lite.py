"""SAM `lite`: the anatomy of SAM at a size that trains and runs on a laptop.

EfficientNet-Lite0 (timm) at 256 px with a top-down neck instead of the ViT; SAM's own prompt
encoder and mask decoder classes at width 128 on a 32 x 32 grid. Pretrained by
`autosam pretrain`.
"""

from __future__ import annotations

from typing import Any, cast

import timm
import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from autosam.models.sam.base import SamSpec
from autosam.models.sam.blocks import BlockEncoder, State
from autosam.models.sam.meta import SegmentAnything, prompt_parts
from autosam.types import Prompt

WIDTH = 128
STRIDE = 8
STRENGTH = 5.0
"""Logit at the centre of a drawn box; that of a drawn point is twice as large."""
RADIUS = 5.0
"""Radius of a drawn point, pixels of the S x S square."""


class LiteEncoder(BlockEncoder):
    """float B x 3 x S x S -> float B x 128 x S/8 x S/8, layer-normalised over channels, and the
    finer levels B x 32 x S/4 x S/4 and B x 16 x S/2 x S/2 (as in SAM 2: Ravi et al. 2024,
    arXiv 2408.00714, section 4)."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        # Levels of strides 2, 4, 8, 16, 32.
        self.trunk = timm.create_model("tf_efficientnet_lite0", features_only=True)
        half, quarter, *channels = cast(Any, self.trunk).feature_info.channels()
        self.high_res_features = nn.ModuleList(
            [nn.Conv2d(quarter, width // 4, 1), nn.Conv2d(half, width // 8, 1)]
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.mix = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            LayerNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            LayerNorm2d(width),
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.neck(self.trunk(pixels))

    def each_block(self) -> list[nn.Module]:
        """See `BlockEncoder.each_block`."""
        return [block for stage in cast(Any, self.trunk).blocks for block in stage]

    def begin(self, pixels: Tensor) -> State:
        """See `BlockEncoder.begin`; tokens are B x width x rows x columns."""
        trunk = cast(Any, self.trunk)
        return (trunk.bn1(trunk.conv_stem(pixels)),)

    def step(self, number: int, state: State) -> State:
        """See `BlockEncoder.step`; a stage leaves its output where the neck takes it."""
        trunk = cast(Any, self.trunk)
        for i, stage in enumerate(trunk.blocks):
            if number < len(stage):
                x, *left = state
                x = stage[number](x)
                last = number == len(stage) - 1 and i + 1 in trunk._stage_out_idx
                return (x, *left, x) if last else (x, *left)
            number -= len(stage)
        raise IndexError(number)

    def finish(self, state: State) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `BlockEncoder.finish`."""
        return self.neck(list(state[1:]))

    def neck(self, levels: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Trunk features at strides 2 to 32 -> embedding (pretraining caches the former)."""
        half, quarter, *rest = levels
        fine, *coarse = [conv(level) for conv, level in zip(self.lateral, rest, strict=True)]
        for level in coarse:
            fine = fine + F.interpolate(level, fine.shape[-2:], mode="bilinear")
        return self.mix(fine), (self.high_res_features[0](quarter), self.high_res_features[1](half))


class Lite(SegmentAnything):
    """SAM's architecture with one addition: boxes and points are also drawn into the mask prompt.

    A transformer with two layers is slow to learn which cells lie between two corner tokens; with
    a drawn prompt it need not. (Clicks as discs in an input map: Sofiiuk et al. 2021, arXiv
    2102.06583.)
    """

    scales = (1, 2, 4)

    def encode_prompt(
        self,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Prompt:
        """See `SegmentAnything.encode_prompt`."""
        if points is not None or boxes is not None:
            masks = self.draw(points, boxes, masks)
        return super().encode_prompt(points, boxes, masks, image_index)

    def draw(
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> Tensor:
        """Draw boxes and points (as discs) onto mask prompts.

        The logit of a box is `STRENGTH` at its centre, falls to 0 on the inscribed ellipse (the
        shape of a typical object), and reaches `-STRENGTH` in the corners and outside.

        Args:
            points, boxes, masks: as in `encode_prompt`.

        Returns:
            float32 P x 1 x 4h x 4w.
        """
        given = boxes if boxes is not None else cast("tuple[Tensor, Tensor]", points)[0]
        size = 4 * self.grid[0]
        step = self.spec.image_size / size
        centres = (torch.arange(size, device=given.device) + 0.5) * step - 0.5
        drawn = (
            given.new_zeros(given.shape[0], size, size) if masks is None else masks[:, 0].float()
        )
        if boxes is not None:
            x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
            # Whole numbers are pixel centres, so a box extends half a pixel further on each side.
            # 0 at its centre, 1 at its sides.
            across = (centres - (x0 + x1) / 2) / ((x1 - x0) / 2 + 0.5)
            down = (centres - (y0 + y1) / 2) / ((y1 - y0) / 2 + 0.5)
            across, down = across[:, None, :], down[:, :, None]
            inside = (across.abs() <= 1) & (down.abs() <= 1)
            bulge = STRENGTH * (1 - across**2 - down**2)
            drawn = drawn + torch.where(inside, bulge, -STRENGTH)
        if points is not None:
            for place, label in zip(points[0].unbind(1), points[1].unbind(1), strict=True):
                x, y = place[:, :1], place[:, 1:]
                near = (centres - y)[:, :, None] ** 2 + (centres - x)[:, None, :] ** 2 <= RADIUS**2
                value = torch.where(label == 1, 2 * STRENGTH, -2 * STRENGTH)[:, None, None]
                drawn = torch.where(near, value, drawn)
        return drawn[:, None]


def from_lite(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the shipped file to those of the network; values are not changed."""
    old, new = "image_encoder.finer.", "image_encoder.high_res_features."
    return {key.replace(old, new): value for key, value in state.items()}


def build_lite(spec: SamSpec) -> Lite:
    """`lite` with random weights."""
    return Lite(
        spec,
        LiteEncoder(),
        *prompt_parts(spec, WIDTH, STRIDE, mlp_dim=512, num_heads=4),
    )
