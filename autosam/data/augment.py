"""Random augmentation of an image together with its mask."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
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


class Affine(v2.RandomAffine):
    """Rotate around the middle of the image and scale, by OpenCV: torchvision's way takes 15 times
    as long. Images are interpolated, of masks the nearest value is taken; 0 outside."""

    def transform(self, inpt: torch.Tensor, params: dict) -> torch.Tensor:
        height, width = inpt.shape[-2:]
        middle = ((width - 1) / 2, (height - 1) / 2)
        # OpenCV's angles are counter-clockwise, torchvision's clockwise.
        matrix = cv2.getRotationMatrix2D(middle, -params["angle"], params["scale"])
        # One type and one channel at a time: for each other OpenCV rounds in another way.
        is_mask = isinstance(inpt, tv_tensors.Mask)
        planes = (inpt.int() if is_mask else inpt).reshape(-1, height, width)
        how = cv2.INTER_NEAREST if is_mask else cv2.INTER_LINEAR
        moved = [
            cv2.warpAffine(np.ascontiguousarray(plane), matrix, (width, height), flags=how)
            for plane in planes.numpy()
        ]
        tensor = torch.from_numpy(np.stack(moved)).reshape(inpt.shape).to(inpt.dtype)
        return tv_tensors.wrap(tensor, like=inpt)


@dataclass(frozen=True)
class Augment:
    """Random augmentation. The result depends only on the seed words, not on process, order or
    image size. The global random state does not change."""

    geometric: v2.Transform
    photometric: v2.Transform

    def move(self, array: np.ndarray, seed: Seed) -> np.ndarray:
        """Flip, rotate and scale an image, uint8 h x w x C, or its label, h x w."""
        tensor = torch.from_numpy(array.copy())
        with _seeded(seed):
            if array.ndim == 2:
                return self.geometric(tv_tensors.Mask(tensor)).contiguous().numpy()
            moved = self.geometric(tv_tensors.Image(tensor.permute(2, 0, 1)))
            return np.ascontiguousarray(moved.permute(1, 2, 0).numpy())

    def recolour(self, image: np.ndarray, seed: Seed, is_rgb: bool = True) -> np.ndarray:
        """Change the colours of an image, uint8 h x w x C; without `is_rgb` brightness and contrast
        alone, of all channels alike. Independent of `move`."""
        with _seeded((*seed, COLOURS)):
            if is_rgb:  # with Pillow twice as fast as with tensors
                return np.array(self.photometric(Image.fromarray(image)))
            channels = torch.from_numpy(image.copy()).permute(2, 0, 1)[:, None]
            changed = self.photometric(tv_tensors.Image(channels))[:, 0]
            return np.ascontiguousarray(changed.permute(1, 2, 0).numpy())


def build_augment(config: AugmentConfig) -> Augment:
    """Build the augmentation that the settings describe."""
    steps: list[v2.Transform] = [
        v2.RandomHorizontalFlip(config.flip),
        v2.RandomVerticalFlip(config.vertical_flip),
    ]
    if config.quarter_turns:
        steps.append(QuarterTurn())
    if config.rotate or config.scale:
        steps.append(Affine(config.rotate, scale=(1 - config.scale, 1 + config.scale)))
    colours: v2.Transform = v2.Identity()
    if config.color or config.hue:
        colours = v2.ColorJitter(config.color, config.color, config.color, config.hue)
    return Augment(v2.Compose(steps), colours)


@contextlib.contextmanager
def _seeded(seed: Seed) -> Iterator[None]:
    """Draw random numbers that depend on the seed words alone."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed every GPU, and is slower.
        torch.default_generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        yield
