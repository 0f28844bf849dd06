"""Digests of files that have not changed since, so that their bytes are read once."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from autosam.data.readers.file_cache import stamp
from autosam.errors import StorageError
from autosam.utils.io import write_atomically

FILE = "digests-1.json"
"""The number is increased when the digest of the same file changes."""
MOST = 100_000
"""Number of digests that are kept: about 25 MB."""

_known: OrderedDict[str, str] = OrderedDict()
"""Digests by what they depend on; those that this process has asked for are last."""
_asked: set[str] = set()
"""Keys of those. They make no room for others: of more files than `MOST`, read in order each time,
none would be known when its turn comes."""
_lock = threading.Lock()


def digest_once(path: Path, how: str, compute: Callable[[], str]) -> str:
    """Look a digest up, or compute it.

    Args:
        path: the file; its digest is computed again if it has changed, see `stamp`.
        how: the settings that the digest depends on.
        compute: called without arguments.
    """
    own = stamp(path)
    if own is None:
        return compute()
    key = repr((own, how))
    found = _known.get(key)
    if found is None:
        found = compute()
    _ask(key, found)
    return found


def _ask(key: str, digest: str) -> None:
    """Keep a digest, if there is room."""
    with _lock:
        if key not in _known and len(_known) >= MOST:
            first = next(iter(_known))
            if first in _asked:
                return
            del _known[first]
        _known[key] = digest
        _known.move_to_end(key)
        _asked.add(key)


@contextlib.contextmanager
def kept_digests(folder: Path) -> Iterator[None]:
    """Know the digests that earlier processes have kept in a folder; at the end, keep the new ones.
    Without access to the folder, digests are computed.

    Args:
        folder: of all embedding caches.
    """
    file = folder / FILE
    kept = _read(file)
    with _lock:
        new = [key for key in kept if key not in _known]
        for key in new[::-1][: max(0, MOST - len(_known))]:  # the last ones
            _known[key] = kept[key]
            _known.move_to_end(key, last=False)
    yield
    with _lock:
        asked = {key: digest for key, digest in _known.items() if key in _asked}
    if asked.keys() <= kept.keys():
        return
    with contextlib.suppress(StorageError, OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{FILE}.lock"):
            others = {key: digest for key, digest in _read(file).items() if key not in asked}
            merged = others | asked
            text = json.dumps(dict(list(merged.items())[-MOST:]))
            write_atomically(file, lambda to: to.write_text(text, encoding="utf-8"), lasting=False)


def _read(file: Path) -> dict[str, str]:
    """The digests in a file; none if it is missing or damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    sound = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return found if sound else {}
