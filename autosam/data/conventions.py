"""How the stored values of a data set's masks are meant: decided once, or refused.

A mask of one class is read file by file, because data sets mix conventions: 0 and one other value;
or greys, as JPEG and anti-aliasing leave them, split at half. Whatever can be read in two ways is
refused; the settings say which is meant.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from autosam.config import DataConfig
from autosam.config.validation import value_ranges
from autosam.data.facts import BRIGHT, Facts, alpha_problem, by_itself, some
from autosam.data.pairs import Layers, Pixels
from autosam.data.reading import WHITE, MaskReading
from autosam.data.stored import DARK, REMEDY
from autosam.errors import DataError

Kinds = dict[str, list[tuple[Pixels, Facts]]]


def decide_reading(found: Sequence[tuple[Pixels, Facts]], config: DataConfig) -> MaskReading:
    """How to read masks of which these facts are known.

    One class: every file by what it holds, 0 and one other value, or greys split at half of white;
    with `values` what they list; with `instances` all above 0. More classes: values are class
    numbers, or what `classes` says.

    Raises:
        DataError: masks that can be read in more than one way, or values that do not fit the
            settings.
    """
    layers = bool(found) and isinstance(found[0][0], Layers)
    if by_itself(config) or (layers and config.values is None):
        return _decide_alone(found, config)
    _require_exact(found, config)
    decided = _decide_numbers(found, config, layers)
    return dataclasses.replace(decided, how="; ".join(filter(None, [decided.how, *_apart(found)])))


def _decide_numbers(
    found: Sequence[tuple[Pixels, Facts]], config: DataConfig, layers: bool
) -> MaskReading:
    """Numbers of classes or objects, or values that the settings list; see `decide_reading`."""
    values = _first(found)
    num_classes, ignore = config.num_classes, config.ignore
    if config.values is not None:
        if num_classes > 1 and not layers:
            raise DataError(
                f"--data.values {config.values}: {found[0][0]} holds several classes. List the "
                "values of each in --data.classes."
            )
        listed = tuple((v, 1) for least, most in value_ranges(config.values)
                       for v in range(least, most + 1))  # fmt: skip
        rest = [value for value in values if value not in dict(listed)]
        how = f"{config.values} is foreground, {some(rest) or 'nothing else found'} background"
        return MaskReading(num_classes, ignore, listed, 0, how=how)
    if config.instances:
        how = "" if 0 in values else "no mask holds 0: every pixel belongs to an object"
        return MaskReading(1, ignore, ((0, 0),), 1, how=how)
    classes = [
        (value, k)
        for k, entry in enumerate(config.classes or [None] * num_classes, 1)
        for value in ((entry and entry.values) or [k])
    ]
    if 0 not in dict(classes):
        classes.append((0, 0))
    if unlisted := sorted(set(values) - set(dict(classes))):
        raise DataError(f"{values[unlisted[-1]]}: {_unlisted(unlisted[-1], values, config)}")
    how = ""
    if background := dict(_colors(found)).get(0):
        how = (
            "" if max(background) <= DARK else f"index 0 (#{bytes(background).hex()}) is background"
        )
    if 0 not in values and values:
        how = f"no mask holds 0, so nothing is background; values found: {some(list(values))}"
    return MaskReading(num_classes, ignore, tuple(classes), how=how)


def _unlisted(value: int, values: dict[int, Pixels], config: DataConfig) -> str:
    """What to say of a value that is no class."""
    found = f"Values found: {some(list(values))}."
    if any(entry.values for entry in config.classes or []):
        return (
            f"mask value {value}, which --data.classes does not list. {found} List it, or set "
            "--data.ignore."
        )
    hint = ""
    if value == 255:
        hint = " (255 often marks what is to be left out: --data.ignore 255)"
    return (
        f"mask value {value}, but --data.num_classes is {config.num_classes}: values must be 0 "
        f"(background) to {config.num_classes}. {found} Set --data.num_classes, or renumber; masks "
        f"of several classes must not be JPEG.{hint}"
    )


def _first(found: Sequence[tuple[Pixels, Facts]]) -> dict[int, Pixels]:
    """Each value, in order, with the first mask that holds it."""
    first: dict[int, Pixels] = {}
    for mask, facts in found:
        for value in facts.values:
            first.setdefault(value, mask)
    return dict(sorted(first.items()))


def _colors(found: Sequence[tuple[Pixels, Facts]]) -> list[tuple[int, tuple[int, ...]]]:
    return [pair for _, facts in found for pair in facts.colors]


def _require_exact(found: Sequence[tuple[Pixels, Facts]], config: DataConfig) -> None:
    """Refuse masks whose numbers are not what someone wrote, or mean one thing here and another
    there.

    Raises:
        DataError: JPEG; palettes that disagree about an index, or about background.
    """
    wide = config.values is not None and all(
        most - least >= 32 for least, most in value_ranges(config.values)
    )
    colors: dict[int, tuple[tuple[int, ...], Pixels]] = {}
    for mask, facts in found:
        if facts.inverted and config.values is None:
            raise DataError(
                f"{mask}: a TIFF that says that white is zero, so that programs disagree about its "
                "numbers. Save it with black as zero (photometric interpretation MinIsBlack)."
            )
        if facts.lossy and not wide:
            raise DataError(
                f"{mask}: JPEG (or another format that changes values) cannot hold numbers of "
                "classes or objects. Save masks as PNG; of one class, --data.values 128-255 takes "
                "what is light."
            )
        for index, color in facts.colors:
            other, first = colors.setdefault(index, (color, mask))
            if other != color and not (config.instances and index):
                raise DataError(
                    f"{mask}: index {index} of its palette is #{bytes(color).hex()}, but in "
                    f"{first} it is #{bytes(other).hex()}: their numbers mean different "
                    "things. Save all masks with one palette, or as grey values."
                )
    said = config.values is not None or any(0 in (c.values or []) for c in config.classes or [])
    zero = colors[0][0] if 0 in colors else (128, 0, 0)
    if said or not colors or max(zero) <= DARK:
        return
    for index, (color, mask) in sorted(colors.items()):
        black = max(color) <= DARK and color != (index,) * 3
        if index and (black or (min(color) == 255 and min(zero) < 255)):
            raise DataError(
                f"{mask}: index {index} of its palette is {'black' if black else 'white'} and "
                "index 0 is not: nobody knows which is background. Background must be index 0: "
                "save the masks so, or list the values of every class in --data.classes."
            )


def _decide_alone(found: Sequence[tuple[Pixels, Facts]], config: DataConfig) -> MaskReading:
    """One class, every file by what it holds; see `decide_reading`."""
    by_alpha = any(facts.source == "alpha" for _, facts in found)
    for mask, facts in found:
        if problem := alpha_problem(facts, by_alpha):
            raise DataError(f"{mask}: {problem} {REMEDY}")
    _require_dark_border(found)
    kinds = {kind: [(m, f) for m, f in found if f.kind == kind]
             for kind in ("plain", "greys", "faint", "numbers")}  # fmt: skip
    values = _first(found)
    if len(values) == 2 and 0 not in values and not kinds["greys"]:
        one, other = values
        raise DataError(
            f"{values[one]}: masks hold the values {one} and {other}, and no mask holds 0: nobody "
            f"knows which is the object. --data.values {other} (or {one}) says so."
        )
    plain = {facts.values[-1]: mask for mask, facts in reversed(kinds["plain"])}
    odd = [value for value in plain if value not in WHITE]
    if kinds["numbers"] or (odd and (len(plain) > 1 or kinds["greys"])):
        raise DataError(_several(kinds["numbers"], plain, values, config))
    if odd and 0 not in values:
        raise DataError(
            f"{plain[odd[0]]}: every mask holds the value {odd[0]} alone: nobody knows whether it "
            f"is the object. --data.values {odd[0]} says that it is."
        )
    _require_white(kinds, plain)
    how = _how(found, kinds, plain)
    greys = bool(kinds["greys"] or kinds["faint"])
    return MaskReading(
        config.num_classes, config.ignore, None, None, (*WHITE, *odd), greys, by_alpha, how
    )


def _several(
    numbers: list[tuple[Pixels, Facts]],
    plain: dict[int, Pixels],
    values: dict[int, Pixels],
    config: DataConfig,
) -> str:
    """What to say of masks that hold more than one class."""
    if numbers:
        mask, facts = numbers[0]
    else:
        mask, facts = plain[max(set(plain) - set(WHITE))], None
    here = "" if facts is None else f" (here {some(facts.values)})"
    return (
        f"{mask}: mask values {some(list(values))}{here} look like several classes or objects, but "
        "--data.num_classes is 1. Set --data.num_classes (values 0 to K); or --data.instances true "
        "where values number objects; or --data.values for those that are foreground, and "
        "--data.ignore for one that is neither; or save masks as 0 and 255."
    )


def _require_dark_border(found: Sequence[tuple[Pixels, Facts]]) -> None:
    """Refuse masks in which white is zero and that look inverted: Pillow and OpenCV turn their
    numbers, tifffile, GDAL and ImageJ do not, so that writers mean either.

    Raises:
        DataError: most of them are light along most of their border.
    """
    inverted = [(m, f) for m, f in found if f.inverted and f.values and f.values[-1] > 0]
    light = [(m, f) for m, f in inverted if f.border > 0.5]
    if len(light) > 0.5 * len(inverted):
        mask, facts = light[0]
        raise DataError(
            f"{mask}: a TIFF that says that white is zero, and most of its border is light: nobody "
            "knows which is the object, because programs disagree about such files (what one "
            "calls 255 another calls 0). --data.values 0 takes what is shown dark (stored as "
            f"anything but 0); --data.values {facts.values[-1]} what is shown light (stored as 0)."
        )


def _require_white(kinds: Kinds, plain: dict[int, Pixels]) -> None:
    """Refuse greys of which nobody knows what is light.

    Raises:
        DataError: nothing is near white; or 0 and 1 among greys, which may be noise.
    """
    greys, faint = kinds["greys"], kinds["faint"]
    white = [m for m, f in greys if f.values[-1] > BRIGHT * f.white] or set(plain) & {255, 65535}
    if (greys or faint) and not white:
        mask, facts = (greys or faint)[0]
        raise DataError(
            f"{mask}: greys up to {facts.values[-1]}, and no mask holds any near white: nobody "
            "knows which are the object. Save masks as 0 and 255; or --data.values 128-255 says "
            "which values are foreground."
        )
    if faint and not greys and not all(facts.lossy for _, facts in faint):
        mask, facts = next((m, f) for m, f in faint if not f.lossy)
        raise DataError(
            f"{mask}: values up to {facts.values[-1]}, while other masks hold 0 and 255: nobody "
            "knows whether it is empty. Save all masks in one way, as 0 and 255."
        )
    if 1 not in plain:
        return
    unsure = [mask for mask, facts in [*greys, *faint] if facts.kind == "faint" or not facts.lossy]
    if unsure:
        raise DataError(
            f"{plain[1]}: holds 0 and 1 alone, while {unsure[0]} holds greys: nobody knows whether "
            "1 is the object or noise. Save all masks in one way, as 0 and 255."
        )


def _how(found: Sequence[tuple[Pixels, Facts]], kinds: Kinds, plain: dict[int, Pixels]) -> str:
    """The reading of one class in words; nothing where masks are plainly 0 and 255, or 0 and 1."""
    parts = []
    sources = Counter(facts.source for _, facts in found)
    if sources["alpha"]:
        parts.append(f"the shape of {sources['alpha']} is in the alpha channel")
    if sources["palette"]:
        parts.append(f"{sources['palette']} by the colours of their palette, black is background")
    if len(plain) > 1:
        parts.append(f"foreground is {' in some and '.join(map(str, sorted(plain)))} in others")
    elif set(plain) - set(WHITE[:2]):
        parts.append(f"foreground is {next(iter(plain))}")
    if kinds["greys"]:
        parts.append(f"{len(kinds['greys'])} hold greys, split at half of white")
    if kinds["faint"]:
        top = max(facts.values[-1] for _, facts in kinds["faint"])
        parts.append(f"{len(kinds['faint'])} hold nothing but noise (up to {top}): empty")
    parts += _apart(found)
    return f"of {len(found)} masks: " + "; ".join(parts) if parts else ""


def _apart(found: Sequence[tuple[Pixels, Facts]]) -> list[str]:
    """In words, what the files say of themselves: pixels without data, and white as zero."""
    parts = []
    if holes := [facts.missing for _, facts in found if facts.missing is not None]:
        named = ", ".join(f"{value:g}" for value in sorted({v for v in holes if v == v}))
        of = f" (nodata value {named} in the file)" if named else ""
        parts.append(f"{len(holes)} have pixels without data{of}, which are left out")
    if inverted := sum(facts.inverted for _, facts in found):
        parts.append(f"{inverted} say that white is zero: what is shown light has high values")
    return parts
