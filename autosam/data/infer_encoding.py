"""Infer the encoding of a data set's masks: how their stored values map to classes.

With one class, each file is interpreted by itself, because data sets mix encodings: 0 and one other
value, or grey values (JPEG, anti-aliasing) that are thresholded at half of white. An ambiguous mask
is an error; the settings resolve it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from autosam.config import DataConfig
from autosam.config.validation import value_ranges
from autosam.data.mask_encoding import WHITE, MaskEncoding
from autosam.data.mask_stats import (
    WHITE_SHARE,
    MaskStats,
    alpha_problem,
    first_ten,
    infers_encoding,
)
from autosam.data.pairs import Layers, Pixels
from autosam.data.stored_masks import BLACK, REMEDY
from autosam.errors import DataError

Found = Sequence[tuple[Pixels, MaskStats]]
"""Masks (or the layers of masks) with their statistics."""


def infer_encoding(found: Found, config: DataConfig) -> MaskEncoding:
    """Infer the encoding that all masks share.

    One class: each file by its kind, see `MaskStats.kind`; with `values` the listed ones are
    foreground; with `instances` all above 0. Several classes: values are class numbers, or
    those that `classes` lists.

    Args:
        found: masks and their statistics.
        config: the data settings.

    Raises:
        DataError: the masks are ambiguous, or their values do not fit the settings.
    """
    layers = bool(found) and isinstance(found[0][0], Layers)
    if infers_encoding(config) or (layers and config.values is None):
        return _infer_one_class(found, config)
    _require_exact(found, config)
    encoding = _infer_numbers(found, config, layers)
    parts = [encoding.description] if encoding.description else []
    parts += _describe_nodata(found)
    return dataclasses.replace(encoding, description="; ".join(parts))


def _infer_numbers(found: Found, config: DataConfig, layers: bool) -> MaskEncoding:
    """The encoding of class or object numbers, or of values listed in the settings."""
    values = _first_masks(found)
    num_classes, ignore = config.num_classes, config.ignore
    if config.values is not None:
        if num_classes > 1 and not layers:
            raise DataError(
                f"--data.values {config.values}: {found[0][0]} holds several classes. List the "
                "values of each in --data.classes."
            )
        listed = tuple(
            (value, 1)
            for low, high in value_ranges(config.values)
            for value in range(low, high + 1)
        )
        rest = [value for value in values if value not in dict(listed)]
        background = first_ten(rest) or "no other value"
        description = f"{config.values} is foreground, {background} background"
        return MaskEncoding(num_classes, ignore, listed, 0, description=description)
    if config.instances:
        description = "" if 0 in values else "no mask holds 0: every pixel belongs to an object"
        return MaskEncoding(1, ignore, ((0, 0),), 1, numbered=True, description=description)
    classes = [
        (value, k)
        for k, entry in enumerate(config.classes or [None] * num_classes, 1)
        for value in ((entry and entry.values) or [k])
    ]
    if 0 not in dict(classes):
        classes.append((0, 0))
    if unlisted := sorted(set(values) - set(dict(classes))):
        raise DataError(
            f"{values[unlisted[-1]]}: {_unlisted_message(unlisted[-1], values, config)}"
        )
    description = ""
    background_color = dict(_colors(found)).get(0)
    if background_color and max(background_color) > BLACK:
        description = f"index 0 (#{bytes(background_color).hex()}) is background"
    if 0 not in values and values:
        listed_values = first_ten(list(values))
        description = f"no mask holds 0, so nothing is background; values found: {listed_values}"
    return MaskEncoding(num_classes, ignore, tuple(classes), description=description)


def _unlisted_message(value: int, values: dict[int, Pixels], config: DataConfig) -> str:
    """The message for a value that is no class."""
    found = f"Values found: {first_ten(list(values))}."
    if any(entry.values for entry in config.classes or []):
        return (
            f"mask value {value}, which --data.classes does not list. {found} List it, or set "
            "--data.ignore."
        )
    hint = ""
    if value == 255:
        hint = " (255 often marks unlabelled pixels: --data.ignore 255)"
    return (
        f"mask value {value}, but --data.num_classes is {config.num_classes}: values must be 0 "
        f"(background) to {config.num_classes}. {found} Set --data.num_classes, or renumber; masks "
        f"of several classes must not be JPEG.{hint}"
    )


def _first_masks(found: Found) -> dict[int, Pixels]:
    """Each value, sorted, with the first mask that contains it."""
    first: dict[int, Pixels] = {}
    for mask, stats in found:
        for value in stats.values:
            first.setdefault(value, mask)
    return dict(sorted(first.items()))


def _colors(found: Found) -> list[tuple[int, tuple[int, ...]]]:
    """(index, RGB) of all palette entries in use."""
    return [pair for _, stats in found for pair in stats.colors]


def _require_exact(found: Found, config: DataConfig) -> None:
    """Refuse numbers that may not be the ones that were written, or that differ in meaning between
    files.

    Raises:
        DataError: lossy compression, MinIsWhite, or palettes that disagree about an index or about
            the background.
    """
    wide = config.values is not None and all(
        high - low >= 32 for low, high in value_ranges(config.values)
    )
    colors: dict[int, tuple[tuple[int, ...], Pixels]] = {}
    for mask, stats in found:
        if stats.inverted and config.values is None:
            raise DataError(
                f"{mask}: a TIFF with white as zero (MinIsWhite); programs disagree about the "
                "numbers in such a file. Save it with black as zero (MinIsBlack)."
            )
        if stats.lossy and not wide:
            raise DataError(
                f"{mask}: JPEG (or another lossy format) cannot hold numbers of classes or "
                "objects. Save masks as PNG. With one class, --data.values 128-255 makes light "
                "pixels foreground."
            )
        for index, color in stats.colors:
            other, first = colors.setdefault(index, (color, mask))
            if other != color and not (config.instances and index):
                raise DataError(
                    f"{mask}: index {index} of its palette is #{bytes(color).hex()}, but in "
                    f"{first} it is #{bytes(other).hex()}: their numbers mean different "
                    "things. Save all masks with one palette, or as grey values."
                )
    zero_listed = any(0 in (entry.values or []) for entry in config.classes or [])
    if config.values is None and not zero_listed:
        _require_background_0(colors)


def _require_background_0(colors: dict[int, tuple[tuple[int, ...], Pixels]]) -> None:
    """
    Args:
        colors: of each index in use, its RGB and the first mask that contains it.

    Raises:
        DataError: index 0 is not black, and another index is black or white.
    """
    zero = colors[0][0] if 0 in colors else (128, 0, 0)
    if not colors or max(zero) <= BLACK:
        return
    for index, (color, mask) in sorted(colors.items()):
        black = max(color) <= BLACK and color != (index,) * 3
        if index and (black or (min(color) == 255 and min(zero) < 255)):
            raise DataError(
                f"{mask}: index {index} of its palette is {'black' if black else 'white'} and "
                "index 0 is not, so the background is ambiguous. Save the masks with background "
                "as index 0, or list the values of every class in --data.classes."
            )


def _infer_one_class(found: Found, config: DataConfig) -> MaskEncoding:
    """The encoding of one class, where each file is interpreted by its kind."""
    uses_alpha = any(stats.source == "alpha" for _, stats in found)
    for mask, stats in found:
        if problem := alpha_problem(stats, uses_alpha):
            raise DataError(f"{mask}: {problem} {REMEDY}")
    _require_dark_border(found)
    binary, grayscale, noise, numbers = (
        [(mask, stats) for mask, stats in found if stats.kind == kind]
        for kind in ("binary", "grayscale", "noise", "numbers")
    )
    values = _first_masks(found)
    if len(values) == 2 and 0 not in values and not grayscale:
        one, other = values
        raise DataError(
            f"{values[one]}: masks hold the values {one} and {other}, and no mask holds 0, so the "
            f"foreground is ambiguous. Set it: --data.values {other} (or {one})."
        )
    foreground = {stats.values[-1]: mask for mask, stats in reversed(binary)}
    unusual = [value for value in foreground if value not in WHITE]
    if numbers or (unusual and (len(foreground) > 1 or grayscale)):
        raise DataError(_several_classes_message(numbers, foreground, values))
    if unusual and 0 not in values:
        raise DataError(
            f"{foreground[unusual[0]]}: every mask holds the value {unusual[0]} alone, so it may "
            f"be foreground or background. If foreground: --data.values {unusual[0]}."
        )
    _require_white(grayscale, noise, foreground)
    return MaskEncoding(
        num_classes=config.num_classes,
        ignore=config.ignore,
        foreground_values=(*WHITE, *unusual),
        allow_grayscale=bool(grayscale or noise),
        uses_alpha=uses_alpha,
        description=_describe(found, foreground),
    )


def _several_classes_message(
    numbers: Found, foreground: dict[int, Pixels], values: dict[int, Pixels]
) -> str:
    """The message for masks that contain more than one class.

    Args:
        numbers: the masks of kind "numbers".
        foreground: the foreground values of binary masks, with a mask of each.
        values: all values, with a mask of each.
    """
    if numbers:
        mask, stats = numbers[0]
        here = f" (here {first_ten(stats.values)})"
    else:
        mask, here = foreground[max(set(foreground) - set(WHITE))], ""
    return (
        f"{mask}: mask values {first_ten(list(values))}{here} look like several classes or "
        "objects, but --data.num_classes is 1. Set --data.num_classes (values 0 to K); or "
        "--data.instances true if values number objects; or --data.values to list foreground "
        "values, and --data.ignore for an unlabelled one; or save masks as 0 and 255."
    )


def _require_dark_border(found: Found) -> None:
    """Refuse MinIsWhite masks that look inverted. Pillow and OpenCV invert such files, tifffile,
    GDAL and ImageJ do not, so the intent of the writer is unknown.

    Raises:
        DataError: most of them are light along most of their border.
    """
    inverted = [(m, s) for m, s in found if s.inverted and s.values and s.values[-1] > 0]
    light = [(m, s) for m, s in inverted if s.border > 0.5]
    if len(light) > 0.5 * len(inverted):
        mask, stats = light[0]
        raise DataError(
            f"{mask}: a TIFF with white as zero (MinIsWhite), and most of its border is light, so "
            "the foreground is ambiguous: programs disagree about such files (255 in one is 0 in "
            "another). --data.values 0 makes pixels that are shown dark (not stored as 0) "
            f"foreground; --data.values {stats.values[-1]} those shown light (stored as 0)."
        )


def _require_white(grayscale: Found, noise: Found, foreground: dict[int, Pixels]) -> None:
    """Refuse grey values whose foreground is ambiguous.

    Args:
        grayscale: the masks of kind "grayscale".
        noise: those of kind "noise".
        foreground: the foreground values of binary masks, with a mask of each.

    Raises:
        DataError: no mask has a value near white; or 0 and 1 beside grey values (noise?).
    """
    near_white = any(stats.values[-1] > WHITE_SHARE * stats.white for _, stats in grayscale)
    if (grayscale or noise) and not near_white and not set(foreground) & {255, 65535}:
        mask, stats = (grayscale or noise)[0]
        raise DataError(
            f"{mask}: grey values up to {stats.values[-1]}, and no mask has a value near white, so "
            "the foreground is ambiguous. Save masks as 0 and 255, or set the foreground values: "
            "--data.values 128-255."
        )
    if noise and not grayscale and not all(stats.lossy for _, stats in noise):
        mask, stats = next((m, s) for m, s in noise if not s.lossy)
        raise DataError(
            f"{mask}: values up to {stats.values[-1]}, while other masks hold 0 and 255: it may be "
            "empty or not. Save all masks in one way, as 0 and 255."
        )
    if 1 not in foreground:
        return
    unclear = [m for m, s in [*grayscale, *noise] if s.kind == "noise" or not s.lossy]
    if unclear:
        raise DataError(
            f"{foreground[1]}: holds only 0 and 1, while {unclear[0]} holds grey values: 1 may be "
            "foreground or noise. Save all masks in one way, as 0 and 255."
        )


def _describe(found: Found, foreground: dict[int, Pixels]) -> str:
    """The encoding of one class in words; "" if masks are simply 0 and 255, or 0 and 1."""
    parts = []
    sources = Counter(stats.source for _, stats in found)
    if sources["alpha"]:
        parts.append(f"{sources['alpha']} store the shape in the alpha channel")
    if sources["palette"]:
        parts.append(f"{sources['palette']} by the colours of their palette, black is background")
    if len(foreground) > 1:
        values = " in some and ".join(map(str, sorted(foreground)))
        parts.append(f"foreground is {values} in others")
    elif set(foreground) - set(WHITE[:2]):
        parts.append(f"foreground is {next(iter(foreground))}")
    kinds = Counter(stats.kind for _, stats in found)
    if kinds["grayscale"]:
        parts.append(f"{kinds['grayscale']} hold grey values, thresholded at half of white")
    if kinds["noise"]:
        top = max(stats.values[-1] for _, stats in found if stats.kind == "noise")
        parts.append(f"{kinds['noise']} hold only noise (up to {top}): empty")
    parts += _describe_nodata(found)
    return f"of {len(found)} masks: " + "; ".join(parts) if parts else ""


def _describe_nodata(found: Found) -> list[str]:
    """In words, what the files declare: pixels without data, and white as zero."""
    parts = []
    if missing := [stats.missing for _, stats in found if stats.missing is not None]:
        values = sorted({value for value in missing if value == value})  # without NaN
        named = ""
        if values:
            named = f" (nodata value {', '.join(f'{value:g}' for value in values)} in the file)"
        parts.append(f"{len(missing)} have pixels without data{named}, which are ignored")
    if inverted := sum(stats.inverted for _, stats in found):
        parts.append(f"{inverted} store white as zero: pixels shown light have high values")
    return parts
