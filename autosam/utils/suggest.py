"""The nearest known name to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def suggest(name: str, known: Iterable[str] | Mapping[str, str], cutoff: float = 0.6) -> str:
    """Suggest the known name that is nearest to a mistyped one.

    Args:
        name: what was typed.
        known: the names; or what is compared, with what the message shows for it.
        cutoff: least similarity, 0 to 1, see `difflib.get_close_matches`.

    Returns:
        " Did you mean X?", or nothing.
    """
    shown = known if isinstance(known, Mapping) else {one: one for one in known}
    found = difflib.get_close_matches(name, list(shown), n=1, cutoff=cutoff)
    return f" Did you mean {shown[found[0]]}?" if found else ""


def suggest_key(key: str, known: Iterable[str]) -> str:
    """The same for keys with sections (`train.lr`): the last part is compared by itself, too."""
    keys = list(known)
    names = {one.rpartition(".")[2]: one for one in keys} | {one: one for one in keys}
    return suggest(key, names, cutoff=0.5)
