"""The prompt generator: from an image to the prompt embeddings of SAM's mask decoder.

Shaharabany et al. 2023 (arXiv 2306.06370), section 3: g(I) replaces SAM's prompt encoder. The paper
emits the dense embedding only; the sparse tokens and the high-resolution maps are
additions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosam.config import ModelConfig
from autosam.models.backbones.timm import Backbone
from autosam.models.neck import Neck, conv_block
from autosam.models.prompters import Prompter
from autosam.models.sam.base import Sam
from autosam.models.sam_features import SamFeatures
from autosam.types import Batch, ImageEmbedding, Prompt, high_res_shapes


class DenseHead(nn.Module):
    """float B x channels x n x n -> dense embeddings float B*K x C x h x w.

    A map finer than the grid is reduced by a strided convolution, which moves its detail into the
    channels; a coarser one is interpolated. The layers in between have no more channels than the
    reduced map has values per cell: on a grid of 64 x 64 they would cost more than the backbone.

    Args:
        channels, map_size: of the input map; map_size is n.
        num_classes: K.
        width: C.
        grid: h, w.
    """

    def __init__(
        self, channels: int, map_size: int, num_classes: int, width: int, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.grid, self.width = grid, width
        fold = max(1, map_size // grid[0])
        inner = min(width, channels * fold**2)
        self.fold = nn.Conv2d(channels, inner, fold, stride=fold)
        self.mix = conv_block(inner, inner)
        self.project = nn.Conv2d(inner, num_classes * width, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = self.fold(features)
        if x.shape[-2:] != self.grid:
            x = F.interpolate(x, self.grid, mode="bilinear")
        return self.project(self.mix(x)).reshape(-1, self.width, *self.grid)


class HighResHead(nn.Module):
    """float B x channels x n x n -> a high-resolution prompt float B*K x width x size.

    A dense prompt has the resolution of the image embedding, this one that of the decoder's
    upscaled features. It is made by sub-pixel convolution (Shi et al. 2016, arXiv 1609.05158).
    SAM 2 (Ravi et al. 2024, arXiv 2408.00714, section 4) adds image features in the same places.

    Args:
        channels, map_size: of the input map; map_size is n.
        num_classes: K.
        width: channels of the output.
        size: height and width of the output, cells.
    """

    INNER = 32

    def __init__(
        self, channels: int, map_size: int, num_classes: int, width: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.size, self.width = size, width
        self.upscale = min(4, max(1, round(size[0] / map_size)))
        self.mix = conv_block(channels, self.INNER)
        self.project = nn.Conv2d(self.INNER, num_classes * width * self.upscale**2, 1)
        # The sub-pixels of a cell start equal, which avoids checkerboard artifacts (Aitken et al.
        # 2017, arXiv 1707.02937).
        with torch.no_grad():
            for values in self.project.parameters():
                parts = values.view(num_classes * width, self.upscale**2, -1)
                parts.copy_(parts[:, :1].clone().expand_as(parts))

    def forward(self, features: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.project(self.mix(features)), self.upscale)
        if x.shape[-2:] != self.size:
            smaller = self.size[0] < x.shape[-1]
            x = F.interpolate(x, self.size, mode="area" if smaller else "bilinear")
        return x.reshape(-1, self.width, *self.size)


class ImageGate(nn.Module):
    """float B x channels x n x n -> a gate in 0..1 for each cell of the image embedding.

    One map for each level of the embedding, float B*K x 1 x its size. Gates start nearly closed, as
    adapters start at zero (Zhang et al. 2023, arXiv 2302.05543, section 3.1): an embedding that
    does not fit the images has little effect then.

    Args:
        channels: of the input map.
        num_classes: K.
        sizes: height and width of each level of the embedding, cells.
    """

    CLOSED = -2.0
    """Initial logit of a gate: sigmoid(-2) = 0.12."""

    def __init__(self, channels: int, num_classes: int, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.sizes = sizes
        self.project = nn.Conv2d(channels, num_classes * len(sizes), 1)
        nn.init.zeros_(self.project.weight)
        nn.init.constant_(cast(Tensor, self.project.bias), self.CLOSED)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        gates = self.project(features).sigmoid()
        gates = gates.reshape(-1, len(self.sizes), *gates.shape[-2:])
        return tuple(
            F.interpolate(gates[:, i : i + 1], size, mode="bilinear")
            for i, size in enumerate(self.sizes)
        )


class SparseHead(nn.Module):
    """Coarsest backbone map float B x channels x n x n -> sparse embeddings float B*K x N x C.

    K*N learned queries attend to the map; a linear layer projects them to SAM's width.

    Args:
        channels: of the input map.
        num_classes: K.
        tokens: N.
        width: C.
    """

    def __init__(self, channels: int, num_classes: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        self.reduce = nn.Linear(channels, width)
        self.queries = nn.Parameter(torch.randn(num_classes * tokens, width) * 0.02)
        self.attend = nn.MultiheadAttention(width, math.gcd(width, 4), batch_first=True)
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        memory = self.reduce(features.flatten(2).transpose(1, 2))
        queries = self.queries.expand(len(features), -1, -1)
        tokens, _ = self.attend(queries, memory, memory, need_weights=False)
        return self.project(queries + tokens).view(-1, self.tokens, self.width)


class PromptGenerator(Prompter):
    """The learned prompter: backbone, neck and a head for each kind of prompt. It depends on SAM
    only by C, the grid and the number of embedding levels, unless it reads SAM's features.

    Args:
        config: backbone, neck, G and the kinds of prompt. For kinds that are not learned SAM's
            "no prompt" embedding is used.
        num_classes: K prompts for each image.
        sam: supplies C, (h, w) and the levels.
        weights: see `Backbone`; None: as in `config`.
        channels: see `Backbone`.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        sam: Sam,
        weights: str | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__(num_classes)
        kinds, width, grid = config.prompt_kinds, sam.width, sam.grid
        self.backbone = self.sam_features = None
        level_channels, strides = [], []
        if config.backbone != "none":
            self.backbone = Backbone(
                config.backbone,
                weights or config.backbone_weights,
                config.input_size,
                channels=channels,
            )
            level_channels, strides = self.backbone.channels, self.backbone.strides
        if config.sam_features != "none":
            self.sam_features = SamFeatures(sam.shapes, config.input_size, level_channels, strides)
            level_channels, strides = self.sam_features.channels, self.sam_features.strides
        self.neck = self.dense = self.high_res = self.gate = self.sparse = None
        if "dense" in kinds or "high_res" in kinds:
            self.neck = Neck(level_channels, strides, config.width)
            neck, map_size = self.neck.channels, config.input_size // self.neck.stride
        if "dense" in kinds:
            self.dense = DenseHead(neck, map_size, num_classes, width, grid)
        if "sparse" in kinds:
            self.sparse = SparseHead(level_channels[-1], num_classes, config.sparse_tokens, width)
        if "high_res" in kinds:
            self.high_res = nn.ModuleList(
                HighResHead(neck, map_size, num_classes, *level)
                for level in high_res_shapes(width, grid)
            )
        if "high_res" in kinds and config.gate:
            sizes = [(scale * grid[0], scale * grid[1]) for scale in sam.scales]
            self.gate = ImageGate(neck, num_classes, sizes)

    def forward(self, batch: Batch, embedding: ImageEmbedding | None, sam: Sam) -> Prompt:
        """See `Prompter.forward`."""
        return self.emit(self.levels(batch, embedding), batch, sam)[0]

    def levels(self, batch: Batch, embedding: ImageEmbedding | None) -> list[Tensor]:
        """The feature maps of the images, finest first: float B x channels x rows x columns."""
        levels = []
        if self.backbone is not None:
            levels = self.backbone(batch.generator_input, batch.generator_valid)
        if self.sam_features is not None:
            assert embedding is not None
            levels = self.sam_features(levels, embedding)
        return levels

    def emit(self, levels: list[Tensor], batch: Batch, sam: Sam) -> tuple[Prompt, Tensor | None]:
        """The prompts of the images, P = B*K, and the neck's map that they are made from."""
        empty = self.no_prompts(batch, sam)
        dense, sparse, high_res, gates = empty.dense, empty.sparse, empty.high_res, empty.gates
        features = None
        if self.sparse is not None:
            sparse = self.sparse(levels[-1])
        if self.neck is not None:
            features = self.neck(levels)
            if self.dense is not None:
                dense = self.dense(features)
            if self.high_res is not None:
                high_res = tuple(head(features) for head in self.high_res)
            if self.gate is not None:
                gates = self.gate(features)
        return Prompt(sparse, dense, empty.image_index, high_res, gates), features

    def maps_of(self, prompt: Prompt) -> list[Tensor]:
        """The learned maps of its prompts, coarse to fine: each float P x C x n x n."""
        dense = [] if self.dense is None else [prompt.dense]
        return [*dense, *prompt.high_res]
