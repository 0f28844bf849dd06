"""Commands as Python calls: `autosam.train(config)` and `autosam.train(images=..., epochs=5)`."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from typing import Any, TypeVar

from autosam.config.command_checks import check_command
from autosam.config.setting import names_of, sections_of, shown_names_of
from autosam.config.values import require_config
from autosam.errors import ConfigError
from autosam.utils.suggest import suggest_key

T = TypeVar("T")


def with_settings(kind: type[T], config: T | None, settings: dict[str, Any], name: str) -> T:
    """Build the settings of a call.

    Args:
        kind: the settings class of the command.
        config: the settings to start from; None: the defaults.
        settings: changes, by short name, their key or the name of a section.
        name: the command.

    Raises:
        ConfigError: neither is given; an unknown name; see `require_config` and `check_command`.
    """
    if config is not None or not settings:
        require_config(config, kind, name)
    found: Any = kind() if config is None else config
    known = {**names_of(kind), **{section: section for section in sections_of(kind)}}
    shown = {one: one for one in (*shown_names_of(kind), *sections_of(kind))}
    if unknown := [given for given in settings if given not in known]:
        raise ConfigError(
            "\n".join(
                f"{name}({one}=...): unknown setting.{suggest_key(one, shown)}" for one in unknown
            )
        )
    changes: dict[str, dict[str, Any]] = {}
    for given, value in settings.items():
        section, _, last = known[given].rpartition(".")
        changes.setdefault(section, {})[last] = value
    own = changes.pop("", {})
    for section, values in changes.items():
        own[section] = dataclasses.replace(own.get(section, getattr(found, section)), **values)
    found = dataclasses.replace(found, **own)
    require_config(found, kind, name)
    check_command(found)
    return found


class _Command(types.ModuleType):
    """A module that can be called like its function of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(module: str) -> None:
    """Let a command's module be called: `autosam.train(...)` is `autosam.train.train(...)`.

    Args:
        module: its full name; it holds a function of its own name.
    """
    if module in ("__main__", "__mp_main__"):  # `python -m`, and a process that it spawns
        return
    command: Any = sys.modules[module]
    command.__class__ = _Command
    # Editors and notebooks show this signature.
    command.__signature__ = inspect.signature(getattr(command, module.rpartition(".")[2]))
