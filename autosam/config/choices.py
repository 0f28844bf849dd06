"""Settings made in Python are held to their types and choices, as those of files and flags are."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from typing import Any

import numpy as np

from autosam.errors import ConfigError

KINDS: dict[Any, tuple[Any, str]] = {
    str: (str, "text"),
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    bool: (bool, "True or False"),
    type(None): (type(None), "None"),
}
"""What counts as each type of a setting, and what messages call it."""


def check_choices(config: Any, section: str = "") -> None:
    """Refuse a value of another type than its setting's, one that is none of a setting's choices,
    and a section that is none; paths become texts, and numpy's numbers Python's.

    Args:
        config: a dataclass of settings; sections are dataclasses within it.
        section: its name, with a dot.

    Raises:
        ConfigError: naming the setting, what was found, the choices and the nearest of them.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        value, key = getattr(config, name), section + name
        if isinstance(value, os.PathLike | np.generic):
            value = os.fspath(value) if isinstance(value, os.PathLike) else value.item()
            setattr(config, name, value)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if not isinstance(value, hint):
                raise ConfigError(f"{key}: {value!r}; expected {hint.__name__}(...).")
            check_choices(value, f"{key}.")
            continue
        choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        if choices and value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            raise ConfigError(
                f"--{key} {value}: expected one of {', '.join(choices)}."
                + (f" Did you mean {near[0]}?" if near else "")
            )
        if not choices and not _is_a(value, hint):
            raise ConfigError(f"{key}: {value!r:.60}; expected {_words(hint)}.")
        for i, entry in enumerate(value if isinstance(value, list) else []):
            if dataclasses.is_dataclass(entry):
                check_choices(entry, f"{key}[{i}].")


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
        return value in arguments
    if hint is not bool and isinstance(value, bool):
        return False
    return not isinstance(hint, type) or isinstance(value, KINDS.get(hint, (hint,))[0])


def _words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(argument) for argument in arguments)
    if origin is tuple:
        return f"{len(arguments)} numbers"
    if origin is list:
        return f"a list of {_words(arguments[0])}"
    return KINDS[hint][1] if hint in KINDS else f"{getattr(hint, '__name__', hint)}(...)"


def require_config(config: Any, kind: type, name: str) -> None:
    """Refuse anything but the settings that a function of Python takes.

    Raises:
        ConfigError: saying what makes them, or see `check_choices`.
    """
    if not isinstance(config, kind):
        made = f"autosam.config.cli.parse({kind.__name__}, ['--config', 'FILE', ...])"
        raise ConfigError(
            f"{name}({config!r:.60}): expected settings as {kind.__name__}(...), or of a "
            f"file and flags {made}, or of a dictionary "
            f"autosam.config.cli.from_dict({kind.__name__}, values)."
        )
    check_choices(config)
