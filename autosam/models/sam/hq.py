"""HQ-SAM of Ke et al. (2023, arXiv 2306.01567): SAM with one more mask, whose features also come
from an early block of the image encoder, added to the others."""

from __future__ import annotations

import re
from typing import Any, cast

from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from autosam.models.sam.base import SamSpec
from autosam.models.sam.blocks import BlockEncoder, State
from autosam.models.sam.huggingface import from_huggingface
from autosam.models.sam.meta import (
    VITS,
    SegmentAnything,
    all_tokens,
    gated_levels,
    mask_logits,
    prompt_parts,
)
from autosam.models.sam.mobile import MobileEncoder, from_mobile_sam, tiny_vit
from autosam.models.sam.vit import VitEncoder, from_meta
from autosam.types import ImageEmbedding, Prompt

STAGE = 2
"""Of TinyViT: its input are the early features."""


class HqEncoder(BlockEncoder):
    """float B x 3 x S x S -> float B x C x h x w, and the features of the added mask, B x C/8 x 4h
    x 4w, from these and from an early block.

    The convolutions that make the latter belong to the mask decoder in the reference. They see the
    image alone, so here they are part of the frozen, cached encoder.

    Args:
        trunk: SAM's image encoder.
        early: the block whose output is read: the first that attends to the whole image; of
            TinyViT, the last of the stage in front of `STAGE`.
        channels: of the early features.
        width: C.
    """

    def __init__(
        self, trunk: VitEncoder | MobileEncoder, early: int, channels: int, width: int
    ) -> None:
        super().__init__()
        self.trunk, self.early, self.channels_last = trunk, early, trunk.channels_last
        self.compress_vit_feat = _upscaling(channels, width, width // 8)
        self.embedding_encoder = _upscaling(width, width // 4, width // 8)

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        state, _ = self.run(self.begin(pixels), 0, len(self.each_block()))
        return self.finish(state)

    def each_block(self) -> list[nn.Module]:
        """See `BlockEncoder.each_block`."""
        return self.trunk.each_block()

    def begin(self, pixels: Tensor) -> State:
        """See `BlockEncoder.begin`."""
        return self.trunk.begin(pixels)

    def step(self, number: int, state: State) -> State:
        """See `BlockEncoder.step`; one block leaves its early features, B x channels x h x w."""
        x, *left = state
        (x,) = self.trunk.step(number, (x,))
        return (x, self.early_features(x)) if number == self.early else (x, *left)

    def early_features(self, x: Tensor) -> Tensor:
        """float B x channels x h x w from the output of block `early`."""
        if isinstance(self.trunk, MobileEncoder):
            return cast(Any, self.trunk.stages)[STAGE].downsample(x)
        return x.permute(0, 3, 1, 2)

    def finish(self, state: State) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `BlockEncoder.finish`."""
        x, early = state
        features = self.trunk.finish((x,))
        return features, (self.embedding_encoder(features) + self.compress_vit_feat(early),)


def add_mask_layers(decoder: MaskDecoder, width: int) -> MaskDecoder:
    """Give SAM's mask decoder the token and the layers of the added mask.

    Args:
        decoder: SAM's; changed in place.
        width: C.
    """
    decoder.hf_token = nn.Embedding(1, width)
    decoder.hf_mlp = MLP(width, width, width // 8, 3)
    decoder.embedding_maskfeature = nn.Sequential(
        nn.Conv2d(width // 8, width // 4, 3, padding=1),
        LayerNorm2d(width // 4),
        nn.GELU(),
        nn.Conv2d(width // 4, width // 8, 3, padding=1),
    )
    return decoder


class HqSam(SegmentAnything):
    """HQ-SAM for batches of images.

    Learned prompts enter as in SAM. Since the features of the added mask are made of the upscaled
    embedding, dense prompts and high-resolution maps change both masks; the features from the image
    encoder are a level of the embedding with a gate of its own.
    """

    scales = (1, 4)

    def decode_all_masks(self, embedding: ImageEmbedding, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """See `SegmentAnything.decode_all_masks`; the added mask is part of each."""
        decoder = self.mask_decoder
        kinds = (decoder.iou_token, decoder.mask_tokens, decoder.hf_token)
        tokens = all_tokens(prompt, *(kind.weight for kind in kinds))
        features, fine = gated_levels(embedding, prompt)
        hidden, upscaled = self.upscale(features, prompt.high_res, prompt, tokens)
        masks = mask_logits(upscaled, self.mask_weights(hidden))
        added = hidden[:, 1 + len(decoder.output_hypernetworks_mlps)]
        fine = decoder.embedding_maskfeature(upscaled) + fine
        masks = masks + mask_logits(fine, decoder.hf_mlp(added)[:, None])
        return masks, decoder.iou_prediction_head(hidden[:, 0])


def _upscaling(before: int, between: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(before, between, 2, stride=2),
        LayerNorm2d(between),
        nn.GELU(),
        nn.ConvTranspose2d(between, after, 2, stride=2),
    )


def build_hq(spec: SamSpec, variant: str) -> HqSam:
    """HQ-SAM with random weights.

    Args:
        spec: the SAM; S is taken from it.
        variant: `vit_b`, `vit_l`, `vit_h` or `vit_tiny` (the light one, with TinyViT).
    """
    width = 256
    if variant == "vit_tiny":
        encoder = tiny_hq(tiny_vit(), width)
    else:
        vit = VITS[variant]
        trunk = VitEncoder(spec.image_size, vit)
        encoder = HqEncoder(trunk, vit.global_blocks[0], vit.width, width)
    parts = prompt_parts(spec, width, stride=16, mlp_dim=2048, num_heads=8)
    return HqSam(spec, encoder, parts[0], add_mask_layers(parts[1], width))


def tiny_hq(trunk: MobileEncoder, width: int) -> HqEncoder:
    """The image encoder of Light HQ-SAM from MobileSAM's."""
    stages = cast(Any, trunk.stages)
    early = sum(len(stage.blocks) for stage in stages[:STAGE]) - 1
    return HqEncoder(trunk, early, stages[STAGE].downsample.conv3.conv.out_channels, width)


_FROM_HUGGINGFACE = (
    (r"^mask_decoder\.hq_token\.", "mask_decoder.hf_token."),
    (r"^mask_decoder\.hq_mask_mlp\.layers\.0\.", "mask_decoder.hf_mlp.layers.1."),
    (r"^mask_decoder\.hq_mask_mlp\.proj_in\.", "mask_decoder.hf_mlp.layers.0."),
    (r"^mask_decoder\.hq_mask_mlp\.proj_out\.", "mask_decoder.hf_mlp.layers.2."),
    (r"^mask_decoder\.compress_vit_", "mask_decoder.compress_vit_feat."),
    (r"^mask_decoder\.encoder_", "mask_decoder.embedding_encoder."),
    (r"^mask_decoder\.mask_(?=conv|norm)", "mask_decoder.embedding_maskfeature."),
    (r"^(mask_decoder\.(?:compress|embedding)_\w+)\.conv1\.", r"\1.0."),
    (r"^(mask_decoder\.(?:compress|embedding)_\w+)\.norm\.", r"\1.1."),
    (r"^(mask_decoder\.(?:compress|embedding)_\w+)\.conv2\.", r"\1.3."),
)
_MOVED = (
    (r"^image_encoder\.", "image_encoder.trunk."),
    (r"^mask_decoder\.(?=compress_vit_feat\.|embedding_encoder\.)", "image_encoder."),
)


def from_hq_sam(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the authors' files (`sam_hq_*.pth`) or of transformers' `SamHQModel` to
    those of `HqSam`; values are not changed."""
    if any(key.startswith("vision_encoder.") for key in state):
        state = from_huggingface(_rename(state, _FROM_HUGGINGFACE))
    elif any(key.startswith("image_encoder.layers.") for key in state):
        state = from_mobile_sam(state)
    return _rename(from_meta(state), _MOVED)


def _rename(state: dict[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    def renamed(key: str) -> str:
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        return key

    return {renamed(key): value for key, value in state.items()}
