"""Format `--help` and `--help-all` from the settings and their docstrings."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
import typing
from typing import Any

from autosam.config.setting import Setting, sections_of, settings_of

NARROWEST = 50
"""Columns that the help takes, also where the terminal has fewer."""


def help_of(kind: type, prog: str, everything: bool) -> str:
    """Format the help of a command.

    Args:
        kind: its settings. What follows "Examples:" in its docstring is shown unchanged.
        prog: what to type: `autosam train`.
        everything: all settings by section; otherwise the common ones. Where no setting outside
            the sections is marked as common, all of them are.
    """
    text, _, examples = inspect.cleandoc(kind.__doc__ or "").partition("Examples:\n")
    found = [*settings_of(kind).values()]
    own = [one for one in found if not one.section]
    common = [one for one in found if one.facts.get("short") or one.facts.get("common")]
    if not any(one.facts.get("common") for one in own):
        common = [*(one for one in common if one.section), *own]
    common.sort(key=lambda one: one.default != "")  # what must be given comes first
    width = max(NARROWEST, min(shutil.get_terminal_size().columns, 100))
    lines = [
        f"usage: {prog} [--config FILE] [--NAME VALUE ...]",
        "",
        *textwrap.wrap(" ".join(text.split()), width),
        "",
    ]
    config = ("--config FILE", "A YAML file of settings, or the name of a shipped one.")
    if not everything:
        rows = [config, *(_row(one, short=True) for one in common)]
        lines += [*_table(rows, width), "", "examples:", *examples.rstrip().splitlines()]
        lines += ["", f"Every setting: {prog} --help-all"]
        return "\n".join(lines)
    lines += _table([config, *(_row(one) for one in own)], width)
    for name, section in sections_of(kind).items():
        lines += ["", *textwrap.wrap(f"{name}: {_first_paragraph(section)}", width)]
        lines += _table([_row(one) for one in found if one.section == name], width)
    return "\n".join(lines)


def _first_paragraph(kind: type) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].split())


def _row(one: Setting, short: bool = False) -> tuple[str, str]:
    """Format the name and the help of a setting; with `short` the first sentence of the help."""
    name = one.facts.get("short") if short else None
    flag = f"--{(name or one.key).replace('_', '-')}"
    text = one.help
    if short:
        text = re.split(r"(?<=[\w)`]\.)\s+", text)[0]
    choices = _choices(one.hint)
    if choices and not all(choice in text for choice in choices):
        text += f" One of {', '.join(choices)}."
    default = one.default
    if default is not None and default is not False and default != "":
        shown = "true" if default is True else default
        text += f" Default: {list(shown) if isinstance(shown, tuple) else shown}."
    if not short and (name := one.facts.get("short")):
        text += f" Short: --{name.replace('_', '-')}."
    value = "true|false" if default is True else _metavar(one.hint)
    return f"{flag} {value}".rstrip(), text.strip()


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, or of one that may be unset."""
    options = typing.get_args(hint)
    if type(None) in options:
        hint = options[0]
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _metavar(hint: Any) -> str:
    """Format the placeholder of the value."""
    if hint is bool:
        return ""
    if _choices(hint):
        return "NAME"
    options = typing.get_args(hint)
    if any(typing.get_origin(one) in (list, tuple) for one in (hint, *options)):
        return "[...]"
    return "TEXT" if str in (hint, *options) else "N"


def _table(rows: list[tuple[str, str]], width: int) -> list[str]:
    """Format two columns; the second is wrapped."""
    lines = []
    for flag, text in rows:
        wrapped = textwrap.wrap(text, width - 28, break_on_hyphens=False) or [""]
        if len(flag) > 24:
            lines.append(f"  {flag}")
        else:
            lines.append(f"  {flag:<24}  {wrapped.pop(0)}")
        lines += [" " * 28 + line for line in wrapped]
    return lines
