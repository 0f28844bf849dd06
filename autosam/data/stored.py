"""A mask as its file holds it, and which of its numbers are meant: values, palette or opacity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autosam.data.pairs import Pixels
from autosam.data.readers.raster import StoredMask
from autosam.errors import DataError

DARK = 16
"""Colours whose red, green and blue are at most this are black."""
REMEDY = "Save it as one channel whose values are the classes (0 background, 1 to K), or 0 and 255."


def stored_of(mask: Pixels) -> StoredMask:
    """What a mask's file holds. A mask in a file of its own has the method `stored` for that; of
    others `read` gives the values.

    Raises:
        DataError: unreadable.
    """
    method = getattr(mask, "stored", None)
    if method is None:
        return StoredMask(mask.read())
    stored: StoredMask = method()
    if stored.values.dtype == np.int32:  # not a label of bits
        stored = replace(stored, values=stored.values.astype(np.int64))
    if stored.missing is None:
        return stored
    hole = stored.missing if stored.values.ndim == 2 else stored.missing[..., None]
    return replace(stored, values=np.where(hole, np.array(0, stored.values.dtype), stored.values))


def one_channel(stored: StoredMask, name: str, binary: bool) -> tuple[np.ndarray, str, int | None]:
    """The numbers that tell what a pixel is.

    Args:
        stored: the mask.
        name: for messages.
        binary: whether there is one class, which may be drawn by opacity alone.

    Returns:
        uint8 or uint16 H x W; "alpha" if they are opacity, else ""; and where colour and opacity
        are both constant, the opacity.

    Raises:
        DataError: colours, numbers that are not whole or out of range, a shape that colour and
            opacity draw differently.
    """
    values, alpha = stored.values, stored.alpha
    if alpha is not None and np.ptp(alpha) > 0 and _one_color(values, alpha > 0):
        if not binary:
            raise DataError(
                f"{name}: its shape is in the alpha channel, which tells one class from background "
                f"only. {REMEDY}"
            )
        return _whole(alpha, name), "alpha", None
    if values.ndim == 3 and stored.lossy and np.ptp(values, axis=2).max() <= DARK:
        values = values[..., 1]  # greys whose channels were rounded apart
    if values.ndim == 3:
        colors = np.unique(values.reshape(-1, 3), axis=0)
        shown = ", ".join("#" + "".join(f"{v:02x}" for v in color) for color in colors[:4])
        more = ", ..." if len(colors) > 4 else ""
        raise DataError(
            f"{name}: a mask in colour ({len(colors)} colours: {shown}{more}). {REMEDY}"
        )
    values = _whole(values, name)
    if alpha is None:
        return values, "", None
    constant = np.ptp(values) == 0
    if np.ptp(alpha) == 0 and constant:
        return values, "", int(alpha.flat[0])
    clear = alpha == 0
    if stored.palette is None and (values[clear] != 0).any():
        raise DataError(
            f"{name}: values other than 0 where it is transparent: colour and alpha channel draw "
            f"different shapes. {REMEDY} Leave the alpha channel out."
        )
    if stored.palette is not None and clear.any():
        index = values[clear][0]
        if not np.array_equal(values == index, clear) or (index != 0 and not binary):
            raise DataError(
                f"{name}: index {index} of its palette is transparent, but background is 0. "
                f"{REMEDY}"
            )
        if index != 0:
            return np.where(clear, 0, 255).astype(np.uint8), "palette", None
        return values, "transparent", None
    return values, "", None


def _one_color(values: np.ndarray, visible: np.ndarray) -> bool:
    """Whether all that is visible has one colour, and the rest the same or black; of grey values
    that draw the same shape as opacity does, no."""
    colors = values.reshape(*values.shape[:2], -1)
    inside, outside = colors[visible], colors[~visible]
    if not len(inside) or (inside != inside[0]).any():
        return False
    same = not (outside != inside[0]).any()
    return same or (values.ndim == 3 and not outside.any())


def _whole(values: np.ndarray, name: str) -> np.ndarray:
    """Any number type -> uint8, or uint16 where values are above 255."""
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    numbers = values.ndim == 2 and values.dtype.kind in "uif" and values.size > 0
    if numbers and values.dtype.kind == "f":
        numbers = bool(np.isfinite(values).all()) and not (values % 1).any()
    if not numbers or values.min() < 0 or values.max() >= 2**16:
        raise DataError(
            f"{name}: {values.dtype} of shape {values.shape} is not a mask of whole numbers from 0 "
            "to 65535; save it as 8-bit grey."
        )
    return values.astype(np.uint16 if values.max() > 255 else np.uint8)


def binary_of_palette(
    indices: np.ndarray, palette: np.ndarray, ignore: int | None, name: str
) -> tuple[np.ndarray, str]:
    """Palette indices of one class as values whose background is 0.

    Greys count as grey values; of colours black is background, whatever its index. The order of a
    palette says nothing: many programs sort it by frequency.

    Args:
        indices: uint8 H x W.
        palette: uint8 N x 3.
        ignore: index of pixels that nobody labelled.
        name: for messages.

    Returns:
        uint8 H x W; and "palette" where they are not the indices.

    Raises:
        DataError: no colour is black, so that nobody knows which one is background.
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
    dark = [i for i, color in zip(used, colors, strict=True) if color.max() <= DARK]
    if len(dark) > 1 or (not dark and (len(used) > 1 or used == [0])):
        shown = ", ".join(f"{i} is #{r:02x}{g:02x}{b:02x}"
                          for i, (r, g, b) in list(zip(used, colors, strict=True))[:4])  # fmt: skip
        raise DataError(
            f"{name}: not one colour of its palette is black (index {shown}), so that background "
            "cannot be told. --data.values INDEX says which index is foreground."
        )
    if dark in ([], [0]):
        return indices, ""
    lookup[used] = 255
    lookup[dark] = 0
    return lookup[indices], "palette"
