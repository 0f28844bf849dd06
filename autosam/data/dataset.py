"""Data set of image and mask pairs; samples have the sizes that a segmenter takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from autosam.config import DataConfig, PromptConfig, RoughConfig
from autosam.data.augment import Augment, Seed
from autosam.data.checks import size_mismatch
from autosam.data.color_prior import color_prior_mask
from autosam.data.instances import label_of, without_objects
from autosam.data.labels import known, without
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.memory_cache import MemoryCache
from autosam.data.pairs import Pair, read_valid
from autosam.data.sample import (
    Opened,
    Visit,
    copy_seed,
    for_sam,
    join_tiles,
    make_sample,
    place,
    resized,
    square,
)
from autosam.data.tiles import OVERLAP, draw_crop, image_shape, read_region, tile_regions, tile_side
from autosam.errors import DataError
from autosam.types import Batch, ImageEmbedding, InputSpec, Instances, ObjectPrompts, Region, Sample

CROP = 6
"""Seed word of the place of a crop."""
WHOLE = 2**22
"""Pixels of the largest image that is read as a whole to cut a crop from it, and then kept."""

Embeddings = Callable[[int, int], ImageEmbedding]
"""(record, copy) -> the cached embedding of that copy, B = 1; see `PairDataset.records`."""


@dataclass(frozen=True)
class Prompting:
    """How prompts are made.

    Attributes:
        config: how objects become prompts.
        color_prior: the rule that finds the objects; None: they are taken from the mask.
    """

    config: PromptConfig
    color_prior: RoughConfig | None = None


@dataclass(frozen=True)
class Cropping:
    """How large images are cut.

    Attributes:
        size: side of crops and tiles, pixels.
        foreground: share of the crops that are centred on a foreground pixel.
        resolution: see `tile_side`.
    """

    size: int
    foreground: float = 0.5
    resolution: float | None = None


def cropping_of(data: DataConfig) -> Cropping | None:
    """How the settings cut images; None if they do not."""
    return None if data.crop is None else Cropping(data.crop, data.crop_foreground, data.resolution)


def parts_of(pair: Pair, cropping: Cropping, train: bool) -> list[Region]:
    """The tiles that cover an image: in training side by side, as many as crops are drawn from it
    in an epoch; otherwise overlapping."""
    side = tile_side(pair.image, cropping.size, cropping.resolution)
    return tile_regions(image_shape(pair.image), side, 0.0 if train else OVERLAP)


def samples_of(pairs: list[Pair], cropping: Cropping | None) -> int:
    """How many samples an epoch of training has: images, or crops."""
    return len(pairs) if cropping is None else sum(len(parts_of(p, cropping, True)) for p in pairs)


class PairDataset(Dataset[Sample]):
    """Pairs of image and mask files, indexed by (epoch, position). Augmentation depends only on the
    index and `seed`, not on the worker or the order.

    A position is that of a pair. With `cropping` it is that of a crop in training, where an image
    has as many crops as tiles of that size cover it, drawn again at each visit (with cached
    embeddings: those tiles); otherwise a sample is the whole image in overlapping tiles.

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
        cropping: cut large images; None: images are shown as a whole.

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
        cropping: Cropping | None = None,
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
        self.shuffled, self.instances, self.cropping = shuffled, instances, cropping
        if shuffled:
            require_others(pairs)
        self.by_crop = cropping is not None and augment is not None
        self.records: list[tuple[int, Region | None]] = [(i, None) for i in range(len(pairs))]
        """The pair and the part of its image that each embedding is of."""
        self.small: list[bool] = []
        """Of which images crops are cut in memory."""
        if cropping is not None:
            parts = [parts_of(pair, cropping, self.by_crop) for pair in pairs]
            self.records = [(i, part) for i, some in enumerate(parts) for part in some]
            # The last part ends in the corner of the image, whose size need not be read again.
            self.small = [(y + high) * (x + wide) <= WHOLE for *_, (y, x, high, wide) in parts]
        self.records_of: list[list[int]] = [[] for _ in pairs]
        for record, (i, _) in enumerate(self.records):
            self.records_of[i].append(record)
        self.embeddings: Embeddings | None = None
        self._kept = MemoryCache()
        """Images of training, by position, see `open_kept`."""

    def __len__(self) -> int:
        return len(self.records) if self.by_crop else len(self.pairs)

    def images_per_batch(self, wanted: int) -> int:
        """Number of samples in a batch: one where a sample is an image in tiles."""
        return wanted if self.cropping is None or self.by_crop else 1

    def use(self, embeddings: Embeddings) -> None:
        """Take the embeddings of the augmented copies from a cache, and make no SAM inputs."""
        self.embeddings = embeddings
        self.input_spec = dataclasses.replace(self.input_spec, needs_image=False)
        self._kept = MemoryCache()

    def sam_input_of(
        self, record: int, copy: int, visit: Seed | None = None
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """The input of SAM's image encoder.

        Args:
            record: number of the image, or of its crop or tile.
            copy: number of the augmented copy.
            visit: seed words of geometry and colours, without augmented copies.

        Returns:
            uint8 3 x S x S, and the number of rows and columns that are not padding.
        """
        input_spec = self.input_spec
        position, region = self.records[record]
        source = self.pairs[position].image
        image = source.read() if region is None else read_region(source, region)[0]
        image = for_sam(image, input_spec)
        free = visit is not None and not self.copies
        seed = visit if free else copy_seed(record, copy)
        sam_input = place(image, input_spec.image_size, input_spec.geometry, self.augment, seed)
        if self.augment is not None and visit is not None and free:
            sam_input = self.augment.recolour(sam_input, visit)
        return square(sam_input, input_spec.image_size), (sam_input.shape[0], sam_input.shape[1])

    def others(self, record: int) -> list[int]:
        """The records of all other pairs; of other groups alone, if there are any."""
        count, pair = len(self.records), self.records[record][0]
        group = self.pairs[pair].group
        others = [(record + offset) % count for offset in range(1, count)]
        others = [i for i in others if self.records[i][0] != pair]
        apart = [i for i in others if not group or self.pairs[self.records[i][0]].group != group]
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

    def open(self, position: int) -> Opened:
        """Read a pair.

        Args:
            position: of the pair.

        Raises:
            DataError: a file cannot be read, or image and mask differ in size.
        """
        pair = self.pairs[position]
        image, valid = read_valid(pair.image)
        label, instances = self.truth(pair)
        if image.shape[:2] != label.shape:  # only a sample of a large data set was checked before
            raise DataError(size_mismatch(pair.image, image.shape, pair.mask, label.shape))
        label = without(label, valid)
        if instances is not None:
            instances = without_objects(instances, valid)
        return Opened(pair.name, image, valid, label, self.prior(pair, label.shape), instances)

    def open_kept(self, position: int) -> Opened:
        """Read a pair; for training from memory if it is there. Images are kept resized, but not
        those that crops are cut from, and those with objects, whose order depends on all that is
        done to them."""
        if self.augment is None:
            return self.open(position)
        found: Opened | None = self._kept.get(position)
        if found is None:
            found = self.open(position)
            if not self.instances and not self.by_crop:
                found = resized(found, self.input_spec)
            self._kept.put(position, found, found.nbytes)
        return found

    def open_crop(self, position: int, region: Region | None, seed: Seed) -> Opened:
        """Read a crop of a pair; of a large image that can be read by region, no other pixels.

        Args:
            position: of the pair.
            region: the crop; None: it is drawn.
            seed: seed words of the draw.

        Raises:
            DataError: see `open`.
        """
        pair = self.pairs[position]
        if self.small[position] or not hasattr(pair.image, "read_part"):
            opened = self.open_kept(position) if self.small[position] else self.open(position)
            return opened.part(region or self._draw(position, opened.label, seed))
        label, instances = self.truth(pair)
        shape = image_shape(pair.image)
        if shape != label.shape:
            raise DataError(size_mismatch(pair.image, shape, pair.mask, label.shape))
        place = region or self._draw(position, label, seed)
        image, valid = read_region(pair.image, place)
        truth = Opened(pair.name, image, valid, label, self.prior(pair, shape), instances)
        crop = truth.part(place, cut_image=False)
        if valid is None:
            return crop
        if region is None and ((crop.label != 0) & known(crop.label) & ~valid).any():
            # Foreground without data, which the crop may be centred on: the rest is needed.
            opened = self.open(position)
            return opened.part(self._draw(position, opened.label, seed))
        crop.label = without(crop.label, valid)
        if crop.instances is not None:
            crop.instances = without_objects(crop.instances, valid)
        return crop

    def _draw(self, position: int, label: np.ndarray, seed: Seed) -> Region:
        """Draw a crop of a pair."""
        assert self.cropping is not None
        rng = np.random.default_rng([*seed, CROP])
        side = tile_side(self.pairs[position].image, self.cropping.size, self.cropping.resolution)
        return draw_crop(label, side, self.cropping.foreground, rng)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, position = key
        seed = (self.seed, epoch, position)
        if self.cropping is None:
            return self._sample(self.open_kept(position), position, seed)
        if self.by_crop:
            pair, region = self.records[position]
            crop = self.open_crop(pair, region if self.copies else None, seed)
            return self._sample(crop, position, seed)
        opened, tiles = self.open(position), []
        for record in self.records_of[position]:
            region = self.records[record][1]
            assert region is not None
            tile = self._sample(opened.part(region), record, (*seed, record))
            tiles.append(dataclasses.replace(tile, region=region))
        return join_tiles(tiles, opened.label.shape, opened)

    def _sample(self, opened: Opened, record: int, seed: Seed) -> Sample:
        """Make the sample of an image or a part of it."""
        copy = int(np.random.default_rng([*seed, 2]).integers(self.copies)) if self.copies else 0
        sample = make_sample(
            opened.name,
            opened.image,
            self.input_spec,
            opened.label,
            self.encoding.num_classes,
            Visit(self.augment, seed, (record, copy) if self.copies else None),
            None if self.prompting is None else self.prompting.config,
            opened.prior,
            opened.instances,
            opened.sam_image,
        )
        sample.size = opened.full_size or sample.size
        sample.valid = opened.valid if self.augment is None else None
        encoded = record
        if self.shuffled:
            others = self.others(record)
            encoded = others[int(np.random.default_rng([*seed, 3]).integers(len(others)))]
        if self.embeddings is not None:
            sample.embedding = self.embeddings(encoded, copy)
        elif encoded != record and self.input_spec.needs_image:
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
