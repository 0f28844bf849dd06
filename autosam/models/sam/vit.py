"""SAM's ViT image encoder in timm's implementation, which has fused attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from timm.layers import resample_abs_pos_embed_nhwc
from timm.models.vision_transformer_sam import Attention, VisionTransformerSAM, get_rel_pos
from torch import Tensor, nn

from autosam.models.sam.blocks import BlockEncoder, State
from autosam.utils.device import is_traced

ROWS = 512
"""Queries computed at a time, so that their scores fit a processor's cache."""


class PiecewiseAttention(Attention):
    """timm's attention, computed in blocks of queries on a CPU, with the positional bias added per
    block: the bias of all pairs of cells (12 x 4096 x 4096 values) costs more than the fused
    attention that needs it."""

    def forward(self, x: Tensor) -> Tensor:
        """float B x h x w x width -> the same."""
        batch, height, width, _ = x.shape
        cells = height * width
        whole = cells <= ROWS or x.device.type != "cpu" or torch.is_grad_enabled()
        if whole or is_traced():  # no loop in a graph
            return super().forward(x)
        qkv = self.qkv(x).view(batch, cells, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, batch * self.num_heads, cells, -1).unbind(0)
        grid = q.view(-1, height, width, self.head_dim)
        rows = torch.einsum("bhwc,hkc->bhwk", grid, get_rel_pos(height, height, self.rel_pos_h))
        columns = torch.einsum("bhwc,wkc->bhwk", grid, get_rel_pos(width, width, self.rel_pos_w))
        rows, columns = rows.reshape(-1, cells, height, 1), columns.reshape(-1, cells, 1, width)
        attended = torch.empty_like(q)
        for head, (queries, keys, values) in enumerate(zip(q * self.scale, k, v, strict=True)):
            for start in range(0, cells, ROWS):
                part = slice(start, start + ROWS)
                scores = (queries[part] @ keys.T).view(-1, height, width)
                scores = (scores + rows[head, part]).add_(columns[head, part])
                attended[head, part] = scores.view(-1, cells).softmax(-1) @ values
        attended = attended.view(batch, self.num_heads, cells, -1).transpose(1, 2)
        return self.proj(attended.reshape(batch, height, width, -1))


@dataclass(frozen=True)
class Vit:
    """An image encoder's architecture (Li et al. 2022, arXiv 2203.16527; Kirillov et al. 2023,
    section 3)."""

    width: int
    """Of the transformer."""
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    """Blocks that attend to the whole image instead of windows."""
    window: int = 14
    """Side of a window, cells."""
    patch: int = 16
    """Side of a patch, pixels."""
    out: int = 256
    """C."""
    mlp_ratio: float = 4.0


class VitEncoder(VisionTransformerSAM, BlockEncoder):
    """float B x 3 x S x S -> float B x C x S/16 x S/16.

    Args:
        image_size: S.
        vit: the architecture.
    """

    channels_last = True

    def __init__(self, image_size: int, vit: Vit) -> None:
        super().__init__(
            img_size=image_size,
            patch_size=vit.patch,
            embed_dim=vit.width,
            depth=vit.depth,
            num_heads=vit.heads,
            mlp_ratio=vit.mlp_ratio,
            # SAM's; timm's would be 1e-5.
            norm_layer=partial(nn.LayerNorm, eps=1e-6),  # type: ignore[arg-type]
            use_rel_pos=True,
            window_size=vit.window,
            global_attn_indexes=vit.global_blocks,
            neck_chans=vit.out,
            num_classes=0,
            global_pool="",
        )
        for number, block in enumerate(self.blocks):
            side = image_size // vit.patch if number in vit.global_blocks else vit.window
            block.attn = PiecewiseAttention(
                vit.width, vit.heads, use_rel_pos=True, input_size=(side, side)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x)

    def each_block(self) -> list[nn.Module]:
        """See `BlockEncoder.each_block`."""
        return list(self.blocks)

    def begin(self, pixels: Tensor) -> State:
        """See `BlockEncoder.begin`; tokens are B x S/16 x S/16 x width."""
        x = self.patch_embed(pixels)
        return (x + resample_abs_pos_embed_nhwc(self.pos_embed, x.shape[1:3]),)

    def step(self, number: int, state: State) -> State:
        """See `BlockEncoder.step`."""
        return (self.blocks[number](state[0]),)

    def finish(self, state: State) -> Tensor:
        """See `BlockEncoder.finish`."""
        return self.neck(state[0].permute(0, 3, 1, 2))


def from_meta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of Meta's files to timm's; values are not changed."""

    def rename(key: str) -> str:
        if not key.startswith("image_encoder."):
            return key
        return key.replace(".mlp.lin1.", ".mlp.fc1.").replace(".mlp.lin2.", ".mlp.fc2.")

    return {rename(key): value for key, value in state.items()}
