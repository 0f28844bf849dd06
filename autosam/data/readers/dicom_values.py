"""What DICOM's stored values mean by the tags beside them: bits, palettes, padding."""

from __future__ import annotations

from typing import Any

import numpy as np


def used_bits(stored: np.ndarray, data: Any) -> np.ndarray:
    """Values without what lies in the bits beside them (overlays of old files)."""
    if stored.dtype.kind == "f":
        return stored
    allocated, used = int(data.BitsAllocated), int(data.BitsStored)
    high = int(data.get("HighBit", used - 1))
    if stored.dtype.itemsize * 8 != allocated or used == allocated:
        return stored
    return (stored << (allocated - 1 - high)) >> (allocated - used)


def highest_color(data: Any) -> int:
    """Of the values in a palette; without them (they come in segments) the highest there is."""
    names = [f"{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")]
    tables = [np.frombuffer(data[name].value, "<u2") for name in names if data.get(name)]
    return max((int(table.max()) for table in tables), default=2**16 - 1)


def padding_of(stored: np.ndarray, data: Any) -> np.ndarray | None:
    """bool H x W: pixels outside of what was imaged; None: there are none."""
    value = data.get("PixelPaddingValue")
    if value is None:
        return None
    other = data.get("PixelPaddingRangeLimit")
    ends = [value, value if other is None else other]
    if stored.dtype.kind == "i":  # often written without its sign
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
    padded = (stored >= min(ends)) & (stored <= max(ends))
    return padded if padded.any() else None
