"""Interpret stored DICOM values by their tags: bits, palettes, padding."""

from __future__ import annotations

from typing import Any

import numpy as np


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
