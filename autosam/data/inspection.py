"""Inspection of a data set before training: sizes, mask values, classes, near duplicates."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from autosam.config import DataConfig
from autosam.data.checks import Seen, choose, judge, look_at
from autosam.data.geometry import content_size, resize_label
from autosam.data.labels import class_masks, known
from autosam.data.layouts import load_pairs
from autosam.data.near_duplicates import leaking_scenes, scenes
from autosam.data.pairs import Pair, distinct
from autosam.data.prompts import objects_of
from autosam.data.reading import MaskReading
from autosam.data.splits import draw_splits
from autosam.errors import AutosamError, DataError


@dataclass
class Inspection:
    """The result of an inspection; a training does not start where there are `errors`."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers and texts by name, some in groups (a dictionary), for a table or JSON."""
    groups: dict[str, str] = field(default_factory=dict)
    """Name -> scene, where some scenes have several images."""
    pairs: list[Pair] = field(default_factory=list)
    """Those that can be shown."""
    reading: MaskReading = field(default_factory=MaskReading)
    images: int = 0
    """How many there are; 0 where errors prevented the inspection."""


def inspect_data(config: DataConfig, sam: str, image_size: int, geometry: str) -> Inspection:
    """Inspect a data set; errors are collected, not raised.

    Args:
        config: the data.
        sam: name of the SAM that will be used, for messages.
        image_size: S of that SAM, from which the smallest object that it can draw follows.
        geometry: how that SAM resizes images.
    """
    found = Inspection()
    try:
        pairs = load_pairs(config)
    except AutosamError as error:
        found.errors.append(str(error))
        return found
    found.facts["pairs"] = len(pairs)
    split_of = _splits(found, pairs, config)
    if split_of:  # with --data.limit not all of them
        pairs = [pair for pair in pairs if id(pair.image) in split_of]
    chosen = choose(pairs)
    seen = look_at(chosen, config)
    good = [(pair, s) for pair, s in zip(chosen, seen, strict=True) if not s.problem]
    named = [split_of.get(id(pair.image), "") for pair in chosen]
    report = judge(chosen, seen, config, len(pairs), named)
    found.errors += [error for error in report.errors if error not in found.errors]
    found.warnings += report.warnings
    if not good:
        return found
    found.facts["images"] = _images(good)
    counts = Counter(value for _, s in good for value in {v for f in s.facts for v in f.values})
    found.facts["mask values"] = len(counts)
    found.facts["masks with the value"] = {str(v): counts[v] for v in sorted(counts)[:20]}
    _scenes(found, pairs, good, split_of)
    found.reading = report.reading
    if found.errors:
        return found
    found.facts["read as"] = report.reading.how or _plain_reading(config)
    tally = Tally(config, sam, image_size, geometry)
    for pair, _ in good:
        try:
            tally.add(report.reading.read(pair.mask))
            found.pairs.append(pair)
        except DataError as error:
            found.errors.append(str(error))
    tally.report(found)
    found.images = len(pairs)
    return found


def _images(good: list[tuple[Pair, Seen]]) -> dict[str, Any]:
    """Sizes of images, and formats of image files."""
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


def _plain_reading(config: DataConfig) -> str:
    """How masks are read that need no interpretation, in words."""
    ignored = "" if config.ignore is None else f"; {config.ignore} is left out"
    if config.num_classes == 1:
        return f"0 is background, anything else foreground{ignored}"
    of = ", ".join(entry.name for entry in config.classes or [])
    return f"{config.num_classes} classes: {of or f'values 1 to {config.num_classes}'}{ignored}"


def _splits(found: Inspection, pairs: list[Pair], config: DataConfig) -> dict[int, str]:
    """The split that each pair is in, by its image's `id`: a pair keeps its image while it gets a
    group and another name. Nothing where no split can be drawn."""
    try:
        splits = draw_splits(pairs, config)
    except AutosamError as error:
        found.errors.append(str(error))
        return {}
    found.facts["splits"] = {split: len(pairs_of_split) for split, pairs_of_split in splits.items()}
    return {id(p.image): split for split, pairs_of_split in splits.items() for p in pairs_of_split}


def _scenes(
    found: Inspection, pairs: list[Pair], good: list[tuple[Pair, Seen]], split_of: dict[int, str]
) -> None:
    """Scenes of several images, and those that are in several splits."""
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
            f"for example {shown}: test scores will flatter. --data.groups FILE.csv "
            "keeps them together; --groups FILE.csv writes a proposal."
        )
        names = {id(pair.image): pair.name for pair in distinct(pairs)}
        found.groups = {
            names[id(pair.image)]: f"scene {number}"
            for number, group in members.items()
            for pair in group
        }


class Tally:
    """Class shares, empty masks, and objects against the grid of SAM's masks, label by label."""

    def __init__(self, config: DataConfig, sam: str, image_size: int, geometry: str) -> None:
        self.config, self.sam = config, sam
        self.image_size, self.geometry = image_size, geometry
        self.cells = image_size // 4
        self.shares = np.zeros(config.num_classes)
        self.holding = np.zeros(config.num_classes, int)
        self.counts: list[int] = []
        self.areas: list[int] = []
        self.vanished = self.empty = 0

    def add(self, label: np.ndarray) -> None:
        """Count one label, see `autosam.data.labels`."""
        masks = class_masks(label, self.config.num_classes)
        self.shares += masks.sum((1, 2)) / max(1, int(known(label).sum()))
        self.holding += masks.any((1, 2))
        self.empty += not masks.any()
        grid = content_size(label.shape[0], label.shape[1], self.cells, self.geometry)
        objects = 0
        for mask in masks:
            parts, numbers = objects_of(mask)
            objects += len(numbers)
            if numbers:
                self.areas += np.bincount(parts.ravel())[numbers].tolist()
                left = np.unique(resize_label(parts, grid))
                self.vanished += len(set(numbers) - set(left.tolist()))
        self.counts.append(objects)

    def report(self, found: Inspection) -> None:
        """Add the counts to the inspection."""
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
        }
        if self.vanished > 0.02 * total:
            found.warnings.append(
                f"{self.vanished} of {total} objects are too small for the {grid} (its input is "
                f"{self.image_size} px). Cut the images into tiles, or take one of 1024 px."
            )
