"""Settings made in Python are held to their choices, as those of files and flags are."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from typing import Any

from autosam.errors import ConfigError


def check_choices(config: Any, section: str = "") -> None:
    """Refuse a value that is none of a setting's choices, and a section that is none.

    Args:
        config: a dataclass of settings; sections are dataclasses within it.
        section: its name, with a dot.

    Raises:
        ConfigError: naming the setting, what was found, the choices and the nearest of them.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        value, key = getattr(config, name), section + name
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if not isinstance(value, hint):
                raise ConfigError(f"{key}: {value!r}; expected {hint.__name__}(...).")
            check_choices(value, f"{key}.")
        choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        if choices and value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            raise ConfigError(
                f"--{key} {value}: expected one of {', '.join(choices)}."
                + (f" Did you mean {near[0]}?" if near else "")
            )


def require_config(config: Any, kind: type, name: str) -> None:
    """Refuse anything but the settings that a function of Python takes.

    Raises:
        ConfigError: saying what makes them.
    """
    if not isinstance(config, kind):
        made = f"autosam.command.parse({kind.__name__}, ['--config', 'FILE', ...])"
        raise ConfigError(
            f"{name}({config!r:.60}): expected a {kind.__name__}: {kind.__name__}(...), or of a "
            f"file and flags {made}, or of a dictionary "
            f"autosam.command.from_dict({kind.__name__}, values)."
        )
