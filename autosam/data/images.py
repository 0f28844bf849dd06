"""Reading images and masks from files, whatever their bit depth, channels or orientation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from autosam.data.readers.images import PlainImage, plain_size
from autosam.data.readers.raster import MAX_PIXELS, Raster, Region, StoredMask
from autosam.data.readers.sidecars import sidecar_nodata
from autosam.data.readers.stretch import (
    LIMIT_SIDE,
    Window,
    finish,
    limits_of,
    sampled,
    stretch,
)
from autosam.data.readers.tiff import MAGIC, TiffImage
from autosam.errors import DataError
from autosam.utils.io import write_atomically

__all__ = ["MAX_PIXELS", "StoredMask", "Window", "stretch"]

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
BLOCK = 2**24
"""Pixels that are read at a time to look at a whole image."""


def require_file(path: Path) -> None:
    """
    Raises:
        DataError: missing; or a folder or a pipe, which may never end.
    """
    if not path.is_file():
        what = "it is a folder, a pipe or the like" if path.exists() else "no such file"
        raise DataError(f"{path}: cannot be read: {what}. Replace it, or remove its name.")


def open_raster(
    source: Path | bytes,
    name: str,
    bands: tuple[int, int, int] | None = None,
    limit: bool = True,
) -> Raster:
    """An image file, by its content.

    Args:
        source: the file, or its content.
        name: for messages.
        bands: of a TIFF, the bands (from 1) that stand for red, green and blue.
        limit: whether TIFFs beyond `MAX_PIXELS` are refused; others always are.

    Raises:
        DataError: it cannot be read.
    """
    if _is_tiff(source, name):
        return TiffImage(source, name, bands, limit)
    if bands is not None:
        raise DataError(
            f"{name}: cannot be read as a TIFF (it begins otherwise). --data.bands and "
            "--rough.method index are for TIFFs."
        )
    return PlainImage(source, name)


def _is_tiff(source: Path | bytes, name: str) -> bool:
    if isinstance(source, bytes):
        return source[:4] in MAGIC
    require_file(source)
    try:
        with open(source, "rb") as file:
            return file.read(4) in MAGIC
    except OSError as error:
        raise DataError(
            f"{name}: cannot be read ({error.strerror}). Replace or remove it."
        ) from None


def image_size(path: Path) -> tuple[int, int]:
    """H, W of an image file, or W, H where it is stored turned; its pixels are not read.

    Raises:
        DataError: it is none.
    """
    if not _is_tiff(path, str(path)):
        return plain_size(path, str(path))
    with TiffImage(path, str(path), limit=False) as image:
        return image.shape


class ImageReader:
    """An opened image, to be read in pieces or as a whole: the pixels are the same.

    Images of more than 8 bits are stretched linearly from their own 0.1 to 99.9 percentile (of at
    most 2 x `LIMIT_SIDE` rows and columns, evenly taken) to 0..255.

    Args:
        raster: the image.
        name: for messages.
        bands: whether bands were chosen, of which 8-bit ones may be stretched too.
        window: stretch from here instead.
        nodata: stored value of pixels without data.
    """

    def __init__(
        self,
        raster: Raster,
        name: str,
        bands: bool = False,
        window: Window | None = None,
        nodata: float | None = None,
    ) -> None:
        self.raster, self.name, self.nodata = raster, name, nodata
        self.shape = raster.shape
        self.bands, self.window, self._limits = bands, window, window

    def part(self, y: int, x: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A piece: uint8 height x width x 3 RGB, and where it holds data, bool height x width
        (None: everywhere). Where it holds none, RGB is 0."""
        region = (y, x, height, width)
        values, missing = self.raster.colors(region, self.nodata)
        deep = values.dtype != np.uint8
        if self.window is not None and not deep and not self.bands:
            raise DataError(
                f"{self.name}: --data.window is for values of more than 8 bits. Leave it out."
            )
        if deep and self._limits is None:
            whole = (values, missing) if region == (0, 0, *self.shape) else None
            self._limits = self._find_limits(whole)
        return finish(values, missing, self.name, self._limits)

    def _find_limits(self, whole: tuple[np.ndarray, np.ndarray | None] | None) -> Window:
        height, width = self.shape
        down = max(1, height // LIMIT_SIDE)
        rows = max(1, BLOCK // max(1, width * down)) * down
        some, holes = [], []
        for y in range(0, height, height if whole else rows):
            values, missing = whole or self.raster.colors(
                (y, 0, min(rows, height - y), width), self.nodata
            )
            some.append(sampled(values, self.shape))
            holes.append(None if missing is None else sampled(missing, self.shape))
        missing = None if holes[0] is None else np.concatenate(cast(list, holes))
        return limits_of(np.concatenate(some), missing, self.name)

    def whole(self) -> tuple[np.ndarray, np.ndarray | None]:
        """All of it, see `part`."""
        return self.part(0, 0, *self.shape)

    def close(self) -> None:
        """Close the file."""
        if isinstance(self.raster, TiffImage):
            self.raster.close()


def read_image(
    path: Path, bands: tuple[int, int, int] | None = None, window: Window | None = None
) -> np.ndarray:
    """Read an image: uint8 H x W x 3 RGB.

    Grey becomes RGB, transparency is dropped, orientation is applied. Images of more than 8 bits
    are stretched, because 12-bit data in a 16-bit file would come out nearly black otherwise; see
    `ImageReader`.

    Args:
        path: the file.
        bands: of a TIFF, the bands (from 1) to take for red, green and blue.
        window: stretch from here instead.

    Raises:
        DataError: the file is missing, unreadable, truncated or too large.
    """
    return ImageFile(path, bands, window).read()


def read_bands(path: Path, nodata: float | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """All bands of a TIFF as stored, and where they hold no data.

    Returns:
        H x W x C of any number type, and bool H x W x C, or None where nothing names such values.

    Raises:
        DataError: not a TIFF, unreadable, too large, or a stack of pages.
    """
    raster = open_raster(path, str(path), (1, 1, 1))
    assert isinstance(raster, TiffImage)
    with raster:
        region: Region = (0, 0, *raster.shape)
        values = raster.stored(region)
        return raster.all_bands(values, raster.missing(values, region, nodata))


def read_mask_file(source: Path | bytes, name: str | None = None) -> StoredMask:
    """A mask file as it is stored: see `StoredMask`; what its values mean is decided elsewhere.

    Args:
        source: the file, or its content.
        name: for messages; unset: the path.

    Raises:
        DataError: the file is unreadable, or in colours that no mask has (CMYK, CIELab).
    """
    raster = open_raster(source, name or str(source))
    try:
        return raster.mask()
    finally:
        if isinstance(raster, TiffImage):
            raster.close()


def read_mask(path: Path, grey: bool = False) -> np.ndarray:
    """Read a mask's values as they are stored: uint8 or uint16 H x W.

    Palette images give their indices. Colour images are accepted if their channels are equal, or
    turned to grey.

    Args:
        path: the file.
        grey: whether colours are turned to grey.

    Raises:
        DataError: the file is unreadable, or holds colours.
    """
    stored = read_mask_file(path)
    return grey_of(stored, path) if grey else values_of(stored, path)


def grey_of(stored: StoredMask, name: Path | str) -> np.ndarray:
    """The colours of a mask as grey, uint8 or uint16 H x W; `name` is for messages."""
    values = stored.values if stored.palette is None else stored.palette[stored.values]
    if values.ndim == 3 and values.dtype == np.uint8:
        return np.asarray(Image.fromarray(values).convert("L"))
    return values_of(StoredMask(values), name)


def values_of(stored: StoredMask, name: Path | str) -> np.ndarray:
    """A decoded mask -> its values, uint8 or uint16 H x W; `name` is for messages.

    Raises:
        DataError: colours, or numbers that are no classes.
    """
    values = stored.values
    if values.ndim == 3:
        raise DataError(
            f"{name}: a mask in colour. Save it as one channel whose values are the classes "
            "(0 background, 1..K), or 0 and 255."
        )
    known = values.dtype.kind != "f" or bool(np.isfinite(values).all() and not (values % 1).any())
    if not known or values.min() < 0 or values.max() >= 2**16:
        raise DataError(
            f"{name}: holds {values.dtype} from {values.min()} to {values.max()}, which is not a "
            "mask of whole numbers from 0 to 65535; save it as 8-bit grey."
        )
    return values.astype(np.uint16 if values.max() > 255 else np.uint8)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 or uint16 H x W (grey), or uint8 H x W x 3 (RGB), as PNG.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomically(path, lambda to: Image.fromarray(pixels).save(to, "PNG"), lasting=False)


def _rules(content: bytes) -> str:
    """A word for files that are read otherwise than when embeddings of them may have been kept:
    TIFF, and PNG of 16 bits."""
    deep = content[1:4] == b"PNG" and content[24:25] == b"\x10"
    return " read 2" if deep or content[:4] in MAGIC else ""


def digest(path: Path, how: str = "") -> str:
    """Hash of a file and of how it is read.

    Raises:
        DataError: it cannot be read.
    """
    require_file(path)
    try:
        content = path.read_bytes()
        if content[:4] in MAGIC and (value := sidecar_nodata(path)) is not None:
            how += f" nodata {value}"
        return hashlib.sha256(content + (how + _rules(content)).encode()).hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Replace or remove it."
        ) from None


@dataclass(frozen=True)
class ImageFile:
    """An image in a file of its own, see `read_image`."""

    path: Path
    bands: tuple[int, int, int] | None = None
    window: Window | None = None
    nodata: float | None = None
    """Stored value of pixels without data, besides what the file says itself."""

    def open(self, limit: bool = True) -> ImageReader:
        """Open it, to read pieces of it; TIFFs beyond the limit are refused with `limit` alone."""
        raster = open_raster(self.path, str(self.path), self.bands, limit)
        return ImageReader(raster, str(self.path), self.bands is not None, self.window, self.nodata)

    def read_valid(self) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 H x W x 3 RGB, and where it holds data, bool H x W (None: everywhere)."""
        reader = self.open()
        try:
            return reader.whole()
        finally:
            reader.close()

    def read(self) -> np.ndarray:
        """uint8 H x W x 3 RGB."""
        return self.read_valid()[0]

    def digest(self) -> str:
        """Hash of the file, of the settings, and of how this kind of file is read."""
        with_nodata = f" {self.nodata}" if self.nodata is not None else ""
        settings = self.bands or self.window or with_nodata
        how = f"{self.bands} {self.window}{with_nodata}" if settings else ""
        return digest(self.path, how)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class MaskFile:
    """A mask in a file of its own, see `read_mask`."""

    path: Path

    def read(self) -> np.ndarray:
        return read_mask(self.path)

    def stored(self) -> StoredMask:
        return read_mask_file(self.path)

    def digest(self) -> str:
        return digest(self.path)

    def __str__(self) -> str:
        return str(self.path)
