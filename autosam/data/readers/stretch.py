"""Linear stretches of pixel values: more than 8 bits to 8, and channels to their full range."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autosam.errors import DataError

Window = tuple[float, float]
"""Stored values that map to 0 and 255; values outside are clipped."""
CHUNK = 2**20
"""Values that are converted at a time."""
LIMIT_SIDE = 1024
"""Percentiles use every n-th row and column of images with at least twice as many."""
FILLS = (-9999.0, -99999.0, -32768.0, -32767.0, 1e20, -1e30, 9.96921e36, 3.4028235e38,
         -3.4028235e38, -1.7976931348623157e308)  # fmt: skip
"""Usual fill values for pixels without data."""


def subsample(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Copy every n-th row and column of a region, see `LIMIT_SIDE`.

    Args:
        values: h x w x ..., from a row that is a multiple of n.
        shape: H, W of the image.
    """
    down, across = (max(1, side // LIMIT_SIDE) for side in shape)
    return values[::down, ::across].copy()  # a view would keep the whole region in memory


def percentile_window(values: np.ndarray, missing: np.ndarray | None, name: Path | str) -> Window:
    """The 0.1 and 99.9 percentiles of the values that are not missing.

    Args:
        values: numbers of any type and shape.
        missing: bool of the same shape, or None.
        name: for messages.

    Raises:
        DataError: NaN or infinite values, only missing values, or an undeclared fill value.
    """
    known = values.ravel() if missing is None else values[~missing]
    require_finite(known, name)
    if not known.size:
        raise DataError(f"{name}: no pixel holds data. Remove it.")
    if fill := _fill_value(known):
        value, count = fill
        raise DataError(
            f"{name}: {count} values are {value:g}, far from all others: probably a fill value for "
            f"pixels without data. Set --data.nodata {value:g}; if they are data, --data.window."
        )
    low, high = np.percentile(known, (0.1, 99.9))
    return float(low), float(high)


def require_finite(known: np.ndarray, name: Path | str) -> None:
    """
    Raises:
        DataError: a value is NaN or infinite.
    """
    if known.dtype.kind == "f" and not np.isfinite(known).all():
        raise DataError(f"{name}: holds NaN or infinite pixels. Fix or remove it.")


def _fill_value(known: np.ndarray) -> tuple[float, int] | None:
    """A value that probably marks pixels without data, and how often it occurs; None without."""
    low, high = known.min(), known.max()
    if known.dtype == np.uint16:
        if high < 65535:
            return None
        rest = known[known < 65535]
        count = known.size - rest.size
        few = count <= known.size / 1000 or not rest.size  # saturated pixels, or all of them
        return None if few or rest.max() >= 32768 or rest.max() == 0 else (65535.0, count)
    if known.dtype.kind == "u":
        return None
    for edge in (low, high):
        if not np.isclose(float(edge), FILLS, rtol=1e-6, atol=0).any():
            continue
        rest = known[known != edge]
        if not rest.size:
            continue
        bottom, top = float(rest.min()), float(rest.max())
        gap = bottom - float(edge) if edge == low else float(edge) - top
        if gap > top - bottom:
            return float(edge), known.size - rest.size
    return None


def stretch(
    values: np.ndarray,
    name: Path | str,
    window: Window | None = None,
    missing: np.ndarray | None = None,
) -> np.ndarray:
    """Convert values linearly to uint8.

    Args:
        values: numbers of any type and shape.
        name: for messages.
        window: values that map to 0 and 255; None: the 0.1 and 99.9 percentiles.
        missing: bool of the same shape, or None. Missing values become 0.

    Raises:
        DataError: see `percentile_window`.
    """
    if values.dtype.kind == "f":
        require_finite(values if missing is None else values[~missing], name)
    low, high = window or percentile_window(values, missing, name)
    result = np.empty(values.shape, np.uint8)
    rows = max(1, CHUNK // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        numbers = values[part].astype(np.float64)
        if missing is not None:
            numbers = np.where(missing[part], low, numbers)
        numbers = np.clip((numbers - low) / max(high - low, 1e-9) * 255, 0, 255)
        result[part] = numbers.round()
    return result


def stretch_bands(
    values: np.ndarray, missing: np.ndarray | None, name: Path | str, windows: Sequence[Window]
) -> np.ndarray:
    """Convert bands linearly to uint8, each by its own window.

    Args:
        values: h x w x C, numbers of any type.
        missing: bool h x w x C, or None. Missing values become 128, the middle of the window.
        name: for messages.
        windows: C of them.

    Raises:
        DataError: NaN or infinite values.
    """
    bands = []
    for band, window in enumerate(windows):
        hidden = None if missing is None else missing[..., band]
        found = stretch(values[..., band], name, window, hidden)
        bands.append(found if hidden is None else np.where(hidden, np.uint8(128), found))
    return np.stack(bands, axis=2)


def standard_window(values: np.ndarray) -> Window:
    """The mean of values, plus and minus three of their standard deviations. Values beyond the 0.1
    and 99.9 percentiles count as these.

    Args:
        values: numbers, at least one.
    """
    known = np.asarray(values, np.float64)
    known = known.clip(*np.percentile(known, (0.1, 99.9)))
    reach = max(3 * float(known.std()), 1e-6)
    return float(known.mean()) - reach, float(known.mean()) + reach


def stretch_channels(image: np.ndarray) -> np.ndarray:
    """Stretch each channel of an image to 0..255 by its own minimum and maximum, with the rounding
    of micro-sam (Archit et al. 2025, doi 10.1038/s41592-024-02580-4).

    Args:
        image: uint8 H x W x 3.

    Returns:
        uint8 H x W x 3; a channel of one value becomes 0.
    """
    lifted = image.astype(np.float32) - image.min((0, 1))
    return (lifted / (lifted.max((0, 1)) + np.float32(1e-7)) * 255).astype(np.uint8)


def to_rgb(
    values: np.ndarray, missing: np.ndarray | None, name: Path | str, window: Window | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert an image or a region of it to RGB.

    Args:
        values: h x w x C, C 1 or 3: uint8, or other numbers to stretch.
        missing: bool h x w x C, or None.
        name: for messages.
        window: see `stretch`; None: values are uint8 and stay as they are.

    Returns:
        uint8 h x w x 3 RGB, and where the image holds data, bool h x w (None: everywhere). A pixel
        holds data if any of its channels does.
    """
    if window is not None:
        values = stretch(values, name, window, missing)
    valid: np.ndarray | None = None
    if missing is not None:
        hidden = np.asarray(missing.all(axis=2))
        valid = ~hidden if hidden.any() else None
    if values.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)
    if valid is not None:
        values = np.where(valid[..., None], values, 0)
    return np.array(values, np.uint8, order="C"), valid
