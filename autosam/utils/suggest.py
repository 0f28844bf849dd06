"""Suggest known names for mistyped ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from autosam.errors import ConfigError

SHORTEST = 3
"""Shortest beginning of a name that counts as the name, letters."""


def suggest(name: str, known: Iterable[str] | Mapping[str, str]) -> str:
    """Suggest the known name that is nearest to a mistyped one.

    Args:
        name: what was typed.
        known: the names; or what is compared, with what the message shows for it.

    Returns:
        " Did you mean X?", or nothing.
    """
    pairs = known.items() if isinstance(known, Mapping) else [(one, one) for one in known]
    shown: dict[str, str] = {}
    for one, text in pairs:
        shown.setdefault(_plain(one), text)
    typed = _plain(name)
    found = [one for one in shown if len(typed) >= SHORTEST and one.startswith(typed)]
    found = found or difflib.get_close_matches(typed, list(shown), n=1)
    return f" Did you mean {shown[found[0]]}?" if found else ""


def require_choice(flag: str, name: str, names: Iterable[str]) -> None:
    """Refuse a name that is not in a table.

    Args:
        flag: of the setting, for the message.
        name: its value.
        names: the names in the table.

    Raises:
        ConfigError: with the names, and the nearest of them.
    """
    names = list(names)
    if name not in names:
        choices = ", ".join(names)
        raise ConfigError(f"{flag} {name}: unknown. Choose one of {choices}.{suggest(name, names)}")


def suggest_key(key: str, known: Mapping[str, str]) -> str:
    """The same for keys with sections (`train.lr`): the last part is compared by itself, too, and
    so are initials: `lr` is what `learning_rate` means, and `bs` means `batch_size`.

    Args:
        key: what was typed.
        known: the keys, with what the message shows for each.
    """
    names = dict(known)
    for one, text in known.items():
        names.setdefault(_last(one), text)
    initials = {_initials(one): text for one, text in reversed(names.items()) if "_" in one}
    for short, table in ((_initials(key), names), (_plain(_last(key)), initials)):
        if len(short) > 1 and short in table and _plain(key) not in names:
            return f" Did you mean {table[short]}?"
    return suggest(key, names)


def _plain(name: str) -> str:
    """In lower case with `_`; words joined by `+` are sorted, each once."""
    return "+".join(sorted(set(name.lower().replace("-", "_").split("+")) - {""}))


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _initials(key: str) -> str:
    return "".join(word[:1] for word in _plain(_last(key)).split("_"))
