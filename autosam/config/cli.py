"""The command line of every verb: typed flags and YAML in, one clear line out when it fails."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import functools
import gc
import json
import math
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar, get_args

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings

from autosam.config.yaml import as_written, near, read_config
from autosam.errors import AutosamError, ConfigError, Stopped, is_out_of_memory
from autosam.utils.launcher import check_alone, check_launcher
from autosam.utils.signals import ending_in_time, leave_now

T = TypeVar("T")
MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST,
            errno.ENOENT,
            errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)  # fmt: skip
"""Troubles of a disk that its owner can mend."""
WRONG = (ArgumentError, TypeError, ValueError, RecursionError)
"""What jsonargparse raises for values of another kind than it expects."""
PROTECTED = "\ue000"
"""Stands before a text while jsonargparse, which reads every text as YAML once more, has it."""
set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parse(kind: type[T], argv: Sequence[str] | None = None) -> T:
    """Build the dataclass `kind` from `--config FILE` and flags; later ones win.

    Raises:
        ConfigError: an unknown key (with the nearest known one) or a value of the wrong type.
        SystemExit: `--help`.
    """
    parser = _parser(kind)  # type: ignore[arg-type]  # a class is hashable
    args = _gather_lists(
        kind, _spell_out_switches(kind, [*(sys.argv[1:] if argv is None else argv)])
    )
    structures = {
        option: hint
        for action in parser._actions
        if str not in (hint := getattr(action, "_typehint", str), *get_args(hint))
        for option in action.option_strings
    }
    sources: list[str] = []
    for i, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        joined = arg.startswith("--")
        if not joined:
            option, value = args[i - 1] if i else "", arg
        elif not equals:
            continue
        if option == "--config":
            sources.append(value)
            value = _as_yaml(_protect(read_config(value, kind)))
        elif option in structures:
            value = _protect_within(value, structures[option])
        elif value != "null":  # which unsets
            value = _protect(value)
        args[i] = f"{option}={value}" if joined else value
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
            near(words[-1][0] or words[-1][1], [f[2:] for f in flags]) if unknown and words else ""
        )
        raise ConfigError(_restore(f"{error}{where}.{hint}")) from None


def _protect(value: Any) -> Any:
    """Values that YAML reads as they are: `PROTECTED` before a text that it would take for null."""
    if isinstance(value, dict):
        return {key: _protect(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_protect(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("inf", ".inf").replace("nan", ".nan")
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        misread = value.startswith(PROTECTED) or yaml.safe_load(value) is None
    except yaml.YAMLError:
        misread = False
    except Exception:  # "!!int x"
        misread = True
    return PROTECTED + value if misread else value


def _protect_within(text: str, hint: Any) -> str:
    """The same for the texts in a list or section of type `hint` that stands on the command line,
    taken as they are written."""
    try:
        value = yaml.safe_load(text)
        written = as_written(value, yaml.load(text, yaml.BaseLoader), hint)
    except Exception:  # the parser says what is wrong with it
        return text
    if not isinstance(value, dict | list) or (protected := _protect(written)) == value:
        return text
    return _as_yaml(protected)


def _as_yaml(values: Any) -> str:
    """One line of YAML, of ASCII alone: YAML's reader refuses some characters, and has no pairs of
    surrogates."""
    text = json.dumps(values, ensure_ascii=False)
    return re.sub(r"[^ -~]", lambda found: f"\\U{ord(found[0]):08x}", text)


def _restore(value: Any) -> Any:
    """The inverse of `_protect`, also for dataclasses (in place) and messages."""
    if isinstance(value, str):
        return value.replace(PROTECTED, "", 1)
    if isinstance(value, list):
        return [_restore(entry) for entry in value]
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            setattr(value, field.name, _restore(getattr(value, field.name)))
    return value


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
        return _build(kind, parser, parser.parse_object(_protect(values)))
    except WRONG as error:
        raise ConfigError(_restore(str(error))) from None


def _build(kind: type[T], parser: ArgumentParser, parsed: Any) -> T:
    values = vars(parser.instantiate(parsed))
    config = kind(**{f.name: values[f.name] for f in dataclasses.fields(kind)})  # type: ignore[arg-type]
    _restore(config)
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
    try:
        with one_message(shared):
            function(parse(kind, argv))
    except SystemExit as end:
        if argv is None and isinstance(end.code, int) and end.code > 128:
            leave_now(end.code)
        raise


@contextlib.contextmanager
def one_message(shared: bool = False) -> Iterator[None]:
    """What `run_command` does with the launcher, with errors and with signals."""
    try:
        check_launcher()
        if not shared:
            check_alone()
        with ending_in_time():
            yield
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signal)
    except AutosamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if is_out_of_memory(error):
            _say_no_memory(error)
            sys.exit(2)
        if error.errno not in MENDABLE:
            raise
        name = error.filename or "a file"
        remedy = "Mend the path or its rights, or make room."
        print(f"error: {name}: {error.strerror}. {remedy}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _say_no_memory(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _say_no_memory(error: Exception) -> None:
    print(
        f"error: memory ran out ({error}). Take smaller batches (--train.batch_size, "
        "--batch_size), fewer --data.workers, a smaller --sam, or --window for large images.",
        file=sys.stderr,
    )


class Words(argparse.ArgumentParser):
    """A command line of actions instead of settings."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. {self.format_usage().strip()}")


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
