"""Atomic writes, locks of folders, and text files."""

from __future__ import annotations

import codecs
import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from errno import EDQUOT, EIO, ENOSPC, EROFS
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from autosam.errors import ConfigError, DataError, StorageError

LOCK = "run.lock"
SYSTEM_NAMES = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "@recycle",
    "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found",
}  # fmt: skip
"""Files and folders that operating systems leave beside data, in lower case. Those with a leading
dot (`._x`, `.DS_Store`, `.ipynb_checkpoints`, `.AppleDouble`) are ignored as well."""


def is_hidden(path: str | Path, base: Path | None = None) -> bool:
    """Whether a file or folder is hidden, or left by an operating system.

    Args:
        path: a name or a path; of a path only the last name counts.
        base: a folder above it, whose own name does not count: every name below it does.
    """
    path = Path(path)
    names = path.relative_to(base).parts if base is not None else (path.name,)
    return any(name.startswith(".") or name.lower() in SYSTEM_NAMES for name in names)


def require_text(names: Iterable[str]) -> None:
    """Refuse file names that cannot be written into a table, before any work is done.

    Raises:
        DataError: a name is not UTF-8, or the system does not read names as UTF-8.
    """
    encoding = sys.getfilesystemencoding().lower().replace("_", "-")
    for name in names:
        if name.isascii():
            continue
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        if encoding != "utf-8":
            raise DataError(
                f"{shown}: a file name beyond ASCII, and this system reads names as {encoding}. "
                "Set PYTHONUTF8=1 (or LC_ALL=C.UTF-8), and run again."
            )
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(
                f"{shown}: a file name that is not UTF-8. Rename it (convmv does it for a whole "
                "folder), and run again."
            ) from None


def list_folder(folder: Path, pattern: str = "*") -> list[Path]:
    """The contents of a folder, sorted, without hidden and system files (see `is_hidden`).

    Args:
        folder: the folder.
        pattern: as `Path.glob` takes it; `**/*` looks to the bottom.
    """
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path, folder))


def ignores_case(folder: Path) -> bool:
    """Whether the file system of a folder, which need not exist, ignores case (as on Windows and
    macOS)."""
    for path in (folder.absolute(), *folder.absolute().parents):
        other = path.with_name(path.name.swapcase()) if path.name else path
        if path.exists() and other != path:
            return other.exists() and other.samefile(path)
    return False


def write_atomically(path: Path, write: Callable[[Path], Any], lasting: bool = True) -> None:
    """Write a file under a temporary name, then rename it. So there is never a partial file under
    its name, not even after a loss of power.

    Args:
        path: the file; its folder is made.
        write: writes the file that it is given.
        lasting: flush it to the disk; too slow for many files that can be written again.

    Raises:
        StorageError: the disk is full or missing, or writing is not permitted.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        # The rights that the umask gives; safetensors writes files that only their owner can read.
        mode = temporary.stat().st_mode
        write(temporary)
        os.chmod(temporary, stat.S_IMODE(mode))
        if lasting:
            to_disk(temporary)
        os.replace(temporary, path)
        if lasting:
            to_disk(path.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise not_written(path, error) from None


def to_disk(path: Path) -> None:
    """Flush a file or folder from the system's memory to the disk."""
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder for results, and its parents.

    Raises:
        StorageError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(folder, error) from None


def not_written(path: Path, error: Exception) -> StorageError:
    """The error for a file that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error)
    found = StorageError(
        f"{path}: cannot be written ({reason}). Make room or fix the rights; files written "
        "before are complete."
    )
    found.everywhere = getattr(error, "errno", None) in {ENOSPC, EDQUOT, EROFS, EIO}
    return found


def read_text(path: Path, wide: bool = False) -> str:
    """Read a text file of the user.

    Args:
        path: the file.
        wide: whether it may be UTF-16, as its first two bytes say.

    Raises:
        DataError: it cannot be read, or is no UTF-8.
    """
    try:
        content = path.read_bytes()
        if wide and content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}). Save it as UTF-8.") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Fix the path or its rights."
        ) from None


@contextlib.contextmanager
def locked(path: Path, work: str) -> Iterator[None]:
    """Lock a file or folder, which need not exist; wait while another process has locked it.

    Args:
        path: its lock is `path`.lock, in a folder that is made.
        work: what the other process does, for the message.

    Raises:
        OSError: it cannot be locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = FileLock(path.with_name(path.name + ".lock"))
    try:
        file.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that {work}", file=sys.stderr)
        file.acquire()
    try:
        yield
    finally:
        file.release()


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock an existing folder, so that only this process writes into it.

    Raises:
        ConfigError: another process holds the lock.
        StorageError: it cannot be written to.
    """
    file = FileLock(folder / LOCK)
    try:
        file.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{folder}: another process writes into it. Wait for it, or choose another --output."
        ) from None
    except OSError as error:
        raise not_written(folder / LOCK, error) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            # Before the release: afterwards it may be the file of another process.
            os.unlink(folder / LOCK)
        file.release()
