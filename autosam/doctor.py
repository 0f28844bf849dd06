"""What a data set is like, before it costs a GPU hour."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from autosam.config import DataConfig
from autosam.data.check import Seen, choose, judge, look_at
from autosam.data.geometry import content_size, resize_label
from autosam.data.labels import class_masks, known
from autosam.data.pairs import Pair, distinct
from autosam.data.prompts import objects_of
from autosam.data.reading import MaskReading
from autosam.data.sources import load_pairs
from autosam.data.splits import draw_split
from autosam.data.twins import scenes, torn
from autosam.errors import AutosamError, DataError
from autosam.models.sam import SAMS, SamSpec
from autosam.report import spread
from autosam.utils.device import choose_device, gains_from_bf16

COST = {
    "ViT-B": 1650,
    "ViT-L": 5840,
    "ViT-H": 12150,
    "TinyViT-5M": 220,
    "Hiera-T": 700,
    "Hiera-S": 800,
    "Hiera-B+": 1250,
    "Hiera-L": 2900,
}
"""GFLOP of matrix products that take as long as the image encoder with one picture of 1024 px,
by architecture. Measured on two cores with AVX512-BF16 (docs/speed.md), ViT-L and -H by their
operations beside ViT-B's; elsewhere a rough estimate."""
BYTES = {"Hiera": 2 * (256 * 64**2 + 64 * 128**2 + 32 * 256**2), "": 2 * 256 * 64**2}
"""Of one cached embedding in bf16, by the architecture's first word."""


@dataclass
class Examination:
    """What was found; `errors` keep a training from starting."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Plain values, for a table or JSON."""
    groups: dict[str, str] = field(default_factory=dict)
    """Name -> scene, where scenes of several pictures were found."""
    pairs: list[Pair] = field(default_factory=list)
    """Those that can be shown."""
    reading: MaskReading = field(default_factory=MaskReading)


def examine(config: DataConfig, sam: str, views: int) -> Examination:
    """Look at a data set; what is wrong is collected, not raised.

    Args:
        config: the data.
        sam: which SAM is meant, for the size of what it can still draw.
        views: cached views of a training picture, for the size of a cache.
    """
    found = Examination()
    try:
        pairs = load_pairs(config)
    except AutosamError as error:
        found.errors.append(str(error))
        return found
    found.facts["pairs"] = len(pairs)
    parts = _parts(found, pairs, config)
    if parts:  # with --data.limit not all of them
        pairs = [pair for pair in pairs if id(pair.image) in parts]
    chosen = choose(pairs)
    seen = look_at(chosen, config)
    good = [(pair, s) for pair, s in zip(chosen, seen, strict=True) if not s.problem]
    named = [parts.get(id(pair.image), "") for pair in chosen]
    report = judge(chosen, seen, config, len(pairs), named)
    found.errors += [error for error in report.errors if error not in found.errors]
    found.warnings += report.warnings
    if not good:
        return found
    found.facts["pictures"] = _pictures(good)
    counts = Counter(value for _, s in good for value in {v for f in s.facts for v in f.values})
    found.facts["mask values"] = {str(v): f"in {counts[v]} masks" for v in sorted(counts)[:20]}
    if len(counts) > 20:
        found.facts["mask values"]["..."] = f"{len(counts)} values in all"
    _scenes(found, pairs, good, parts)
    found.reading = report.reading
    if found.errors:
        return found
    found.facts["read as"] = report.reading.how or _plainly(config)
    tally = Tally(config, sam)
    for pair, _ in good:
        try:
            tally.add(report.reading.read(pair.mask))
            found.pairs.append(pair)
        except DataError as error:
            found.errors.append(str(error))
    tally.report(found)
    found.facts["cache"] = _cache(len(pairs), views)
    return found


def _pictures(good: list[tuple[Pair, Seen]]) -> dict[str, Any]:
    """Sizes, and how they are stored where that is a file of its own."""
    heights, widths = zip(*(s.size for _, s in good), strict=True)
    modes: Counter[str] = Counter()
    for pair, _ in good:
        path = pair.image.path
        try:
            with Image.open(path) as picture:
                modes[f"{picture.format} {picture.mode}"] += 1
        except (OSError, ValueError):
            modes[path.suffix or type(pair.image).__name__] += 1
    return {
        "sizes": len({s.size for _, s in good}),
        "smallest (height x width)": f"{min(heights)} x {min(widths)}",
        "largest": f"{max(heights)} x {max(widths)}",
        "stored as": ", ".join(f"{mode} ({count})" for mode, count in modes.most_common(5)),
    }


def _plainly(config: DataConfig) -> str:
    """The reading of masks that are plain."""
    ignored = "" if config.ignore is None else f"; {config.ignore} is left out"
    if config.num_classes == 1:
        return f"0 is background, anything else foreground{ignored}"
    of = ", ".join(entry.name for entry in config.classes or [])
    return f"{config.num_classes} classes: {of or f'values 1 to {config.num_classes}'}{ignored}"


def _parts(found: Examination, pairs: list[Pair], config: DataConfig) -> dict[int, str]:
    """The split that each pair is in, by its image's `id`: a pair keeps its image while it gets a
    group and another name. Nothing where no split can be drawn."""
    try:
        split = draw_split(pairs, config)
    except AutosamError as error:
        found.errors.append(str(error))
        return {}
    found.facts["parts"] = {part: len(part_pairs) for part, part_pairs in split.items()}
    return {id(p.image): part for part, part_pairs in split.items() for p in part_pairs}


def _scenes(
    found: Examination, pairs: list[Pair], good: list[tuple[Pair, Seen]], parts: dict[int, str]
) -> None:
    """Scenes of several pictures, and those that the split would tear."""
    numbers = scenes(np.stack([s.edges for _, s in good]), [s.size for _, s in good])
    members: dict[int, list[Pair]] = defaultdict(list)
    for number, (pair, _) in zip(numbers, good, strict=True):
        members[int(number)].append(pair)
    several = [group for group in members.values() if len(group) > 1]
    found.facts["scenes"] = {
        "scenes": len(members),
        "with several pictures": len(several),
        "pictures in them": sum(map(len, several)),
    }
    leaks = torn(numbers, [parts[id(pair.image)] for pair, _ in good]) if parts else []
    found.facts["scenes"]["in several parts"] = len(leaks)
    if leaks:
        shown = ", ".join(pair.name for pair in members[leaks[0]][:5])
        found.warnings.append(
            f"{len(leaks)} scenes (one camera, one video, or near copies) stand in several parts "
            f"of this split, for example {shown}: test scores will flatter. --data.groups FILE.csv "
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

    def __init__(self, config: DataConfig, sam: str) -> None:
        self.config, self.sam, self.spec = config, sam, SAMS[sam]
        self.cells = self.spec.image_size // 4
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
        grid = content_size(label.shape[0], label.shape[1], self.cells, self.spec.geometry)
        objects = 0
        for mask in masks:
            parts, numbers = objects_of(mask)
            objects += len(numbers)
            if numbers:
                self.areas += np.bincount(parts.ravel())[numbers].tolist()
                left = np.unique(resize_label(parts, grid))
                self.vanished += len(set(numbers) - set(left.tolist()))
        self.counts.append(objects)

    def report(self, found: Examination) -> None:
        """Write what was counted."""
        n, names = max(1, len(self.counts)), self.config.class_names
        found.facts["classes"] = {
            name: f"{share / n:.2%} of the pixels, in {count} of {n} pictures"
            for name, share, count in zip(names, self.shares, self.holding, strict=True)
        }
        found.facts["empty masks"] = self.empty
        if not self.areas:
            return
        total, sizes = len(self.areas), (min(self.areas), np.median(self.areas), max(self.areas))
        grid = f"{self.cells} x {self.cells} masks of {self.sam}"
        found.facts["objects"] = {
            "a picture, median": float(np.median(self.counts)),
            "a picture, most": max(self.counts),
            "smallest, median and largest diameter, px": " / ".join(
                f"{np.sqrt(4 * area / np.pi):.0f}" for area in sizes
            ),
            f"vanish on the {grid}": f"{self.vanished} of {total}",
        }
        if self.vanished > 0.02 * total:
            found.warnings.append(
                f"{self.vanished} of {total} objects are too small for the {grid} (its input is "
                f"{self.spec.image_size} px). Cut the pictures into tiles, or take one of 1024 px."
            )


def _cache(pictures: int, views: int) -> dict[str, str]:
    """Size of a cache of embeddings and time to make it, by SAM of 1024 px."""
    device = choose_device()
    half = gains_from_bf16(device)
    speed = matrix_speed(device, torch.bfloat16 if half else torch.float32)
    names: dict[str, list[str]] = defaultdict(list)
    for name, spec in SAMS.items():
        if spec.image_size >= 1024:
            names[spec.architecture].append(name)
    table = {}
    for architecture, alike in names.items():
        size = record_bytes(SAMS[alike[0]])
        text = f"{pictures * views * size / 1e9:.1f} GB"
        if architecture in COST:
            seconds = COST[architecture] / speed
            text += f", roughly {pictures * views * seconds / 60:.0f} min here "
            text += f"({seconds:.1f} s a view)"
        table[", ".join(alike)] = text
    return table


def record_bytes(spec: SamSpec) -> int:
    """Of one cached embedding in bf16; of a SAM not in the tables, of its features alone."""
    known = [size for word, size in BYTES.items() if spec.architecture.startswith(word)]
    if spec.architecture in COST:
        return known[0]
    with torch.device("meta"):
        sam = spec.build(spec)
    return 2 * sam.width * sam.grid[0] * sam.grid[1]


def matrix_speed(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of a matrix product, in a fraction of a second."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        product = a @ a
        product[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


def outlined(
    found: Examination, count: int, num_classes: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Pictures for a contact sheet, spread over the data: name, uint8 H x W x 3, and masks bool
    K x H x W."""
    for i in spread(len(found.pairs), count):
        pair = found.pairs[i]
        label = found.reading.read(pair.mask)
        yield pair.name, pair.image.read(), class_masks(label, num_classes)
