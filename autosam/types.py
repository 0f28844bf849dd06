"""The data structures of the package: shapes, dtypes and ranges in one place.

Letters: B images, K classes, P prompts (B*K unless said otherwise), N prompt tokens, C embedding
width, h x w embedding grid, S SAM input size, G prompt-generator input size, m x m mask size of the
loss (4h x 4w), H x W an image's own size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Region = tuple[int, int, int, int]
"""A part of an image: first row, first column, rows, columns."""


@dataclass(frozen=True)
class InputSpec:
    """The sizes of a segmenter's inputs and targets."""

    image_size: int
    """S: side of the square that the geometry (and its inverse) is defined on."""
    generator_size: int
    """G: side of the prompt generator's input."""
    mask_size: int
    """m: side of the logits."""
    geometry: str = "longest-pad"
    """`longest-pad` (longest side to S, zero padding at the bottom and right) or `square`."""
    needs_image: bool = True
    """Whether SAM's image encoder takes part, so that the SAM input must be made."""
    prompts: Literal["box", "points", "objects"] | None = None
    """Which prompts the segmenter takes from the true mask, if any. `objects` are its targets
    instead: with a box, a point and a mask for each."""
    target_size: int | None = None
    """m of the targets, where the loss is not taken at the logits' own size; divides
    `image_size`."""
    stretch: bool = False
    """Whether the SAM input is made of the image with stretched channels, see
    `autosam.data.readers.stretch.stretch_channels`."""


@dataclass(frozen=True)
class Decision:
    """When a class counts as found."""

    threshold: float = 0.5
    """Probability from which on a pixel is foreground (of exclusive classes: against background);
    smallest score of an object."""
    min_area: float = 0.0
    """Share of the image below which a class counts as not found."""


@dataclass
class ObjectPrompts:
    """Boxes or points (one of the two) for M objects, in pixels of the S x S square."""

    images: Tensor
    """int64 M: the image of the batch that each object is in (0 in a sample)."""
    classes: Tensor
    """int64 M: its class, 0..K-1."""
    boxes: Tensor | None = None
    """float32 M x 4: x0, y0, x1, y1."""
    points: Tensor | None = None
    """float32 M x N x 2: x, y."""
    labels: Tensor | None = None
    """int64 M x N: 1 on the object, 0 outside it."""
    masks: Tensor | None = None
    """float32 M x m x m: the fraction of each cell that the object covers."""

    def __len__(self) -> int:
        return len(self.images)

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are set."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def part(self, start: int, stop: int) -> ObjectPrompts:
        """The objects from `start` to `stop`."""
        return ObjectPrompts(**{k: v[start:stop] for k, v in self.tensors().items()})

    def select(self, chosen: Tensor) -> ObjectPrompts:
        """The objects at which `chosen`, bool M, is true."""
        return self.map(lambda tensor: tensor[chosen])

    def map(self, function: Callable[[Tensor], Tensor]) -> ObjectPrompts:
        """`function` applied to every tensor."""
        return ObjectPrompts(**{k: function(v) for k, v in self.tensors().items()})

    @classmethod
    def cat(cls, parts: list[ObjectPrompts]) -> ObjectPrompts:
        """The objects of several images, the i-th part being those of image i."""
        joined = {
            name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()
        }
        joined["images"] = torch.cat(
            [torch.full_like(part.images, i) for i, part in enumerate(parts)]
        )
        return cls(**joined)


@dataclass
class Instances:
    """The objects of an image: of its truth, or predicted."""

    ids: np.ndarray
    """int32 H x W: 0 background, 1..n the object of each pixel, -1 where it is unknown. The pixels
    of an object need not be connected."""
    classes: np.ndarray
    """uint8 n: the class of each object, 1..K; entry i - 1 is that of object i."""
    scores: np.ndarray | None = None
    """float32 n in 0..1; None for the truth."""

    def __len__(self) -> int:
        return len(self.classes)


@dataclass
class ImageEmbedding:
    """Output of the image encoder."""

    features: Tensor
    """float B x C x h x w."""
    high_res_features: tuple[Tensor, ...] = ()
    """What the mask decoder adds while it upscales, in the order of use: float B x C/4 x 2h x 2w
    and B x C/8 x 4h x 4w (of HQ-SAM the latter alone). Empty for SAMs without such levels."""
    block_features: tuple[Tensor, ...] = ()
    """Outputs of some blocks of the encoder, float B x channels x rows x columns each, in their
    order. Empty unless the prompt generator reads them."""

    def __len__(self) -> int:
        return len(self.features)

    @property
    def levels(self) -> tuple[Tensor, ...]:
        """What the mask decoder takes, the features first."""
        return (self.features, *self.high_res_features)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors: the levels, then the features of blocks."""
        return (*self.levels, *self.block_features)

    @classmethod
    def of(cls, tensors: Sequence[Tensor], blocks: int) -> ImageEmbedding:
        """The embedding with these `tensors`, the last `blocks` of which are features of blocks."""
        features, *rest = tensors
        split = len(rest) - blocks
        return cls(features, tuple(rest[:split]), tuple(rest[split:]))

    def map(self, function: Callable[[Tensor], Tensor]) -> ImageEmbedding:
        """`function` applied to every tensor."""
        return self.of([function(tensor) for tensor in self.tensors], len(self.block_features))

    def part(self, i: int) -> ImageEmbedding:
        """The embedding of image i, B = 1."""
        return self.map(lambda tensor: tensor[i : i + 1])

    def split(self, size: int) -> list[ImageEmbedding]:
        """The embeddings of `size` images each (the last of those that are left)."""
        parts = zip(*(tensor.split(size) for tensor in self.tensors), strict=True)
        return [self.of(part, len(self.block_features)) for part in parts]

    @classmethod
    def cat(cls, parts: list[ImageEmbedding]) -> ImageEmbedding:
        """Embeddings of several batches as one."""
        joined = [torch.cat(same) for same in zip(*(part.tensors for part in parts), strict=True)]
        return cls.of(joined, len(parts[0].block_features))


@dataclass
class Sample:
    """One image (and its truth) as a segmenter takes it."""

    name: str
    generator_input: Tensor
    """uint8 3 x G x G RGB, zero outside the valid region."""
    generator_valid: tuple[int, int]
    """Rows and columns of `generator_input` that hold image."""
    sam_input: Tensor | None
    """uint8 3 x S x S RGB, zero outside the valid region; None where no SAM takes part, or its
    embedding is there already."""
    sam_valid: tuple[int, int]
    """Rows and columns of the S x S square that hold image."""
    size: tuple[int, int]
    """H, W of the image this sample was made from."""
    target: Tensor | None = None
    """float32 K x m x m in [0, 1]: the share of each cell covered by each class."""
    weight: Tensor | None = None
    """float32 1 x m x m, 1 inside the valid region, 0 on padding."""
    label: np.ndarray | None = None
    """uint8 H x W, 0 background and 1..K classes, at the image's own size, for metrics; None
    where augmentation has changed the image."""
    valid: np.ndarray | None = None
    """bool H x W: where the image holds data; None: everywhere, or augmentation has changed it."""
    prompts: ObjectPrompts | None = None
    """Of the objects in `target`, where the input spec asks for prompts."""
    centers: Tensor | None = None
    """float32 K x m x m in [0, 1]: see `autosam.data.object_targets.center_map`; where the input
    spec asks for objects."""
    instances: Instances | None = None
    """The objects at the image's own size, for metrics; None as for `label`, or if the data set
    tells no objects apart."""
    embedding: ImageEmbedding | None = None
    """Of `sam_input`, B = 1, where it comes from a cache."""
    region: Region | None = None
    """The part of the image that this sample shows; None: the whole image."""
    tiles: list[Sample] = field(default_factory=list)
    """The image in tiles, whose tensors a batch holds in place of those of this sample."""


@dataclass
class Batch:
    """Samples stacked; fields as in `Sample` with a leading B.

    A row is an image; or where images are shown in tiles, a tile: B counts tiles then, and names,
    sizes, labels, valid and instances are those of the images.
    """

    names: list[str]
    generator_input: Tensor
    generator_valid: Tensor
    """int64 B x 2."""
    sam_input: Tensor | None
    sam_valid: Tensor
    """int64 B x 2."""
    sizes: list[tuple[int, int]]
    targets: Tensor | None = None
    weights: Tensor | None = None
    labels: list[np.ndarray | None] = field(default_factory=list)
    valid: list[np.ndarray | None] = field(default_factory=list)
    prompts: ObjectPrompts | None = None
    centers: Tensor | None = None
    instances: list[Instances | None] = field(default_factory=list)
    embedding: ImageEmbedding | None = None
    regions: list[list[Region]] = field(default_factory=list)
    """The part of its image that each tile shows, by image; empty if rows are images."""

    def __len__(self) -> int:
        return len(self.generator_input)

    def rows(self, i: int) -> range:
        """The rows of image i."""
        if not self.regions:
            return range(i, i + 1)
        start = sum(map(len, self.regions[:i]))
        return range(start, start + len(self.regions[i]))

    def part(self, start: int, stop: int) -> Batch:
        """The tensors of the rows from `start` to `stop`; what belongs to images is left out."""
        changed: dict[str, Any] = {"names": [], "sizes": [], "regions": []}
        changed |= {"labels": [], "valid": [], "instances": []}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                changed[f.name] = value[start:stop]
            elif isinstance(value, ImageEmbedding):
                changed[f.name] = value.map(lambda tensor: tensor[start:stop])
            elif isinstance(value, ObjectPrompts):
                part = value.select((value.images >= start) & (value.images < stop))
                changed[f.name] = dataclasses.replace(part, images=part.images - start)
        return dataclasses.replace(self, **changed)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """`function` applied to every tensor."""
        changed: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                changed[f.name] = function(value)
            elif isinstance(value, ObjectPrompts | ImageEmbedding):
                changed[f.name] = value.map(function)
        return dataclasses.replace(self, **changed)

    def to(self, device: torch.device | str, **kwargs: Any) -> Batch:
        """Move every tensor to `device` (accelerate calls this)."""
        return self.map(lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self) -> Batch:
        """Pin the memory, for asynchronous copies to a GPU (the loader calls this)."""
        return self.map(Tensor.pin_memory)

    @classmethod
    def collate(cls, samples: list[Sample]) -> Batch:
        """Stack samples of one input spec."""
        if samples[0].tiles:
            tiles = [tile for sample in samples for tile in sample.tiles]
            return dataclasses.replace(
                cls.collate(tiles),
                names=[s.name for s in samples],
                sizes=[s.size for s in samples],
                labels=[s.label for s in samples],
                valid=[s.valid for s in samples],
                instances=[s.instances for s in samples],
                regions=[[tile.region or (0, 0, *tile.size) for tile in s.tiles] for s in samples],
            )

        def stack(name: str) -> Tensor | None:
            values = [getattr(s, name) for s in samples]
            return None if values[0] is None else torch.stack(values)

        prompts: list[Any] = [s.prompts for s in samples]
        embeddings: list[Any] = [s.embedding for s in samples]
        return cls(
            names=[s.name for s in samples],
            generator_input=torch.stack([s.generator_input for s in samples]),
            generator_valid=torch.tensor([s.generator_valid for s in samples]),
            sam_input=stack("sam_input"),
            sam_valid=torch.tensor([s.sam_valid for s in samples]),
            sizes=[s.size for s in samples],
            targets=stack("target"),
            weights=stack("weight"),
            labels=[s.label for s in samples],
            valid=[s.valid for s in samples],
            prompts=None if None in prompts else ObjectPrompts.cat(prompts),
            centers=stack("centers"),
            instances=[s.instances for s in samples],
            embedding=None if None in embeddings else ImageEmbedding.cat(embeddings),
        )


@dataclass
class Prompt:
    """Input of the mask decoder besides the image embedding: P prompts, each for one image."""

    sparse: Tensor
    """float P x N x C; N may be 0."""
    dense: Tensor
    """float P x C x h x w."""
    image_index: Tensor
    """int64 P: the image, 0..B-1, that each prompt is for."""
    high_res: tuple[Tensor, ...] = ()
    """What the mask decoder adds while it upscales, in the order of use: float P x C/4 x 2h x 2w
    and P x C/8 x 4h x 4w. Empty: nothing."""
    gates: tuple[Tensor, ...] = ()
    """What each level of the image embedding is multiplied by, in 0..1: float P x 1 x its size, of
    `ImageEmbedding.levels`. Empty: 1."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Prompt:
        """`function` applied to every tensor but the index."""
        return Prompt(
            function(self.sparse),
            function(self.dense),
            self.image_index,
            tuple(map(function, self.high_res)),
            tuple(map(function, self.gates)),
        )

    def split(self, size: int) -> list[Prompt]:
        """`size` prompts each (the last of those that are left)."""
        tensors = (self.sparse, self.dense, self.image_index, *self.high_res, *self.gates)
        levels = len(self.high_res)
        return [
            Prompt(sparse, dense, index, tuple(rest[:levels]), tuple(rest[levels:]))
            for sparse, dense, index, *rest in zip(*(x.split(size) for x in tensors), strict=True)
        ]


def high_res_shapes(
    width: int, grid: tuple[int, int]
) -> tuple[tuple[int, tuple[int, int]], tuple[int, tuple[int, int]]]:
    """Channels and size of the two maps of `Prompt.high_res`, for C and (h, w) of the embedding."""
    h, w = grid
    return (width // 4, (2 * h, 2 * w)), (width // 8, (4 * h, 4 * w))
