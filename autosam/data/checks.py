"""Check the files before training: readable, one size per pair, a known mask encoding."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from autosam.config import DataConfig
from autosam.data.infer_encoding import infer_encoding
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.mask_stats import MaskStats, compute_mask_stats
from autosam.data.near_duplicates import edges, leaking_scenes, scenes
from autosam.data.pairs import Pair, Pixels, Splits, read_valid, stamp_of
from autosam.data.readers.pillow import read_orientation
from autosam.errors import DataError
from autosam.utils.threads import cores

FULL = 5000
"""Largest number of pairs of which every file is decoded."""
SAMPLE = 500
"""Number of pairs decoded of larger data sets, a seeded sample."""


@dataclass
class PairCheck:
    """The result of decoding one pair."""

    problem: str = ""
    """Why the pair cannot be used; "" if it can."""
    size: tuple[int, ...] = ()
    """H, W."""
    orientations_differ: bool = False
    """Whether image and mask have different orientation tags (EXIF) and fit by size all the
    same."""
    known: bool = True
    """Whether there is a pixel whose class is known and where the image holds data."""
    stats: tuple[MaskStats, ...] = ()
    """Statistics of the mask, or of each of its layers."""
    edges: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float32, see `autosam.data.near_duplicates.edges`."""


@dataclass
class Report:
    """The result of the checks, the same for every command."""

    encoding: MaskEncoding = field(default_factory=MaskEncoding)
    checked: int = 0
    """Number of pairs decoded."""
    errors: list[str] = field(default_factory=list)
    """Why the data cannot be used."""
    warnings: list[str] = field(default_factory=list)


def check_splits(splits: Splits, config: DataConfig) -> Report:
    """Check the data of a training: `check_pairs` over all splits, with one mask encoding.

    Args:
        splits: the pairs of each split.
        config: the data settings.

    Returns:
        The report. Scenes that are in several splits are a warning.

    Raises:
        DataError: see `check_pairs`; or a split without labels, or all masks are empty.
    """
    pairs = [pair for found in splits.values() for pair in found]
    chosen = sample_pairs(pairs)
    checks = decode_pairs(chosen, config)
    split_of = {id(pair): split for split, found in splits.items() for pair in found}
    names = [split_of[id(pair)] for pair in chosen]
    report = build_report(chosen, checks, config, len(pairs), names)
    _raise(report.errors)
    numbers = scenes(np.stack([c.edges for c in checks]), [c.size for c in checks])
    if leaks := leaking_scenes(numbers, names):
        first = [pair.name for pair, n in zip(chosen, numbers, strict=True) if n == leaks[0]]
        report.warnings.append(
            f"{len(leaks)} scenes (one camera, or near copies) are in several splits, for example "
            f"{', '.join(first[:4])}: test scores will be too high. `autosam check` proposes "
            "--data.groups."
        )
    return report


def check_pairs(pairs: list[Pair], config: DataConfig) -> Report:
    """Decode files, compare sizes, and infer the mask encoding.

    Args:
        pairs: images and masks; a sample is decoded if there are more than `FULL`.
        config: the data settings.

    Raises:
        DataError: unreadable files or sizes that differ (up to five are listed), or mask values
            that do not fit the settings.
    """
    chosen = sample_pairs(pairs)
    report = build_report(chosen, decode_pairs(chosen, config), config, len(pairs))
    _raise(report.errors)
    return report


def _raise(errors: list[str]) -> None:
    if errors:
        more = f"\n... and {len(errors) - 5} more." if len(errors) > 5 else ""
        raise DataError("\n".join(errors[:5]) + more)


def build_report(
    pairs: list[Pair],
    checks: list[PairCheck],
    config: DataConfig,
    total: int,
    splits: Sequence[str] = (),
) -> Report:
    """Collect errors and warnings, for `check`, `train`, `compare` and `evaluate`.

    Args:
        pairs: the decoded pairs.
        checks: the result for each pair.
        config: the data settings.
        total: number of pairs in the data set.
        splits: the split of each pair, for training data.
    """
    report = Report(checked=len(pairs), errors=[c.problem for c in checks if c.problem])
    good = [(pair, c.stats) for pair, c in zip(pairs, checks, strict=True) if not c.problem]
    if not good:
        return report
    try:
        report.encoding = infer_encoding(
            [(pair.mask, layer) for pair, stats in good for layer in stats], config
        )
    except DataError as error:
        report.errors.append(str(error))
        return report
    classes = [report.encoding.classes_in(stats) for _, stats in good]
    if len(pairs) < total:
        report.warnings.append(f"{len(pairs)} of {total} pairs were decoded, a seeded sample.")
    of_split = [
        split
        for split, c in zip(splits or [""] * len(checks), checks, strict=True)
        if not c.problem
    ]
    blank = [not c.known for c in checks if not c.problem]
    known = {split for split, none in zip(of_split, blank, strict=True) if not none}
    unknown = [split for split in dict.fromkeys(of_split) if split not in known]
    if len(pairs) == total:
        for split in unknown:
            where = f"Of the {split} split: " if split else ""
            report.errors.append(
                f"{where}No mask has a pixel whose class is known: all are ignored (--data.ignore) "
                "or without data, so nothing can be learnt or scored. Give labelled masks."
            )
    if any(blank):
        report.warnings.append(
            f"{sum(blank)} of {len(good)} masks have no pixel whose class is known, for example "
            f"{good[blank.index(True)][0].mask}: these images have no loss and no score."
        )
    if empty := sum(not (found or none) for found, none in zip(classes, blank, strict=True)):
        report.warnings.append(f"{empty} of {len(good)} masks are empty (nothing to segment).")
    report.warnings += _inverted(good, len(good) - empty, config)
    report.warnings += _absent_classes(classes, config)
    differ = [pair for pair, c in zip(pairs, checks, strict=True) if c.orientations_differ]
    if differ:
        report.warnings.append(
            f"{len(differ)} images and their masks differ in their orientation tags (EXIF), for "
            f"example {differ[0].image} and {differ[0].mask}: each is rotated by its own tag. "
            "Check that they match: autosam check --output FILE.png shows them."
        )
    if splits:
        learned = [
            found for split, found in zip(of_split, classes, strict=True) if split == "train"
        ]
        if good and not unknown and (not any(classes) or (learned and not any(learned))):
            where = "" if not any(classes) else "Of the training split: "
            hint = "" if config.values is None else f" --data.values is {config.values}."
            hint += _nodata_hint(stats for _, stats in good)
            report.errors.append(f"{where}Every mask is empty: there is nothing to learn.{hint}")
    return report


def _nodata_hint(stats: Iterable[Sequence[MaskStats]]) -> str:
    """A hint for empty masks whose files declare a nodata value."""
    values = [layer.missing for mask in stats for layer in mask if layer.missing is not None]
    if not values:
        return ""
    return (
        f" {len(values)} mask files declare pixels without data (nodata value {values[0]:g}): if "
        "these are foreground, remove the nodata value (gdal_edit.py -unsetnodata)."
    )


def _inverted(
    good: list[tuple[Pair, tuple[MaskStats, ...]]], full: int, config: DataConfig
) -> list[str]:
    """Warn of masks whose whole border is foreground, unless the settings list the values.

    Args:
        good: pairs and the statistics of their masks.
        full: number of masks that are not empty.
        config: the data settings.
    """
    if config.num_classes > 1 or config.values is not None or config.classes:
        return []
    framed = [pair for pair, stats in good if any(layer.border == 1 for layer in stats)]
    if len(framed) > 0.5 * full:
        if config.instances:
            return [
                f"In {len(framed)} of {len(good)} label images, for example {framed[0].mask}, the "
                "whole border belongs to objects: 0 is the background, any other value an object. "
                "If the background has another value, save it as 0."
            ]
        return [
            f"In {len(framed)} of {len(good)} masks the whole border is foreground: are they "
            "inverted? --data.values 0 (grey values: 0-127) makes dark pixels foreground."
        ]
    unusual = [
        pair
        for pair, stats in good
        if any(layer.border == 1 and 0 in layer.values for layer in stats)
    ]
    dark_border = sum(all(layer.border == 0 for layer in stats) for _, stats in good)
    if unusual and dark_border > 0.5 * len(good):
        return [
            f"In {len(unusual)} of {len(good)} masks, for example {unusual[0].mask}, the whole "
            "border is foreground, in most none of it: are these inverted?"
        ]
    return []


def _absent_classes(classes: list[set[int]], config: DataConfig) -> list[str]:
    """Warn of classes that no mask contains."""
    names = dict(enumerate(config.class_names, 1))
    missing = sorted(set(names) - set[int]().union(*classes))
    if not missing or len(missing) == len(names):
        return []
    what = ", ".join(names[k] for k in missing)
    return [f"No mask holds the class {what}: it is not learnt and has no score."]


def sample_pairs(pairs: list[Pair]) -> list[Pair]:
    """The pairs to decode: all, or a seeded sample of `SAMPLE` if there are more than `FULL`."""
    if len(pairs) <= FULL:
        return pairs
    index = np.random.default_rng(0).choice(len(pairs), SAMPLE, replace=False)
    return [pairs[i] for i in sorted(index)]


def decode_pairs(pairs: list[Pair], config: DataConfig) -> list[PairCheck]:
    """Decode pairs in threads, as many as there are processors: each holds an image. The results of
    the last `FULL` pairs are kept for files that have not changed since."""
    classes = config.num_classes, config.classes, config.values
    settings = repr((config.ignore, config.instances, classes))  # all that statistics depend on

    def check(pair: Pair) -> tuple[Hashable, PairCheck]:
        stamps = stamp_of(pair.image), stamp_of(pair.mask)
        key = None if None in stamps else (*stamps, settings)
        return key, _kept.get(key) or _inspect(pair, config)

    with ThreadPoolExecutor(cores()) as pool:
        found = list(pool.map(check, pairs))
    keep_checks({key: check for key, check in found if key is not None and not check.problem})
    return [check for _, check in found]


_kept: dict[Hashable, PairCheck] = {}


def kept_checks() -> dict[Hashable, PairCheck]:
    """The checks that `decode_pairs` has kept, for another process to `keep_checks`."""
    return _kept


def keep_checks(checks: Mapping[Hashable, PairCheck]) -> None:
    """Add checks to those that `decode_pairs` keeps."""
    _kept.update(checks)
    for key in list(_kept)[:-FULL]:
        del _kept[key]


def _inspect(pair: Pair, config: DataConfig) -> PairCheck:
    try:
        image, valid = read_valid(pair.image)
        stats, known = compute_mask_stats(pair.mask, config)
    except DataError as error:
        return PairCheck(str(error))
    if known.shape != image.shape[:2]:
        return PairCheck(size_mismatch(pair.image, image.shape, pair.mask, known.shape))
    any_known = bool(known.any() if valid is None else (known & valid).any())
    differ = _orientations_differ(pair, image.shape[0] == image.shape[1])
    return PairCheck("", image.shape[:2], differ, any_known, tuple(stats), edges(image[..., :3]))


def _orientations_differ(pair: Pair, square: bool) -> bool:
    """See `PairCheck.orientations_differ`."""
    one, other = read_orientation(pair.image.path), read_orientation(pair.mask.path)
    return one != other and (square or (one > 4) == (other > 4))  # 5 to 8 swap rows and columns


def size_mismatch(
    one: Pixels, shape: tuple[int, ...], other: Pixels, other_shape: tuple[int, ...]
) -> str:
    """The message for an image and its mask whose sizes (height, width) differ."""
    hint = ""
    if tuple(shape[:2]) == tuple(other_shape[1::-1]):
        hint = (
            " Rows and columns are swapped: often one of them is rotated by its orientation "
            "tag (EXIF), and the other is not."
        )
    return (
        f"{one} is {shape[0]} x {shape[1]} but its mask {other} is {other_shape[0]} x "
        f"{other_shape[1]} (height x width). Export both at one size.{hint}"
    )
