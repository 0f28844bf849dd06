"""Pairs of files as samples in a segmenter's frame, and the order they come in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from autosam.config import PromptConfig, RoughConfig
from autosam.data.augment import Augment, Seed
from autosam.data.checks import size_mismatch
from autosam.data.color_prior import rough_mask
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
from autosam.types import Batch, Frame, ImageEmbedding, ObjectPrompts, Sample

VIEWS = 0x7669657773
"""Seed word that keeps the geometry of fixed views apart from every other draw."""

Embeddings = Callable[[int, int], ImageEmbedding]
"""(position, view) -> the cached embedding of that view, B = 1."""


def view_seed(position: int, view: int) -> Seed | None:
    """Seed words of the geometry of a fixed view; view 0 is the image as it is."""
    return (VIEWS, position, view) if view else None


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
    frame: Frame,
    label: np.ndarray | None = None,
    num_classes: int = 1,
    augment: Augment | None = None,
    seed: Seed = (),
    prompting: PromptConfig | None = None,
    fixed: tuple[int, int] | None = None,
    guide: np.ndarray | None = None,
) -> Sample:
    """Bring one image (and its label) into a frame.

    Args:
        name: for messages and files.
        image: uint8 H x W x 3 RGB.
        frame: the sizes wanted.
        label: H x W, see `autosam.data.labels`.
        num_classes: K.
        augment: applied between resizing and padding.
        seed: seed words of the augmentation and the prompts.
        prompting: how prompts are taken from the label, where the frame asks for them; jittered,
            and of some objects only, where `augment` is given.
        fixed: position and number of a fixed view: its geometry does not depend on `seed`, and
            colours change in the prompt generator's view alone, so that the S x S view (and its
            embedding) is the same at every visit.
        guide: uint8 H x W, 0 or 1: what prompts are taken from instead of the label.
    """
    where = seed if fixed is None else view_seed(*fixed)
    geometry, side = frame.geometry, frame.image_size
    view = place(image, frame.view_size, geometry, augment, where)
    if augment is not None:
        view = augment.recolour(view, seed)
    whole = None
    if frame.needs_image and fixed is None and frame.view_size == side:
        whole = view
    elif frame.needs_image:
        whole = place(image, side, geometry, augment, where)
        if augment is not None and fixed is None:
            whole = augment.recolour(whole, seed)
    fitted = None if label is None else place(label, side, geometry, augment, where)
    height, width = image.shape[:2]
    valid = content_size(height, width, side, geometry) if fitted is None else fitted.shape
    sample = Sample(
        name=name,
        view=square(view, frame.view_size),
        view_valid=(view.shape[0], view.shape[1]),
        image=None if whole is None else square(whole, side),
        image_valid=(valid[0], valid[1]),
        size=(height, width),
        label=label if augment is None else None,
    )
    if frame.prompts is not None and prompting is not None:
        led = None if guide is None else place(guide, side, geometry, augment, where)
        seen = fitted if fitted is not None else led
        if seen is not None:
            rng = np.random.default_rng([*seed, 1])
            sample.prompts, seen = draw_prompts(
                seen, frame, prompting, rng, augment is not None, num_classes, led
            )
            fitted = None if fitted is None else seen
    if fitted is not None:
        sizes = (side, frame.target_size or frame.mask_size)
        sample.target = class_shares(fitted, num_classes, *sizes)
        sample.weight = cell_weight(known(fitted), *sizes)
    return sample


class PairDataset(Dataset[Sample]):
    """Pairs of image and mask files. Indexed by (epoch, position), so that augmentation depends on
    nothing else: not on the worker, not on what was read before.

    Args:
        pairs: the files.
        frame: the sizes wanted.
        reading: how masks become labels.
        augment: None outside training.
        seed: of the augmentation and the prompts.
        prompting: see `make_sample`.
        rough: where prompts come from a rule on colours: the rule.
        views: V, how many fixed geometric views an image has, of which each visit draws one; 0:
            the geometry is drawn anew at each visit.
        shuffled: SAM's image encoder sees another image of `pairs`, drawn anew at each visit.

    Raises:
        DataError: two pairs of one name, by which scores are kept.
    """

    def __init__(
        self,
        pairs: list[Pair],
        frame: Frame,
        reading: MaskReading,
        augment: Augment | None = None,
        seed: int = 0,
        prompting: PromptConfig | None = None,
        views: int = 0,
        rough: RoughConfig | None = None,
        shuffled: bool = False,
    ) -> None:
        names: dict[str, Pair] = {}
        for pair in pairs:
            if (other := names.setdefault(pair.name, pair)) is not pair:
                raise DataError(
                    f"{other.image} and {pair.image} both have the name {pair.name}, by which "
                    "scores are kept. Rename one of them."
                )
        self.pairs, self.frame, self.reading = pairs, frame, reading
        self.augment, self.seed, self.prompting, self.views = augment, seed, prompting, views
        self.rough, self.shuffled = rough, shuffled
        self.embeddings: Embeddings | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def use(self, embeddings: Embeddings) -> None:
        """Take the embeddings of the fixed views from a cache, and make no S x S views."""
        self.embeddings = embeddings
        self.frame = dataclasses.replace(self.frame, needs_image=False)

    def sam_view(
        self, position: int, view: int, visit: Seed | None = None
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """What the image encoder sees of an image.

        Args:
            position: of the pair.
            view: number of the fixed view.
            visit: where there are no fixed views: seed words of a geometry and colours of its own.

        Returns:
            uint8 3 x S x S, and its rows and columns that hold image.
        """
        frame, image = self.frame, self.pairs[position].image.read()
        free = visit is not None and not self.views
        seed = visit if free else view_seed(position, view)
        whole = place(image, frame.image_size, frame.geometry, self.augment, seed)
        if self.augment is not None and visit is not None and free:
            whole = self.augment.recolour(whole, visit)
        return square(whole, frame.image_size), (whole.shape[0], whole.shape[1])

    def guide(self, pair: Pair, shape: tuple[int, ...]) -> np.ndarray | None:
        """uint8 H x W: what prompts are taken from, where that is not the mask."""
        if self.frame.prompts is None:
            return None
        if self.rough is not None:
            return rough_mask(pair.image, self.rough)
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
        view = int(np.random.default_rng([*seed, 2]).integers(self.views)) if self.views else 0
        sample = make_sample(
            pair.name,
            image,
            self.frame,
            label,
            self.reading.num_classes,
            self.augment,
            seed,
            self.prompting,
            (position, view) if self.views else None,
            self.guide(pair, label.shape),
        )
        sample.valid = valid if self.augment is None else None
        seen = position
        if self.shuffled and len(self) > 1:
            away = 1 + int(np.random.default_rng([*seed, 3]).integers(len(self) - 1))
            seen = (position + away) % len(self)
        if self.embeddings is not None:
            sample.embedding = self.embeddings(seen, view)
        elif seen != position and self.frame.needs_image:
            sample.image, sample.image_valid = self.sam_view(seen, view, seed)
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
