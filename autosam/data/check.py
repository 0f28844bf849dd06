"""Looking at every file before training: readable, paired in size, masks understood."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autosam.config import DataConfig
from autosam.data.images import read_image, read_mask
from autosam.data.sources import Pair, Split
from autosam.errors import DataError

FULL = 5000
"""Up to this many pairs every file is decoded; of more, a seeded sample of this size is."""


@dataclass
class MaskReading:
    """How mask values become classes; decided once for a whole data set."""

    threshold: int | None
    """Binary masks: values above it are foreground. None: values are class numbers."""
    num_classes: int = 1
    """K."""

    def read(self, path: Path) -> np.ndarray:
        """uint8 H x W, 0 background and 1..K."""
        values = read_mask(path)
        if self.threshold is not None:
            return (values > self.threshold).astype(np.uint8)
        if values.max() > self.num_classes:
            raise DataError(
                f"{path}: holds the value {values.max()}, more than --data.num_classes "
                f"{self.num_classes}."
            )
        return values.astype(np.uint8)


@dataclass
class Report:
    """What the check found."""

    reading: MaskReading
    checked: int
    empty: int
    warnings: list[str] = field(default_factory=list)


def check_split(split: Split, config: DataConfig) -> Report:
    """`check_pairs` over all parts: masks are read in one way throughout."""
    return check_pairs([pair for part in split.values() for pair in part], config.num_classes)


def check_pairs(pairs: list[Pair], num_classes: int) -> Report:
    """Decode files, compare sizes, and decide how masks are read.

    Raises:
        DataError: unreadable files, sizes that differ (up to five are listed), or mask values that
            do not fit `num_classes`.
    """
    chosen = pairs
    if len(pairs) > FULL:
        index = np.random.default_rng(0).choice(len(pairs), FULL, replace=False)
        chosen = [pairs[i] for i in sorted(index)]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(_inspect, chosen))
    problems = [problem for problem, _ in results if problem]
    if problems:
        more = f"\n... and {len(problems) - 5} more." if len(problems) > 5 else ""
        raise DataError("\n".join(problems[:5]) + more)

    values: dict[int, Path] = {}
    for (_, found), pair in zip(results, chosen, strict=True):
        for value in found:
            values.setdefault(value, pair.mask)
    reading = decide_reading(values, num_classes)
    background = 0 if reading.threshold is None else reading.threshold
    empty = sum(max(found) <= background for _, found in results)
    report = Report(reading, len(chosen), empty)
    if len(chosen) < len(pairs):
        report.warnings.append(
            f"{len(chosen)} of {len(pairs)} pairs were decoded to check them, drawn by a seed."
        )
    if empty:
        report.warnings.append(f"{empty} of {len(chosen)} masks are empty (nothing to segment).")
    return report


def _inspect(pair: Pair) -> tuple[str, list[int]]:
    """A problem (or "") and the mask's distinct values."""
    try:
        shape = read_image(pair.image).shape[:2]
        mask = read_mask(pair.mask)
    except DataError as error:
        return str(error), []
    if mask.shape != shape:
        return size_mismatch(pair, shape, mask.shape), []
    return "", np.unique(mask).tolist()


def size_mismatch(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> str:
    """What to say of a pair whose sizes (height, width) differ."""
    return (
        f"{pair.image} is {image[0]} x {image[1]} but its mask {pair.mask} is {mask[0]} x "
        f"{mask[1]} (height x width). Export both at one size."
    )


def decide_reading(values: dict[int, Path], num_classes: int) -> MaskReading:
    """How to read masks that hold these values (each with a file that holds it).

    One class: 0 and 1 as they are; 0 and one other value split at half of it; many grey values, as
    JPEG leaves them, at 127. More classes: values are class numbers.

    Raises:
        DataError: the values look like several classes where one is configured, or the reverse.
    """
    top = max(values)
    if num_classes > 1:
        if top > num_classes:
            raise DataError(
                f"{values[top]}: mask value {top}, but --data.num_classes is {num_classes}: values "
                f"must be 0 (background) to {num_classes}. Values found: {_some(values)}. Set "
                "--data.num_classes, or renumber; masks of several classes must not be JPEG."
            )
        return MaskReading(None, num_classes)
    if len(values) <= 2:
        return MaskReading(top // 2)
    # JPEG and anti-aliasing leave many greys, some of them just below white. A few values, or none
    # near white, are numbers of classes or objects, or mark what is to be ignored.
    white = 255 if top < 256 else 65535
    if top > 0.93 * white and (
        len(values) >= 16 or any(0.93 * white < value < white for value in values)
    ):
        return MaskReading(white // 2)
    odd = next((value for value in sorted(values) if value not in (0, 1, white)), top)
    raise DataError(
        f"{values[odd]}: mask values {_some(values)} look like several classes or objects, but "
        "--data.num_classes is 1. Set --data.num_classes (values 0 to K), or save masks as 0 and "
        "255."
    )


def _some(values: dict[int, Path]) -> str:
    shown = sorted(values)
    return ", ".join(map(str, shown[:10])) + (", ..." if len(shown) > 10 else "")
