"""SAM 3's interactive tracker of Carion et al. (2025, arXiv 2511.16719) for single images, built
from parts of transformers' `Sam3TrackerModel`; without the memory, which tracks objects through
videos, and without the detector, which takes words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from autosam.errors import ConfigError
from autosam.models.sam.base import SamSpec
from autosam.models.sam.blocks import State
from autosam.models.sam.sam2 import Sam2, Sam2Encoder, assemble, from_sam2_file, prompted

STRIDE = 14
SCALES = (4.0, 2.0, 1.0)
"""Of the levels of the neck; files hold a fourth at 0.5, which nothing reads."""


@dataclass(frozen=True)
class PerceptionEncoder:
    """An image encoder's architecture (Bolya et al. 2025, arXiv 2504.13181), a ViT with rotary
    positions; by default the published one."""

    width: int = 1024
    mlp: int = 4736
    """Width of the hidden layer of each MLP."""
    depth: int = 32
    heads: int = 16
    global_blocks: tuple[int, ...] = (7, 15, 23, 31)
    """Blocks that attend to the whole image."""
    window: int = 24
    """Side of the window that the other blocks attend to, cells."""
    pretrained: int = 24
    """Side of the positional embedding, cells, which is tiled over the image."""


class Sam3Encoder(Sam2Encoder):
    """float B x 3 x S x S -> float B x C x S/14 x S/14, and the high-resolution levels
    B x C/4 x S/7 x S/7 and B x C/8 x 2S/7 x 2S/7; all three are made of the last block's output.
    """

    def each_block(self) -> list[nn.Module]:
        """See `BlockEncoder.each_block`."""
        return list(cast(Any, self.vision).backbone.layers)

    def begin(self, pixels: Tensor) -> State:
        """See `BlockEncoder.begin`; tokens are B x rows x columns x width."""
        backbone = cast(Any, self.vision).backbone
        rows, columns = (side // STRIDE for side in pixels.shape[-2:])
        tokens = backbone.embeddings(pixels).unflatten(1, (rows, columns))
        return (backbone.layer_norm(tokens),)

    def step(self, number: int, state: State) -> State:
        """See `BlockEncoder.step`."""
        return (cast(Any, self.vision).backbone.layers[number](state[0]),)

    def finish(self, state: State) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `BlockEncoder.finish`."""
        levels, _ = cast(Any, self.vision).neck(state[0].permute(0, 3, 1, 2))
        return self.project(*levels)


def build_sam3(spec: SamSpec, encoder: PerceptionEncoder | None = None, width: int = 256) -> Sam2:
    """`sam3` with random weights. Its prompt encoder and mask decoder are SAM 2's.

    Args:
        spec: the SAM; S is taken from it.
        encoder: the image encoder; None: the published one.
        width: C, a multiple of 16.

    Raises:
        ConfigError: transformers is not installed.
    """
    try:  # optional, and slow to import
        from transformers import Sam3TrackerConfig, Sam3TrackerModel
    except ImportError:
        raise ConfigError(
            f"--sam {spec.name} needs transformers: pip install 'autosam[hf]'"
        ) from None
    vit = encoder or PerceptionEncoder()
    grid = spec.image_size // STRIDE
    model = Sam3TrackerModel(
        Sam3TrackerConfig(
            vision_config={
                "model_type": "sam3_vision_model",
                "backbone_config": {
                    "model_type": "sam3_vit_model",
                    "hidden_size": vit.width,
                    "intermediate_size": vit.mlp,
                    "num_hidden_layers": vit.depth,
                    "num_attention_heads": vit.heads,
                    "global_attn_indexes": list(vit.global_blocks),
                    "window_size": vit.window,
                    "image_size": spec.image_size,
                    "patch_size": STRIDE,
                    "pretrain_image_size": vit.pretrained * STRIDE,
                },
                "fpn_hidden_size": width,
                "scale_factors": list(SCALES),
                "backbone_feature_sizes": [[int(grid * scale)] * 2 for scale in SCALES],
            },
            **prompted(spec, width, STRIDE),
        )
    )
    return assemble(spec, model, Sam3Encoder)


_BACKBONE, _NECK = "vision_encoder.backbone.", "vision_encoder.neck."


def from_sam3_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of transformers' files to those of `Sam2`, which are kept: of a
    `Sam3TrackerModel`, or of the published `model.safetensors`, a `Sam3VideoModel`.

    Only the detector, the memory and the neck's unused level are dropped, by name; `load_strict`
    refuses anything else that does not fit.
    """
    state = {key.removeprefix("tracker_model."): value for key, value in state.items()}
    if any(key.startswith("tracker_neck.") for key in state):
        state = {
            key.removeprefix("detector_model.") if _BACKBONE in key else key: value
            for key, value in state.items()
        }
        state = {
            key.replace("tracker_neck.", _NECK): value
            for key, value in state.items()
            if not key.startswith("detector_model.")
        }
    unused = f"{_NECK}fpn_layers.{len(SCALES)}."
    return from_sam2_file({k: v for k, v in state.items() if not k.startswith(unused)})
