"""Checks of every file before training: readable, same size in a pair, masks interpretable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from autosam.config import DataConfig
from autosam.data.conventions import decide_reading
from autosam.data.facts import Facts, facts_of
from autosam.data.near_duplicates import edges, leaking_scenes, scenes
from autosam.data.pairs import Pair, Pixels, Splits, read_valid
from autosam.data.readers.images import turn_of
from autosam.data.reading import MaskReading
from autosam.errors import DataError

FULL = 5000
"""Up to this many pairs, every file is decoded."""
SAMPLE = 500
"""How many are decoded of more, drawn by a seed."""


@dataclass
class Seen:
    """The result for one pair."""

    problem: str = ""
    """Why it cannot be used; empty if it can."""
    size: tuple[int, ...] = ()
    """H, W."""
    turned: bool = False
    """Whether image and mask differ in orientation tags, and sizes do not tell which is right."""
    known: bool = True
    """Whether the class of any pixel is known, and the image holds data there."""
    facts: tuple[Facts, ...] = ()
    """Of the mask, or of each of its layers."""
    edges: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """See `autosam.data.near_duplicates`."""


@dataclass
class Report:
    """The result of the checks, by which every command decides what can be used."""

    reading: MaskReading = field(default_factory=MaskReading)
    checked: int = 0
    errors: list[str] = field(default_factory=list)
    """Reasons why the data cannot be used."""
    warnings: list[str] = field(default_factory=list)


def check_splits(splits: Splits, config: DataConfig) -> Report:
    """`check_pairs` for training, over all splits: masks are read in one way throughout, and there
    must be something to learn; scenes that are in several splits are a warning."""
    pairs = [pair for found in splits.values() for pair in found]
    chosen = choose(pairs)
    seen = look_at(chosen, config)
    split_of = {id(pair): split for split, found in splits.items() for pair in found}
    report = judge(chosen, seen, config, len(pairs), [split_of[id(pair)] for pair in chosen])
    _raise(report.errors)
    numbers = scenes(np.stack([s.edges for s in seen]), [s.size for s in seen])
    if leaks := leaking_scenes(numbers, [split_of[id(pair)] for pair in chosen]):
        first = [pair.name for pair, n in zip(chosen, numbers, strict=True) if n == leaks[0]]
        report.warnings.append(
            f"{len(leaks)} scenes (one camera, or near copies) are in several splits, for example "
            f"{', '.join(first[:4])}: test scores will flatter. `autosam check` proposes "
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
    report = judge(chosen, look_at(chosen, config), config, len(pairs))
    _raise(report.errors)
    return report


def _raise(errors: list[str]) -> None:
    if errors:
        more = f"\n... and {len(errors) - 5} more." if len(errors) > 5 else ""
        raise DataError("\n".join(errors[:5]) + more)


def judge(
    pairs: list[Pair], seen: list[Seen], config: DataConfig, total: int, splits: Sequence[str] = ()
) -> Report:
    """Decide what can be used, for `check`, `train`, `compare` and `evaluate` alike.

    Args:
        pairs: those that were decoded.
        seen: the result for each.
        config: the data settings.
        total: how many pairs there are.
        splits: the split of each pair, where the data are for training.
    """
    report = Report(checked=len(pairs), errors=[s.problem for s in seen if s.problem])
    good = [(pair, s.facts) for pair, s in zip(pairs, seen, strict=True) if not s.problem]
    if not good:
        return report
    try:
        report.reading = decide_reading(
            [(mask, one) for pair, facts in good for mask, one in _layers(pair.mask, facts)], config
        )
    except DataError as error:
        report.errors.append(str(error))
        return report
    held = [report.reading.holds(facts) for _, facts in good]
    if len(pairs) < total:
        report.warnings.append(
            f"{len(pairs)} of {total} pairs were decoded to check them, drawn by a seed."
        )
    of_split = [
        split for split, s in zip(splits or [""] * len(seen), seen, strict=True) if not s.problem
    ]
    blank = [not s.known for s in seen if not s.problem]
    known = {split for split, none in zip(of_split, blank, strict=True) if not none}
    unknown = [split for split in dict.fromkeys(of_split) if split not in known]
    if len(pairs) == total:
        report.errors += [
            (f"Of the {split} split: " if split else "")
            + "No mask has a pixel whose class is known: all are ignored (--data.ignore) or "
            "without data, so nothing can be learnt or scored. Give labelled masks."
            for split in unknown
        ]
    if any(blank):
        report.warnings.append(
            f"{sum(blank)} of {len(good)} masks have no pixel whose class is known, for example "
            f"{good[blank.index(True)][0].mask}: these images have no loss and no score."
        )
    if empty := sum(not (found or none) for found, none in zip(held, blank, strict=True)):
        report.warnings.append(f"{empty} of {len(good)} masks are empty (nothing to segment).")
    report.warnings += _inverted(good, len(good) - empty, config)
    report.warnings += _lacking(held, config)
    if turned := [pair for pair, s in zip(pairs, seen, strict=True) if s.turned]:
        report.warnings.append(
            f"{len(turned)} images and their masks differ in their orientation tags (EXIF), for "
            f"example {turned[0].image} and {turned[0].mask}: each is turned as its own tag says. "
            "See whether they fit: autosam check --output FILE.png shows them."
        )
    if splits:
        learned = [found for split, found in zip(of_split, held, strict=True) if split == "train"]
        if not unknown and (not any(held) or (learned and not any(learned))):
            where = "" if not any(held) else "Of the training split: "
            said = "" if config.values is None else f" --data.values is {config.values}."
            said += _taken_for_missing(facts for _, facts in good)
            report.errors.append(f"{where}Every mask is empty: there is nothing to learn.{said}")
    return report


def _taken_for_missing(facts: Iterable[Sequence[Facts]]) -> str:
    """A hint for empty masks whose files declare a nodata value."""
    holes = [one.missing for some in facts for one in some if one.missing is not None]
    if not holes:
        return ""
    return (
        f" In {len(holes)} masks the file itself says that pixels hold no data (value "
        f"{holes[0]:g}): if they are the object, remove that nodata value (gdal_edit.py "
        "-unsetnodata)."
    )


def _inverted(
    good: list[tuple[Pair, tuple[Facts, ...]]], full: int, config: DataConfig
) -> list[str]:
    """A warning of masks whose whole border is foreground; nothing where the settings say what is.

    Args:
        good: pairs and the facts of their masks.
        full: how many masks are not empty.
        config: the data settings.
    """
    if config.num_classes > 1 or config.values is not None or config.classes:
        return []
    framed = [pair for pair, facts in good if any(one.border == 1 for one in facts)]
    if len(framed) > 0.5 * full:
        return [
            f"In {len(framed)} of {len(good)} masks the whole border is foreground: are they "
            "inverted? --data.values 0 (of greys 0-127) makes what is dark foreground."
        ]
    odd = [
        pair for pair, facts in good if any(one.border == 1 and 0 in one.values for one in facts)
    ]
    clear = sum(all(one.border == 0 for one in facts) for _, facts in good)
    if odd and clear > 0.5 * len(good):
        return [
            f"In {len(odd)} of {len(good)} masks, for example {odd[0].mask}, the whole border is "
            "foreground, in most none of it: are these inverted?"
        ]
    return []


def _layers(mask: Pixels, facts: Sequence[Facts]) -> Iterable[tuple[Pixels, Facts]]:
    return zip([mask] * len(facts), facts, strict=True)


def _lacking(held: list[set[int]], config: DataConfig) -> list[str]:
    """Classes that no mask holds, as a warning."""
    names = dict(enumerate(config.class_names, 1))
    missing = sorted(set(names) - set[int]().union(*held))
    if not missing or len(missing) == len(names):
        return []
    what = ", ".join(names[k] for k in missing)
    return [f"No mask holds the class {what}: nothing is learnt and no score is known of it."]


def choose(pairs: list[Pair]) -> list[Pair]:
    """The pairs that are decoded: all, or of very many a seeded sample."""
    if len(pairs) <= FULL:
        return pairs
    index = np.random.default_rng(0).choice(len(pairs), SAMPLE, replace=False)
    return [pairs[i] for i in sorted(index)]


def look_at(pairs: list[Pair], config: DataConfig) -> list[Seen]:
    """Decode pairs."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda pair: _inspect(pair, config), pairs))


def _inspect(pair: Pair, config: DataConfig) -> Seen:
    try:
        image, valid = read_valid(pair.image)
        facts, known = facts_of(pair.mask, config)
    except DataError as error:
        return Seen(str(error))
    if known.shape != image.shape[:2]:
        return Seen(size_mismatch(pair.image, image.shape, pair.mask, known.shape))
    any_known = bool(known.any() if valid is None else (known & valid).any())
    turned = _turned_apart(pair, image.shape[0] == image.shape[1])
    return Seen("", image.shape[:2], turned, any_known, tuple(facts), edges(image))


def _turned_apart(pair: Pair, square: bool) -> bool:
    """See `Seen.turned`."""
    one, other = turn_of(pair.image.path), turn_of(pair.mask.path)
    return one != other and (square or (one > 4) == (other > 4))  # sides change from 5 on


def size_mismatch(
    one: Pixels, shape: tuple[int, ...], other: Pixels, other_shape: tuple[int, ...]
) -> str:
    """The message for an image and its mask whose sizes (height, width) differ."""
    turned = ""
    if tuple(shape[:2]) == tuple(other_shape[1::-1]):
        turned = (
            " Rows and columns are swapped: often one of them is turned by its orientation "
            "tag (EXIF), and the other is not."
        )
    return (
        f"{one} is {shape[0]} x {shape[1]} but its mask {other} is {other_shape[0]} x "
        f"{other_shape[1]} (height x width). Export both at one size.{turned}"
    )
