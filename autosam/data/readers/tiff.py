"""Read TIFFs, as a whole or by region, with tifffile.

All tags are applied here: page selection, orientation, planar configuration, MinIsWhite, palette,
inks, CIELab, alpha channel, nodata.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from autosam.data.readers import colors
from autosam.data.readers.codestreams import READ
from autosam.data.readers.raster import (
    StoredMask,
    equals,
    orient,
    orientation_steps,
    refuse_large,
    stored_region,
)
from autosam.data.readers.sidecars import sidecar_nodata
from autosam.data.readers.tiff_pages import image_pages
from autosam.data.readers.tiff_segments import read_stored
from autosam.errors import DataError
from autosam.types import Region

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF files."""
MIN_IS_WHITE, GREY, RGB, PALETTE, INKS, YCBCR, LAB, ICC_LAB = 0, 1, 2, 3, 5, 6, 8, 9
"""Supported photometric interpretations."""
COLORS = {MIN_IS_WHITE: 1, GREY: 1, RGB: 3, PALETTE: 1, INKS: 4, YCBCR: 3, LAB: 3, ICC_LAB: 3}
"""Number of colour samples per pixel; further samples are alpha or other data."""
LOSSY = (6, 7, 34892)
"""Lossy compressions: JPEG, old and new, and DNG."""
OPACITY = (1, 2)
"""ExtraSamples values for alpha: premultiplied and straight."""

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors are raised by this module


class TiffImage:
    """The single image of a TIFF; see `Raster`. Close it, or use it as a context manager.

    Args:
        source: the file, or its content.
        name: for messages.
        bands: numbers, from 1, of the bands (or pages of a stack) to use as red, green and blue.
        limit: whether to refuse images larger than `MAX_PIXELS`.

    Raises:
        DataError: not a TIFF, damaged, too large, several images, or an unsupported variant.
    """

    def __init__(
        self,
        source: Path | bytes,
        name: str,
        bands: tuple[int, ...] | None = None,
        limit: bool = True,
    ) -> None:
        self.name, self.bands, self.source = name, bands, source
        try:
            self.file = tifffile.TiffFile(
                io.BytesIO(source) if isinstance(source, bytes) else source
            )
            try:
                self.pages, self.mask_page = image_pages(self.file, name, bands is not None)
                self._read_tags(limit)
            except BaseException:
                self.file.close()
                raise
        except DataError:
            raise
        except Exception as error:  # several types, from tifffile and its codecs
            raise self._unreadable(error) from None

    def _read_tags(self, limit: bool) -> None:
        page = self.pages[0]
        shaped = page.shaped
        if not all(isinstance(side, int) for side in shaped):
            raise ValueError("sizes that are not numbers")
        height, width = shaped[2], shaped[3]
        self.samples = shaped[0] * shaped[4] * len(self.pages)
        if limit:
            refuse_large(self.name, width, height, self.samples)
        if shaped[1] != 1:
            raise self._refusal(f"{shaped[1]} layers in depth", "Save each as a file")
        if page.dtype is None or page.dtype.kind not in "uifb":
            raise self._refusal(f"pixels of type {page.dtype}", "Save it as integers or floats")
        if 0 in shaped:
            raise ValueError("no pixels")
        self.steps = orientation_steps(getattr(page.tags.get(274), "value", 1))
        self.shape = (width, height) if self.steps[0] else (height, width)
        if isinstance(page.bitspersample, tuple):
            raise self._refusal(
                f"{page.bitspersample} bits", "Save it with the same number of bits for each"
            )
        self.bits = int(page.bitspersample)
        self.photometric = int(page.photometric)
        if self.photometric not in COLORS:
            raise self._refusal(
                f"photometric interpretation {getattr(page.photometric, 'name', page.photometric)}",
                "Save it as RGB or grey",
            )
        if self.photometric == YCBCR and page.compression in (6, 7, 33007, 34892):
            self.photometric = RGB  # the decoder has converted it
        if page.compression not in READ:
            name = getattr(page.compression, "name", page.compression)
            raise self._refusal(f"compression {name}", "Save it with LZW or Deflate")
        self.nodata = _nodata(page)
        if self.nodata is None and isinstance(self.source, Path):
            self.nodata = sidecar_nodata(self.source)

    def _unreadable(self, error: Exception) -> DataError:
        kind = "an image" if self.bands is None else "a TIFF"
        return DataError(
            f"{self.name}: cannot be read as {kind} ({str(error)[:120]}). The file may be "
            "truncated or of another kind; replace or remove it."
        )

    def _refusal(self, found: str, remedy: str) -> DataError:
        return DataError(f"{self.name}: a TIFF with {found}, which is not read. {remedy}.")

    def __enter__(self) -> TiffImage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert errors of damaged data and tags to `DataError`."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            raise self._unreadable(error) from None

    def stored(self, region: Region) -> np.ndarray:
        """Read stored values, h x w x samples, with the orientation applied."""
        where = stored_region(region, self.shape, self.steps)
        with self._errors():
            parts = [read_stored(page, where) for page in self.pages]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        return orient(values, self.steps)

    def missing(
        self, values: np.ndarray, region: Region, nodata: float | None
    ) -> np.ndarray | None:
        """Where stored values are no data.

        Args:
            values: h x w x samples, as stored.
            region: their region.
            nodata: stored value of pixels without data, in addition to the file's own.

        Returns:
            bool h x w x samples; None if nothing marks pixels as missing.
        """
        found = [equals(values, value) for value in (self.nodata, nodata) if value is not None]
        if values.dtype.kind == "f":
            found.append(np.isnan(values))
        if self.mask_page is not None:
            where = stored_region(region, self.shape, self.steps)
            with self._errors():
                hidden = orient(read_stored(self.mask_page, where), self.steps) == 0
            found.append(np.broadcast_to(hidden[..., :1], values.shape))
        return np.logical_or.reduce(found) if found else None

    def colors(self, region: Region, nodata: float | None) -> tuple[np.ndarray, np.ndarray | None]:
        with self._errors():
            return self._colors(region, nodata)

    def _colors(self, region: Region, nodata: float | None) -> tuple[np.ndarray, np.ndarray | None]:
        values = self.stored(region)
        missing = self.missing(values, region, nodata)
        if self.bands is not None:
            return self._bands(values, missing)
        count, total = self._count(), values.shape[2]
        extra = [int(kind) for kind in self.pages[0].extrasamples]
        if not count:
            raise DataError(
                f"{self.name}: has {total} bands, but does not define which are red, green and "
                f"blue. Set --data.bands, for example [1,{min(2, total)},{min(3, total)}]."
            )
        shown = self._to_display(values[..., :count])
        if 1 in extra and self.photometric in (GREY, MIN_IS_WHITE, RGB):
            alpha = values[..., total - len(extra) + extra.index(1)]
            shown = colors.unpremultiply(shown, self._full(alpha), self._top(shown))
        if missing is not None:
            missing = missing[..., :count]
            if missing.shape[2] != shown.shape[2]:
                missing = np.repeat(missing.all(2, keepdims=True), shown.shape[2], axis=2)
        return shown, missing

    def _count(self) -> int:
        """Number of colour samples, which come first; 0 if the tags do not define it."""
        count = COLORS[self.photometric]
        if self.photometric in (GREY, MIN_IS_WHITE):
            extra = [int(kind) for kind in self.pages[0].extrasamples]
            opaque = [i for i, kind in enumerate(extra) if kind in OPACITY]
            plain = self.samples - len(opaque)
            last = opaque == list(range(len(extra) - len(opaque), len(extra)))
            if plain == 3 and last and self.photometric == GREY:
                return 3  # as GDAL writes RGB of more than 8 bits
            return 1 if plain == 1 and last else 0
        return count if self.samples >= count else 0

    def _top(self, values: np.ndarray) -> float:
        if values.dtype.kind == "f":
            return 1.0
        return 255.0 if self.bits <= 8 else float(2**self.bits - 1)

    def _full(self, values: np.ndarray) -> np.ndarray:
        """Scale values of fewer than 8 bits to 8."""
        return colors.scale_to_8_bits(values, self.bits) if self.bits < 8 else values

    def _to_display(self, values: np.ndarray) -> np.ndarray:
        """Convert stored colours h x w x C to grey or RGB, h x w x 1 or 3."""
        if self.photometric == PALETTE:
            return self.palette[np.minimum(values[..., 0], len(self.palette) - 1)]
        if self.photometric in (GREY, MIN_IS_WHITE, RGB):
            if self.photometric == MIN_IS_WHITE:
                values = colors.invert(values, self.bits)
            return self._full(values)
        if values.dtype not in (np.uint8, np.uint16) or self.bits not in (8, 16):
            raise self._refusal(f"{self.bits}-bit {values.dtype} inks or CIELab", "Save it as RGB")
        if self.photometric == INKS:
            if getattr(self.pages[0].tags.get(332), "value", 1) != 1 or values.shape[2] != 4:
                raise self._refusal("inks other than CMYK", "Save it as RGB, or set --data.bands")
            return colors.cmyk_to_rgb(values)
        if self.photometric == YCBCR:
            if values.dtype != np.uint8:
                raise self._refusal("YCbCr of 16 bits", "Save it as RGB")
            return colors.ycbcr_to_rgb(values)
        return colors.lab_to_rgb(np.ascontiguousarray(values), self.photometric == LAB)

    def _bands(
        self, values: np.ndarray, missing: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        assert self.bands is not None
        values, missing = self.all_bands(values, missing)
        if max(self.bands) > values.shape[2] or min(self.bands) < 1:
            raise DataError(
                f"{self.name}: has {values.shape[2]} bands, but --data.bands or "
                f"--data.generator_bands asks for {max(self.bands)}: choose from 1 to "
                f"{values.shape[2]}."
            )
        chosen = [band - 1 for band in self.bands]
        return values[..., chosen], None if missing is None else missing[..., chosen]

    def all_bands(
        self, values: np.ndarray, missing: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The samples as bands. Palette, YCbCr and CIELab are converted to red, green and blue;
        MinIsWhite is inverted.

        Args:
            values: h x w x samples, as stored.
            missing: bool of the same shape, or None.

        Returns:
            h x w x bands, and bool h x w x bands, or None.
        """
        if self.photometric in (GREY, RGB, INKS):
            return self._full(values), missing
        count = COLORS[self.photometric]
        shown, rest = self._to_display(values[..., :count]), self._full(values[..., count:])
        if missing is not None:
            first = missing[..., :count]
            if shown.shape[2] != count:
                first = np.repeat(first.all(2, keepdims=True), shown.shape[2], axis=2)
            missing = np.concatenate([first, missing[..., count:]], axis=2)
        return np.concatenate([shown, rest.astype(shown.dtype)], axis=2), missing

    @property
    def palette(self) -> np.ndarray:
        """uint8 N x 3."""
        table = self.pages[0].colormap
        if table is None:
            raise self._refusal("a missing palette", "Save it as RGB")
        if table.dtype == np.uint8 or table.max(initial=0) < 256:
            return np.ascontiguousarray(table.T.astype(np.uint8))
        return np.ascontiguousarray((table >> 8).T.astype(np.uint8))

    @property
    def rows_together(self) -> int:
        """Number of rows that are best decoded together."""
        page = self.pages[0]
        if self.steps[0]:  # they are stored as columns
            return int(page.tilewidth) if page.is_tiled else min(self.shape[0], 1024)
        if page.is_tiled:
            return int(page.tilelength)
        return 1 if page.is_memmappable else int(page.rowsperstrip)

    def mask(self, region: Region | None = None) -> StoredMask:
        """See `Raster.mask`. `region`: what to read; None: the whole image."""
        with self._errors():
            return self._mask(region or (0, 0, *self.shape))

    def _mask(self, region: Region) -> StoredMask:
        stored = self.stored(region)
        declared = self.nodata
        if declared == 0:  # in a mask, 0 is the background
            self.nodata = None
        missing = self.missing(stored, region, None)
        self.nodata = declared
        extra = [int(kind) for kind in self.pages[0].extrasamples]
        if self.photometric not in (MIN_IS_WHITE, GREY, RGB, PALETTE):
            raise DataError(
                f"{self.name}: a TIFF in {self.pages[0].photometric.name} is not a mask; save it "
                "as 8-bit grey."
            )
        count = self._count()
        if not count:
            raise DataError(
                f"{self.name}: {self.samples} bands are not a mask; save it as 8-bit grey."
            )
        values = stored[..., :count]
        if self.photometric == MIN_IS_WHITE:
            values = colors.invert(values, self.bits)
        if self.bits == 1:
            values = values.astype(np.uint8) * 255
        first = stored.shape[2] - len(extra)
        opaque = [first + i for i, kind in enumerate(extra) if kind in OPACITY]
        if self.photometric == RGB and not opaque and stored.shape[2] == 4:
            opaque = [3]  # several programs omit the ExtraSamples tag
        alpha = stored[..., opaque[0]] if opaque else None
        if count == 1 or (values == values[..., :1]).all():
            values = values[..., 0]
        hidden = None
        if missing is not None:
            hidden = np.asarray(missing[..., :count].all(2))
        palette = self.palette if self.photometric == PALETTE else None
        lossy = int(self.pages[0].compression) in LOSSY
        nodata = declared or math.nan
        min_is_white = self.photometric == MIN_IS_WHITE
        return StoredMask(values, palette, alpha, hidden, lossy, nodata, min_is_white)


def _nodata(page: Any) -> float | None:
    """The nodata value in GDAL's tag."""
    text = getattr(page.tags.get(42113), "value", None)
    if text is None:
        return None
    try:
        return float(str(text).strip("\0 ").replace(",", "."))
    except ValueError:
        return None
