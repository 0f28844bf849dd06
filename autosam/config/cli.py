"""Parse command lines and YAML into settings; run commands, and report their errors."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import gc
import itertools
import json
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar, get_args, get_origin

from autosam.config.sams import require_sam_early
from autosam.config.schema import Config
from autosam.config.setting import (
    Setting,
    names_of,
    refuse_with_resume,
    sections_of,
    settings_of,
    shown_names_of,
    value_at,
)
from autosam.config.values import convert, expected_words, range_mistakes, read_structure
from autosam.config.yaml import read_config
from autosam.errors import AutosamError, ConfigError, Stopped, is_out_of_memory
from autosam.utils.free_cores import share_with_others
from autosam.utils.launcher import check_alone, check_launcher, local_rank
from autosam.utils.paths import require_path
from autosam.utils.pipe import ending_with_the_reader
from autosam.utils.signals import ending_in_time, leave_now
from autosam.utils.suggest import suggest, suggest_key

T = TypeVar("T")
FIXABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST,
           errno.ENOENT,
           errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)  # fmt: skip
"""Errors of the file system that a user can fix."""
HELP = ("-h", "--help", "--help-all")


def parse(kind: type[T], argv: Sequence[str] | None = None, prog: str = "autosam") -> T:
    """Build the dataclass `kind` from `--config FILE` and flags; later ones win.

    Args:
        kind: the settings.
        argv: the words of the command line; None: those of this process.
        prog: the command, for its help.

    Raises:
        ConfigError: every mistake of the command line: unknown names (with the nearest known one),
            values of the wrong kind or out of range.
        SystemExit: `--help`.
    """
    words = [*(sys.argv[1:] if argv is None else argv)]
    if any(word in HELP for word in words):
        from autosam.config.help import help_of

        with ending_with_the_reader():
            print(help_of(kind, prog, everything="--help-all" in words))
        raise SystemExit(0)
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    sources: list[str] = []
    given: dict[str, str] = {}  # what each setting was called, for messages
    while words:
        word = words.pop(0)
        flag, equals, text = word.partition("=")
        if not flag.startswith("--") or flag == "--":
            rest = [*itertools.takewhile(lambda word: not word.startswith("-"), words)]
            del words[: len(rest)]
            mistakes.append(_unexpected(kind, word, rest))
            continue
        name = flag[2:].replace("-", "_")
        key = names_of(kind).get(name, name)
        one = settings_of(kind).get(key)
        if one is None and key not in ("config", *sections_of(kind)):
            mistakes.append(f"{flag}: unknown setting.{_suggest_flag(name, kind)}")
            if not equals and words and not words[0].startswith("--"):
                del words[0]
            continue
        if not equals:
            if words and not words[0].startswith("--"):
                text = words.pop(0)
            elif one is not None and one.hint is bool:
                text = "true"
            else:
                wanted = "text" if one is None else expected_words(one.hint)
                wanted = "" if wanted == "text" else f", {wanted}"
                mistakes.append(f"{flag}: expected a value{wanted}.")
                continue
        try:
            if key == "config":
                sources.append(text)
                found = _read(kind, read_config(text, kind), mistakes, f"{text}: ")
                values |= found
                given |= {key: f"{text}: {key}" for key in found}
            elif one is None:
                section = read_structure(text, sections_of(kind)[key])
                if not isinstance(section, dict):
                    raise ConfigError(
                        f"{flag} {text}: {key} is a section. Its settings are written "
                        f"--{key}.NAME VALUE."
                    )
                values |= _read(kind, {key: section}, mistakes, f"{flag}: ")
            elif one.hint == list[str]:
                more = given.get(key, "").startswith("--")
                values[key] = [*(values[key] if more else []), *_entries(text)]
                given[key] = flag
            else:
                values[key] = _read_one(one, _unset(text, one))
                given[key] = flag
        except ConfigError as error:
            mistakes.append(str(error))
        except ValueError as error:
            mistakes.append(f"{f'{flag} {text}'.rstrip()}: {error}")
    where = f" (in {', '.join(sources)} or the flags)" if sources else ""
    try:
        config = _build(kind, values)
        if getattr(config, "resume", None):
            refuse_with_resume(kind, values)
        mistakes += range_mistakes(config, names=given)
    except ConfigError as error:
        mistakes.append(f"{error}{where}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return config


def _suggest_flag(name: str, kind: type) -> str:
    """ " Did you mean --X?" for a mistyped flag, or nothing; for a setting of the training another
    hint."""
    key = names_of(Config).get(name, name)
    if key in settings_of(Config) and key not in settings_of(kind):
        return " It belongs to autosam train; --help lists the settings of this command."
    flags = {one: f"--{one.replace('_', '-')}" for one in (*shown_names_of(kind), "config")}
    off = names_of(kind).get(name.removeprefix("no_"), "")
    if name.startswith("no_") and off and settings_of(kind)[off].hint is bool:
        return f" Did you mean {flags[off]} false?"
    others = {"help": "--help", "help_all": "--help-all", "version": "autosam --version"}
    return suggest_key(name, flags | others)


def _unexpected(kind: type, word: str, rest: list[str]) -> str:
    """Format the message for words without a flag, such as files that the shell expanded."""
    name, equals, _ = word.strip("-").partition("=")
    if word.startswith("-") or equals:
        hint = _suggest_flag(name.replace("-", "_"), kind)
        return f"{word}: unexpected word; settings are written --NAME VALUE.{hint}"
    if not rest:
        return f"{word}: unexpected word; settings are written --NAME VALUE."
    return (
        f"{word} and {len(rest)} more: unexpected words; settings are written --NAME VALUE, and a "
        "list or a pattern in quotes."
    )


def _unset(text: str, one: Setting) -> str | None:
    """Convert `null` to None if the setting may be None."""
    return None if text == "null" and type(None) in get_args(one.hint) else text


def _entries(text: str) -> list[str]:
    """Parse the value of a list flag: one text, or a list in JSON."""
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return [text]
    return [str(entry) for entry in found] if isinstance(found, list) else [text]


def _read(
    kind: type, values: dict[str, Any], mistakes: list[str], where: str, section: str = ""
) -> dict[str, Any]:
    """Convert a dictionary from a file or checkpoint to settings by key.

    Args:
        kind: the settings.
        values: sections are dictionaries within it. Old names are understood.
        mistakes: to which every mistake is added.
        where: what a message begins with.
        section: of the values, with a dot.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{section}{name}"
        key = names_of(kind).get(path, path)
        one = settings_of(kind).get(key)
        if not section and key in sections_of(kind):
            if isinstance(value, dict):
                found |= _read(kind, value, mistakes, where, f"{key}.")
            else:
                mistakes.append(f"{where}{path} holds {value!r:.60}, expected `key: value` lines.")
        elif one is None or "." in str(name) or one.section != section.rstrip("."):
            mistakes.append(f"{where}unknown key {path!r}.{_suggest_key(path, kind)}")
        else:
            try:
                found[key] = _read_one(one, value)
            except ValueError as error:
                mistakes.append(f"{where}{path} {value!r:.60}: {error}")
    return found


def _suggest_key(path: str, kind: type) -> str:
    """Suggest a replacement for an unknown key of a file, or ""."""
    section, dot, name = path.partition(".")
    if path in settings_of(kind) and dot:
        return f" Write {name} indented below `{section}:`."
    sections = {one: one for one in sections_of(kind)}
    return suggest_key(path, shown_names_of(kind) | sections)


def _read_one(one: Setting, value: Any) -> Any:
    """Convert the value of a setting.

    Raises:
        ValueError: see `convert`; or an empty text, for example from an unset shell variable.
    """
    if value == "" and one.default != "":
        raise ValueError("empty. Give a value; leave it out for the default.")
    if isinstance(value, str) and "," in value and "[" not in value and _is_tuple(one.hint):
        value = f"[{value}]"
    return convert(value, one.hint)


def _is_tuple(hint: Any) -> bool:
    """Whether a setting takes several numbers, and no text."""
    options = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return str not in options and any(get_origin(one) is tuple for one in options)


def _build(kind: type[T], values: dict[str, Any]) -> T:
    """Build the dataclass from settings by key."""
    sections: dict[str, dict[str, Any]] = {name: {} for name in sections_of(kind)}
    own: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (sections[section] if section else own)[name] = value
    return kind(**own, **{name: sections_of(kind)[name](**sections[name]) for name in sections})


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a config dataclass to nested dictionaries for YAML or JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """Convert nested dictionaries to a config dataclass; old names are accepted.

    Raises:
        ConfigError: every unknown key and every value of the wrong kind.
    """
    mistakes: list[str] = []
    found = _read(kind, values, mistakes, "")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return _build(kind, found)


def run_command(
    kind: type[T],
    function: Callable[[T], Any],
    argv: Sequence[str] | None = None,
    shared: bool = False,
    name: str = "",
) -> None:
    """Parse the command line and run a command.

    The exit code is 2, with one message, for errors that a user can fix, and 128 plus the number of
    the signal for a command that was stopped by one.

    Args:
        kind: the settings.
        function: what to run with them.
        argv: the words of the command line; None: those of this process.
        shared: several processes that were launched together share the work; otherwise they are
            refused.
        name: the command, if it is not the function's name.
    """
    # Modules, and lists of 100,000 files, live as long as the process: walking over them again and
    # again costs the garbage collector seconds.
    gc.set_threshold(100_000, 20, 20)
    try:
        with one_message(shared):
            config = parse(kind, argv, f"autosam {name or function.__name__}")
            require_paths(config)
            require_sam_early(getattr(config, "sam", None))
            share_with_others()
            function(config)
    except SystemExit as end:
        if argv is None and isinstance(end.code, int) and end.code > 128:
            leave_now(end.code)
        raise
    if argv is None and local_rank() is not None:
        leave_now(0)  # threads of torch's process groups abort an ending process now and then


def require_paths(config: Any) -> None:
    """Refuse paths that are missing before anything heavy is imported.

    Raises:
        AutosamError: naming the flag and the path of each.
    """
    mistakes: list[AutosamError] = []
    for key, one in settings_of(type(config)).items():
        by_name = key == "data.root" and config.data.layout in ("huggingface", "manifest")
        if "missing" not in one.facts or by_name:
            continue
        error, kind = one.facts["missing"]
        if key in ("data.images", "data.masks") and config.data.layout == "rasters":
            kind = "file or folder"
        value = value_at(config, key)
        for text in value if isinstance(value, list) else [value or ""]:
            try:
                require_path(f"--{key}", text, kind, error)
            except error as mistake:
                mistakes.append(mistake)
    if mistakes:
        raise type(mistakes[0])("\n".join(map(str, mistakes)))


@contextlib.contextmanager
def one_message(shared: bool = False) -> Iterator[None]:
    """Check the launcher, and convert errors and signals to one message and an exit code."""
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
        if error.errno not in FIXABLE:
            raise
        name = error.filename or "a file"
        remedy = "Fix the path or its rights, or make room."
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
        "--batch_size), fewer --data.workers, a smaller --sam, or --tile for large images.",
        file=sys.stderr,
    )


class Words(argparse.ArgumentParser):
    """Parser of a command line with actions instead of settings.

    Raises:
        ConfigError: it cannot be understood; a mistyped action is answered with the nearest one.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **settings, add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.add_argument(*HELP, action="help", help="show this help and exit")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action.choices, dict) and value not in action.choices:
            raise ConfigError(unknown_action(self.prog, value, list(action.choices)))
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. {self.format_usage().strip()}")


def unknown_action(command: str, action: str, actions: Sequence[str]) -> str:
    """Format the message for an unknown action."""
    choices = ", ".join(actions)
    return f"{command} {action}: unknown action. Choose one of {choices}.{suggest(action, actions)}"


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
