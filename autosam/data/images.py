"""Read images and masks from files of any bit depth, number of channels or orientation."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from autosam.data.known_digests import digest_once
from autosam.data.readers.file_cache import FileCache, stamp
from autosam.data.readers.pillow import PlainImage, plain_size, read_orientation
from autosam.data.readers.raster import MAX_PIXELS, Raster, StoredMask, cut
from autosam.data.readers.sidecars import sidecar_nodata
from autosam.data.readers.stretch import (
    LIMIT_SIDE,
    Window,
    percentile_window,
    stretch,
    stretch_bands,
    subsample,
    to_rgb,
)
from autosam.data.readers.tiff import MAGIC, TiffImage
from autosam.errors import DataError
from autosam.types import Region
from autosam.utils.io import write_atomically
from autosam.utils.paths import nearest

__all__ = ["MAX_PIXELS", "StoredMask", "Window", "stretch"]

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".svs"}
BLOCK = 2**22
"""Pixels read at a time when the percentiles of an image are computed."""
CHUNK = 2**22
"""Bytes read at a time when a file is hashed."""
_percentiles: FileCache[Window] = FileCache()
"""Those that images are stretched from."""


def require_file(path: Path) -> None:
    """
    Raises:
        DataError: missing, or not a regular file.
    """
    if path.is_dir():
        raise DataError(
            f"{path}: cannot be read: is a folder. Name a file in it; or remove it from the data."
        )
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: cannot be read: a link to nowhere. Replace or remove it.")
    if not path.exists():
        raise DataError(f"{path}: cannot be read: no such file. Fix the path.{nearest(path)}")
    if not path.is_file():
        raise DataError(f"{path}: cannot be read: not a regular file. Replace or remove it.")


def open_raster(
    source: Path | bytes,
    name: str,
    bands: tuple[int, ...] | None = None,
    limit: bool = True,
) -> Raster:
    """Open an image file, with the reader chosen by its content.

    Args:
        source: the file, or its content.
        name: for messages.
        bands: TIFF: the bands (from 1) to use as red, green and blue, and further ones.
        limit: whether TIFFs larger than `MAX_PIXELS` are refused; other formats always are.

    Raises:
        DataError: the file cannot be read, or `bands` is given and it is not a TIFF.
    """
    if _is_tiff(source, name):
        return TiffImage(source, name, bands, limit)
    if bands is not None:
        raise DataError(
            f"{name}: cannot be read as a TIFF (another format). --data.bands and "
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
    """H, W of an image file with its orientation applied, without decoding it.

    Raises:
        DataError: not an image.
    """
    if not _is_tiff(path, str(path)):
        height, width = plain_size(path, str(path))
        return (height, width) if read_orientation(path) <= 4 else (width, height)
    with TiffImage(path, str(path), limit=False) as image:
        return image.shape


class ImageReader:
    """An opened image, read by region or as a whole, with the same pixel values.

    Images of more than 8 bits are stretched linearly from their 0.1 to 99.9 percentiles (of at most
    2 x `LIMIT_SIDE` evenly spaced rows and columns) to 0..255.

    Args:
        raster: the image.
        name: for messages.
        bands: whether bands were selected; `window` then applies to 8-bit values, too.
        window: values that map to 0 and 255, in place of the percentiles.
        nodata: stored value of pixels without data, in addition to the file's own.
        channels: windows of the bands that follow the first three, which become channels of the
            prompt generator.
        source: the file, whose percentiles are kept for its next reader; None: they are not.
    """

    def __init__(
        self,
        raster: Raster,
        name: str,
        bands: bool = False,
        window: Window | None = None,
        nodata: float | None = None,
        channels: tuple[Window, ...] = (),
        source: ImageFile | None = None,
    ) -> None:
        self.raster, self.name, self.nodata = raster, name, nodata
        self.channels, self.source = channels, source
        self.shape = raster.shape
        self.bands, self.window, self._limits = bands, window, window

    def part(self, y: int, x: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read a region.

        Args:
            y: first row.
            x: first column.
            height: number of rows.
            width: number of columns.

        Returns:
            uint8 height x width x (3 + C): RGB, 0 where the image holds no data, and the C channels
            of the prompt generator, see `stretch_bands`; and where it holds data, bool height x
            width (None: everywhere).

        Raises:
            DataError: damaged, or a window for an 8-bit image.
        """
        region = (y, x, height, width)
        values, missing = self.raster.colors(region, self.nodata)
        deep = values.dtype != np.uint8
        bands, no_bands = values[..., 3:], None if missing is None else missing[..., 3:]
        values, missing = values[..., :3], None if missing is None else missing[..., :3]
        if self.window is not None and not deep and not self.bands:
            raise DataError(
                f"{self.name}: --data.window is for values of more than 8 bits. Leave it out."
            )
        if not deep:
            self._require_8_bits()
        if deep and self._limits is None:
            if region == (0, 0, *self.shape):
                self._limits = self._find_limits((values, missing))
                if self.source is not None:
                    _percentiles.put(self.source.path, self._source_key(), self._limits)
            elif self.source is not None:
                key = self._source_key()
                self._limits = _percentiles.get(self.source.path, key, self._find_limits)
            else:
                self._limits = self._find_limits()
        colors, valid = to_rgb(values, missing, self.name, self._limits)
        if self.channels:
            channels = stretch_bands(bands, no_bands, self.name, self.channels)
            colors = np.concatenate([colors, channels], axis=2)
        return colors, valid

    def _require_8_bits(self) -> None:
        """Refuse windows that no image of 8 bits can have; standardised ones may reach beyond."""
        beyond = [(low, high) for low, high in self.channels if low + high > 2 * 255]
        if self.window is not None and self.window[1] > 255:
            beyond.insert(0, self.window)
        if beyond:
            low, high = beyond[0]
            raise DataError(
                f"{self.name}: its values have 8 bits, but those of the data have more: {low:g} to "
                f"{high:g} become black to white. Give it with values as in the other images."
            )

    def _source_key(self) -> ImageFile:
        """What the percentiles depend on."""
        assert self.source is not None
        return replace(self.source, window=None, channels=(), channel_windows=())

    def _find_limits(self, whole: tuple[np.ndarray, np.ndarray | None] | None = None) -> Window:
        if whole is None:
            values, missing = self.sample((0, 0, *self.shape))
            values, missing = values[..., :3], None if missing is None else missing[..., :3]
        else:
            values = subsample(whole[0], self.shape)
            missing = None if whole[1] is None else subsample(whole[1], self.shape)
        return percentile_window(values, missing, self.name)

    def sample(self, region: Region) -> tuple[np.ndarray, np.ndarray | None]:
        """Read some rows and columns of a region, see `LIMIT_SIDE`, as stored.

        Args:
            region: a part of the image.

        Returns:
            See `Raster.colors`.
        """
        top, left, height, width = region
        down = max(1, height // LIMIT_SIDE)
        together = self.raster.rows_together if isinstance(self.raster, TiffImage) else 1
        apart = 1 < down >= together  # the rows between need not be decoded
        rows = 1 if apart else together * max(1, BLOCK // (width * together))
        samples, masks = [], []
        for end in range(rows, height + rows, rows):
            y = -(-(end - rows) // down) * down  # the first row that is used
            if y >= min(end, height):
                continue
            strip = (top + y, left, min(end, height) - y, width)
            values, missing = self.raster.colors(strip, self.nodata)
            samples.append(subsample(values, (height, width)))
            masks.append(None if missing is None else subsample(missing, (height, width)))
        missing = None if masks[0] is None else np.concatenate(cast(list, masks))
        return np.concatenate(samples), missing

    def whole(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Read the whole image, see `part`."""
        return self.part(0, 0, *self.shape)

    def close(self) -> None:
        """Close the file."""
        if isinstance(self.raster, TiffImage):
            self.raster.close()


def read_image(
    path: Path, bands: tuple[int, int, int] | None = None, window: Window | None = None
) -> np.ndarray:
    """Read an image.

    Grey becomes RGB, alpha is dropped, orientation is applied. Images of more than 8 bits are
    stretched (12-bit data in a 16-bit file would be nearly black otherwise), see `ImageReader`.

    Args:
        path: the file.
        bands: TIFF: the bands (from 1) to use as red, green and blue.
        window: values that map to 0 and 255; None: the 0.1 and 99.9 percentiles.

    Returns:
        uint8 H x W x 3 RGB.

    Raises:
        DataError: the file is missing, unreadable, truncated or too large.
    """
    return ImageFile(path, bands, window).read()


def read_bands(path: Path, nodata: float | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Read all bands of a TIFF as stored.

    Args:
        path: the file.
        nodata: stored value of pixels without data, in addition to the file's own.

    Returns:
        H x W x C of any dtype, and where they hold no data, bool H x W x C (None: nothing marks
        such pixels).

    Raises:
        DataError: not a TIFF, unreadable, or too large.
    """
    raster = open_raster(path, str(path), (1, 1, 1))
    assert isinstance(raster, TiffImage)
    with raster:
        region: Region = (0, 0, *raster.shape)
        values = raster.stored(region)
        return raster.all_bands(values, raster.missing(values, region, nodata))


def read_mask_file(source: Path | bytes, name: str | None = None) -> StoredMask:
    """Read a mask file as stored, see `StoredMask`. `autosam.data.infer_encoding` interprets it.

    Args:
        source: the file, or its content.
        name: for messages; None: the path.

    Raises:
        DataError: the file is unreadable, or in a colour space that no mask has (CMYK, CIELab).
    """
    raster = open_raster(source, name or str(source))
    try:
        return raster.mask()
    finally:
        if isinstance(raster, TiffImage):
            raster.close()


def read_mask(path: Path, grey: bool = False) -> np.ndarray:
    """Read the stored values of a mask. Palette images give their indices.

    Args:
        path: the file.
        grey: convert colours to grey. Otherwise the channels must be equal.

    Returns:
        uint8 or uint16 H x W.

    Raises:
        DataError: the file is unreadable, or holds colours.
    """
    stored = read_mask_file(path)
    return grey_of(stored, path) if grey else values_of(stored, path)


def grey_of(stored: StoredMask, name: Path | str) -> np.ndarray:
    """Convert a mask's colours to grey, uint8 or uint16 H x W. `name` is for messages."""
    values = stored.values if stored.palette is None else stored.palette[stored.values]
    if values.ndim == 3 and values.dtype == np.uint8:
        return np.asarray(Image.fromarray(values).convert("L"))
    return values_of(StoredMask(values), name)


def values_of(stored: StoredMask, name: Path | str) -> np.ndarray:
    """The values of a mask, uint8 or uint16 H x W. `name` is for messages.

    Raises:
        DataError: colours, or values that are not whole numbers from 0 to 65535.
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
    """Write a PNG file.

    Args:
        path: the file.
        pixels: uint8 or uint16 H x W (grey), or uint8 H x W x 3 (RGB).

    Raises:
        StorageError: the file cannot be written.
    """
    write_atomically(path, lambda to: Image.fromarray(pixels).save(to, "PNG"), lasting=False)


def _reader_version(content: bytes) -> str:
    """A version suffix for formats whose pixel values changed since embeddings were first cached:
    TIFF and 16-bit PNG."""
    deep = content[1:4] == b"PNG" and content[24:25] == b"\x10"
    return " read 2" if deep or content[:4] in MAGIC else ""


def digest(path: Path, how: str = "") -> str:
    """SHA-256 of a file's content and of the settings it is read with.

    Args:
        path: the file.
        how: the settings.

    Raises:
        DataError: the file cannot be read.
    """
    require_file(path)
    return digest_once(path, how, lambda: _digest(path, how))


def _digest(path: Path, how: str) -> str:
    """See `digest`, which reads the file once until it changes."""
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            first = file.read(CHUNK)
            part = first
            while part:
                found.update(part)
                part = file.read(CHUNK)
        if first[:4] in MAGIC and (value := sidecar_nodata(path)) is not None:
            how += f" nodata {value}"
        found.update((how + _reader_version(first)).encode())
        return found.hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Replace or remove it."
        ) from None


@dataclass(frozen=True)
class ImageFile:
    """An image file, see `read_image`; implements `Pixels`."""

    path: Path
    bands: tuple[int, int, int] | None = None
    window: Window | None = None
    nodata: float | None = None
    """Stored value of pixels without data, in addition to the file's own."""
    channels: tuple[int, ...] = ()
    """TIFF: the C bands (from 1) that the prompt generator reads; none: the RGB image."""
    channel_windows: tuple[Window, ...] = ()
    """Values of each that map to 0 and 255. None: they are not read."""

    def open(self, limit: bool = True) -> ImageReader:
        """Open the file to read regions. `limit`: refuse TIFFs larger than `MAX_PIXELS`."""
        bands: tuple[int, ...] | None = self.bands
        if bands is not None and self.channel_windows:
            bands = (*bands, *self.channels)
        raster = open_raster(self.path, str(self.path), bands, limit)
        return ImageReader(
            raster,
            str(self.path),
            bands is not None,
            self.window,
            self.nodata,
            self.channel_windows,
            self,
        )

    def sample(
        self, bands: tuple[int, ...] | None, region: Region | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Read some rows and columns as stored, see `LIMIT_SIDE`.

        Args:
            bands: TIFF: the C bands to read; None: grey (C 1) or red, green and blue.
            region: a part of the image; None: all of it.

        Returns:
            h x w x C of any dtype, and where they hold no data, bool h x w x C, or None.
        """
        raster = open_raster(self.path, str(self.path), bands, limit=False)
        reader = ImageReader(raster, str(self.path), nodata=self.nodata)
        try:
            return reader.sample(region or (0, 0, *raster.shape))
        finally:
            reader.close()

    def read_valid(self) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 H x W x (3 + C), and where it holds data, bool H x W (None: everywhere), see
        `ImageReader.part`."""
        reader = self.open()
        try:
            return reader.whole()
        finally:
            reader.close()

    @property
    def shape(self) -> tuple[int, int]:
        """H, W. Pixels are not decoded."""
        return image_size(self.path)

    def read_part(self, region: Region) -> tuple[np.ndarray, np.ndarray | None]:
        """A region of what `read_valid` returns. Of a TIFF of any size, nothing else is decoded."""
        reader = self.open(limit=False)
        try:
            if isinstance(reader.raster, TiffImage):
                return reader.part(*region)
            image, valid = reader.whole()
            return cut(image, region), None if valid is None else cut(valid, region)
        finally:
            reader.close()

    def read(self) -> np.ndarray:
        """uint8 H x W x 3 RGB."""
        return replace(self, channel_windows=()).read_valid()[0]

    def digest(self) -> str:
        """Hash of the file, the settings of its RGB image, and the version of its reader."""
        with_nodata = f" {self.nodata}" if self.nodata is not None else ""
        settings = self.bands or self.window or with_nodata
        how = f"{self.bands} {self.window}{with_nodata}" if settings else ""
        return digest(self.path, how)

    def stamp(self) -> Hashable:
        """See `stamp_of`."""
        settings = (self.bands, self.window, self.nodata, self.channels, self.channel_windows)
        return (own := stamp(self.path)) and (own, settings)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class MaskFile:
    """A mask file, see `read_mask`; implements `Pixels`."""

    path: Path

    def read(self) -> np.ndarray:
        return read_mask(self.path)

    def stored(self) -> StoredMask:
        return read_mask_file(self.path)

    def digest(self) -> str:
        return digest(self.path)

    def stamp(self) -> Hashable:
        """See `stamp_of`."""
        return stamp(self.path)

    def __str__(self) -> str:
        return str(self.path)
