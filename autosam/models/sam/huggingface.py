"""Weights of Hugging Face's `transformers` (`SamModel`): the same network with other keys.

Keys are only renamed, so one implementation serves both; `transformers` is not needed.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from autosam.errors import CheckpointError
from autosam.models.sam.vit import from_meta

# SAM has one positional embedding, for the cells of the image and for points. `SamModel` stores it
# twice, and its files hold one copy or both.
POSITION = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)

RENAMES = (
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm", r"image_encoder.blocks.\1.norm"),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.pos_embed$", "image_encoder.pos_embed"),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.layer_norm", r"\1.norm"),
    (r"^(mask_decoder\.transformer)\.layer_norm_final_attn\.", r"\1.norm_final_attn."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    # Perceptrons of three layers: proj_in, layers.0 and proj_out are layers 0, 1 and 2.
    (r"^(mask_decoder\.(?:output_hyper|iou_pred).+)\.layers\.0\.", r"\1.layers.1."),
    (r"^(mask_decoder\.(?:output_hyper|iou_pred).+)\.proj_in\.", r"\1.layers.0."),
    (r"^(mask_decoder\.(?:output_hyper|iou_pred).+)\.proj_out\.", r"\1.layers.2."),
)


def from_huggingface(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of `SamModel` to those of `SegmentAnything`; values are not changed.

    Raises:
        CheckpointError: the file's two copies of the positional embedding differ.
    """
    copies = [state[key] for key in POSITION if key in state]
    if len(copies) == 2 and not torch.equal(*copies):
        raise CheckpointError(
            f"{POSITION[0]} and {POSITION[1]} differ, but SAM has only one positional embedding. "
            "The file is damaged, or holds another network."
        )

    def rename(key: str) -> str:
        if key in POSITION:
            return "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
        for pattern, replacement in RENAMES:
            key = re.sub(pattern, replacement, key)
        return key

    return from_meta({rename(key): value for key, value in state.items()})
