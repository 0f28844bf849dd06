"""The command line of every verb: typed flags and YAML in, one clear line out when it fails."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import errno
import functools
import gc
import json
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings

from autosam.config import Config
from autosam.errors import AutosamError, ConfigError, Stopped, is_out_of_memory
from autosam.launcher import check_alone, check_launcher
from autosam.shipped import asset_folder

T = TypeVar("T")
MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST,
            errno.ENOENT,
            errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)  # fmt: skip
"""Troubles of a disk that its owner can mend."""
WRONG = (ArgumentError, TypeError, ValueError, RecursionError)
"""What jsonargparse raises for values of another kind than it expects."""
MOST = 10_000
"""Values in a config, at most: a YAML file of a few lines can unfold into billions."""
set_parsing_settings(docstring_parse_attribute_docstrings=True)


def config_path(name: str) -> Path:
    """A config by path, or a shipped one by name (`kvasir`, `kvasir.yaml`, `configs/kvasir.yaml`).

    Raises:
        ConfigError: neither exists; the message lists the shipped ones.
    """
    folder = asset_folder("configs")
    shipped = folder / f"{Path(name).stem}.yaml"
    if Path(name).is_file():
        return Path(name)
    if shipped.is_file() and Path(name).parent in (Path("."), Path("configs")):
        return shipped
    known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
    raise ConfigError(f"--config {name}: no such file, and not a shipped config ({known}).")


def read_config(name: str, kind: type) -> dict[str, Any]:
    """The part of a YAML file that the dataclass `kind` has fields for.

    One file serves every verb: `evaluate` takes its `data`, `train` all of it. A key that no verb
    knows is an error.
    """
    path = config_path(name)
    content = read_yaml(path)
    own = {f.name for f in dataclasses.fields(kind)}
    known = own | {f.name for f in dataclasses.fields(Config)}
    for key in content:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}.{_near(str(key), known)}")
    used = {key: value for key, value in content.items() if key in own}
    if content and not used and "data" not in own:
        raise ConfigError(f"{path}: has nothing for this command, which reads {', '.join(own)}.")
    return used


def read_yaml(path: Path) -> dict[str, Any]:
    """A file of settings.

    Raises:
        ConfigError: not YAML, a key twice, or anything but plain values and sections.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Strict) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates, numbers, brackets
        raise ConfigError(f"{path}: not valid YAML: {error}. Mend it.") from None
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


class _Strict(yaml.SafeLoader):
    """YAML whose keys stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.MarkedYAMLError(problem=f"the key {twice[0]!r} stands twice",
                                       problem_mark=node.start_mark)  # fmt: skip
        return super().construct_mapping(node, deep)


def _require_plain(content: Any, path: Path) -> None:
    """
    Raises:
        ConfigError: dates and other objects, or more values than any config has.
    """
    left, count = [content], 0
    while left:
        value, count = left.pop(), count + 1
        if count > MOST:
            raise ConfigError(f"{path}: unfolds into more than {MOST} values. Write it without *.")
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
        elif value is not None and not isinstance(value, str | int | float):
            raise ConfigError(
                f"{path}: holds {value!r}, a {type(value).__name__}; expected text or numbers. Put "
                "text in quotes."
            )


def _near(name: str, known: Sequence[str] | set[str]) -> str:
    """ " Did you mean X?" for the nearest known name, or nothing."""
    tails = {k.rsplit(".", 1)[-1]: k for k in known} | {k: k for k in known}
    found = difflib.get_close_matches(name, list(tails), n=1, cutoff=0.5)
    return f" Did you mean {tails[found[0]]}?" if found else ""


def parse(kind: type[T], argv: Sequence[str] | None = None) -> T:
    """Build the dataclass `kind` from `--config FILE` and flags; later ones win.

    Raises:
        ConfigError: an unknown key (with the nearest known one) or a value of the wrong type.
        SystemExit: `--help`.
    """
    parser = _parser(kind)  # type: ignore[arg-type]  # a class is hashable
    args = list(sys.argv[1:] if argv is None else argv)
    sources: list[str] = []
    for i, arg in enumerate(args):
        name = arg.removeprefix("--config=") if arg.startswith("--config=") else None
        if arg == "--config" and i + 1 < len(args):
            sources.append(args[i + 1])
            args[i + 1] = json.dumps(read_config(args[i + 1], kind))
        elif name is not None:
            sources.append(name)
            args[i] = "--config=" + json.dumps(read_config(name, kind))
    args = _gather_lists(kind, _spell_out_switches(kind, args))
    where = f" (in {', '.join(sources)} or the flags)" if sources else ""
    try:
        return _build(kind, parser, parser.parse_args(args))
    except ConfigError as error:
        raise ConfigError(f"{error}{where}") from None
    except WRONG as error:
        flags = [option for action in parser._actions for option in action.option_strings]
        words = re.findall(r"--([\w.-]+)|'([\w.]+)'", str(error))
        unknown = re.search(r"unrecognized|not accept", str(error))
        hint = (
            _near(words[-1][0] or words[-1][1], [f[2:] for f in flags]) if unknown and words else ""
        )
        raise ConfigError(f"{error}{where}.{hint}") from None


@functools.cache  # made in a tenth of a second
def _parser(kind: type) -> ArgumentParser:
    parser = ArgumentParser(
        prog="autosam", description=kind.__doc__, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument(
        "--config", action=ActionConfigFile, help="A YAML file, or a shipped config's name."
    )
    parser.add_class_arguments(kind, None)
    return parser


def _spell_out_switches(kind: type, args: list[str]) -> list[str]:
    """`--overwrite` alone means `--overwrite true`, and `--zero-shot` is `--zero_shot`."""
    switches = {f"--{f.name}" for f in dataclasses.fields(kind) if f.type in ("bool", bool)}
    result = []
    for i, arg in enumerate(args):
        if arg.replace("-", "_").replace("__", "--", 1) in switches:
            arg = "--" + arg[2:].replace("-", "_")
        result.append(arg)
        if arg in switches and (i + 1 == len(args) or args[i + 1].startswith("--")):
            result.append("true")
    return result


def _gather_lists(kind: type, args: list[str]) -> list[str]:
    """`--checkpoint A --checkpoint B` is one list."""
    lists: dict[str, list[str]] = {
        f"--{f.name}": [] for f in dataclasses.fields(kind) if f.type == "list[str]"
    }
    result: list[str] = []
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        if name not in lists:
            result.append(arg)
            continue
        if not equals:
            value = next(rest, "--")
            if value.startswith("--"):  # the parser says what is missing
                result += [arg, value]
                continue
        try:
            found = json.loads(value)
        except json.JSONDecodeError:
            found = value
        lists[name] += found if isinstance(found, list) else [value]
    return result + [f"{name}={json.dumps(values)}" for name, values in lists.items() if values]


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain nested dicts, ready for YAML or JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """The inverse of `to_dict`, checked like a YAML file."""
    parser = _parser(kind)  # type: ignore[arg-type]  # a class is hashable
    try:
        return _build(kind, parser, parser.parse_object(values))
    except WRONG as error:
        raise ConfigError(str(error)) from None


def _build(kind: type[T], parser: ArgumentParser, parsed: Any) -> T:
    values = vars(parser.instantiate(parsed))
    config = kind(**{f.name: values[f.name] for f in dataclasses.fields(kind)})  # type: ignore[arg-type]
    _require_set(config)
    return config


def _require_set(config: Any, section: str = "") -> None:
    """
    Raises:
        ConfigError: null, which jsonargparse takes for any value of a file; or nothing between
            the quotes, as a shell makes it of a variable that is not set.
    """
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), section + field.name
        if dataclasses.is_dataclass(value):
            _require_set(value, f"{key}.")
        elif value is None and "None" not in str(field.type):
            raise ConfigError(
                f"--{key}: null. Expected {field.type}; leave it out for what is usual."
            )
        elif value == "" and field.default != "":
            raise ConfigError(f"--{key}: empty. Give a value; leave it out for what is usual.")


def run_command(
    kind: type[T],
    function: Callable[[T], Any],
    argv: Sequence[str] | None = None,
    shared: bool = False,
) -> None:
    """Parse, run, and end with exit code 2 and one message for an error a user can mend; with 128
    and the number of the signal that stopped it, as shells count.

    Args:
        kind: the settings.
        function: what to run with them.
        argv: the words of the command line; None: those of this process.
        shared: several processes that were launched together share the work; otherwise they are
            refused.
    """
    # Modules, and lists of 100,000 files, live as long as the process: walking over them again and
    # again costs the garbage collector seconds.
    gc.set_threshold(100_000, 20, 20)
    with one_message(shared):
        function(parse(kind, argv))


@contextlib.contextmanager
def one_message(shared: bool = False) -> Iterator[None]:
    """What `run_command` does with the launcher and with errors."""
    try:
        check_launcher()
        if not shared:
            check_alone()
        yield
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signal)
    except AutosamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        name = error.filename or "a file"
        remedy = "Mend the path or its rights, or make room."
        print(f"error: {name}: {error.strerror}. {remedy}", file=sys.stderr)
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"error: memory ran out ({error}). Take smaller batches (--train.batch_size, "
            "--batch_size), fewer --data.workers, a smaller --sam, or --window for large pictures.",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


class Words(argparse.ArgumentParser):
    """A command line of actions instead of settings."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. {self.format_usage().strip()}")
