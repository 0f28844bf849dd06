"""Digests of files that have not changed since, so that their bytes are read once."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from autosam.data.readers.file_cache import stamp
from autosam.errors import StorageError
from autosam.utils.io import write_atomically

FILE = "digests-1.json"
"""The number is increased when the digest of the same file changes."""
MOST = 100_000
"""Number of digests that are kept, the last ones: about 25 MB."""

_known: dict[str, str] = {}
"""Digests by what they depend on."""
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
        _know({key: found})
    return found


def _know(digests: dict[str, str]) -> None:
    with _lock:
        _known.update(digests)
        for key in list(itertools.islice(_known, max(0, len(_known) - MOST))):
            del _known[key]


@contextlib.contextmanager
def kept_digests(folder: Path) -> Iterator[None]:
    """Know the digests that earlier processes have kept in a folder; at the end, keep the new ones.
    Without access to the folder, digests are computed.

    Args:
        folder: of all embedding caches.
    """
    file = folder / FILE
    kept = _read(file)
    _know(kept)
    yield
    if _known.keys() <= kept.keys():
        return
    with contextlib.suppress(StorageError, OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{FILE}.lock"):
            merged = _read(file) | _known
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
