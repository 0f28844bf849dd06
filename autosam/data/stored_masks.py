"""Load a mask file as stored, and reduce it to one channel: values, palette or opacity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autosam.data.pairs import Pixels
from autosam.data.readers.raster import StoredMask
from autosam.errors import DataError

BLACK = 16
"""Colours whose red, green and blue are at most this count as black."""
OBJECTS = " Background is 0 and each object has a number of its own, from 1 on."
ONE_CHANNEL = "Save it as one channel of 16 or 32 bits, as PNG or TIFF."
REMEDY = "Save it as one channel whose values are the classes (0 background, 1 to K), or 0 and 255."


def load_stored_mask(mask: Pixels) -> StoredMask:
    """Load a mask as its file stores it. Masks without a method `stored` have only the values
    that `read` returns.

    Raises:
        DataError: the file is unreadable.
    """
    method = getattr(mask, "stored", None)
    if method is None:
        return StoredMask(mask.read())
    stored: StoredMask = method()
    if stored.values.dtype == np.int32:  # int32 is kept for bitmasks
        stored = replace(stored, values=stored.values.astype(np.int64))
    if stored.missing is None:
        return stored
    missing = stored.missing if stored.values.ndim == 2 else stored.missing[..., None]
    zero = np.array(0, stored.values.dtype)
    return replace(stored, values=np.where(missing, zero, stored.values))


def single_channel(
    stored: StoredMask, name: str, binary: bool, wide: bool = False
) -> tuple[np.ndarray, str, int | None]:
    """Reduce a mask to the channel that encodes the classes.

    Args:
        stored: the mask.
        name: for messages.
        binary: whether there is one class, which the alpha channel alone may encode.
        wide: whether values above 65535 are accepted (object numbers).

    Returns:
        values: uint8 or uint16 H x W; uint32 where a value is above 65535.
        source: "alpha" for opacity, "palette" or "transparent" for a palette with a transparent
            index, else "".
        level: the opacity, if colour and opacity are both constant; else None.

    Raises:
        DataError: several colours, values that are not whole or out of range, or colour and
            alpha channel with different shapes.
    """
    values, alpha = stored.values, stored.alpha
    if alpha is not None and np.ptp(alpha) > 0 and _one_color(values, alpha > 0):
        if not binary:
            raise DataError(
                f"{name}: its shape is in the alpha channel, which can encode one class only. "
                f"{REMEDY}"
            )
        return _whole(alpha, name, wide), "alpha", None
    if values.ndim == 3 and stored.lossy and np.ptp(values, axis=2).max() <= BLACK:
        values = values[..., 1]  # grey, with rounding differences between channels
    if values.ndim == 3:
        colors = np.unique(values.reshape(-1, 3), axis=0)
        shown = ", ".join("#" + "".join(f"{v:02x}" for v in color) for color in colors[:4])
        more = ", ..." if len(colors) > 4 else ""
        raise DataError(
            f"{name}: a mask in colour ({len(colors)} colours: {shown}{more}). "
            f"{ONE_CHANNEL + OBJECTS if wide else REMEDY}"
        )
    values = _whole(values, name, wide)
    if alpha is None:
        return values, "", None
    constant = np.ptp(values) == 0
    if np.ptp(alpha) == 0 and constant:
        return values, "", int(alpha.flat[0])
    transparent = alpha == 0
    if stored.palette is None and (values[transparent] != 0).any():
        raise DataError(
            f"{name}: values other than 0 where it is transparent: colour and alpha channel have "
            f"different shapes. {REMEDY} Save it without the alpha channel."
        )
    if stored.palette is not None and transparent.any():
        index = values[transparent][0]
        if not np.array_equal(values == index, transparent) or (index != 0 and not binary):
            raise DataError(
                f"{name}: index {index} of its palette is transparent, but background is 0. "
                f"{REMEDY}"
            )
        if index != 0:
            return np.where(transparent, 0, 255).astype(np.uint8), "palette", None
        return values, "transparent", None
    return values, "", None


def _one_color(values: np.ndarray, visible: np.ndarray) -> bool:
    """Whether all visible pixels have one colour, and the others the same colour or black.

    False for grey values that have the same shape as the alpha channel.

    Args:
        values: H x W or H x W x C.
        visible: bool H x W.
    """
    colors = values.reshape(*values.shape[:2], -1)
    inside, outside = colors[visible], colors[~visible]
    if not len(inside) or (inside != inside[0]).any():
        return False
    same = not (outside != inside[0]).any()
    return same or (values.ndim == 3 and not outside.any())


def _whole(values: np.ndarray, name: str, wide: bool) -> np.ndarray:
    """Convert to uint8, or to uint16 if a value is above 255, or with `wide` to uint32 if one is
    above 65535.

    Raises:
        DataError: not H x W, or values that are not whole numbers in the range.
    """
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    most = 2**32 - 1 if wide else 2**16 - 1
    numbers = values.ndim == 2 and values.dtype.kind in "uif" and values.size > 0
    if numbers and values.dtype.kind == "f":
        numbers = bool(np.isfinite(values).all()) and not (values % 1).any()
    if not numbers or values.min() < 0 or values.max() > most:
        hint = ""
        if numbers and not wide and values.min() >= 0:
            hint = " If its values number objects: --data.instances true."
        least = f" (its smallest is {values.min()})" if numbers and values.min() < 0 else ""
        raise DataError(
            f"{name}: {values.dtype} of shape {values.shape} is not a mask of whole numbers from 0 "
            f"to {most}{least}; save it as {'32-bit' if wide else '8-bit'} grey."
            f"{hint or OBJECTS * wide}"
        )
    types = (np.uint8, np.uint16, np.uint32)
    return values.astype(next(t for t in types if values.max() <= np.iinfo(t).max))


def binary_of_palette(
    indices: np.ndarray, palette: np.ndarray, ignore: int | None, name: str
) -> tuple[np.ndarray, str]:
    """Convert the palette indices of a one-class mask to values with background 0.

    A palette of greys gives grey values. In a palette of colours black is background, whatever its
    index: many programs sort palettes by frequency.

    Args:
        indices: uint8 H x W.
        palette: uint8 N x 3.
        ignore: index of unlabelled pixels.
        name: for messages.

    Returns:
        values: uint8 H x W.
        source: "palette" if the values are not the indices, else "".

    Raises:
        DataError: no colour is black, two indices have one colour, or an index is out of range.
    """
    used = [i for i in np.unique(indices).tolist() if i != ignore]
    if used and used[-1] >= len(palette):
        raise DataError(
            f"{name}: index {used[-1]}, but its palette has {len(palette)} colours. {REMEDY}"
        )
    colors = palette[used].astype(int)
    if len(np.unique(colors, axis=0)) < len(used):
        raise DataError(f"{name}: several indices of its palette have one colour. {REMEDY}")
    lookup = np.arange(256, dtype=np.uint8)
    if (colors == colors[:, :1]).all():
        if ignore is not None and ignore in colors[:, 0].tolist() and (colors[:, 0] != used).any():
            raise DataError(
                f"{name}: {ignore} is both --data.ignore and a grey of its palette. {REMEDY}"
            )
        lookup[used] = colors[:, 0]
        return lookup[indices], "palette" if (colors[:, 0] != used).any() else ""
    black = [i for i, color in zip(used, colors, strict=True) if color.max() <= BLACK]
    if len(black) > 1 or (not black and (len(used) > 1 or used == [0])):
        shown = ", ".join(
            f"{i} is #{r:02x}{g:02x}{b:02x}"
            for i, (r, g, b) in list(zip(used, colors, strict=True))[:4]
        )
        raise DataError(
            f"{name}: not one colour of its palette is black (index {shown}), so that the "
            "background is ambiguous. Set the index of the foreground: --data.values INDEX."
        )
    if black in ([], [0]):
        return indices, ""
    lookup[used] = 255
    lookup[black] = 0
    return lookup[indices], "palette"
