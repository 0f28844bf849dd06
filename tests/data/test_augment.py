"""Augmentation by OpenCV and Pillow, against torchvision's own of tensors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from autosam.config import AugmentConfig
from autosam.data.augment import Affine, build_augment

SEEDS = range(12)


def smooth(height: int, width: int, channels: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    noise = rng.random((height, width, channels)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 4).reshape(noise.shape)
    low, high = blurred.min(), blurred.max()
    return ((blurred - low) / (high - low) * 255).astype(np.uint8)


def both(tensor: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Moved by ours and by torchvision's, with the same random numbers."""
    bilinear = v2.InterpolationMode.BILINEAR
    ours = Affine(40, scale=(0.6, 1.4))
    theirs = v2.RandomAffine(40, scale=(0.6, 1.4), interpolation=bilinear)
    torch.manual_seed(seed)
    moved = ours(tensor)
    torch.manual_seed(seed)
    return moved, theirs(tensor)


@pytest.mark.parametrize("size", [(64, 64), (61, 90), (90, 33)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_images_move_as_torchvision_moves_them(size: tuple[int, int], channels: int) -> None:
    image = smooth(*size, channels)
    for seed in SEEDS:
        mine, other = both(tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)), seed)
        assert type(mine) is tv_tensors.Image
        assert mine.shape == other.shape
        assert mine.dtype == torch.uint8
        # Pixels at the border are mixed with what is outside in another way.
        shown = np.pad((other.amin(0).numpy() > 0).astype(np.uint8), 1)
        inside = cv2.erode(shown, np.ones((5, 5)))[1:-1, 1:-1]
        difference = (mine.int() - other.int()).abs().numpy()[:, inside > 0]
        assert difference.max() <= 2
        outside = (other == 0).all(0) & (mine == 0).all(0)
        assert ((other == 0).all(0) & ~outside).float().mean() < 0.05


def test_masks_move_as_torchvision_moves_them() -> None:
    """Labels, and numbers of objects, which move alike."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 200, (12, 9)).astype(np.uint8)
    label = values.repeat(7, 0).repeat(7, 1)
    numbers = label.astype(np.int32)
    numbers[label > 100] += 2**30
    numbers[label == 100] = -1
    for seed in SEEDS:
        mine, other = both(tv_tensors.Mask(torch.from_numpy(label)), seed)
        assert mine.dtype == torch.uint8
        assert set(mine.unique().tolist()) <= {0, *values.ravel().tolist()}
        assert (mine != other).float().mean() < 0.005
        # Numbers above 2**24 are rounded by torchvision.
        objects, _ = both(tv_tensors.Mask(torch.from_numpy(numbers)), seed)
        assert objects.dtype == torch.int32
        expected = mine.int() + (mine > 100) * 2**30
        expected[mine == 100] = -1
        assert torch.equal(objects, expected.int())


def test_colours_change_as_those_of_tensors() -> None:
    """Up to the 8 bits that Pillow's hues have."""
    image = smooth(64, 48, 3)
    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    augment = build_augment(AugmentConfig(color=0.4, hue=0.1))
    for seed in SEEDS:
        found = augment.recolour(image, (seed,))
        assert found.dtype == np.uint8
        drawn = int(np.random.SeedSequence((seed, 4)).generate_state(1)[0])
        torch.manual_seed(drawn)
        tensor = jitter(tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)))
        difference = np.abs(found.astype(int) - tensor.permute(1, 2, 0).numpy())
        assert difference.mean() < 2
        assert difference.max() <= 12


def test_what_is_kept_in_memory_does_not_change() -> None:
    augment = build_augment(AugmentConfig(flip=0, rotate=0, scale=0, color=0, hue=0))
    image, label = smooth(32, 40, 3), np.ones((32, 40), np.uint8)
    for array in (image, label):
        array.flags.writeable = False  # as of a file mapped into memory
        moved = augment.move(array, (1,))
        assert np.array_equal(moved, array)
        assert not np.shares_memory(moved, array)
    changed = augment.recolour(image, (1,))
    assert np.array_equal(changed, image)
    assert not np.shares_memory(changed, image)
