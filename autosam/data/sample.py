"""Make samples of images: the sizes that a segmenter takes, augmented and padded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from autosam.config import PromptConfig
from autosam.data.augment import Augment, Seed
from autosam.data.geometry import (
    cell_weight,
    class_shares,
    content_size,
    pad,
    resize_image,
    resize_label,
)
from autosam.data.instances import change, label_of
from autosam.data.labels import known
from autosam.data.object_targets import center_map, draw_objects, heat_map
from autosam.data.prompts import draw_prompts
from autosam.data.readers.stretch import stretch_channels
from autosam.data.tiles import cut, tile_regions
from autosam.types import InputSpec, Instances, Region, Sample

COPIES = 0x7669657773
"""Seed word of the geometry of augmented copies."""


@dataclass(frozen=True)
class Visit:
    """The random draws for one use of an image.

    Attributes:
        augment: applied between resizing and padding. If given, prompts are jittered, and taken
            from a limited number of objects.
        seed: seed words of the augmentation and the prompts.
        fixed: record and number of an augmented copy. Its geometry does not depend on `seed`, and
            colours change in the generator input only, so the SAM input (and its embedding) is
            the same at every visit.
    """

    augment: Augment | None = None
    seed: Seed = ()
    fixed: tuple[int, int] | None = None


@dataclass
class Opened:
    """An image and its truth, read from files; regions of it become samples."""

    name: str
    image: np.ndarray
    valid: np.ndarray | None
    label: np.ndarray
    prior: np.ndarray | None
    instances: Instances | None
    sam_image: np.ndarray | None = None
    """What the SAM input is made of, if it is not `image`, see `resized`."""
    full_size: tuple[int, int] | None = None
    """H, W before it was resized, if it was."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        ids = None if self.instances is None else self.instances.ids
        arrays = (self.image, self.valid, self.label, self.prior, ids, self.sam_image)
        return sum(array.nbytes for array in arrays if array is not None)

    def part(self, region: Region, cut_image: bool = True) -> Opened:
        """A region of the image; objects that it cuts stay one.

        Args:
            region: in pixels of the truth.
            cut_image: False where `image` and `valid` hold the region alone.
        """
        valid = cut(self.valid, region) if cut_image and self.valid is not None else self.valid
        return Opened(
            self.name,
            cut(self.image, region) if cut_image else self.image,
            valid,
            cut(self.label, region),
            None if self.prior is None else cut(self.prior, region),
            None if self.instances is None else change(self.instances, lambda i: cut(i, region)),
        )


def resized(opened: Opened, input_spec: InputSpec) -> Opened:
    """Resize an image as `make_sample` does before it augments, so that a sample for training is
    the same and is made faster.

    Args:
        opened: the image and its truth, without `instances`.
        input_spec: the sizes.
    """

    def fit(array: np.ndarray, size: int) -> np.ndarray:
        return place(array, size, input_spec.geometry, None, None)

    image, side = opened.image, input_spec.image_size
    alike = input_spec.generator_size == side and image.shape[2] == 3 and not input_spec.stretch
    apart = input_spec.needs_image and not alike
    return Opened(
        opened.name,
        fit(image, input_spec.generator_size),
        None,
        fit(opened.label, side),
        None if opened.prior is None else fit(opened.prior, side),
        None,
        fit(for_sam(image, input_spec), side) if apart else None,
        (image.shape[0], image.shape[1]),
    )


def copy_seed(record: int, copy: int) -> Seed | None:
    """Seed words of the geometry of an augmented copy; copy 0 is the unchanged image (None)."""
    return (COPIES, record, copy) if copy else None


def place(
    array: np.ndarray, size: int, geometry: str, augment: Augment | None, seed: Seed | None
) -> np.ndarray:
    """Resize an image (H x W x C) or label (H x W) to its size inside a square, and augment it.

    Args:
        array: uint8, or a label.
        size: side of the square.
        geometry: see `content_size`.
        augment: geometric augmentation; None: none.
        seed: its seed words; None: no augmentation.

    Returns:
        h x w (x C), not padded.
    """
    content = content_size(array.shape[0], array.shape[1], size, geometry)
    small = resize_image(array, content) if array.ndim == 3 else resize_label(array, content)
    return small if augment is None or seed is None else augment.move(small, seed)


def square(image: np.ndarray, size: int) -> torch.Tensor:
    """Pad an image, uint8 h x w x C, at the bottom and right; uint8 C x size x size."""
    return torch.from_numpy(np.ascontiguousarray(pad(image, size).transpose(2, 0, 1)))


def for_sam(image: np.ndarray, input_spec: InputSpec) -> np.ndarray:
    """What the SAM input is made of: the RGB image, uint8 H x W x 3 of H x W x (3 + C), stretched
    if the input spec says so."""
    colors = image[..., :3]
    return stretch_channels(colors) if input_spec.stretch else colors


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
    sam_image: np.ndarray | None = None,
) -> Sample:
    """Resize one image (and its label) to the sizes that a segmenter takes.

    Args:
        name: for messages and files.
        image: uint8 H x W x (3 + C), see `read_valid`.
        input_spec: the sizes.
        label: H x W, see `autosam.data.labels`.
        num_classes: K.
        visit: augmentation and seed; None: no augmentation.
        prompting: how prompts are taken from the label, if the input spec requires them.
        prior: uint8 H x W, 0 or 1: mask that prompts are taken from in place of the label.
        instances: the objects of the label, which prompts are then taken from.
        sam_image: uint8 h x w x 3, what the SAM input is made of; None: `for_sam` of `image`.
    """
    visit = visit or Visit()
    augment, seed, fixed = visit.augment, visit.seed, visit.fixed
    where = seed if fixed is None else copy_seed(*fixed)
    geometry, side = input_spec.geometry, input_spec.image_size
    is_rgb = image.shape[2] == 3
    shown = image if is_rgb else image[..., 3:]
    generator_input = place(shown, input_spec.generator_size, geometry, augment, where)
    if augment is not None:
        generator_input = augment.recolour(generator_input, seed, is_rgb)
    sam_input = None
    alike = fixed is None and input_spec.generator_size == side and not input_spec.stretch
    alike = alike and is_rgb
    if input_spec.needs_image and alike:
        sam_input = generator_input
    elif input_spec.needs_image:
        shown = for_sam(image, input_spec) if sam_image is None else sam_image
        sam_input = place(shown, side, geometry, augment, where)
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
            heat = heat_map(placed.ids)
            sample.centers = center_map(placed, heat, num_classes, input_spec)
            count, train = prompting.objects, augment is not None
            sample.prompts = draw_objects(placed, heat, input_spec, count, rng, train)
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


def join_tiles(tiles: list[Sample], size: tuple[int, ...], opened: Opened | None = None) -> Sample:
    """Make the sample of an image that is shown in tiles.

    Args:
        tiles: with their regions.
        size: H, W of the image.
        opened: the image and its truth; None: without truth.
    """
    return dataclasses.replace(
        tiles[0],
        size=(size[0], size[1]),
        label=None if opened is None else opened.label,
        valid=None if opened is None else opened.valid,
        instances=None if opened is None else opened.instances,
        prompts=None,
        region=None,
        tiles=tiles,
    )


def make_tiles(
    name: str,
    image: np.ndarray,
    input_spec: InputSpec,
    tile: int | None,
    prompting: PromptConfig | None = None,
    prior: np.ndarray | None = None,
) -> Sample:
    """Make the sample of a new image, in tiles if it is larger than one.

    Args:
        name, image, input_spec, prompting, prior: see `make_sample`.
        tile: side of a tile, pixels of the image; None: the image as a whole.
    """
    if tile is None:
        return make_sample(name, image, input_spec, prompting=prompting, prior=prior)
    tiles = []
    for region in tile_regions(image.shape[:2], tile):
        part = None if prior is None else cut(prior, region)
        sample = make_sample(name, cut(image, region), input_spec, prompting=prompting, prior=part)
        tiles.append(dataclasses.replace(sample, region=region))
    return join_tiles(tiles, image.shape[:2])
