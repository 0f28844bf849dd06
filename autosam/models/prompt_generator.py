"""The prompt generator: an image in, the prompt embeddings of SAM's mask decoder out.

Shaharabany et al. 2023 (arXiv 2306.06370), section 3: g(I) takes the place of SAM's prompt encoder.
The paper emits the dense embedding only; the sparse tokens and the high-resolution maps are
additions.
"""

from __future__ import annotations

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
from autosam.types import Batch, Prompt, high_res_shapes


class DenseHead(nn.Module):
    """float B x channels x n x n -> dense embeddings float B*K x C x h x w.

    A map finer than the grid is folded into it by a strided convolution, so that its detail lands
    in the channels; a coarser one is enlarged. Between fold and projection there are no more
    channels than the folded map has values: on a grid of 64 x 64 they cost more than the backbone.
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

    A dense prompt lives on the decoder's coarse grid; this one on the cells that the decoder draws
    masks with, each cell of the map being split into as many (Shi et al. 2016, arXiv 1609.05158).
    SAM 2 (Ravi et al. 2024, arXiv 2408.00714, section 4) adds image features in the same places.
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
        # The cells that one is split into start equal; otherwise masks and maps start striped
        # (Aitken et al. 2017, arXiv 1707.02937).
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
    """float B x channels x n x n -> how far each cell of the image embedding is trusted.

    One map in 0..1 for each level of the embedding, float B*K x 1 x its size. They start nearly
    closed, so that the embedding has to earn its part, as adapters that start at zero do (Zhang et
    al. 2023, arXiv 2302.05543, section 3.1): one that does not fit the images is only in the way.
    """

    CLOSED = -2.0
    """Logit at the start: 0.12."""

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

    K*N learned queries attend to the map; a linear layer brings them to SAM's width.
    """

    def __init__(self, channels: int, num_classes: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        self.reduce = nn.Linear(channels, width)
        self.queries = nn.Parameter(torch.randn(num_classes * tokens, width) * 0.02)
        self.attend = nn.MultiheadAttention(width, num_heads=4, batch_first=True)
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        memory = self.reduce(features.flatten(2).transpose(1, 2))
        queries = self.queries.expand(len(features), -1, -1)
        tokens, _ = self.attend(queries, memory, memory, need_weights=False)
        return self.project(queries + tokens).view(-1, self.tokens, self.width)


class PromptGenerator(Prompter):
    """The learned prompter: backbone, neck and a head for each kind of prompt. Of SAM it knows only
    C, the grid and the number of embedding levels.

    Args:
        config: backbone, neck, G and the kinds of prompt. What is not learned is SAM's own "no
            prompt".
        num_classes: K prompts for each image.
        sam: supplies C, (h, w) and the levels.
        weights: see `Backbone`; None: what `config` says.
    """

    def __init__(
        self, config: ModelConfig, num_classes: int, sam: Sam, weights: str | None = None
    ) -> None:
        super().__init__(num_classes)
        kinds, width, grid = config.prompt_kinds, sam.width, sam.grid
        self.backbone = Backbone(
            config.backbone, weights or config.backbone_weights, config.input_size
        )
        self.neck = self.dense = self.high_res = self.gate = self.sparse = None
        if "dense" in kinds or "high_res" in kinds:
            self.neck = Neck(self.backbone.channels, self.backbone.strides, config.width)
            channels, map_size = self.neck.channels, config.input_size // self.neck.stride
        if "dense" in kinds:
            self.dense = DenseHead(channels, map_size, num_classes, width, grid)
        if "sparse" in kinds:
            coarsest = self.backbone.channels[-1]
            self.sparse = SparseHead(coarsest, num_classes, config.sparse_tokens, width)
        if "high_res" in kinds:
            self.high_res = nn.ModuleList(
                HighResHead(channels, map_size, num_classes, *level)
                for level in high_res_shapes(width, grid)
            )
        if "high_res" in kinds and config.gate:
            sizes = [grid, *(size for _, size in high_res_shapes(width, grid))]
            self.gate = ImageGate(channels, num_classes, sizes[: sam.levels])

    def forward(self, batch: Batch, sam: Sam) -> Prompt:
        """See `Prompter.forward`."""
        empty = self.no_prompts(batch, sam)
        dense, sparse, high_res, gates = empty.dense, empty.sparse, empty.high_res, empty.gates
        levels = self.backbone(batch.generator_input, batch.generator_valid)
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
        return Prompt(sparse, dense, empty.image_index, high_res, gates)
