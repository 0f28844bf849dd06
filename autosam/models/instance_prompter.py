"""The prompt generator of objects: a map of their centres, and a prompt for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosam.config import ModelConfig
from autosam.models.normalize import cells_inside
from autosam.models.prompt_generator import HighResHead, PromptGenerator
from autosam.models.sam.base import Sam
from autosam.types import Batch, ImageEmbedding, ObjectPrompts, Prompt

TOKENS = 4
"""Learned sparse tokens of an object."""


@dataclass
class ObjectMaps:
    """What the prompts of the objects of B images are made from."""

    shared: Prompt
    """P = B: what the objects of an image share: the prompts of `ModelConfig.prompt`, and gates."""
    centers: Tensor
    """float B x K x m x m: logits of the map of centres, see `data.object_targets.center_map`."""
    features: Tensor
    """float B x channels x n x n: what the tokens and the box of an object are read out of."""


class ObjectHead(nn.Module):
    """float P x channels -> tokens and box of each object.

    Args:
        channels: of the features at the object's centre.
        width: C.
        image_size: S, pixels.
        with_tokens: whether objects are prompted with tokens.
    """

    def __init__(self, channels: int, width: int, image_size: int, with_tokens: bool) -> None:
        super().__init__()
        self.width, self.image_size = width, image_size
        self.mix = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width))
        self.tokens = nn.Linear(width, TOKENS * width) if with_tokens else None
        self.sides = nn.Linear(width, 4)
        nn.init.constant_(self.sides.bias, -3.0)  # boxes start at 5 % of S to each side

    def forward(self, features: Tensor, points: Tensor) -> tuple[Tensor | None, Tensor]:
        """
        Args:
            features: float P x channels.
            points: float P x 2: x, y of the centres, pixels of the S x S square.

        Returns:
            Tokens float P x N x C, or None; boxes float P x 4, x0, y0, x1, y1 in the same pixels.
        """
        x = F.relu(self.mix(features))
        sides = F.softplus(self.sides(x)).float() * self.image_size
        boxes = torch.cat([points - sides[:, :2], points + sides[:, 2:]], dim=1)
        tokens = None if self.tokens is None else self.tokens(x).view(-1, TOKENS, self.width)
        return tokens, boxes


class InstancePrompter(PromptGenerator):
    """The learned prompter of objects.

    Args:
        config: see `PromptGenerator`; and what prompts an object (`object_prompt`).
        num_classes: K.
        sam: supplies C, (h, w), S and the levels.
        weights, channels: see `PromptGenerator`.
    """

    reads = "objects"

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        sam: Sam,
        weights: str | None = None,
        channels: int | None = None,
    ) -> None:
        # The maps are shared by objects of all classes.
        super().__init__(config, 1, sam, weights, channels)
        assert self.neck is not None
        width, map_size = self.neck.channels, config.input_size // self.neck.stride
        self.classes, self.kinds = num_classes, config.object_prompt.split("+")
        size = 4 * sam.grid[0], 4 * sam.grid[1]
        self.center = HighResHead(width, map_size, 1, num_classes, size)
        nn.init.constant_(cast(Tensor, self.center.project.bias), -3.0)  # few peaks at first
        with_tokens = "tokens" in self.kinds
        self.objects = ObjectHead(width, sam.width, sam.spec.image_size, with_tokens)

    def maps(self, batch: Batch, embedding: ImageEmbedding | None, sam: Sam) -> ObjectMaps:
        """What the prompts of all objects are made from.

        Args:
            batch: B images.
            embedding: of these images.
            sam: the SAM that is prompted.
        """
        shared, features = self.emit(self.levels(batch, embedding), batch, sam)
        assert features is not None
        return ObjectMaps(shared, self.center(features), features)

    def prompt(
        self, maps: ObjectMaps, images: Tensor, points: Tensor, sam: Sam
    ) -> tuple[Prompt, Tensor]:
        """Prompts for objects.

        Args:
            maps: of B images.
            images: int64 P, the image of each object, 0..B-1.
            points: float P x 2: x, y inside each object, pixels of the S x S square.
            sam: the SAM that is prompted.

        Returns:
            P prompts; and the predicted boxes, float P x 4 as in `ObjectPrompts`.
        """
        # Pixel centres are whole numbers; grid_sample's corners are -1 and 1.
        places = (points + 0.5) * (2 / sam.spec.image_size) - 1
        # In float32 also within an autocast: half precision would move the places.
        grid = places[None, :, None].float()
        features_of = maps.features.float()
        if len(features_of) == 1:  # as exported graphs need it
            features = F.grid_sample(features_of, grid, align_corners=False)[0, :, :, 0].T
        else:
            features = features_of.new_zeros(points.shape[0], features_of.shape[1])
            for i, of_image in enumerate(features_of):
                own = images == i
                found = F.grid_sample(of_image[None], grid[:, own], align_corners=False)
                features[own] = found[0, :, :, 0].T
        tokens, boxes = self.objects(features, points)
        if "box" in self.kinds:
            given = sam.encode_prompt(boxes=boxes.detach(), image_index=images)
        elif "point" in self.kinds:
            labels = torch.ones(points.shape[0], 1, dtype=torch.int64, device=points.device)
            given = sam.encode_prompt((points[:, None], labels), image_index=images)
        else:
            given = replace(sam.no_prompt(points.shape[0]), image_index=images)
        sparse, dense, shared = given.sparse, given.dense, maps.shared
        if tokens is not None:
            sparse = torch.cat([sparse, tokens.to(sparse.dtype)], dim=1)
        if self.sparse is not None:
            sparse = torch.cat([sparse, shared.sparse[images].to(sparse.dtype)], dim=1)
        if self.dense is not None:
            dense = dense + shared.dense[images]
        high_res = tuple(level[images] for level in shared.high_res)
        gates = tuple(gate[images] for gate in shared.gates)
        return Prompt(sparse, dense, images, high_res, gates), boxes


def center_probabilities(centers: Tensor, batch: Batch, image_size: int) -> Tensor:
    """float B x K x m x m logits -> probabilities, 0 on padding."""
    side = centers.shape[-1]
    shown = cells_inside(batch.sam_valid, side, image_size)
    return centers.float().sigmoid() * shown


def at_least_one(objects: ObjectPrompts, side: int, image_size: int) -> ObjectPrompts:
    """The objects, or an empty one: every parameter gets a gradient, which other processes wait
    for.

    Args:
        objects: with boxes, points and masks.
        side: m.
        image_size: S, pixels.
    """
    if len(objects):
        return objects
    images, middle = objects.images, image_size / 2
    return ObjectPrompts(
        images=images.new_zeros(1),
        classes=images.new_zeros(1),
        boxes=torch.full((1, 4), middle, device=images.device),
        points=torch.full((1, 1, 2), middle, device=images.device),
        labels=images.new_ones(1, 1),
        masks=torch.zeros(1, side, side, device=images.device),
    )
