"""An image and its mask, wherever they come from, before either is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from autosam.errors import DataError

SPLITS = ("train", "validation", "test")


class Pixels(Protocol):
    """Something that can be read as pixels. Prints as what a message should name."""

    @property
    def path(self) -> Path:
        """The file it comes from."""

    def read(self) -> np.ndarray:
        """An image: uint8 H x W x 3 RGB. A mask: its values as stored, uint8 or uint16 H x W; or,
        where classes overlap, a label of bits (see `autosam.data.labels`).

        Raises:
            DataError: it cannot be read.
        """

    def digest(self) -> str:
        """Hash of everything that `read` depends on."""


def read_valid(pixels: Pixels) -> tuple[np.ndarray, np.ndarray | None]:
    """An image: uint8 H x W x 3 RGB, and where it holds data, bool H x W (None: everywhere)."""
    read = getattr(pixels, "read_valid", None)
    return (pixels.read(), None) if read is None else read()


@dataclass(frozen=True)
class Layers:
    """The mask of classes that overlap: a file for each class."""

    files: tuple[Pixels, ...]

    @property
    def path(self) -> Path:
        return self.files[0].path

    def read(self) -> np.ndarray:
        """Values are read layer by layer, see `autosam.data.mask_encoding`."""
        raise TypeError("several files have no values in common")

    def require_one_size(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """
        Raises:
            DataError: the files' shapes H, W differ.
        """
        if len(set(shapes)) > 1:
            found = ", ".join(
                f"{file} {shape}" for file, shape in zip(self.files, shapes, strict=True)
            )
            raise DataError(f"masks of one image differ in size: {found}. Export all at one size.")

    def digest(self) -> str:
        return "".join(file.digest() for file in self.files)

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
    """train, validation or test, where the source says so."""
    group: str = ""
    """Patient, slide, video: pairs of one group stay together when a split is drawn."""
    regions: Pixels | None = None
    """A map whose connected parts are the objects, where those of the mask are not (a stamp is
    many letters): what boxes and points are taken from."""
    subset: str = ""
    """Test sets that are scored one by one have names."""
    qualified: bool = False
    """Whether `name` says the split that the source gives."""

    @property
    def given(self) -> str:
        """The split that the source gives; what has none is taken for training."""
        return self.split or "train"

    @property
    def name(self) -> str:
        """`stem`, `subset/stem`, or where `qualified` `split/stem`, `split/subset/stem`."""
        words = (self.given if self.qualified else "", self.subset, self.stem)
        return "/".join(word for word in words if word)


def distinct(pairs: list[Pair]) -> list[Pair]:
    """Pairs under names that are unique over the whole data set: their own, or those with the given
    split, where two splits repeat a name."""
    if len({pair.name for pair in pairs}) == len(pairs):
        return pairs
    return [replace(pair, qualified=True) for pair in pairs]


Splits = dict[str, list[Pair]]
"""`train`, `validation`, `test`: the pairs of each split."""


def sizes(splits: Splits) -> dict[str, tuple[int, int]]:
    """Bytes of each image and of its mask, by split and name; 0 for one that is not a file."""
    return {
        f"{split}/{pair.name}": (_size(pair.image.path), _size(pair.mask.path))
        for split, pairs in splits.items()
        for pair in pairs
    }


def fingerprint(splits: Splits) -> str:
    """SHA-256 of the names and sizes of all images and masks."""
    sizes = hashlib.sha256()
    for name, image, mask in sorted(
        (pair.name, _size(pair.image.path), _size(pair.mask.path))
        for pairs in splits.values()
        for pair in pairs
    ):
        sizes.update(f"{name} {image} {mask}\n".encode())
    return sizes.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
