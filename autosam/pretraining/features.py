"""Drawn scenes, their trunk features, and the batches of pretraining."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from autosam.config.commands import PretrainConfig
from autosam.data.loaders import Workers, make_loader
from autosam.data.synthetic.photos import load_photos
from autosam.data.synthetic.scenes import draw_scene
from autosam.models.normalize import normalise
from autosam.models.sam.lite import LiteEncoder
from autosam.models.sam.meta import SegmentAnything
from autosam.types import ImageEmbedding


class Scenes(Dataset):
    """Scenes drawn on access: uint8 3 x S x S and uint8 S x S instance ids.

    Args:
        count: number of scenes.
        seed: of the drawings.
        size: S.
        first: number of the first scene.
    """

    def __init__(self, count: int, seed: int, size: int, first: int = 0) -> None:
        self.count, self.seed, self.size, self.first = count, seed, size, first
        self.photos = load_photos()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, self.first + index])
        scene = draw_scene(rng, self.size, self.photos)
        image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
        return image, torch.from_numpy(scene.instances.astype(np.uint8))


def scene_loader(scenes: Scenes, batch_size: int, workers: int) -> DataLoader:
    """Batches of scenes, drawn by worker processes."""
    readers = Workers(workers, batch_size * 4 * scenes.size**2)
    return make_loader(scenes, range(len(scenes)), batch_size, readers)


def trunk_features(sam: SegmentAnything, images: Tensor, device: torch.device) -> list[Tensor]:
    """Features of the encoder's trunk.

    Args:
        sam: `lite`.
        images: uint8 B x 3 x S x S.
        device: computes.

    Returns:
        Maps float B x channels x S/stride x S/stride of the strides 2, 4, 8, 16 and 32.
    """
    valid = torch.full((len(images), 2), images.shape[-1], device=device)
    pixels = normalise(images.to(device), valid, sam.spec.pixel_mean, sam.spec.pixel_std)
    # Slower on CPUs, for the depthwise convolutions.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
        return cast(LiteEncoder, sam.image_encoder).trunk(pixels)


def encode_features(sam: SegmentAnything, levels: list[Tensor]) -> ImageEmbedding:
    """Image embedding of trunk features, under autocast to bfloat16."""
    with torch.autocast(levels[0].device.type, torch.bfloat16):
        return ImageEmbedding(*cast(LiteEncoder, sam.image_encoder).neck(levels))


@dataclass
class Features:
    """Trunk features (float16, strides 2 to 32) and instance ids of many scenes."""

    levels: list[Tensor]
    instances: np.ndarray

    @classmethod
    @torch.no_grad()
    def of(
        cls, sam: SegmentAnything, scenes: Scenes, device: torch.device, workers: int
    ) -> Features:
        """Draw and encode every scene once."""
        levels: list[Tensor] = []
        instances = np.zeros((len(scenes), scenes.size, scenes.size), np.uint8)
        start = 0
        for images, ids in scene_loader(scenes, 32, workers):
            batch = trunk_features(sam, images, device)
            if not levels:
                levels = [
                    level.new_empty(len(scenes), *level.shape[1:], dtype=torch.float16)
                    for level in batch
                ]
            for kept, level in zip(levels, batch, strict=True):
                kept[start : start + len(images)] = level
            instances[start : start + len(images)] = ids.numpy()
            start += len(images)
        return cls(levels, instances)

    def encode(self, sam: SegmentAnything, index: np.ndarray) -> ImageEmbedding:
        """Image embeddings of the scenes `index`, with gradients into the neck."""
        return encode_features(sam, [level[index].float() for level in self.levels])


def batches(
    config: PretrainConfig, sam: SegmentAnything, first: int, last: int, device: torch.device
) -> Iterator[tuple[ImageEmbedding, np.ndarray]]:
    """The batches of the steps `first` to `last`: from stored features while the trunk is frozen,
    then from new scenes.

    Yields:
        Image embeddings, and instance ids uint8 B x S x S.
    """
    size = sam.spec.image_size
    trunk = cast(nn.Module, cast(LiteEncoder, sam.image_encoder).trunk)
    if first < config.frozen_steps:
        started = time.time()
        kept = Features.of(sam, Scenes(config.scenes, config.seed, size), device, config.workers)
        print(f"{config.scenes} scenes drawn, encoded: {time.time() - started:.0f} s", flush=True)
        for step in range(first, min(last, config.frozen_steps)):
            rng = np.random.default_rng([config.seed, 2, step])
            index = rng.choice(config.scenes, config.batch_size, replace=False)
            yield kept.encode(sam, index), kept.instances[index]
        del kept
    trunk.requires_grad_(True)  # in eval mode still, so BatchNorm statistics stay fixed
    first = max(first, config.frozen_steps)
    fresh = Scenes(
        max(0, last - first) * config.batch_size,
        config.seed,
        size,
        config.scenes + (first - config.frozen_steps) * config.batch_size,
    )
    for images, ids in scene_loader(fresh, config.batch_size, config.workers):
        yield encode_features(sam, trunk_features(sam, images, device)), ids.numpy()
