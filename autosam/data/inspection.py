"""Inspect a data set before training: sizes, mask values, classes, near duplicates."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from autosam.config import DataConfig
from autosam.data.checks import PairCheck, build_report, decode_pairs, sample_pairs
from autosam.data.geometry import content_size, resize_label
from autosam.data.labels import class_masks, known
from autosam.data.layouts import load_pairs
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.measured_windows import measured
from autosam.data.near_duplicates import leaking_scenes, scenes
from autosam.data.object_sizes import SmallObjects, small_objects, square_side
from autosam.data.pairs import Pair, Pixels, distinct
from autosam.data.prompts import objects_of
from autosam.data.splits import draw_splits
from autosam.data.tiles import tile_side
from autosam.errors import AutosamError, DataError
from autosam.types import InputSpec, Instances


@dataclass
class Inspection:
    """The result of an inspection. A training refuses data that have `errors`."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers and texts by name, some in a nested dictionary, for a table or JSON."""
    groups: dict[str, str] = field(default_factory=dict)
    """Image name -> scene, proposed as groups if scenes are in several splits."""
    pairs: list[Pair] = field(default_factory=list)
    """The pairs that can be drawn."""
    encoding: MaskEncoding = field(default_factory=MaskEncoding)
    images: int = 0
    """Number of images; 0 if errors ended the inspection early."""

    def __repr__(self) -> str:
        counts = f"{len(self.errors)} errors, {len(self.warnings)} warnings"
        return f"Inspection({self.images} images, {counts})"


def inspect_data(config: DataConfig, sam: str, input_spec: InputSpec) -> Inspection:
    """Inspect a data set; errors are collected, not raised.

    Args:
        config: the data settings.
        sam: name of the SAM, for messages.
        input_spec: its sizes, which set the smallest object that its masks can show.

    Returns:
        Errors, warnings and facts.
    """
    found = Inspection()
    try:
        pairs = load_pairs(config)
        measured(config, {"train": pairs})  # fails where training would
    except AutosamError as error:
        found.errors.append(str(error))
        return found
    found.facts["pairs"] = len(pairs)
    split_of = _splits(found, pairs, config)
    if split_of:  # fewer with --data.limit
        pairs = [pair for pair in pairs if id(pair.image) in split_of]
    chosen = sample_pairs(pairs)
    checks = decode_pairs(chosen, config)
    good = [(pair, check) for pair, check in zip(chosen, checks, strict=True) if not check.problem]
    named = [split_of.get(id(pair.image), "") for pair in chosen]
    report = build_report(chosen, checks, config, len(pairs), named)
    found.errors += [error for error in report.errors if error not in found.errors]
    found.warnings += report.warnings
    if not good:
        return found
    found.facts["images"] = _images(good)
    counts = Counter(
        value for _, check in good for value in {v for layer in check.stats for v in layer.values}
    )
    found.facts["mask values"] = len(counts)
    found.facts["masks with the value"] = {str(v): counts[v] for v in sorted(counts)[:20]}
    _scenes(found, pairs, good, split_of)
    found.encoding = report.encoding
    if found.errors:
        return found
    found.facts["read as"] = report.encoding.description or _default_description(config)
    tally = Tally(config, sam, input_spec)
    for pair, _ in good:
        try:
            apart = report.encoding.tells_apart(pair.mask)
            objects = report.encoding.read_instances(pair.mask) if apart else None
            tally.add(report.encoding.read(pair.mask), objects, pair.image)
            found.pairs.append(pair)
        except DataError as error:
            found.errors.append(str(error))
    tally.report(found)
    found.images = len(pairs)
    return found


def _images(good: list[tuple[Pair, PairCheck]]) -> dict[str, Any]:
    """Sizes of the images and formats of their files."""
    heights, widths = zip(*(s.size for _, s in good), strict=True)
    modes: Counter[str] = Counter()
    for pair, _ in good:
        path = pair.image.path
        try:
            with Image.open(path) as image:
                modes[f"{image.format} {image.mode}"] += 1
        except (OSError, ValueError):
            modes[path.suffix or type(pair.image).__name__] += 1
    return {
        "sizes": len({s.size for _, s in good}),
        "smallest": {"height": min(heights), "width": min(widths)},
        "largest": {"height": max(heights), "width": max(widths)},
        "stored as": dict(modes.most_common(5)),
    }


def _default_description(config: DataConfig) -> str:
    """The default mask encoding in words."""
    ignored = "" if config.ignore is None else f"; {config.ignore} is ignored"
    if config.num_classes == 1:
        return f"0 is background, anything else foreground{ignored}"
    of = ", ".join(entry.name for entry in config.classes or [])
    return f"{config.num_classes} classes: {of or f'values 1 to {config.num_classes}'}{ignored}"


def _splits(found: Inspection, pairs: list[Pair], config: DataConfig) -> dict[int, str]:
    """The split of each pair, by the `id` of its image: drawing splits replaces pairs (group and
    name change) but not their images. Empty if no split can be drawn."""
    try:
        splits = draw_splits(pairs, config)
    except AutosamError as error:
        found.errors.append(str(error))
        return {}
    found.facts["splits"] = {split: len(pairs_of_split) for split, pairs_of_split in splits.items()}
    return {id(p.image): split for split, pairs_of_split in splits.items() for p in pairs_of_split}


def _scenes(
    found: Inspection,
    pairs: list[Pair],
    good: list[tuple[Pair, PairCheck]],
    split_of: dict[int, str],
) -> None:
    """Add scenes with several images to the facts, and warn of scenes in several splits."""
    numbers = scenes(np.stack([s.edges for _, s in good]), [s.size for _, s in good])
    members: dict[int, list[Pair]] = defaultdict(list)
    for number, (pair, _) in zip(numbers, good, strict=True):
        members[int(number)].append(pair)
    several = [group for group in members.values() if len(group) > 1]
    found.facts["scenes"] = {
        "scenes": len(members),
        "with several images": len(several),
        "images in them": sum(map(len, several)),
    }
    leaks = (
        leaking_scenes(numbers, [split_of[id(pair.image)] for pair, _ in good]) if split_of else []
    )
    found.facts["scenes"]["in several splits"] = len(leaks)
    if leaks:
        shown = ", ".join(pair.name for pair in members[leaks[0]][:5])
        found.warnings.append(
            f"{len(leaks)} scenes (one camera, one video, or near copies) are in several splits, "
            f"for example {shown}: test scores will be too high. --data.groups FILE.csv "
            "keeps them together; --groups FILE.csv writes a proposal."
        )
        names = {id(pair.image): pair.name for pair in distinct(pairs)}
        found.groups = {
            names[id(pair.image)]: f"scene {number}"
            for number, group in members.items()
            for pair in group
        }


class Tally:
    """Counts over labels: class shares, empty masks, objects too small for SAM's masks."""

    def __init__(self, config: DataConfig, sam: str, input_spec: InputSpec) -> None:
        self.config, self.sam = config, sam
        self.image_size, self.geometry = input_spec.image_size, input_spec.geometry
        self.cells = input_spec.mask_size
        self.shares = np.zeros(config.num_classes)
        self.holding = np.zeros(config.num_classes, int)
        self.counts: list[int] = []
        self.areas: list[int] = []
        self.sides: list[float] = []
        self.scales: list[float] = []
        self.tile: int | None = None
        self.scale = 1.0
        self.apart = False
        self.vanished = self.empty = 0
        self.scattered = 0

    def add(
        self, label: np.ndarray, instances: Instances | None = None, image: Pixels | None = None
    ) -> None:
        """Count one mask.

        Args:
            label: see `autosam.data.labels`.
            instances: its objects; None: the mask does not tell touching ones apart, and connected
                components are counted.
            image: the image; with `data.resolution` it is needed.
        """
        crop, resolution = self.config.crop, self.config.resolution
        self.tile, self.scale = crop, 1.0
        if crop is not None and resolution is not None and image is not None:
            self.tile = tile_side(image, crop, resolution)
            self.scale = crop / self.tile
        masks = class_masks(label, self.config.num_classes)
        self.shares += masks.sum((1, 2)) / max(1, int(known(label).sum()))
        self.holding += masks.any((1, 2))
        self.empty += not masks.any()
        self.apart = self.apart or instances is not None
        if instances is not None:
            if len(instances) == 1:
                self.scattered += ndimage.label(instances.ids == 1, np.ones((3, 3)))[1] > 1
            self.counts.append(self._count(instances.ids, list(range(1, len(instances) + 1))))
        else:
            self.counts.append(sum(self._count(*objects_of(mask)) for mask in masks))

    def _count(self, ids: np.ndarray, numbers: list[int]) -> int:
        """Count the objects `numbers` of an array int32 H x W; returns how many they are."""
        if numbers:
            height, width = ids.shape
            self.areas += np.bincount(ids[ids > 0])[numbers].tolist()
            side, cells = square_side(height, width, self.geometry), self.cells
            crop = self.tile
            if crop is not None and crop < max(height, width):  # as many cells as its tiles have
                cells, side = cells * max(height, width) // crop, float(crop)
            self.sides += [side] * len(numbers)
            self.scales += [self.scale] * len(numbers)
            left = np.unique(resize_label(ids, content_size(height, width, cells, self.geometry)))
            self.vanished += len(set(numbers) - set(left.tolist()))
        return len(numbers)

    def report(self, found: Inspection) -> None:
        """Add the counts, and a warning of objects that are too small, to the inspection."""
        n, names = max(1, len(self.counts)), self.config.class_names
        found.facts["classes"] = {
            name: {"share of the pixels": float(share / n), "images": int(count)}
            for name, share, count in zip(names, self.shares, self.holding, strict=True)
        }
        found.facts["empty masks"] = self.empty
        if not self.areas:
            return
        total = len(self.areas)
        diameters = np.sqrt(4 * np.array(self.areas) / np.pi)
        grid = f"{self.cells} x {self.cells} masks of {self.sam}"
        found.facts["objects"] = {
            "number": total,
            "an image, median": float(np.median(self.counts)),
            "an image, most": max(self.counts),
            "smallest diameter, px": float(diameters.min()),
            "median diameter, px": float(np.median(diameters)),
            "largest diameter, px": float(diameters.max()),
            f"vanish on the {grid}": self.vanished,
            "told apart": "in the masks" if self.apart else "no: touching objects count as one",
        }
        if self.apart:
            self._report_small(found)
        if self.scattered > len(self.counts) / 4:
            found.warnings.append(
                f"In {self.scattered} of {len(self.counts)} masks a single object has several "
                "parts that do not touch. Where masks hold classes, not a number for each object, "
                "leave out --data.instances: connected parts are then taken as objects."
            )
        if self.vanished > 0.02 * total:
            size = self._small(self.cells // 2 if self.apart else self.cells).tile
            found.warnings.append(
                f"{self.vanished} of {total} objects are too small for the {grid} (its input is "
                f"{self.image_size} px). Train on crops"
                + (f" (--data.crop {size})" if size else "")
                + ", or use a SAM of 1024 px."
            )

    def _small(self, grid: int) -> SmallObjects:
        """See `small_objects`; lengths in pixels of `data.resolution`, if it is set."""
        scales = np.array(self.scales)
        areas, sides = np.array(self.areas) * scales**2, np.array(self.sides) * scales
        return small_objects(areas, sides, grid, self.image_size)

    def _report_small(self, found: Inspection) -> None:
        """Add the objects smaller than 2 x 2 cells of the masks, and a warning if there are many:
        of two touching ones only one is found."""
        grid = self.cells // 2
        sizes = self._small(grid)
        name = f"2 x 2 of the {self.cells} x {self.cells} cells of {self.sam}'s masks"
        found.facts["objects"][f"smaller than {name}"] = sizes.small
        if sizes.share > 0.02:
            tile = f"crops (--data.crop {sizes.tile}), or " if sizes.tile else ""
            found.warnings.append(
                f"{sizes.small} of {sizes.total} objects are smaller than {name}, so that touching "
                f"ones cannot be told apart. Cells would be small enough with {tile}an input of "
                f"{sizes.image_size} px."
            )
