"""Interpret stored DICOM values by their tags: bits, palettes, padding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from autosam.data.images import Window
from autosam.data.readers.raster import equals
from autosam.data.readers.stretch import percentile_window


def used_bits(stored: np.ndarray, data: Any) -> np.ndarray:
    """Values without the unused bits around them, where old files store overlays.

    Args:
        stored: H x W.
        data: the `pydicom.Dataset`.
    """
    if stored.dtype.kind == "f":
        return stored
    allocated, used = int(data.BitsAllocated), int(data.BitsStored)
    high = int(data.get("HighBit", used - 1))
    if stored.dtype.itemsize * 8 != allocated or used == allocated:
        return stored
    return (stored << (allocated - 1 - high)) >> (allocated - used)


def max_palette_value(data: Any) -> int:
    """The largest value in the palette; 65535 if the palette is segmented."""
    names = [f"{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")]
    tables = [np.frombuffer(data[name].value, "<u2") for name in names if data.get(name)]
    return max((int(table.max()) for table in tables), default=2**16 - 1)


def padding_mask(stored: np.ndarray, data: Any) -> np.ndarray | None:
    """Where pixels are padding (outside of the scanned area), bool H x W; None: nowhere."""
    value = data.get("PixelPaddingValue")
    if value is None:
        return None
    other = data.get("PixelPaddingRangeLimit")
    ends = [value, value if other is None else other]
    if stored.dtype.kind == "i":  # the padding value is often written unsigned
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
    padded = (stored >= min(ends)) & (stored <= max(ends))
    return padded if padded.any() else None


def missing_pixels(
    values: np.ndarray, padded: np.ndarray | None, nodata: float | None = None
) -> np.ndarray | None:
    """Where values are padding, NaN or `nodata`: bool of the same shape; None: nowhere."""
    missing = np.zeros(values.shape, bool) if padded is None else padded
    if nodata is not None:
        missing = missing | equals(values, nodata)
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
    return missing if missing.any() else None


def shared_window(images: Iterable[tuple[np.ndarray, np.ndarray | None]], name: str) -> Window:
    """The 0.1 and 99.9 percentiles of several grey images together, where they hold data.

    Raises:
        DataError: see `percentile_window`.
    """
    known = [values.ravel() if missing is None else values[~missing] for values, missing in images]
    return percentile_window(np.concatenate(known), None, name)
