"""SAM's ViT image encoder as timm implements it: the same function with fused attention."""

from __future__ import annotations

from functools import partial

from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn


class VitEncoder(VisionTransformerSAM):
    """float B x 3 x S x S -> float B x C x S/16 x S/16 (Li et al. 2022, arXiv 2203.16527; Kirillov
    et al. 2023, section 3).

    Args:
        image_size: S.
        width, depth, heads: of the transformer.
        wide: indices of the blocks that attend to the whole picture instead of windows.
        window: side of a window, cells.
        patch, out, mlp_ratio: as in SAM; other values are for tests.
    """

    def __init__(
        self,
        image_size: int,
        width: int,
        depth: int,
        heads: int,
        wide: tuple[int, ...],
        window: int = 14,
        patch: int = 16,
        out: int = 256,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__(
            img_size=image_size,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            # SAM's; timm's would be 1e-5.
            norm_layer=partial(nn.LayerNorm, eps=1e-6),  # type: ignore[arg-type]
            use_rel_pos=True,
            window_size=window,
            global_attn_indexes=wide,
            neck_chans=out,
            num_classes=0,
            global_pool="",
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x)


def from_meta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the tensors in Meta's files -> timm's; the values stay as they are."""

    def rename(key: str) -> str:
        if not key.startswith("image_encoder."):
            return key
        return key.replace(".mlp.lin1.", ".mlp.fc1.").replace(".mlp.lin2.", ".mlp.fc2.")

    return {rename(key): value for key, value in state.items()}
