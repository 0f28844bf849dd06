"""Keep what was computed of a file, for as long as the file does not change."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class FileCache(Generic[T]):
    """Values of files, each computed once in a process, by one thread."""

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[object, T]] = {}
        self._lock = threading.Lock()

    def get(self, path: Path, key: Hashable, compute: Callable[[], T]) -> T:
        """Look up a value, or compute it.

        Args:
            path: the file. The value is computed again if its size or time of modification, or that
                of its sidecar `NAME.aux.xml`, has changed.
            key: the file and all settings that the value depends on.
            compute: called without arguments.
        """
        stamp = _stamp(path)
        with self._lock:
            known = self._found.get(key)
            if known is None or known[0] != stamp:
                known = self._found[key] = stamp, compute()
            return known[1]

    def put(self, path: Path, key: Hashable, value: T) -> None:
        """Keep a value, see `get`."""
        self._found[key] = _stamp(path), value


def _stamp(path: Path) -> tuple[object, ...]:
    """Size and time of modification of a file and of its sidecar."""
    found: list[object] = []
    for one in (path, f"{path}.aux.xml"):
        try:
            stat = os.stat(one)
            found += [stat.st_size, stat.st_mtime_ns]
        except OSError:
            found.append(None)
    return tuple(found)
