"""Values of settings: converted from the text of flags and files, and checked against their type,
choices and range."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from autosam.config.setting import hints_of, is_section, settings_of, value_at
from autosam.errors import ConfigError
from autosam.utils.suggest import suggest

KINDS: dict[Any, tuple[Any, str]] = {
    str: (str, "text"),
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    bool: (bool, "true or false"),
    type(None): (type(None), "None"),
}
"""Python types accepted for each type of a setting, and its name in messages."""
TRUTH = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
NO_NUMBER = re.compile(r"[-+]?\.?inf|\.?nan")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def convert(value: Any, hint: Any) -> Any:
    """Convert a value of a flag or file to the type of its setting.

    Args:
        value: text, or what YAML makes of a file.
        hint: the setting's type.

    Raises:
        ValueError: in words, what was expected.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            try:
                return convert(value, argument)
            except ValueError:
                continue
        if len(arguments) == 2 and type(None) is arguments[1] and value is not None:
            return convert(value, arguments[0])  # its own, more exact words
    elif is_section(hint):
        return _convert_entry(read_structure(value, hint), hint)
    elif origin in (list, tuple):
        items = read_structure(value, hint)
        if isinstance(items, list | tuple):
            hints = arguments if origin is tuple else arguments * len(items)
            if len(items) == len(hints):
                return origin(convert(*pair) for pair in zip(items, hints, strict=True))
    elif hint in (int, float, bool) and isinstance(value, str):
        found = _scalar(value.strip().lower(), hint)
        if found is not None:
            return found
    elif _is_a(value, hint):
        return float(value) if hint is float else value
    raise ValueError(f"expected {expected_words(hint)}.{_nearest(value, hint)}")


def expected_words(hint: Any) -> str:
    """Name a type in messages about flags and files, without None."""
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return " or ".join(expected_words(one) for one in arguments if one is not type(None))
    if typing.get_origin(hint) is list and is_section(arguments[0]):
        kind = arguments[0]
        entry = ", ".join(f"{name}: ..." for name in _needed(kind))
        return f"a list of entries with {', '.join(hints_of(kind))}: [{{{entry}}}, {{{entry}}}]"
    return words_of(hint)


def _convert_entry(value: Any, kind: type) -> Any:
    """Convert an entry of a list of dataclasses, such as a class."""
    hints = hints_of(kind)
    if not isinstance(value, dict):
        raise ValueError(f"expected {expected_words(list[kind])}.")  # type: ignore[valid-type]
    if unknown := [key for key in value if key not in hints]:
        hint = suggest(str(unknown[0]), hints.keys())
        raise ValueError(f"unknown key {unknown[0]!r}; expected {', '.join(hints)}.{hint}")
    if missing := [name for name in _needed(kind) if name not in value]:
        raise ValueError(f"{missing[0]} is missing; expected {', '.join(hints)}.")
    return kind(**{key: convert(entry, hints[key]) for key, entry in value.items()})


def _needed(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]


def _scalar(text: str, hint: type) -> Any:
    """The number or truth value that a text in small letters says, or None.

    Numbers are decimal: 010 is ten, which YAML takes for eight.
    """
    if hint is bool:
        return TRUTH.get(text)
    if hint is float and (NUMBER.fullmatch(text) or NO_NUMBER.fullmatch(text)):
        return float(text.replace(".nan", "nan").replace(".inf", "inf"))
    return int(text) if re.fullmatch(r"[-+]?\d{1,99}", text) and hint is int else None


def read_structure(value: Any, hint: Any) -> Any:
    """Parse a list or section written as YAML. Texts are not interpreted: `007` stays text."""
    if not isinstance(value, str):
        return value
    import yaml

    try:
        return as_written(yaml.safe_load(value), yaml.load(value, yaml.BaseLoader), hint)
    except Exception:  # of YAML: values that cannot be, such as "!!int x"
        return value


def as_written(value: Any, written: Any, hint: Any) -> Any:
    """Replace values whose type is text by the text of the file.

    Args:
        value: what YAML makes of a file, or a part of it.
        written: the same with every scalar as text.
        hint: the type that is expected.
    """
    if isinstance(value, dict) and is_section(hint) and isinstance(written, dict):
        types = hints_of(hint)
        return {
            key: as_written(entry, written[str(key)], types.get(key))
            if str(key) in written
            else entry
            for key, entry in value.items()
        }
    hints = [hint, *typing.get_args(hint)]
    if isinstance(value, list) and isinstance(written, list):
        [entry] = [typing.get_args(h)[0] for h in hints if typing.get_origin(h) is list] or [None]
        return [as_written(*pair, entry) for pair in zip(value, written, strict=True)]
    if isinstance(value, dict | list) or value is None or not isinstance(written, str):
        return value
    wants_text = str in hints or is_section(hint) or typing.get_origin(hint) is typing.Literal
    return written if wants_text else value


def _is_a(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_a(value, argument) for argument in arguments)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            return False
        hints = arguments if origin is tuple else arguments * len(value)
        return len(hints) == len(value) and all(map(_is_a, value, hints))
    if origin is typing.Literal:
        return isinstance(value, str) and value in arguments
    if hint is not bool and isinstance(value, bool):
        return False
    return not isinstance(hint, type) or isinstance(value, KINDS.get(hint, (hint,))[0])


def number_ranges(value: Any) -> list[tuple[int, int]] | None:
    """Read numbers and ranges such as 1-4, in a list or separated by commas.

    Returns:
        First and last number of each; None if there is anything else.
    """
    words = value if isinstance(value, list | tuple) else str(value).strip("[] ").split(",")
    found = [re.fullmatch(r"\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?\s*", str(word)) for word in words]
    ranges = [(int(m[1]), int(m[2] or m[1])) for m in found if m]
    whole = len(ranges) == len(found) > 0 and all(first <= last for first, last in ranges)
    return ranges if whole else None


def words_of(hint: Any) -> str:
    """Name a type in messages."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(words_of(argument) for argument in arguments)
    if origin is typing.Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple:
        kind = "whole numbers" if arguments[0] is int else "numbers"
        example = list(range(1, len(arguments) + 1))
        return f"{len(arguments)} {kind}, such as {example}"
    if origin is list:
        return f"a list of {words_of(arguments[0])}"
    return KINDS[hint][1] if hint in KINDS else f"{getattr(hint, '__name__', hint)}(...)"


def _nearest(value: Any, hint: Any) -> str:
    """ " Did you mean X?" for the nearest choice, or nothing."""
    if typing.get_origin(hint) is not typing.Literal:
        return ""
    return suggest(str(value), map(str, typing.get_args(hint)))


def check_choices(config: Any, section: str = "") -> None:
    """Refuse values of a wrong type or that are not among the choices. Paths are converted to text,
    and numpy numbers to Python numbers.

    Args:
        config: a dataclass of settings; sections are dataclasses within it.
        section: its name, with a dot.

    Raises:
        ConfigError: naming the setting, what was found, the choices and the nearest of them.
    """
    for name, hint in hints_of(type(config)).items():
        value, key = getattr(config, name), section + name
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
            setattr(config, name, value)
        elif type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
            value = value.item()
            setattr(config, name, value)
        if is_section(hint):
            if not isinstance(value, hint):
                raise ConfigError(f"{key}: {value!r}; expected {hint.__name__}(...).")
            check_choices(value, f"{key}.")
            continue
        if typing.get_origin(hint) is typing.Literal and not _is_a(value, hint):
            near = _nearest(value, hint)
            raise ConfigError(f"--{key} {value}: expected {words_of(hint)}.{near}")
        if not _is_a(value, hint):
            raise ConfigError(f"{key}: {value!r:.60}; expected {words_of(hint)}.")
        for i, entry in enumerate(value if isinstance(value, list) else []):
            if dataclasses.is_dataclass(entry):
                check_choices(entry, f"{key}[{i}].")


def range_mistakes(
    config: Any, section: str = "", names: Mapping[str, str] | None = None
) -> list[str]:
    """List the numbers that are out of the range of their setting.

    Args:
        config: a dataclass of settings.
        section: its name, if it is a section.
        names: what the user called each setting, by its key; without it, the flag.

    Returns:
        A sentence for each, naming the setting, what was found and what is expected.
    """
    found = []
    for key, one in settings_of(type(config)).items():
        value = value_at(config, key)
        if value is None:
            continue
        shown = f"--{section}.{key}" if section else f"--{key}"
        shown = (names or {}).get(key, shown)
        numbers = value if isinstance(value, list | tuple) else [value]
        least, most = one.facts.get("min", -math.inf), one.facts.get("max", math.inf)
        mosts = most if isinstance(most, tuple) else [most] * len(numbers)
        for number, most in zip(numbers, mosts, strict=True):
            if (least, most) != (-math.inf, math.inf) and not least <= number <= most:
                found.append(f"{shown} {_number(number)}: must be {_range_words(least, most)}.")
        if "above" in one.facts and not value > one.facts["above"]:
            found.append(f"{shown} {_number(value)}: must be above {one.facts['above']:g}.")
        if "below" in one.facts and not value < one.facts["below"]:
            found.append(f"{shown} {_number(value)}: must be below {one.facts['below']:g}.")
        multiple = one.facts.get("multiple", 1)
        if value % multiple if isinstance(value, int) else False:
            near = max(multiple, round(value / multiple) * multiple)
            found.append(f"{shown} {value}: must be a multiple of {multiple}, such as {near}.")
    return found


def check_ranges(config: Any, section: str = "") -> None:
    """Refuse numbers out of range, see `range_mistakes`.

    Raises:
        ConfigError: naming every such setting.
    """
    if mistakes := range_mistakes(config, section):
        raise ConfigError("\n".join(mistakes))


def _number(value: float) -> str:
    """Format a number without a trailing .0: -1 for -1.0."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _range_words(least: float, most: float) -> str:
    if most == math.inf:
        return f"at least {least:.10g}"
    return f"{least:.10g} to {most:.10g}"


def require_config(config: Any, kind: type, name: str) -> None:
    """Refuse an argument that is not the settings object of a function.

    Raises:
        ConfigError: saying what makes them, or see `check_choices` and `check_ranges`.
    """
    if not isinstance(config, kind):
        made = f"autosam.config.cli.parse({kind.__name__}, ['--config', 'FILE', ...])"
        raise ConfigError(
            f"{name}({'' if config is None else f'{config!r:.60}'}): expected settings as keywords "
            f"{name}(NAME=value, ...), as {kind.__name__}(...), of a file and flags {made}, "
            f"or of a dictionary autosam.config.cli.from_dict({kind.__name__}, values)."
        )
    check_choices(config)
    check_ranges(config)
