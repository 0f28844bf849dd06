"""Looking at every file before training: readable, paired in size, masks understood."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from autosam.config import MOST_OVERLAPPING, DataConfig
from autosam.data.labels import IGNORED, class_masks
from autosam.data.pairs import Pair, Pixels, Split
from autosam.data.twins import edges, scenes, torn
from autosam.errors import DataError

FULL = 5000
"""Up to this many pairs every file is decoded."""
SAMPLE = 500
"""Of more, so many, drawn by a seed."""


@dataclass(frozen=True)
class MaskReading:
    """How mask values become classes; decided once for a whole data set."""

    threshold: int | None
    """Binary masks: values above it are foreground. None: values are class numbers."""
    num_classes: int = 1
    """K."""
    ignore: int | None = None
    """The value of pixels that nobody labelled."""
    classes: tuple[tuple[int, int], ...] = ()
    """(value, class) where values are not the classes' own numbers."""

    def read(self, mask: Pixels) -> np.ndarray:
        """A label, see `autosam.data.labels`.

        Raises:
            DataError: unreadable, or a value that is no class.
        """
        values = mask.read()
        if values.dtype == np.int32:
            return values
        left_out = np.zeros(values.shape, bool) if self.ignore is None else values == self.ignore
        if self.threshold is not None:
            label = (values > self.threshold).astype(np.uint8)
        else:
            table = dict(self.classes) or {k: k for k in range(1, self.num_classes + 1)}
            table.setdefault(0, 0)
            found = np.unique(values[~left_out])
            if odd := [int(value) for value in found if int(value) not in table]:
                raise DataError(
                    f"{mask}: holds the value {odd[0]}, which is no class: {sorted(table)} are."
                )
            lookup = np.zeros(int(values.max(initial=0)) + 1, np.uint8)
            for value in found:
                lookup[value] = table[int(value)]
            label = lookup[values]
        label[left_out] = IGNORED
        return label


@dataclass
class Seen:
    """What one pair was found to be."""

    problem: str = ""
    """Why it cannot be used, or nothing."""
    size: tuple[int, ...] = ()
    """H, W."""
    values: tuple[int, ...] = ()
    """The mask's distinct values; of a label of bits the classes that are there."""
    edges: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """See `autosam.data.twins`."""


@dataclass
class Report:
    """What the check found."""

    reading: MaskReading
    checked: int
    empty: int
    warnings: list[str] = field(default_factory=list)


def check_split(split: Split, config: DataConfig) -> Report:
    """`check_pairs` over all parts: masks are read in one way throughout; and scenes that stand in
    several parts are a warning."""
    pairs = [pair for part in split.values() for pair in part]
    chosen = choose(pairs)
    seen = look_at(chosen)
    report = _report(chosen, seen, len(pairs), config)
    part_of = {id(pair): part for part, found in split.items() for pair in found}
    numbers = scenes(np.stack([s.edges for s in seen]), [s.size for s in seen])
    if leaks := torn(numbers, [part_of[id(pair)] for pair in chosen]):
        first = [pair.name for pair, n in zip(chosen, numbers, strict=True) if n == leaks[0]]
        report.warnings.append(
            f"{len(leaks)} scenes (one camera, or near copies) stand in several parts, for example "
            f"{', '.join(first[:4])}: test scores will flatter. `python -m autosam.check` proposes "
            "--data.groups."
        )
    return report


def check_pairs(pairs: list[Pair], config: DataConfig) -> Report:
    """Decode files, compare sizes, and decide how masks are read.

    Raises:
        DataError: unreadable files, sizes that differ (up to five are listed), or mask values that
            do not fit the settings.
    """
    chosen = choose(pairs)
    return _report(chosen, look_at(chosen), len(pairs), config)


def choose(pairs: list[Pair]) -> list[Pair]:
    """The pairs that are decoded: all, or of very many a seeded sample."""
    if len(pairs) <= FULL:
        return pairs
    index = np.random.default_rng(0).choice(len(pairs), SAMPLE, replace=False)
    return [pairs[i] for i in sorted(index)]


def look_at(pairs: list[Pair]) -> list[Seen]:
    """Decode pairs."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_inspect, pairs))


def examples(pairs: list[Pair], seen: list[Seen]) -> dict[int, Pixels]:
    """Each mask value that occurs, with the first mask that holds it."""
    values: dict[int, Pixels] = {}
    for pair, s in zip(pairs, seen, strict=True):
        for value in s.values:
            values.setdefault(value, pair.mask)
    return values


def _report(pairs: list[Pair], seen: list[Seen], total: int, config: DataConfig) -> Report:
    problems = [s.problem for s in seen if s.problem]
    if problems:
        more = f"\n... and {len(problems) - 5} more." if len(problems) > 5 else ""
        raise DataError("\n".join(problems[:5]) + more)
    reading = decide_reading(examples(pairs, seen), config)
    background = 0 if reading.threshold is None else reading.threshold
    empty = sum(max([0, *(v for v in s.values if v != config.ignore)]) <= background for s in seen)
    report = Report(reading, len(pairs), empty)
    if len(pairs) < total:
        report.warnings.append(
            f"{len(pairs)} of {total} pairs were decoded to check them, drawn by a seed."
        )
    if empty:
        report.warnings.append(f"{empty} of {len(pairs)} masks are empty (nothing to segment).")
    return report


def _inspect(pair: Pair) -> Seen:
    try:
        image, mask = pair.image.read(), pair.mask.read()
    except DataError as error:
        return Seen(str(error))
    if mask.shape != image.shape[:2]:
        return Seen(size_mismatch(pair.image, image.shape, pair.mask, mask.shape))
    if mask.dtype == np.int32:
        present = class_masks(mask, MOST_OVERLAPPING).any((1, 2))
        values = [0, *(np.flatnonzero(present) + 1).tolist()]
    else:
        values = np.unique(mask).tolist()
    return Seen("", image.shape[:2], tuple(values), edges(image))


def size_mismatch(
    one: Pixels, shape: tuple[int, ...], other: Pixels, other_shape: tuple[int, ...]
) -> str:
    """What to say of a picture and its mask whose sizes (height, width) differ."""
    return (
        f"{one} is {shape[0]} x {shape[1]} but its mask {other} is {other_shape[0]} x "
        f"{other_shape[1]} (height x width). Export both at one size."
    )


def decide_reading(values: dict[int, Pixels], config: DataConfig) -> MaskReading:
    """How to read masks that hold these values (each with a mask that holds it).

    One class: 0 and 1 as they are; 0 and one other value split at half of it; many grey values, as
    JPEG leaves them, at 127; with `instances` all above 0. More classes: values are class numbers,
    or what `classes` says.

    Raises:
        DataError: the values look like several classes where one is configured, or the reverse.
    """
    values = {value: mask for value, mask in values.items() if value != config.ignore}
    top = max(values, default=0)
    num_classes, ignore = config.num_classes, config.ignore
    listed = [
        (value, k)
        for k, entry in enumerate(config.classes or [], 1)
        for value in (entry.values or [k])
    ]
    if any(entry.values for entry in config.classes or []):
        allowed = {0, *(value for value, _ in listed)}
        if unlisted := sorted(set(values) - allowed):
            raise DataError(
                f"{values[unlisted[0]]}: mask value {unlisted[0]}, which --data.classes does not "
                f"list. Values found: {_some(values)}. List it, or set --data.ignore."
            )
        return MaskReading(None, num_classes, ignore, tuple(listed))
    if num_classes > 1:
        if top > num_classes:
            hint = " (255 often marks what is to be left out: --data.ignore 255)" * (top == 255)
            raise DataError(
                f"{values[top]}: mask value {top}, but --data.num_classes is {num_classes}: values "
                f"must be 0 (background) to {num_classes}. Values found: {_some(values)}. Set "
                "--data.num_classes, or renumber; masks of several classes must not be JPEG." + hint
            )
        return MaskReading(None, num_classes, ignore)
    if config.instances:
        return MaskReading(0, ignore=ignore)
    if len(values) <= 2:
        return MaskReading(top // 2, ignore=ignore)
    # JPEG and anti-aliasing leave many greys, some of them just below white. A few values, or none
    # near white, are numbers of classes or objects, or mark what is to be ignored.
    white = 255 if top < 256 else 65535
    if top > 0.93 * white and (
        len(values) >= 16 or any(0.93 * white < value < white for value in values)
    ):
        return MaskReading(white // 2, ignore=ignore)
    odd = next((value for value in sorted(values) if value not in (0, 1, white)), top)
    raise DataError(
        f"{values[odd]}: mask values {_some(values)} look like several classes or objects, but "
        "--data.num_classes is 1. Set --data.num_classes (values 0 to K); or --data.instances true "
        "where values number objects; or save masks as 0 and 255."
    )


def _some(values: dict[int, Pixels]) -> str:
    shown = sorted(values)
    return ", ".join(map(str, shown[:10])) + (", ..." if len(shown) > 10 else "")
