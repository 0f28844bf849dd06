"""Random changes to an image and its mask together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from autosam.config import AugmentConfig

Augment = Callable[[np.ndarray, np.ndarray, tuple[int, ...]], tuple[np.ndarray, np.ndarray]]


class QuarterTurn(v2.Transform):
    """Turn by 0, 90, 180 or 270 degrees, each as likely."""

    def make_params(self, flat_inputs: list) -> dict:
        return {"turns": int(torch.randint(4, ()))}

    def transform(self, inpt: torch.Tensor, params: dict) -> torch.Tensor:
        return tv_tensors.wrap(torch.rot90(inpt, params["turns"], (-2, -1)), like=inpt)


def build_augment(config: AugmentConfig) -> Augment:
    """A function of (image, label, seed words) that returns the changed image and label.

    Image uint8 H x W x 3, label uint8 H x W. The same seed words give the same change, in whichever
    process and order they are asked for; the global random state is left as it was.
    """
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
    if config.color or config.hue:
        steps.append(v2.ColorJitter(config.color, config.color, config.color, config.hue))
    return partial(_apply, v2.Compose(steps))


def _apply(
    transform: v2.Transform, image: np.ndarray, label: np.ndarray, seed: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    pixels = tv_tensors.Image(torch.from_numpy(image.copy()).permute(2, 0, 1))
    mask = tv_tensors.Mask(torch.from_numpy(label.copy()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        pixels, mask = transform(pixels, mask)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), mask.contiguous().numpy()
