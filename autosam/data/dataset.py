"""Pairs of files as samples in a segmenter's frame, and the order they come in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from autosam.config import PromptConfig
from autosam.data.augment import Augment
from autosam.data.check import MaskReading, size_mismatch
from autosam.data.geometry import (
    cell_weight,
    class_shares,
    content_size,
    pad,
    resize_image,
    resize_label,
)
from autosam.data.images import read_image
from autosam.data.prompts import draw_prompts
from autosam.data.sources import Pair
from autosam.errors import DataError
from autosam.types import Frame, Sample


def make_sample(
    name: str,
    image: np.ndarray,
    frame: Frame,
    label: np.ndarray | None = None,
    num_classes: int = 1,
    augment: Augment | None = None,
    seed: tuple[int, ...] = (),
    prompting: PromptConfig | None = None,
) -> Sample:
    """Bring one picture (and its label) into a frame.

    Args:
        name: for messages and files.
        image: uint8 H x W x 3 RGB.
        frame: the sizes wanted.
        label: uint8 H x W, 0..K.
        num_classes: K.
        augment: applied between resizing and padding.
        seed: seed words of the augmentation and the prompts.
        prompting: how prompts are taken from the label, where the frame asks for them; jittered,
            and of some objects only, where `augment` is given.
    """
    height, width = image.shape[:2]
    largest = max(frame.image_size, frame.view_size)
    content = content_size(height, width, largest, frame.geometry)
    small = resize_image(image, content)
    small_label = None if label is None else resize_label(label, content)
    if augment is not None and small_label is not None:
        small, small_label = augment(small, small_label, seed)
        if small.shape[:2] != content:  # a quarter turn
            height, width = width, height

    def square(size: int) -> tuple[torch.Tensor, tuple[int, int]]:
        valid = content_size(height, width, size, frame.geometry)
        pixels = pad(resize_image(small, valid), size).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(pixels)), valid

    view, view_valid = square(frame.view_size)
    image_valid = content_size(height, width, frame.image_size, frame.geometry)
    sample = Sample(
        name=name,
        view=view,
        view_valid=view_valid,
        image=square(frame.image_size)[0] if frame.needs_image else None,
        image_valid=image_valid,
        size=(height, width),
        label=label if augment is None else None,
    )
    if small_label is not None:
        fitted = resize_label(small_label, image_valid)
        sizes = (frame.image_size, frame.mask_size)
        if frame.prompts is not None and prompting is not None:
            rng = np.random.default_rng([*seed, 1])
            sample.prompts, fitted = draw_prompts(
                fitted, frame, prompting, rng, train=augment is not None
            )
        sample.target = class_shares(fitted, num_classes, *sizes)
        sample.weight = cell_weight(image_valid, *sizes)
    return sample


class PairDataset(Dataset[Sample]):
    """Pairs of image and mask files. Indexed by (epoch, position), so that augmentation depends on
    nothing else: not on the worker, not on what was read before."""

    def __init__(
        self,
        pairs: list[Pair],
        frame: Frame,
        reading: MaskReading,
        augment: Augment | None = None,
        seed: int = 0,
        prompting: PromptConfig | None = None,
    ) -> None:
        self.pairs, self.frame, self.reading = pairs, frame, reading
        self.augment, self.seed, self.prompting = augment, seed, prompting

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, position = key
        pair = self.pairs[position]
        image, label = read_image(pair.image), self.reading.read(pair.mask)
        if image.shape[:2] != label.shape:  # of very many files only a sample was checked before
            raise DataError(size_mismatch(pair, image.shape[:2], label.shape))
        return make_sample(
            pair.name,
            image,
            self.frame,
            label,
            self.reading.num_classes,
            self.augment,
            (self.seed, epoch, position),
            self.prompting,
        )


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, position); shuffled by (seed, epoch) or in order."""

    def __init__(self, length: int, shuffle: bool, seed: int = 0) -> None:
        self.length, self.shuffle, self.seed = length, shuffle, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        return ((self.epoch, int(i)) for i in order)
