"""Blocks of large rasters: parts of a file that are images and masks of their own."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autosam.data.images import ImageFile, ImageReader, MaskFile, values_of
from autosam.data.readers.file_cache import FileCache
from autosam.data.readers.raster import StoredMask
from autosam.data.readers.tiff import TiffImage
from autosam.types import Region

PROBE = 64
"""Side of the square in the middle of a block that `holds_data` reads first, pixels."""
ROWS = 256
"""Rows that it reads at a time after that."""
_digests: FileCache[str] = FileCache()


def block_regions(shape: tuple[int, int], size: int) -> dict[str, Region]:
    """Cut a raster into blocks that do not overlap and whose sizes differ by one pixel at most.

    Args:
        shape: H, W of the raster.
        size: largest side of a block, pixels.

    Returns:
        The region of each block, by a name made of its row and column, from 1.
    """
    rows, columns = (
        np.linspace(0, side, -(-side // size) + 1).round().astype(int).tolist() for side in shape
    )
    digits = max(2, len(str(max(len(rows), len(columns)) - 1)))
    return {
        f"r{i:0{digits}d}c{j:0{digits}d}": (top, left, bottom - top, right - left)
        for (i, (top, bottom)), (j, (left, right)) in itertools.product(
            enumerate(itertools.pairwise(rows), 1), enumerate(itertools.pairwise(columns), 1)
        )
    }


@dataclass(frozen=True)
class _Part:
    """What a part of an image and of a mask have in common."""

    file: ImageFile | MaskFile
    region: Region

    @property
    def path(self) -> Path:
        return self.file.path

    def digest(self) -> str:
        """Hash of the file, which is read once, and of the region."""
        whole = _digests.get(self.path, self.file, self.file.digest)
        return hashlib.sha256(f"{whole} {self.region}".encode()).hexdigest()

    def stamp(self) -> Hashable:
        """See `stamp_of`."""
        return (own := self.file.stamp()) and (own, self.region)

    def __str__(self) -> str:
        y, x, height, width = self.region
        return f"{self.path} (rows {y + 1} to {y + height}, columns {x + 1} to {x + width})"


@dataclass(frozen=True)
class Block(_Part):
    """A part of a TIFF, with the values that it has in the whole image; implements `Pixels`."""

    file: ImageFile

    @property
    def shape(self) -> tuple[int, int]:
        """H, W."""
        return self.region[2:]

    def read_part(self, region: Region) -> tuple[np.ndarray, np.ndarray | None]:
        """A region of the block, see `read_valid`. Nothing else of the file is decoded."""
        y, x, height, width = region
        return self.file.read_part((self.region[0] + y, self.region[1] + x, height, width))

    def read_valid(self) -> tuple[np.ndarray, np.ndarray | None]:
        """See `ImageFile.read_valid`."""
        return self.file.read_part(self.region)

    def read(self) -> np.ndarray:
        """uint8 H x W x 3 RGB."""
        return replace(self.file, channel_windows=()).read_part(self.region)[0]


@dataclass(frozen=True)
class MaskBlock(_Part):
    """A part of a mask that is a TIFF; implements `Pixels`."""

    file: MaskFile

    def stored(self) -> StoredMask:
        """See `read_mask_file`. Nothing else of the file is decoded."""
        with TiffImage(self.path, str(self.path), limit=False) as raster:
            return raster.mask(self.region)

    def read(self) -> np.ndarray:
        """See `read_mask`."""
        return values_of(self.stored(), str(self))


def holds_data(image: ImageFile, regions: list[Region]) -> list[bool]:
    """Which regions of a TIFF hold a pixel with data, see `ImageReader.part`. Where the middle of a
    region does, the rest is not read.

    Raises:
        DataError: the file cannot be read.
    """
    reader = image.open(limit=False)
    try:
        return [any(_parts_with_data(reader, region)) for region in regions]
    finally:
        reader.close()


def _parts_with_data(reader: ImageReader, region: Region) -> Iterator[bool]:
    y, x, height, width = region
    high, wide = min(PROBE, height), min(PROBE, width)
    parts = [(y + (height - high) // 2, x + (width - wide) // 2, high, wide)]
    parts += [(y + i, x, min(ROWS, height - i), width) for i in range(0, height, ROWS)]
    for part in parts:
        missing = reader.raster.colors(part, reader.nodata)[1]
        yield missing is None or not missing.all()
