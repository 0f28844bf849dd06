"""SAM 2.1 of Ravi et al. (2024, arXiv 2408.00714) for single images, built from parts of
transformers' `Sam2Model`; without the memory, which tracks objects through videos."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from autosam.errors import ConfigError
from autosam.models.sam.base import Sam, SamSpec
from autosam.models.sam.blocks import BlockEncoder, State
from autosam.models.sam.meta import prompted_levels
from autosam.types import ImageEmbedding, Prompt


@dataclass(frozen=True)
class Hiera:
    """An image encoder's architecture (Ryali et al. 2023, arXiv 2306.00989): four stages, each with
    twice the channels and heads of the one before at half the resolution."""

    width: int
    """Channels of the first stage."""
    heads: int
    """Of the first stage."""
    blocks: tuple[int, int, int, int]
    """Per stage."""
    global_blocks: tuple[int, ...]
    """Blocks, counted through all stages, that attend to the whole image."""
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)
    """Side of the window that a stage's other blocks attend to, cells."""
    background: int = 7
    """Side of the coarse positional embedding, which is interpolated to the image."""


HIERAS = {
    "sam2.1-tiny": Hiera(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "sam2.1-small": Hiera(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "sam2.1-base-plus": Hiera(112, 2, (2, 3, 16, 3), (12, 16, 20), background=14),
    "sam2.1-large": Hiera(144, 2, (2, 6, 36, 4), (23, 33, 43), windows=(8, 4, 16, 8)),
}
"""As in the configs of the `sam2` package; tests compare them key by key."""

STRIDE = 16


class NoPositions(nn.Module):
    """Replaces the sine positions of transformers' neck, which only the memory attention uses: they
    take 90 MB."""

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
        return torch.empty(0, device=device, dtype=dtype)


class Sam2Encoder(BlockEncoder):
    """float B x 3 x S x S -> float B x C x S/16 x S/16, and the high-resolution levels
    B x C/4 x S/8 x S/8 and B x C/8 x S/4 x S/4.

    The two convolutions that project the high-resolution levels belong to the mask decoder in the
    reference. They see the image alone, so here they are part of the frozen, cached encoder.
    """

    channels_last = True

    def __init__(
        self, vision: nn.Module, conv_s0: nn.Module, conv_s1: nn.Module, no_memory: nn.Parameter
    ) -> None:
        super().__init__()
        self.vision = vision
        self.conv_s0 = conv_s0
        self.conv_s1 = conv_s1
        self.no_memory_embedding = no_memory
        cast(Any, vision).neck.position_encoding = NoPositions()

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.project(*self.vision(pixels).fpn_hidden_states)

    def each_block(self) -> list[nn.Module]:
        """See `BlockEncoder.each_block`."""
        return list(cast(Any, self.vision).backbone.blocks)

    def begin(self, pixels: Tensor) -> State:
        """See `BlockEncoder.begin`; tokens are B x rows x columns x width."""
        backbone = cast(Any, self.vision).backbone
        x = backbone.patch_embed(pixels)
        return (x + backbone._get_pos_embed(x.shape[1:3]),)

    def step(self, number: int, state: State) -> State:
        """See `BlockEncoder.step`; a stage leaves its output for the neck."""
        backbone = cast(Any, self.vision).backbone
        x, *left = state
        x = backbone.blocks[number](x)
        return (x, *left, x.permute(0, 3, 1, 2)) if number in backbone.stage_ends else (x, *left)

    def finish(self, state: State) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `BlockEncoder.finish`."""
        vision = cast(Any, self.vision)
        levels, _ = vision.neck([level.permute(0, 2, 3, 1) for level in state[1:]])
        return self.project(*levels[-vision.num_feature_levels :][::-1])

    def project(
        self, finest: Tensor, middle: Tensor, coarse: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The levels of the feature pyramid -> the image embedding."""
        # A video's first frame, and so an image, has no memory to attend to.
        features = coarse + self.no_memory_embedding.view(1, -1, 1, 1)
        return features, (self.conv_s1(middle), self.conv_s0(finest))


class Sam2(Sam):
    """SAM 2.1 for batches of images.

    transformers' decoder needs the same number of prompts for every image; here each prompt has the
    index of its image, and the decoder gets P images with one prompt each. Without `multimask` the
    result is always the mask of token 0. The reference replaces an unstable mask by that of another
    token (`dynamic_multimask_via_stability`), so that another token than the trained one would be
    tested.
    """

    scales = (1, 2, 4)

    def __init__(
        self,
        spec: SamSpec,
        image_encoder: nn.Module,
        prompt_encoder: nn.Module,
        mask_decoder: nn.Module,
    ) -> None:
        """
        Args:
            spec, image_encoder, prompt_encoder, mask_decoder: see `Sam`.
        """
        sizes = cast(Any, prompt_encoder)
        width, grid = sizes.hidden_size, sizes.image_embedding_size
        super().__init__(spec, image_encoder, prompt_encoder, mask_decoder, width, grid)

    @property
    def no_grad_modules(self) -> tuple[nn.Module, ...]:
        """See `Sam.no_grad_modules`."""
        return self.mask_decoder.iou_prediction_head, self.mask_decoder.pred_obj_score_head

    def encode_prompt(
        self,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Prompt:
        """See `Sam.encode_prompt`.

        Returns:
            N + 1 sparse tokens for points, three for a box, two for a mask alone: the reference
            appends "not a point" to every prompt, and SAM 2, unlike SAM, was trained with another
            one if there is neither a point nor a box (`SAM2Base._forward_sam_heads`).
        """
        encoder = self.prompt_encoder
        if points is None and boxes is None:
            points = self.nowhere(1 if masks is None else len(masks))
        # Positions in half precision would be off by several hundredths of a radian.
        with torch.autocast(encoder.no_mask_embed.weight.device.type, enabled=False):
            # transformers expects images x prompts per image; here P x 1.
            sparse, dense = encoder(
                input_points=None if points is None else points[0][:, None],
                input_labels=None if points is None else points[1][:, None],
                input_boxes=None if boxes is None else boxes[:, None],
                input_masks=masks,
            )
        if image_index is None:
            image_index = torch.arange(dense.shape[0], device=dense.device)
        return Prompt(sparse[:, 0], dense, image_index)

    def no_prompt(self, batch: int) -> Prompt:
        """SAM 2's embedding of "no prompt" for each of `batch` images: the token "not a point"
        twice (see `encode_prompt`), and the learned "no mask" vector at every cell."""
        return self.encode_prompt(points=self.nowhere(batch))

    def nowhere(self, count: int) -> tuple[Tensor, Tensor]:
        """Points with the label -1, "not a point": float count x 1 x 2 and int64 count x 1."""
        device = self.prompt_encoder.no_mask_embed.weight.device
        label = torch.full((count, 1), -1, device=device)
        return torch.zeros(count, 1, 2, device=device), label

    def decode_mask(
        self, embedding: ImageEmbedding, prompt: Prompt, multimask: bool = False
    ) -> tuple[Tensor, Tensor]:
        """See `Sam.decode_mask`."""
        index = prompt.image_index
        features, (middle, finest) = prompted_levels(embedding, prompt)
        with torch.autocast(prompt.dense.device.type, enabled=False):  # see encode_prompt
            positions = self.cell_positions().expand(index.shape[0], -1, -1, -1)
        logits, iou, _, _ = self.mask_decoder(
            image_embeddings=features,
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=prompt.sparse[:, None],
            dense_prompt_embeddings=prompt.dense,
            multimask_output=multimask,
            high_resolution_features=[finest, middle],
        )
        return logits[:, 0], iou[:, 0]

    def cell_positions(self) -> Tensor:
        """float 1 x C x h x w: the position of each cell's centre, encoded as points are."""
        shared = self.prompt_encoder.shared_embedding
        device = shared.positional_embedding.device
        y, x = ((torch.arange(n, device=device) + 0.5) / n for n in self.grid)
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        return shared(centres).permute(2, 0, 1)[None]


def build_sam2(spec: SamSpec) -> Sam2:
    """`sam2.1-tiny` to `sam2.1-large` (the spec's name) with random weights.

    Raises:
        ConfigError: transformers is not installed.
    """
    return build_hiera(spec, HIERAS[spec.name])


def build_hiera(spec: SamSpec, hiera: Hiera, width: int = 256) -> Sam2:
    """SAM 2 with an image encoder of any size, with random weights; see `build_sam2`.

    Args:
        spec: the SAM; S is taken from it.
        hiera: the image encoder.
        width: C, a multiple of 16.
    """
    try:  # optional, and slow to import
        from transformers import Sam2Config, Sam2Model
    except ImportError:
        raise ConfigError(
            f"--sam {spec.name} needs transformers: pip install 'autosam[hf]'"
        ) from None
    widths = [hiera.width * 2**stage for stage in range(4)]
    model = Sam2Model(
        Sam2Config(
            vision_config={
                "backbone_config": {
                    "model_type": "sam2_hiera_det_model",
                    "hidden_size": hiera.width,
                    "embed_dim_per_stage": widths,
                    "num_attention_heads_per_stage": [hiera.heads * 2**s for s in range(4)],
                    "blocks_per_stage": list(hiera.blocks),
                    "global_attention_blocks": list(hiera.global_blocks),
                    "window_size_per_stage": list(hiera.windows),
                    "window_positional_embedding_background_size": [hiera.background] * 2,
                },
                "backbone_channel_list": widths[::-1],
                "fpn_hidden_size": width,
            },
            **prompted(spec, width, STRIDE),
        )
    )
    return assemble(spec, model, Sam2Encoder)


def prompted(spec: SamSpec, width: int, stride: int) -> dict[str, Any]:
    """transformers' settings of the prompt encoder and the mask decoder.

    Args:
        spec: the SAM; S is taken from it.
        width: C.
        stride: of the image embedding, pixels.
    """
    return {
        "prompt_encoder_config": {
            "hidden_size": width,
            "image_size": spec.image_size,
            "patch_size": stride,
        },
        "mask_decoder_config": {
            "hidden_size": width,
            "dynamic_multimask_via_stability": False,
        },
    }


def assemble(spec: SamSpec, model: Any, encoder: type[Sam2Encoder]) -> Sam2:
    """The parts of transformers' `Sam2Model` or `Sam3TrackerModel` as a `Sam2`."""
    decoder = model.mask_decoder
    image_encoder = encoder(
        model.vision_encoder, decoder.conv_s0, decoder.conv_s1, model.no_memory_embedding
    )
    del decoder.conv_s0, decoder.conv_s1
    return Sam2(spec, image_encoder, model.prompt_encoder, decoder)


_VIDEO = (
    # The tracking of objects, in transformers' names ...
    "memory_attention.",
    "memory_encoder.",
    "memory_temporal_positional_encoding",
    "no_memory_positional_encoding",
    "mask_downsample.",
    "object_pointer_proj.",
    "no_object_pointer",
    "temporal_positional_encoding_projection_layer.",
    "occlusion_spatial_embedding_parameter",
    # ... and, where they differ, in those of Meta's files.
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "obj_ptr_proj.",
    "no_obj_ptr",
    "obj_ptr_tpos_proj.",
    "no_obj_embed_spatial",
)

_FROM_META = (
    # Meta's names to transformers', applied one after the other.
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_(prompt_encoder|mask_decoder)\.", r"\1."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.norm(\d|_)", r".layer_norm\1"),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    # Networks of two layers, then of three.
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"(_head|_mlps\.\d)\.layers\.0\.", r"\1.proj_in."),
    (r"(_head|_mlps\.\d)\.layers\.2\.", r"\1.proj_out."),
    (r"(_head|_mlps\.\d)\.layers\.1\.", r"\1.layers.0."),
)

_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"
_POSITIONS_AGAIN = "shared_image_embedding.positional_embedding"


def from_sam2_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of transformers' (`model.safetensors`) or Meta's files (`sam2.1_hiera_*.pt`)
    to those of `Sam2`, which are kept.

    Both kinds of file hold the whole video model. Only its memory is dropped, by name;
    `load_strict` refuses anything else that does not fit.
    """
    state = {key: value for key, value in state.items() if not key.startswith(_VIDEO)}
    if any(key.startswith("sam_mask_decoder.") for key in state):
        state = _from_meta(state)
    # transformers stores the matrix of the positional encoding twice, for the cells of the image
    # and for points. A file in which the two differ is not a SAM 2.
    again = state.get(_POSITIONS_AGAIN)
    if again is not None and torch.equal(state.setdefault(_POSITIONS, again), again):
        del state[_POSITIONS_AGAIN]
    moved = (
        (r"^vision_encoder\.", "image_encoder.vision."),
        (r"^mask_decoder\.conv_s", "image_encoder.conv_s"),
        (r"^no_memory_embedding$", "image_encoder.no_memory_embedding"),
    )
    return {_rename(key, moved): value for key, value in state.items()}


def _from_meta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Meta's keys to transformers'; embeddings of the four kinds of points are joined."""
    state = {_rename(key, _FROM_META): value for key, value in state.items()}
    kinds = [f"prompt_encoder.point_embeddings.{kind}.weight" for kind in range(4)]
    if all(key in state for key in kinds):
        state["prompt_encoder.point_embed.weight"] = torch.cat([state.pop(key) for key in kinds])
    return state


def _rename(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
