"""Settings as dataclass fields. Their facts (range, path, alias, whether they may change on resume)
are metadata of the field, and everything that depends on them is derived from the metadata.

The help of a setting is the docstring below its field, which the API reference shows too.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from autosam.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


def once(function: F) -> F:
    """`functools.cache` with type annotations that accept classes as arguments."""
    return cast(F, functools.cache(function))


def always_path(text: str) -> bool:
    return True


def path_if_exists(text: str) -> bool:
    """Tell paths from names on the hub: whether the path exists."""
    return Path(text).exists()


def path_if_table(text: str) -> bool:
    """Tell CSV files from regular expressions, by the suffix."""
    return text.lower().endswith(".csv")


def setting(
    default: Any,
    *,
    min: float | None = None,
    max: float | tuple[float, ...] | None = None,
    short: str = "",
    alias: str = "",
    common: bool = False,
    **facts: Any,
) -> Any:
    """Make a dataclass field with facts.

    Args:
        default: its default; a function that makes it, such as `list` or a dataclass.
        min: least number allowed, each of several numbers included.
        max: greatest number allowed; a tuple: of each of several numbers.
        short: a second name on the command line and in Python, without its section.
        alias: its old name, understood in flags, files and checkpoints.
        common: whether `--help` shows it; settings with a short name are shown anyway.
        facts: `path`: a function that says whether a text is a path, which is made absolute and
            left out of published checkpoints. `resume`: may change when a run is resumed.
            `result`: False where the result does not depend on it. `call`: belongs to one call and
            not to what is trained. `choices`: the texts allowed. `above`, `below`: limits that it
            must not reach. `multiple`: of which it must be a multiple. `missing`: for a file or
            folder that must exist, the error where it does not and what is expected, see
            `autosam.utils.paths.require_path`.
    """
    known = {"min": min, "max": max, "short": short, "alias": alias, "common": common, **facts}
    metadata = {name: fact for name, fact in known.items() if fact not in (None, "")}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


_types_of = once(typing.get_type_hints)


def hints_of(kind: type) -> dict[str, Any]:
    """Look up the types of the fields of a dataclass. Those with `choices` become a
    `Literal` of the current keys of that table."""
    choices = {
        f.name: f.metadata["choices"] for f in dataclasses.fields(kind) if "choices" in f.metadata
    }
    return _types_of(kind) | {name: typing.Literal[tuple(c)] for name, c in choices.items()}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of a dataclass.

    Attributes:
        key: its name with its section: `train.lr`.
        default: its default, None where a section or list is made by a function.
        facts: see `setting`.
        owner: the dataclass that has the field.
    """

    key: str
    default: Any
    facts: typing.Mapping[str, Any]
    owner: type

    @property
    def name(self) -> str:
        """Its name without the section."""
        return self.key.rpartition(".")[2]

    @property
    def hint(self) -> Any:
        """Its type, see `hints_of`."""
        return hints_of(self.owner)[self.name]

    @property
    def first_key(self) -> str:
        """Its key in files of earlier versions."""
        prefix = f"{self.section}." if self.section else ""
        return prefix + self.facts.get("alias", self.name)

    @property
    def section(self) -> str:
        """Its section, or ""."""
        return self.key.rpartition(".")[0]

    @property
    def help(self) -> str:
        """The docstring below its field, on one line."""
        for owner in self.owner.__mro__:
            if text := _docstrings(owner).get(self.name):
                return text
        return ""


def is_section(hint: Any) -> bool:
    """Whether a type is a dataclass of settings."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


@once
def settings_of(kind: type) -> dict[str, Setting]:
    """Collect the settings of a dataclass and of its sections, by key."""
    return {setting.key: setting for setting in _walk(kind, "")}


def _walk(kind: type, section: str) -> Iterator[Setting]:
    hints = hints_of(kind)
    for field in dataclasses.fields(kind):
        hint, key = hints[field.name], section + field.name
        if is_section(hint):
            yield from _walk(hint, f"{key}.")
        else:
            default = None if field.default is dataclasses.MISSING else field.default
            yield Setting(key, default, field.metadata, kind)


@once
def sections_of(kind: type) -> dict[str, type]:
    """Collect the sections of a dataclass of settings, by name."""
    hints = hints_of(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if is_section(hints[f.name])}


def keys_with(kind: type, fact: str, value: Any = True) -> tuple[str, ...]:
    """List the keys of all settings with a fact, see `setting`."""
    return tuple(key for key, s in settings_of(kind).items() if s.facts.get(fact) == value)


@once
def names_of(kind: type) -> dict[str, str]:
    """Map all names of each setting (key, old name, short name) to its key."""
    found = settings_of(kind)
    names = {key: key for key in found}
    for key, one in found.items():
        names.setdefault(one.first_key, key)
        if short := one.facts.get("short"):
            names.setdefault(short, key)
    return names


@once
def shown_names_of(kind: type) -> dict[str, str]:
    """Map names to keys without old names, for suggestions."""
    found = settings_of(kind).items()
    shorts = {one.facts["short"]: key for key, one in found if "short" in one.facts}
    return shorts | {key: key for key, _ in found}


def value_at(config: Any, key: str) -> Any:
    """Get the value of a setting by its key."""
    for name in key.split("."):
        config = getattr(config, name)
    return config


@once
def _docstrings(kind: type) -> dict[str, str]:
    """Read the docstrings below the fields of a class, each on one line."""
    try:
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, ValueError, SyntaxError):  # no source, as in a frozen program
        return {}
    found = {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for field, text in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def refuse_with_resume(kind: type, given: Iterable[str]) -> None:
    """Refuse settings of which a resumed run has its own.

    Args:
        kind: the settings of a training.
        given: keys that were set.

    Raises:
        ConfigError: naming those that may not change.
    """
    may_change = keys_with(kind, "resume")
    others = [key for key in given if key not in (*may_change, "resume")]
    if others:
        raise ConfigError(
            f"--resume takes its settings from the run: leave {', '.join(others)} out. Only these "
            f"may change: {', '.join(may_change)}. (--init RUN starts a new run from its weights, "
            "with other settings.)"
        )
