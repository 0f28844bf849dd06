"""Read settings from YAML files. Keys are checked, and text settings keep their text."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from autosam.config.schema import Config
from autosam.config.setting import names_of, sections_of, settings_of
from autosam.config.values import as_written
from autosam.errors import ConfigError
from autosam.utils.assets import asset_folder
from autosam.utils.suggest import suggest

log = logging.getLogger("autosam")
MOST = 10_000
"""Largest number of values in a config; a YAML file of a few lines can expand into billions."""


def config_path(name: str) -> Path:
    """Find a config by path, or a shipped one by name: `kvasir`, `kvasir.yaml`,
    `configs/kvasir.yaml`.

    A bare name is always the shipped one: a file of that name is written ./kvasir.

    Raises:
        ConfigError: neither exists; the message lists the shipped ones.
    """
    folder = asset_folder("configs")
    shipped = folder / f"{Path(name).stem}.yaml"
    if Path(name).is_file() and not (shipped.is_file() and name == shipped.stem):
        return Path(name)
    if shipped.is_file() and Path(name).parent in (Path("."), Path("configs")):
        return shipped
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    hint = suggest(Path(name).stem, known)
    raise ConfigError(
        f"--config {name}: no such file, and not a shipped config ({', '.join(known)}).{hint}"
    )


def read_config(name: str, kind: type) -> dict[str, Any]:
    """Read the settings of a YAML file for which the dataclass `kind` has fields.

    One file serves every command: `evaluate` takes its `data`, `train` all of it. Keys that no
    command knows are left in, for the message.
    """
    path = config_path(name)
    content = read_yaml(path, kind)
    own, others = _top_names(kind), _top_names(Config)
    used = {key: value for key, value in content.items() if key in own or key not in others}
    if content and not used and "data" not in own:
        keys = ", ".join(sorted({*sections_of(kind), *settings_of(kind)}))
        raise ConfigError(f"{path}: has nothing for this command, which reads {keys}.")
    return used


def _top_names(kind: type) -> set[str]:
    """List the top-level keys of a file: settings, their old names, and sections."""
    return {*sections_of(kind), *(n for n, key in names_of(kind).items() if "." not in n + key)}


def read_yaml(path: Path, kind: type = Config) -> dict[str, Any]:
    """Read a file of settings.

    Args:
        path: the file.
        kind: the dataclass of the settings. Where it expects text, the file's text is taken as it
            is written: `name: 007` and `precision: no` are no number and no truth value.

    Raises:
        ConfigError: not YAML, a duplicate key, or anything but plain values and sections.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, _Strict) or {}
        if isinstance(content, dict):
            _require_few(content, path)  # before anything walks over it
            content = as_written(content, yaml.load(text, yaml.BaseLoader), kind)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates, numbers, brackets
        raise ConfigError(f"{path}: not valid YAML: {_words(error)}. Fix it.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds {type(content).__name__}, expected `key: value` lines.")
    _require_plain(content, path)
    for field in dataclasses.fields(Config):
        section = content.get(field.name, {})
        if dataclasses.is_dataclass(field.default_factory) and not isinstance(section, dict):
            raise ConfigError(
                f"{path}: {field.name} holds {section!r}, expected `key: value` lines indented "
                "below it. Write them, or remove it."
            )
    return content


def _words(error: Exception) -> str:
    """What is wrong, and in which line."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return str(error)
    problem = str(error.problem)
    if "'\\t'" in problem:
        problem = "a tab; indent with spaces"
    return f"line {mark.line + 1}: {problem}"


class _Strict(yaml.SafeLoader):
    """YAML loader that refuses duplicate keys, and comments that may be text without quotes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: list[Any] = []
        for key, _ in node.value:
            if key.value in names:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is a duplicate",
                                           problem_mark=key.start_mark)  # fmt: skip
            if key.tag != "tag:yaml.org,2002:merge":
                names.append(key.value)
        for key, value in node.value:
            if isinstance(value, yaml.ScalarNode) and value.value == "" and key.end_mark.buffer:
                rest = key.end_mark.buffer[key.end_mark.pointer :]
                if found := re.match(r"[ \t]*:[ \t]+(#[^\s#]\S*)", rest):
                    raise yaml.MarkedYAMLError(
                        problem=f'{found[1]} is a comment; a text is written "{found[1]}"',
                        problem_mark=key.end_mark,
                    )
            elif isinstance(value, yaml.ScalarNode) and value.style is None:
                rest = (value.end_mark.buffer or "")[value.end_mark.pointer :]
                found = re.match(r"[ \t]+(#[^\s#]\S*)", rest)
                if found and value.tag == "tag:yaml.org,2002:str":
                    log.warning("line %d: %s after %s is taken as a comment. A text that holds # "
                                "is written in quotes; a comment has a space after #.",
                                value.end_mark.line + 1, found[1], value.value)  # fmt: skip
        return super().construct_mapping(node, deep)


def _require_few(content: Any, path: Path) -> None:
    """
    Raises:
        ConfigError: more values than any config has.
    """
    for count, _ in enumerate(_values(content), 1):
        if count > MOST:
            raise ConfigError(f"{path}: expands into more than {MOST} values. Write it without *.")


def _require_plain(content: Any, path: Path) -> None:
    """
    Raises:
        ConfigError: dates and other objects.
    """
    for value in _values(content):
        if value is not None and not isinstance(value, str | int | float | dict | list):
            raise ConfigError(
                f"{path}: holds {value!r}, a {type(value).__name__}; expected text or numbers. Put "
                "text in quotes."
            )


def _values(content: Any) -> Iterator[Any]:
    """Yield all values and keys of nested dictionaries and lists."""
    left = [content]
    while left:
        value = left.pop()
        yield value
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
