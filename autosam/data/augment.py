"""Random augmentation of an image together with its mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from autosam.config import AugmentConfig

Seed = tuple[int, ...]
COLOURS = 4
"""Seed word of colour changes. `make_sample` and `PairDataset` use 1, 2 and 3 for other draws."""


class QuarterTurn(v2.Transform):
    """Rotate by 0, 90, 180 or 270 degrees with equal probability."""

    def make_params(self, flat_inputs: list) -> dict:
        return {"turns": int(torch.randint(4, ()))}

    def transform(self, inpt: torch.Tensor, params: dict) -> torch.Tensor:
        return tv_tensors.wrap(torch.rot90(inpt, params["turns"], (-2, -1)), like=inpt)


@dataclass(frozen=True)
class Augment:
    """Random augmentation. The result depends only on the seed words, not on process, order or
    image size. The global random state does not change."""

    geometric: v2.Transform
    photometric: v2.Transform

    def move(self, array: np.ndarray, seed: Seed) -> np.ndarray:
        """Flip, rotate and scale an image, uint8 h x w x C, or its label, h x w."""
        return _apply(self.geometric, array, seed)

    def recolour(self, image: np.ndarray, seed: Seed, is_rgb: bool = True) -> np.ndarray:
        """Change the colours of an image, uint8 h x w x C; without `is_rgb` brightness and contrast
        alone, of all channels alike. Independent of `move`."""
        return _apply(self.photometric, image, (*seed, COLOURS), not is_rgb)


def build_augment(config: AugmentConfig) -> Augment:
    """Build the augmentation that the settings describe."""
    steps: list[v2.Transform] = [
        v2.RandomHorizontalFlip(config.flip),
        v2.RandomVerticalFlip(config.vertical_flip),
    ]
    if config.quarter_turns:
        steps.append(QuarterTurn())
    if config.rotate or config.scale:
        steps.append(
            v2.RandomAffine(
                config.rotate,
                scale=(1 - config.scale, 1 + config.scale),
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    colours: v2.Transform = v2.Identity()
    if config.color or config.hue:
        colours = v2.ColorJitter(config.color, config.color, config.color, config.hue)
    return Augment(v2.Compose(steps), colours)


def _apply(
    transform: v2.Transform, array: np.ndarray, seed: Seed, apart: bool = False
) -> np.ndarray:
    """Apply a transform to an image h x w x C or a label h x w. `apart`: to each channel as a grey
    image, with the same random numbers."""
    tensor = torch.from_numpy(array.copy())
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed every GPU, and is slower.
        torch.default_generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        if array.ndim == 2:
            return transform(tv_tensors.Mask(tensor)).contiguous().numpy()
        pixels = tensor.permute(2, 0, 1)
        if apart:
            pixels = transform(tv_tensors.Image(pixels[:, None]))[:, 0]
        else:
            pixels = transform(tv_tensors.Image(pixels))
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
