"""Data set of image and mask pairs; samples have the sizes that a segmenter takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

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
from autosam.data.instances import change, label_of, without_objects
from autosam.data.labels import known, without
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.object_targets import center_map, depth_map, draw_objects
from autosam.data.pairs import Pair, read_valid
from autosam.data.prompts import draw_prompts
from autosam.data.readers.stretch import stretch_channels
from autosam.errors import DataError
from autosam.types import Batch, ImageEmbedding, InputSpec, Instances, ObjectPrompts, Sample

COPIES = 0x7669657773
"""Seed word of the geometry of augmented copies."""

Embeddings = Callable[[int, int], ImageEmbedding]
"""(position, copy) -> the cached embedding of that copy, B = 1."""


@dataclass(frozen=True)
class Visit:
    """The random draws for one use of an image.

    Attributes:
        augment: applied between resizing and padding. If given, prompts are jittered, and taken
            from a limited number of objects.
        seed: seed words of the augmentation and the prompts.
        fixed: position and number of an augmented copy. Its geometry does not depend on `seed`, and
            colours change in the generator input only, so the SAM input (and its embedding) is
            the same at every visit.
    """

    augment: Augment | None = None
    seed: Seed = ()
    fixed: tuple[int, int] | None = None


@dataclass(frozen=True)
class Prompting:
    """How prompts are made.

    Attributes:
        config: how objects become prompts.
        color_prior: the rule that finds the objects; None: they are taken from the mask.
    """

    config: PromptConfig
    color_prior: RoughConfig | None = None


def copy_seed(position: int, copy: int) -> Seed | None:
    """Seed words of the geometry of an augmented copy; copy 0 is the unchanged image (None)."""
    return (COPIES, position, copy) if copy else None


def place(
    array: np.ndarray, size: int, geometry: str, augment: Augment | None, seed: Seed | None
) -> np.ndarray:
    """Resize an image (H x W x 3) or label (H x W) to its size inside a square, and augment it.

    Args:
        array: uint8, or a label.
        size: side of the square.
        geometry: see `content_size`.
        augment: geometric augmentation; None: none.
        seed: its seed words; None: no augmentation.

    Returns:
        h x w (x 3), not padded.
    """
    content = content_size(array.shape[0], array.shape[1], size, geometry)
    small = resize_image(array, content) if array.ndim == 3 else resize_label(array, content)
    return small if augment is None or seed is None else augment.move(small, seed)


def square(image: np.ndarray, size: int) -> torch.Tensor:
    """Pad an image, uint8 h x w x 3, at the bottom and right; uint8 3 x size x size."""
    return torch.from_numpy(np.ascontiguousarray(pad(image, size).transpose(2, 0, 1)))


def for_sam(image: np.ndarray, input_spec: InputSpec) -> np.ndarray:
    """What the SAM input is made of: the image, uint8 H x W x 3, with stretched channels if the
    input spec says so."""
    return stretch_channels(image) if input_spec.stretch else image


def make_sample(
    name: str,
    image: np.ndarray,
    input_spec: InputSpec,
    label: np.ndarray | None = None,
    num_classes: int = 1,
    visit: Visit | None = None,
    prompting: PromptConfig | None = None,
    prior: np.ndarray | None = None,
    instances: Instances | None = None,
) -> Sample:
    """Resize one image (and its label) to the sizes that a segmenter takes.

    Args:
        name: for messages and files.
        image: uint8 H x W x 3 RGB.
        input_spec: the sizes.
        label: H x W, see `autosam.data.labels`.
        num_classes: K.
        visit: augmentation and seed; None: no augmentation.
        prompting: how prompts are taken from the label, if the input spec requires them.
        prior: uint8 H x W, 0 or 1: mask that prompts are taken from in place of the label.
        instances: the objects of the label, which prompts are then taken from.
    """
    visit = visit or Visit()
    augment, seed, fixed = visit.augment, visit.seed, visit.fixed
    where = seed if fixed is None else copy_seed(*fixed)
    geometry, side = input_spec.geometry, input_spec.image_size
    generator_input = place(image, input_spec.generator_size, geometry, augment, where)
    if augment is not None:
        generator_input = augment.recolour(generator_input, seed)
    sam_input = None
    alike = fixed is None and input_spec.generator_size == side and not input_spec.stretch
    if input_spec.needs_image and alike:
        sam_input = generator_input
    elif input_spec.needs_image:
        sam_input = place(for_sam(image, input_spec), side, geometry, augment, where)
        if augment is not None and fixed is None:
            sam_input = augment.recolour(sam_input, seed)
    placed = None
    if instances is not None:
        placed = change(instances, lambda ids: place(ids, side, geometry, augment, where))
        fitted: np.ndarray | None = label_of(placed)
    else:
        fitted = None if label is None else place(label, side, geometry, augment, where)
    height, width = image.shape[:2]
    valid = content_size(height, width, side, geometry) if fitted is None else fitted.shape
    sample = Sample(
        name=name,
        generator_input=square(generator_input, input_spec.generator_size),
        generator_valid=(generator_input.shape[0], generator_input.shape[1]),
        sam_input=None if sam_input is None else square(sam_input, side),
        sam_valid=(valid[0], valid[1]),
        size=(height, width),
        label=label if augment is None else None,
        instances=instances if augment is None else None,
    )
    if input_spec.prompts == "objects":
        if placed is not None and prompting is not None:
            rng = np.random.default_rng([*seed, 1])
            depth = depth_map(placed.ids)
            sample.centers = center_map(placed, depth, num_classes, input_spec)
            count, train = prompting.objects, augment is not None
            sample.prompts = draw_objects(placed, depth, input_spec, count, rng, train)
    elif input_spec.prompts is not None and prompting is not None:
        fitted_prior = None if prior is None else place(prior, side, geometry, augment, where)
        source = fitted if fitted is not None else fitted_prior
        if source is not None:
            rng = np.random.default_rng([*seed, 1])
            sample.prompts, source = draw_prompts(
                source,
                input_spec,
                prompting,
                rng,
                augment is not None,
                num_classes,
                fitted_prior,
                placed,
            )
            fitted = None if fitted is None else source
    if fitted is not None:
        sizes = (side, input_spec.target_size or input_spec.mask_size)
        sample.target = class_shares(fitted, num_classes, *sizes)
        sample.weight = cell_weight(known(fitted), *sizes)
    return sample


class PairDataset(Dataset[Sample]):
    """Pairs of image and mask files, indexed by (epoch, position). Augmentation depends only on the
    index and `seed`, not on the worker or the order.

    Args:
        pairs: the files.
        input_spec: the sizes.
        encoding: how mask values map to classes.
        augment: None outside training.
        seed: of the augmentation and the prompts.
        prompting: how prompts are made, for runs that take them from masks.
        copies: V, number of augmented copies of an image, of which each visit draws one; 0: every
            visit draws a new geometry.
        shuffled: SAM's image encoder gets another image of `pairs`, a new one at each visit, and of
            another group if there is one: slices of one volume look alike.
        instances: read the objects of the masks.

    Raises:
        DataError: two pairs have one name, or `shuffled` with a single pair.
    """

    def __init__(
        self,
        pairs: list[Pair],
        input_spec: InputSpec,
        encoding: MaskEncoding,
        augment: Augment | None = None,
        seed: int = 0,
        prompting: Prompting | None = None,
        copies: int = 0,
        shuffled: bool = False,
        instances: bool = False,
    ) -> None:
        names: dict[str, Pair] = {}
        for pair in pairs:
            if (other := names.setdefault(pair.name, pair)) is not pair:
                raise DataError(
                    f"{other.image} and {pair.image} both have the name {pair.name}, by which "
                    "scores are kept. Rename one of them."
                )
        self.pairs, self.input_spec, self.encoding = pairs, input_spec, encoding
        self.augment, self.seed, self.prompting, self.copies = augment, seed, prompting, copies
        self.shuffled, self.instances = shuffled, instances
        if shuffled:
            require_others(pairs)
        self.embeddings: Embeddings | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def use(self, embeddings: Embeddings) -> None:
        """Take the embeddings of the augmented copies from a cache, and make no SAM inputs."""
        self.embeddings = embeddings
        self.input_spec = dataclasses.replace(self.input_spec, needs_image=False)

    def sam_input_of(
        self, position: int, copy: int, visit: Seed | None = None
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """The input of SAM's image encoder.

        Args:
            position: of the pair.
            copy: number of the augmented copy.
            visit: seed words of geometry and colours, without augmented copies.

        Returns:
            uint8 3 x S x S, and the number of rows and columns that are not padding.
        """
        input_spec = self.input_spec
        image = for_sam(self.pairs[position].image.read(), input_spec)
        free = visit is not None and not self.copies
        seed = visit if free else copy_seed(position, copy)
        sam_input = place(image, input_spec.image_size, input_spec.geometry, self.augment, seed)
        if self.augment is not None and visit is not None and free:
            sam_input = self.augment.recolour(sam_input, visit)
        return square(sam_input, input_spec.image_size), (sam_input.shape[0], sam_input.shape[1])

    def others(self, position: int) -> list[int]:
        """The positions of all other pairs; of other groups alone, if there are any."""
        count, group = len(self), self.pairs[position].group
        others = [(position + offset) % count for offset in range(1, count)]
        apart = [i for i in others if not group or self.pairs[i].group != group]
        return apart or others

    def prior(self, pair: Pair, shape: tuple[int, ...]) -> np.ndarray | None:
        """The mask that prompts are taken from, uint8 H x W; None: the label."""
        if self.input_spec.prompts in (None, "objects"):
            return None
        if self.prompting is not None and self.prompting.color_prior is not None:
            return color_prior_mask(pair.image, self.prompting.color_prior)
        if pair.regions is None or self.instances:
            return None
        found = pair.regions.read()
        if found.shape != shape:
            raise DataError(size_mismatch(pair.regions, found.shape, pair.mask, shape))
        return found

    def truth(self, pair: Pair) -> tuple[np.ndarray, Instances | None]:
        """The label of a pair, and its objects if they are read."""
        if not self.instances:
            return self.encoding.read(pair.mask), None
        found = self.encoding.read_instances(pair.mask, pair.regions)
        return label_of(found), found

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, position = key
        pair = self.pairs[position]
        image, valid = read_valid(pair.image)
        label, instances = self.truth(pair)
        if image.shape[:2] != label.shape:  # only a sample of a large data set was checked before
            raise DataError(size_mismatch(pair.image, image.shape, pair.mask, label.shape))
        label = without(label, valid)
        if instances is not None:
            instances = without_objects(instances, valid)
        seed = (self.seed, epoch, position)
        copy = int(np.random.default_rng([*seed, 2]).integers(self.copies)) if self.copies else 0
        sample = make_sample(
            pair.name,
            image,
            self.input_spec,
            label,
            self.encoding.num_classes,
            Visit(self.augment, seed, (position, copy) if self.copies else None),
            None if self.prompting is None else self.prompting.config,
            self.prior(pair, label.shape),
            instances,
        )
        sample.valid = valid if self.augment is None else None
        encoded = position
        if self.shuffled:
            others = self.others(position)
            encoded = others[int(np.random.default_rng([*seed, 3]).integers(len(others)))]
        if self.embeddings is not None:
            sample.embedding = self.embeddings(encoded, copy)
        elif encoded != position and self.input_spec.needs_image:
            sample.sam_input, sample.sam_valid = self.sam_input_of(encoded, copy, seed)
        return sample


def require_others(pairs: list[Pair]) -> None:
    """Refuse to shuffle the embeddings of a single image.

    Raises:
        DataError: there is one pair.
    """
    if len(pairs) == 1:
        raise DataError(
            f"{pairs[0].image}: the only image of its split, so there is no other whose embedding "
            "--embedding shuffled could take. Give more images, or leave this control out "
            "(compare: --attribution false)."
        )


def largest_batch(dataset: PairDataset, size: int) -> Batch:
    """The batch that takes most memory in training: the first images, each with the largest number
    of objects.

    Args:
        dataset: its images are repeated if it has fewer than `size`.
        size: B.
    """
    samples = [dataset[0, i % len(dataset)] for i in range(size)]
    for sample in samples:
        if sample.prompts is not None and dataset.prompting is not None:
            sample.prompts = _repeated(sample.prompts, dataset.prompting.config.objects)
    return Batch.collate(samples)


def _repeated(prompts: ObjectPrompts, count: int) -> ObjectPrompts:
    """Repeat the objects (zeros if there are none) up to `count`."""
    if len(prompts) >= count:
        return prompts
    if len(prompts) == 0:
        return prompts.map(lambda t: t.new_zeros((count, *t.shape[1:])))
    return prompts.map(lambda t: t[torch.arange(count) % len(t)])
