"""Pairs of image and mask, before they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from autosam.errors import DataError

SPLITS = ("train", "validation", "test")


class Pixels(Protocol):
    """An image or mask that can be read. `str` gives its name for messages.

    Optional methods: `stamp()`, see `stamp_of`. Of images: `read_valid()`, see there; and
    `read_part(region)` with the property `shape` (H, W without decoding), to read crops without the
    rest. Of masks: `stored() -> StoredMask`, with what the file says besides values; and
    `read_instances() -> Instances`, where it tells touching objects apart.
    """

    @property
    def path(self) -> Path:
        """The file that holds it."""

    def read(self) -> np.ndarray:
        """Read an image, uint8 H x W x 3 RGB; or the stored values of a mask, uint8 or uint16 H x W
        (for overlapping classes a bitmask, int32, see `autosam.data.labels`).

        Raises:
            DataError: the file cannot be read.
        """

    def digest(self) -> str:
        """Hash of the content and of all settings that `read` depends on."""


def read_valid(pixels: Pixels) -> tuple[np.ndarray, np.ndarray | None]:
    """Read an image.

    Returns:
        uint8 H x W x (3 + C): RGB, and the C channels that the prompt generator reads in place of
        it (none: C = 0); and where it holds data, bool H x W (None: everywhere).
    """
    read = getattr(pixels, "read_valid", None)
    return (pixels.read(), None) if read is None else read()


def stamp_of(pixels: Pixels) -> Hashable:
    """What is different if `pixels` would be read differently; nothing is decoded. None: it is not
    known, and they must be read again."""
    own = getattr(pixels, "stamp", None)
    return None if own is None else own()


@dataclass(frozen=True)
class Layers:
    """The mask of overlapping classes, with a file for each class."""

    files: tuple[Pixels, ...]

    @property
    def path(self) -> Path:
        return self.files[0].path

    def read(self) -> np.ndarray:
        """Not supported: layers are read one by one, see `autosam.data.mask_encoding`."""
        raise TypeError("a mask of several files has no single array of values")

    def require_one_size(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """
        Args:
            shapes: H, W of each file.

        Raises:
            DataError: the shapes differ.
        """
        if len(set(shapes)) > 1:
            found = ", ".join(
                f"{file} {shape}" for file, shape in zip(self.files, shapes, strict=True)
            )
            raise DataError(f"masks of one image differ in size: {found}. Export all at one size.")

    def digest(self) -> str:
        return "".join(file.digest() for file in self.files)

    def stamp(self) -> Hashable:
        """See `stamp_of`."""
        found = tuple(stamp_of(file) for file in self.files)
        return None if None in found else found

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    stem: str
    """Name of the image without extension; unique within a split and subset."""
    image: Pixels
    mask: Pixels
    split: str = ""
    """train, validation or test, if the data set defines it; else ""."""
    group: str = ""
    """Patient, slide or video. Pairs of one group stay in one split."""
    regions: Pixels | None = None
    """Map whose connected components are the objects, if those of the mask are not (a stamp is many
    letters). Boxes and points are taken from it."""
    subset: str = ""
    """Name of a test set that is scored on its own."""
    qualified: bool = False
    """Whether `name` begins with the given split."""

    @property
    def given(self) -> str:
        """The split that the data set defines, else train."""
        return self.split or "train"

    @property
    def name(self) -> str:
        """`stem`, `subset/stem`, or where `qualified` `split/stem`, `split/subset/stem`."""
        words = (self.given if self.qualified else "", self.subset, self.stem)
        return "/".join(word for word in words if word)


def distinct(pairs: list[Pair]) -> list[Pair]:
    """Make names unique over the whole data set: if two splits share a name, all names begin with
    the given split."""
    if len({pair.name for pair in pairs}) == len(pairs):
        return pairs
    return [replace(pair, qualified=True) for pair in pairs]


Splits = dict[str, list[Pair]]
"""`train`, `validation`, `test`: the pairs of each split."""


def sizes(splits: Splits) -> dict[str, tuple[int, int]]:
    """Bytes of each image and mask file, by `split/name`; 0 if not a regular file."""
    return {
        f"{split}/{pair.name}": (_size(pair.image.path), _size(pair.mask.path))
        for split, pairs in splits.items()
        for pair in pairs
    }


def fingerprint(splits: Splits) -> str:
    """SHA-256 of the names and file sizes of all images and masks."""
    sizes = hashlib.sha256()
    for name, image, mask in sorted(
        (pair.name, _size(pair.image.path), _size(pair.mask.path))
        for pairs in splits.values()
        for pair in pairs
    ):
        sizes.update(f"{name} {image} {mask}\n".encode())
    return sizes.hexdigest()


def newest(splits: Splits) -> tuple[float, Path]:
    """Find the image or mask that was written last: one whose content was corrected may have the
    same name and size.

    Returns:
        The time in seconds since 1970, and the file; 0 if nothing is in files.
    """
    parts = [part for pairs in splits.values() for p in pairs for part in (p.image, p.mask)]
    paths = {Path(part.path) for part in parts}
    for series in filter(Path.is_dir, [*paths]):
        paths.update(series.iterdir())
    return max(((one.stat().st_mtime, one) for one in paths if one.exists()), default=(0.0, Path()))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
