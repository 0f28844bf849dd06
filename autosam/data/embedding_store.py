"""Image embeddings on disk: records of one size in one file, each with a checksum.

    FOLDER/meta.json     description of the records
    FOLDER/records.bin   record i at i * size
    FOLDER/index.bin     int64 per record: 0 missing, else its CRC-32 plus 1

Records are read one by one, not through a memory map: if the file shrinks, a map ends the process
with a signal, and its pages count as memory of the process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from autosam.errors import DataError
from autosam.types import ImageEmbedding

META, RECORDS, INDEX = "meta.json", "records.bin", "index.bin"
DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
}

AGAIN = (
    "The same command computes it again; a training goes on with --resume RUN, or starts again "
    "with --overwrite true if it has saved no state."
)


@dataclass(frozen=True)
class Layout:
    """Binary layout of a record."""

    shapes: tuple[tuple[int, ...], ...]
    """C x h x w of each tensor of an embedding, in their order."""
    dtype: str
    """A key of `DTYPES`. int8: in units of 1/127 of each channel's largest absolute value."""
    blocks: int = 0
    """How many of the tensors, the last ones, are features of blocks."""

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return sum(self._scales(shape) + self._values(shape) for shape in self.shapes)

    def _scales(self, shape: tuple[int, ...]) -> int:
        return 4 * shape[0] if self.dtype == "int8" else 0

    def _values(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape)) * DTYPES[self.dtype].itemsize

    def pack(self, embedding: ImageEmbedding) -> bytes:
        """Convert an embedding (B = 1) to a record.

        Raises:
            DataError: a value is not finite, or too large for the dtype.
        """
        parts = []
        for level, shape in zip(embedding.tensors, self.shapes, strict=True):
            values = level.float().cpu().reshape(shape)
            if self.dtype == "int8":
                scales = values.abs().amax((1, 2), keepdim=True).clamp(min=1e-12) / 127
                parts.append(scales.flatten())
                values = (values / scales).round()
            stored = values.to(DTYPES[self.dtype]).contiguous()
            if not torch.isfinite(values).all() or not torch.isfinite(stored.float()).all():
                raise DataError(
                    f"an image embedding holds values that are not finite in {self.dtype}. Check "
                    "the image, or try --cache.dtype fp32."
                )
            parts.append(stored)
        return b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts)

    def unpack(self, record: np.ndarray) -> ImageEmbedding:
        """Convert a record (uint8) to an embedding (B = 1): float32 for int8, else as stored. The
        tensors share the record's memory if possible."""
        levels: list[Tensor] = []
        at = 0
        for shape in self.shapes:
            start, at = at, at + self._scales(shape)
            scales = torch.from_numpy(record[start:at])
            start, at = at, at + self._values(shape)
            values = torch.from_numpy(record[start:at]).view(DTYPES[self.dtype]).view(1, *shape)
            if self.dtype == "int8":
                values = values.float() * scales.view(torch.float32).view(1, -1, 1, 1)
            levels.append(values)
        return ImageEmbedding.of(levels, self.blocks)


class Store:
    """A folder of `count` records. Use `open` or `create`."""

    def __init__(self, folder: Path, layout: Layout, count: int) -> None:
        self.folder, self.layout, self.count = folder, layout, count

    @classmethod
    def open(cls, folder: Path, facts: dict[str, Any], count: int) -> Store | None:
        """Open a store, complete or not; None if it is missing, damaged or of other facts.

        Args:
            folder: the store.
            facts: everything that the embeddings depend on.
            count: number of records.
        """
        try:
            meta = json.loads((folder / META).read_text(encoding="utf-8"))
            shapes = tuple(tuple(map(int, shape)) for shape in meta["shapes"])
            layout = Layout(shapes, meta["dtype"], meta.get("blocks", 0))
            fits = (folder / INDEX).stat().st_size == 8 * count and (folder / RECORDS).is_file()
            known = meta["facts"] == facts and layout.size > 0
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return cls(folder, layout, count) if fits and known else None

    @classmethod
    def create(
        cls, folder: Path, facts: dict[str, Any], count: int, layout: Layout, title: str
    ) -> Store:
        """Create an empty store; an existing folder is deleted.

        Args:
            folder: the store.
            facts: everything that the embeddings depend on.
            count: number of records.
            layout: of the records.
            title: shown by `autosam embeddings list`.
        """
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / RECORDS).touch()
        np.zeros(count, np.int64).tofile(folder / INDEX)
        meta = {"title": title, "facts": facts, **dataclasses.asdict(layout)}
        (folder / META).write_text(json.dumps(meta), encoding="utf-8")  # last: it marks the store
        return cls(folder, layout, count)

    def missing(self) -> list[int]:
        """Indices of the missing records, including those beyond the end of the file."""
        index = np.fromfile(self.folder / INDEX, np.int64)
        whole = (self.folder / RECORDS).stat().st_size // self.layout.size
        index[whole:] = 0
        return np.flatnonzero(index == 0).tolist()

    def put(self, i: int, embedding: ImageEmbedding) -> None:
        """Write record `i`, then its checksum: a killed process leaves no partial record."""
        record = self.layout.pack(embedding)
        with open(self.folder / RECORDS, "r+b") as file:
            file.seek(i * self.layout.size)
            file.write(record)
        self._mark(i, zlib.crc32(record) + 1)

    def get(self, i: int) -> ImageEmbedding:
        """Read record `i`, B = 1.

        Raises:
            DataError: the record is missing or damaged. All damaged records are marked as missing,
                to be computed again.
        """
        size = self.layout.size
        try:
            record = np.fromfile(self.folder / RECORDS, np.uint8, size, offset=i * size)
            known = int(np.fromfile(self.folder / INDEX, np.int64, 1, offset=8 * i)[0])
            sound = zlib.crc32(record.data) + 1 == known
        except (OSError, IndexError) as error:
            raise DataError(
                f"{self.folder}: the cached embedding {i} cannot be read ({error}). Was the cache "
                f"deleted? {AGAIN}"
            ) from None
        if not sound:
            self._mark(i, 0)
            others = self._mark_damaged()
            more = f", and {others} others" if others else ""
            raise DataError(
                f"{self.folder / RECORDS}: the cached embedding {i} is damaged{more}. {AGAIN} "
                "If this happens twice, check the disk."
            )
        return self.layout.unpack(record)

    def _mark_damaged(self) -> int:
        """Mark the damaged records as missing; returns how many they are."""
        index, damaged = np.fromfile(self.folder / INDEX, np.int64), 0
        with open(self.folder / RECORDS, "rb") as file:
            for i, known in enumerate(index):
                if zlib.crc32(file.read(self.layout.size)) + 1 != known != 0:
                    self._mark(i, 0)
                    damaged += 1
        return damaged

    def _mark(self, i: int, value: int) -> None:
        with open(self.folder / INDEX, "r+b") as file:
            file.seek(8 * i)
            file.write(np.int64(value).tobytes())


@dataclass(frozen=True)
class Entry:
    """A cache on disk, as listed by `autosam embeddings list`."""

    folder: Path
    title: str
    bytes: int
    """Size on disk."""
    done: float
    """Share of records that are written, 0 to 1."""
    used: float
    """Seconds since the last use."""


def entries(root: Path) -> list[Entry]:
    """The caches in a folder, the last used first. Other files are skipped."""
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        try:
            meta = json.loads((folder / META).read_text(encoding="utf-8"))
            index = np.fromfile(folder / INDEX, np.int64)
            size = sum(file.stat().st_size for file in folder.iterdir())
            used = time.time() - (folder / META).stat().st_mtime
            done = float((index != 0).mean()) if len(index) else 1.0
            found.append(Entry(folder, str(meta["title"]), size, done, used))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return sorted(found, key=lambda entry: entry.used)


def disk_error(error: OSError, folder: Path) -> DataError:
    """The error for a cache that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        return DataError(
            f"{folder}: the disk is full ({free / 1e9:.1f} GB free). Free some space "
            "(`autosam embeddings list`, `prune`), or choose another --cache.dir; run the same "
            "command again to continue where it stopped."
        )
    return DataError(
        f"{error.filename or folder}: cannot be written ({error.strerror or error}). Fix the "
        "permissions, or choose another --cache.dir."
    )


def touch(folder: Path) -> None:
    """Mark a cache as used now."""
    with contextlib.suppress(OSError):  # a read-only cache can still be read
        os.utime(folder / META)


def show(root: Path) -> None:
    """Print the caches of a folder."""
    found = entries(root)
    for entry in found:
        state = "" if entry.done == 1 else f"  {entry.done:.0%} complete"
        print(
            f"{entry.folder.name}  {entry.bytes / 1e9:8.2f} GB  used {entry.used / 86400:.0f} "
            f"days ago{state}  {entry.title}"
        )
    print(f"{len(found)} caches, {sum(e.bytes for e in found) / 1e9:.2f} GB in {root}")


def prune(root: Path, names: Sequence[str], days: float | None) -> list[Entry]:
    """Delete caches by name, or those not used for `days`.

    Args:
        root: folder of the caches.
        names: of caches to delete.
        days: delete caches that were not used for so many days; None: by name only.

    Returns:
        The deleted caches.

    Raises:
        DataError: no cache has the name, or another process is writing it.
    """
    found = {entry.folder.name: entry for entry in entries(root)}
    if unknown := [name for name in names if name not in found]:
        raise DataError(f"{root}: has no cache {', '.join(unknown)}; see `list`.")
    chosen = [
        entry
        for name, entry in found.items()
        if name in names or (days is not None and entry.used >= days * 86400)
    ]
    for entry in chosen:
        lock = FileLock(entry.folder.with_name(entry.folder.name + ".lock"))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(entry.folder)
        except Timeout:
            raise DataError(f"{entry.folder}: another process is writing it.") from None
    return chosen
