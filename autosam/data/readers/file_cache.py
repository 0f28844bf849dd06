"""Keep what was computed of a file, for as long as the file does not change."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
SETTLED = 2.0
"""Seconds after a change for which a file has no stamp: file systems date changes by steps of up to
so long, so that two changes may look like one."""


def stamp(*paths: Path) -> Hashable:
    """What is different if files, or their sidecars, are others or have been changed: paths, sizes,
    times of modification (of the content and of the entry, which no program can set back), inodes.

    Args:
        paths: the files.

    Returns:
        None if one was changed just now, see `SETTLED`, is missing, or is a folder.
    """
    found: list[object] = []
    latest = time.time() - SETTLED
    for path in paths:
        found.append(os.path.abspath(path))
        for name in (path, f"{path}.aux.xml", f"{path}.msk"):
            try:
                file = os.stat(name)
            except OSError:
                if name == path:
                    return None
                found.append(None)
                continue
            if not stat.S_ISREG(file.st_mode) or max(file.st_mtime, file.st_ctime) > latest:
                return None
            found += [file.st_size, file.st_mtime_ns, file.st_ctime_ns, file.st_ino]
    return tuple(found)


class FileCache(Generic[T]):
    """Values of files, each computed once in a process, by one thread."""

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[object, T]] = {}
        self._lock = threading.Lock()

    def get(self, path: Path, key: Hashable, compute: Callable[[], T]) -> T:
        """Look up a value, or compute it.

        Args:
            path: the file. The value is computed again if its `signature` has changed.
            key: the file and all settings that the value depends on.
            compute: called without arguments.
        """
        now = signature(path)
        with self._lock:
            known = self._found.get(key)
            if known is None or known[0] != now:
                known = self._found[key] = now, compute()
            return known[1]

    def put(self, path: Path, key: Hashable, value: T) -> None:
        """Keep a value, see `get`."""
        self._found[key] = signature(path), value


def signature(path: Path) -> Hashable:
    """What is different if a file, its sidecar or the files directly in a folder are others or have
    been changed: names, sizes, times of modification, inodes; None for what is missing.

    Args:
        path: a file or a folder.
    """
    names = [str(path), f"{path}.aux.xml"]
    if path.is_dir():
        with contextlib.suppress(OSError):
            names += sorted(one.path for one in os.scandir(path))
    found: list[object] = []
    for name in names:
        try:
            file = os.stat(name)
        except OSError:
            found.append(None)
            continue
        found += [name, file.st_size, file.st_mtime_ns, file.st_ctime_ns, file.st_ino]
    return tuple(found)
