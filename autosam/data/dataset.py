"""Pairs of files as samples in a segmenter's input spec, and the order they come in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from autosam.config import PromptConfig, RoughConfig
from autosam.data.augment import Augment, Seed
from autosam.data.checks import size_mismatch
from autosam.data.color_prior import color_prior_mask
from autosam.data.geometry import (
    cell_weight,
    class_shares,
    content_size,
    pad,
    resize_image,
    resize_label,
)
from autosam.data.labels import known, without
from autosam.data.pairs import Pair, read_valid
from autosam.data.prompts import draw_prompts
from autosam.data.reading import MaskReading
from autosam.errors import DataError
from autosam.types import Batch, ImageEmbedding, InputSpec, ObjectPrompts, Sample

COPIES = 0x7669657773
"""Seed word that keeps the geometry of fixed copies apart from every other draw."""

Embeddings = Callable[[int, int], ImageEmbedding]
"""(position, copy) -> the cached embedding of that copy, B = 1."""


def copy_seed(position: int, copy: int) -> Seed | None:
    """Seed words of the geometry of a fixed copy; copy 0 is the image as it is."""
    return (COPIES, position, copy) if copy else None


def place(
    array: np.ndarray, size: int, geometry: str, augment: Augment | None, seed: Seed | None
) -> np.ndarray:
    """Resize an image (H x W x 3) or label (H x W) to what it takes up of a square, and move it.

    Args:
        array: uint8.
        size: side of the square.
        geometry: see `content_size`.
        augment, seed: nothing moves where one of them is None.

    Returns:
        uint8 h x w (x 3), not padded yet.
    """
    content = content_size(array.shape[0], array.shape[1], size, geometry)
    small = resize_image(array, content) if array.ndim == 3 else resize_label(array, content)
    return small if augment is None or seed is None else augment.move(small, seed)


def square(image: np.ndarray, size: int) -> torch.Tensor:
    """uint8 h x w x 3 -> uint8 3 x size x size, zeros at the bottom and right."""
    return torch.from_numpy(np.ascontiguousarray(pad(image, size).transpose(2, 0, 1)))


def make_sample(
    name: str,
    image: np.ndarray,
    input_spec: InputSpec,
    label: np.ndarray | None = None,
    num_classes: int = 1,
    augment: Augment | None = None,
    seed: Seed = (),
    prompting: PromptConfig | None = None,
    fixed: tuple[int, int] | None = None,
    prior: np.ndarray | None = None,
) -> Sample:
    """Bring one image (and its label) to the sizes that a segmenter takes.

    Args:
        name: for messages and files.
        image: uint8 H x W x 3 RGB.
        input_spec: the sizes.
        label: H x W, see `autosam.data.labels`.
        num_classes: K.
        augment: applied between resizing and padding.
        seed: seed words of the augmentation and the prompts.
        prompting: how prompts are taken from the label, where the input spec asks for them;
            jittered, and of some objects only, where `augment` is given.
        fixed: position and number of a fixed copy: its geometry does not depend on `seed`, and
            colours change in the generator input alone, so that the SAM input (and its
            embedding) is the same at every visit.
        prior: uint8 H x W, 0 or 1: what prompts are taken from instead of the label.
    """
    where = seed if fixed is None else copy_seed(*fixed)
    geometry, side = input_spec.geometry, input_spec.image_size
    small = place(image, input_spec.generator_size, geometry, augment, where)
    if augment is not None:
        small = augment.recolour(small, seed)
    whole = None
    if input_spec.needs_image and fixed is None and input_spec.generator_size == side:
        whole = small
    elif input_spec.needs_image:
        whole = place(image, side, geometry, augment, where)
        if augment is not None and fixed is None:
            whole = augment.recolour(whole, seed)
    fitted = None if label is None else place(label, side, geometry, augment, where)
    height, width = image.shape[:2]
    valid = content_size(height, width, side, geometry) if fitted is None else fitted.shape
    sample = Sample(
        name=name,
        generator_input=square(small, input_spec.generator_size),
        generator_valid=(small.shape[0], small.shape[1]),
        sam_input=None if whole is None else square(whole, side),
        sam_valid=(valid[0], valid[1]),
        size=(height, width),
        label=label if augment is None else None,
    )
    if input_spec.prompts is not None and prompting is not None:
        fitted_prior = None if prior is None else place(prior, side, geometry, augment, where)
        seen = fitted if fitted is not None else fitted_prior
        if seen is not None:
            rng = np.random.default_rng([*seed, 1])
            sample.prompts, seen = draw_prompts(
                seen, input_spec, prompting, rng, augment is not None, num_classes, fitted_prior
            )
            fitted = None if fitted is None else seen
    if fitted is not None:
        sizes = (side, input_spec.target_size or input_spec.mask_size)
        sample.target = class_shares(fitted, num_classes, *sizes)
        sample.weight = cell_weight(known(fitted), *sizes)
    return sample


class PairDataset(Dataset[Sample]):
    """Pairs of image and mask files. Indexed by (epoch, position), so that augmentation depends on
    nothing else: not on the worker, not on what was read before.

    Args:
        pairs: the files.
        input_spec: the sizes.
        reading: how masks become labels.
        augment: None outside training.
        seed: of the augmentation and the prompts.
        prompting: see `make_sample`.
        color_prior: the rule on colours that prompts come from, if they do.
        copies: V, how many fixed geometric copies an image has, of which each visit draws one; 0:
            the geometry is drawn anew at each visit.
        shuffled: SAM's image encoder sees another image of `pairs`, drawn anew at each visit.

    Raises:
        DataError: two pairs of one name, by which scores are kept.
    """

    def __init__(
        self,
        pairs: list[Pair],
        input_spec: InputSpec,
        reading: MaskReading,
        augment: Augment | None = None,
        seed: int = 0,
        prompting: PromptConfig | None = None,
        copies: int = 0,
        color_prior: RoughConfig | None = None,
        shuffled: bool = False,
    ) -> None:
        names: dict[str, Pair] = {}
        for pair in pairs:
            if (other := names.setdefault(pair.name, pair)) is not pair:
                raise DataError(
                    f"{other.image} and {pair.image} both have the name {pair.name}, by which "
                    "scores are kept. Rename one of them."
                )
        self.pairs, self.input_spec, self.reading = pairs, input_spec, reading
        self.augment, self.seed, self.prompting, self.copies = augment, seed, prompting, copies
        self.color_prior, self.shuffled = color_prior, shuffled
        self.embeddings: Embeddings | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def use(self, embeddings: Embeddings) -> None:
        """Take the embeddings of the fixed copies from a cache, and make no SAM inputs."""
        self.embeddings = embeddings
        self.input_spec = dataclasses.replace(self.input_spec, needs_image=False)

    def sam_input_of(
        self, position: int, copy: int, visit: Seed | None = None
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """What the image encoder sees of an image.

        Args:
            position: of the pair.
            copy: number of the fixed copy.
            visit: where there are no fixed copies: seed words of a geometry and colours of its own.

        Returns:
            uint8 3 x S x S, and its rows and columns that hold image.
        """
        input_spec, image = self.input_spec, self.pairs[position].image.read()
        free = visit is not None and not self.copies
        seed = visit if free else copy_seed(position, copy)
        whole = place(image, input_spec.image_size, input_spec.geometry, self.augment, seed)
        if self.augment is not None and visit is not None and free:
            whole = self.augment.recolour(whole, visit)
        return square(whole, input_spec.image_size), (whole.shape[0], whole.shape[1])

    def prior(self, pair: Pair, shape: tuple[int, ...]) -> np.ndarray | None:
        """uint8 H x W: what prompts are taken from, where that is not the mask."""
        if self.input_spec.prompts is None:
            return None
        if self.color_prior is not None:
            return color_prior_mask(pair.image, self.color_prior)
        if pair.regions is None:
            return None
        found = pair.regions.read()
        if found.shape != shape:
            raise DataError(size_mismatch(pair.regions, found.shape, pair.mask, shape))
        return found

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, position = key
        pair = self.pairs[position]
        (image, valid), label = read_valid(pair.image), self.reading.read(pair.mask)
        if image.shape[:2] != label.shape:  # of very many files only a sample was checked before
            raise DataError(size_mismatch(pair.image, image.shape, pair.mask, label.shape))
        label = without(label, valid)
        seed = (self.seed, epoch, position)
        copy = int(np.random.default_rng([*seed, 2]).integers(self.copies)) if self.copies else 0
        sample = make_sample(
            pair.name,
            image,
            self.input_spec,
            label,
            self.reading.num_classes,
            self.augment,
            seed,
            self.prompting,
            (position, copy) if self.copies else None,
            self.prior(pair, label.shape),
        )
        sample.valid = valid if self.augment is None else None
        seen = position
        if self.shuffled and len(self) > 1:
            away = 1 + int(np.random.default_rng([*seed, 3]).integers(len(self) - 1))
            seen = (position + away) % len(self)
        if self.embeddings is not None:
            sample.embedding = self.embeddings(seen, copy)
        elif seen != position and self.input_spec.needs_image:
            sample.sam_input, sample.sam_valid = self.sam_input_of(seen, copy, seed)
        return sample


def largest_batch(dataset: PairDataset, size: int) -> Batch:
    """The first images of a data set as the batch that takes most memory in training: each with as
    many objects as any may have.

    Args:
        dataset: of which images repeat where it has fewer.
        size: B.
    """
    samples = [dataset[0, i % len(dataset)] for i in range(size)]
    for sample in samples:
        if sample.prompts is not None and dataset.prompting is not None:
            sample.prompts = _repeated(sample.prompts, dataset.prompting.objects)
    return Batch.collate(samples)


def _repeated(prompts: ObjectPrompts, count: int) -> ObjectPrompts:
    """The same objects again and again, or zeros where there is none, until they are `count`."""
    if len(prompts) >= count:
        return prompts
    if len(prompts) == 0:
        return prompts.map(lambda t: t.new_zeros((count, *t.shape[1:])))
    return prompts.map(lambda t: t[torch.arange(count) % len(t)])


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, position); shuffled by (seed, epoch) or in order; without the first `start`,
    which were seen before an interruption."""

    def __init__(self, length: int, shuffle: bool, seed: int = 0) -> None:
        self.length, self.shuffle, self.seed = length, shuffle, seed
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        return ((self.epoch, int(i)) for i in order[self.start :])


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of an epoch in the order of a sampler, for processes that take turns: process p
    of P takes batch p, p + P, ... Each image comes once; P batches in a row are of one size. A tail
    of less than a whole round is left out where there are two rounds or more, or one and the tail
    has batches of a single image (BatchNorm cannot learn from one); otherwise only what P does not
    divide.

    Without the first `sampler.start` images, which were seen before an interruption, the batches
    are those that were left.
    """

    def __init__(self, sampler: EpochSampler, batch: int, processes: int) -> None:
        self.sampler, self.batch, self.processes = sampler, batch, processes

    def rounds(self) -> list[tuple[int, int]]:
        """The first image and the end of each round, in the order of the whole epoch."""
        whole, length = self.batch * self.processes, self.sampler.length
        single = length > whole and length % whole // self.processes == 1
        used = length - length % (whole if length >= 2 * whole or single else self.processes)
        return [(first, min(first + whole, used)) for first in range(0, used, whole)]

    def __len__(self) -> int:
        return len(self.rounds()) * self.processes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start = self.sampler.start
        left = list(self.sampler)
        for first, end in self.rounds():
            first = max(first, start)  # within a round: other processes began it
            size = max(0, end - first) // self.processes
            for process in range(self.processes if size else 0):
                begin = first + process * size - start
                yield left[begin : begin + size]
