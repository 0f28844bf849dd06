"""SAM `lite`: the anatomy of SAM at a size that trains and runs on a laptop.

EfficientNet-Lite0 (timm) at 256 px with a top-down neck instead of the ViT; SAM's own prompt
encoder and mask decoder classes at width 128 on a 32 x 32 grid. Pretrained by
`python -m autosam.pretrain`.
"""

from __future__ import annotations

from typing import Any, cast

import timm
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from autosam.models.sam.base import SamSpec
from autosam.models.sam.meta import SegmentAnything

WIDTH = 128
STRIDE = 8


class LiteEncoder(nn.Module):
    """float B x 3 x S x S -> float B x 128 x S/8 x S/8, layer-normalised over channels, and the
    finer levels B x 32 x S/4 x S/4 and B x 16 x S/2 x S/2 (as in SAM 2: Ravi et al. 2024,
    arXiv 2408.00714, section 4)."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        # Levels of strides 2, 4, 8, 16, 32.
        self.trunk = timm.create_model("tf_efficientnet_lite0", features_only=True)
        half, quarter, *channels = cast(Any, self.trunk).feature_info.channels()
        self.finer = nn.ModuleList(
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

    def neck(self, levels: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Trunk features at strides 2 to 32 -> embedding (pretraining caches the former)."""
        half, quarter, *rest = levels
        fine, *coarse = [conv(level) for conv, level in zip(self.lateral, rest, strict=True)]
        for level in coarse:
            fine = fine + F.interpolate(level, fine.shape[-2:], mode="bilinear")
        return self.mix(fine), (self.finer[0](quarter), self.finer[1](half))


def build_lite(spec: SamSpec) -> SegmentAnything:
    """`lite` with random weights."""
    grid = (spec.image_size // STRIDE, spec.image_size // STRIDE)
    return SegmentAnything(
        spec,
        LiteEncoder(),
        PromptEncoder(
            embed_dim=WIDTH,
            image_embedding_size=grid,
            input_image_size=(spec.image_size, spec.image_size),
            mask_in_chans=16,
        ),
        MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=512, num_heads=4),
            transformer_dim=WIDTH,
            iou_head_depth=3,
            iou_head_hidden_dim=WIDTH,
        ),
    )
