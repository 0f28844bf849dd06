"""SAM of Kirillov et al. (2023, arXiv 2304.02643), built from parts of `segment_anything`."""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from autosam.models.sam.base import Sam, SamSpec
from autosam.models.sam.vit import Vit, VitEncoder
from autosam.types import ImageEmbedding, Prompt


class SegmentAnything(Sam):
    """SAM for batches of images.

    The decoder of `segment_anything` takes one image: it repeats the embedding for all prompts.
    Here each prompt has the index of its image, and the layers of the decoder are called one by
    one. State-dict keys equal those of Meta's files, except two in each block of the ViT: see
    `vit.from_meta`.
    """

    def __init__(
        self,
        spec: SamSpec,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
    ) -> None:
        """
        Args:
            spec, image_encoder, prompt_encoder, mask_decoder: see `Sam`.
        """
        width, grid = prompt_encoder.embed_dim, prompt_encoder.image_embedding_size
        super().__init__(spec, image_encoder, prompt_encoder, mask_decoder, width, grid)

    @property
    def no_grad_modules(self) -> tuple[nn.Module, ...]:
        """See `Sam.no_grad_modules`."""
        return (self.mask_decoder.iou_prediction_head,)

    def encode_prompt(
        self,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Prompt:
        """See `Sam.encode_prompt`."""
        # Positions in half precision would be off by several hundredths of a radian.
        with torch.autocast(self.prompt_encoder.no_mask_embed.weight.device.type, enabled=False):
            sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=masks)
        if image_index is None:
            image_index = torch.arange(dense.shape[0], device=dense.device)
        return Prompt(sparse, dense, image_index)

    def no_prompt(self, batch: int) -> Prompt:
        """SAM's embedding of "no prompt" for each of `batch` images: no sparse token, and the
        learned "no mask" vector at every cell."""
        no_mask = self.prompt_encoder.no_mask_embed.weight
        return Prompt(
            sparse=no_mask.new_zeros(batch, 0, self.width),
            dense=no_mask.view(1, -1, 1, 1).expand(batch, -1, *self.grid),
            image_index=torch.arange(batch, device=no_mask.device),
        )

    def decode_mask(
        self, embedding: ImageEmbedding, prompt: Prompt, multimask: bool = False
    ) -> tuple[Tensor, Tensor]:
        """See `Sam.decode_mask`."""
        logits, iou = self.decode_all_masks(embedding, prompt)
        chosen = slice(1, None) if multimask else slice(0, 1)
        return logits[:, chosen], iou[:, chosen]

    def decode_all_masks(self, embedding: ImageEmbedding, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """As `decode_mask`, with the single mask (index 0) and the three others (1 to 3): M = 4."""
        decoder = self.mask_decoder
        tokens = all_tokens(prompt, decoder.iou_token.weight, decoder.mask_tokens.weight)
        features, high_res = prompted_levels(embedding, prompt)
        hidden, upscaled = self.upscale(features, high_res, prompt, tokens)
        logits = mask_logits(upscaled, self.mask_weights(hidden))
        return logits, decoder.iou_prediction_head(hidden[:, 0])

    def upscale(
        self, features: Tensor, high_res: tuple[Tensor, ...], prompt: Prompt, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the decoder's transformer and its transposed convolutions.

        Args:
            features: float P x C x h x w.
            high_res: see `prompted_levels`.
            prompt: P prompts.
            tokens: see `all_tokens`.

        Returns:
            The tokens after the transformer, float P x (T + N) x C, and the upscaled embedding,
            float P x C/8 x 4h x 4w.
        """
        decoder = self.mask_decoder
        source = features + prompt.dense
        with torch.autocast(source.device.type, enabled=False):  # see encode_prompt
            position = self.prompt_encoder.get_dense_pe().expand(
                prompt.image_index.shape[0], -1, -1, -1
            )

        hidden, source_out = decoder.transformer(source, position, tokens)
        upscaled = source_out.transpose(1, 2).view_as(source)
        levels = iter(high_res)
        for layer in decoder.output_upscaling:
            upscaled = norm(upscaled, layer) if isinstance(layer, LayerNorm2d) else layer(upscaled)
            if isinstance(layer, nn.ConvTranspose2d) and high_res:
                upscaled = upscaled + next(levels)
        return hidden, upscaled

    def mask_weights(self, hidden: Tensor) -> Tensor:
        """Weights of the upscaled channels for each mask, float P x 4 x C/8, from the tokens after
        the transformer."""
        mlps = self.mask_decoder.output_hypernetworks_mlps
        return torch.stack([mlp(hidden[:, 1 + i]) for i, mlp in enumerate(mlps)], dim=1)


def mask_logits(upscaled: Tensor, weights: Tensor) -> Tensor:
    """float P x channels x rows x columns and P x M x channels -> P x M x rows x columns."""
    # Channels last, as the convolutions leave them: no copy, forward or backward.
    cells = upscaled.permute(0, 2, 3, 1).flatten(1, 2)
    logits = (cells @ weights.transpose(1, 2)).transpose(1, 2)
    return logits.reshape(weights.shape[0], -1, *upscaled.shape[-2:])


def of_images(level: Tensor, prompt: Prompt) -> Tensor:
    """The embedding of each prompt's image: B x ... -> P x ..., without a copy if B is 1."""
    if len(level) == 1:
        return level.expand(prompt.image_index.shape[0], *level.shape[1:])
    return level.index_select(0, prompt.image_index)


def all_tokens(prompt: Prompt, *weights: Tensor) -> Tensor:
    """Output tokens, float T x C in all, and those of the prompts: float P x (T + N) x C."""
    output_tokens = torch.cat(weights)
    count = prompt.image_index.shape[0]
    return torch.cat([output_tokens.expand(count, -1, -1), prompt.sparse], dim=1)


def gated_levels(embedding: ImageEmbedding, prompt: Prompt) -> list[Tensor]:
    """The levels of the image embedding of each prompt, multiplied by its gates."""
    levels = [of_images(level, prompt) for level in embedding.levels]
    if prompt.gates:
        levels = [level * gate for level, gate in zip(levels, prompt.gates, strict=True)]
    return levels


def prompted_levels(embedding: ImageEmbedding, prompt: Prompt) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The image embedding of each prompt, multiplied by its gates, with high-resolution maps.

    Returns:
        Features float P x C x h x w; and what the decoder adds after each of its two transposed
        convolutions, before normalisation and activation (high-resolution levels of the embedding,
        the maps of the prompt, or their sums), float P x C/4 x 2h x 2w and P x C/8 x 4h x 4w. Empty
        where there is neither.
    """
    features, *high_res = gated_levels(embedding, prompt)
    if high_res and prompt.high_res:
        return features, tuple(a + b for a, b in zip(high_res, prompt.high_res, strict=True))
    return features, tuple(high_res) or prompt.high_res


def norm(x: Tensor, layer: LayerNorm2d) -> Tensor:
    """The output of `layer`, computed by one fused operation."""
    last = x.permute(0, 2, 3, 1)
    normed = F.layer_norm(last, last.shape[-1:], layer.weight, layer.bias, layer.eps)
    return normed.permute(0, 3, 1, 2)


def prompt_parts(
    spec: SamSpec, width: int, stride: int, mlp_dim: int, num_heads: int
) -> tuple[PromptEncoder, MaskDecoder]:
    """SAM's prompt encoder and mask decoder for any image encoder, with random weights.

    Args:
        spec: the SAM; S is taken from it.
        width: C.
        stride: of the image embedding, pixels.
        mlp_dim, num_heads: of the decoder's transformer.
    """
    prompt_encoder = PromptEncoder(
        embed_dim=width,
        image_embedding_size=(spec.image_size // stride, spec.image_size // stride),
        input_image_size=(spec.image_size, spec.image_size),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(
            depth=2, embedding_dim=width, mlp_dim=mlp_dim, num_heads=num_heads
        ),
        transformer_dim=width,
        iou_head_depth=3,
        iou_head_hidden_dim=width,
    )
    return prompt_encoder, mask_decoder


VITS = {
    "vit_b": Vit(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Vit(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Vit(1280, 32, 16, (7, 15, 23, 31)),
}
"""The published image encoders."""


def build_meta(spec: SamSpec, variant: str = "") -> SegmentAnything:
    """`vit_b`, `vit_l` or `vit_h` (`variant`, or else the spec's name) with random weights."""
    encoder = VitEncoder(spec.image_size, VITS[variant or spec.name])
    return SegmentAnything(
        spec, encoder, *prompt_parts(spec, width=256, stride=16, mlp_dim=2048, num_heads=8)
    )
