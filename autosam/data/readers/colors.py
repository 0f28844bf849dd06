"""Convert colour spaces to RGB."""

from __future__ import annotations

import numpy as np

D50 = np.array([0.96422, 1.0, 0.82521])
"""XYZ of the white point of CIELab in TIFF and ICC."""
XYZ_TO_SRGB = np.array([
    [3.1338561, -1.6168667, -0.4906146],
    [-0.9787684, 1.9161415, 0.0334540],
    [0.0719453, -0.2289914, 1.4052427],
])  # fmt: skip
"""XYZ under D50 to linear sRGB (D65, Bradford adaptation)."""


def scale_to_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Scale integers of 1 to 7 bits to uint8 0..255."""
    top = 2**bits - 1
    return np.rint(np.arange(top + 1) * (255 / top)).astype(np.uint8)[values.astype(np.intp)]


def invert(values: np.ndarray, bits: int) -> np.ndarray:
    """Convert MinIsWhite to MinIsBlack."""
    if values.dtype.kind == "f":
        return -values
    if values.dtype.kind == "i":
        return -1 - values
    return (2**bits - 1 - values.astype(np.uint64)).astype(values.dtype)


def cmyk_to_rgb(inks: np.ndarray) -> np.ndarray:
    """Convert CMYK to RGB of the same dtype, without a colour profile: (1 - ink) (1 - black).

    Args:
        inks: uint8 or uint16 H x W x 4; the largest value is full ink.
    """
    top = np.iinfo(inks.dtype).max
    light = top - inks.astype(np.uint64)
    return ((light[..., :3] * light[..., 3:] + top // 2) // top).astype(inks.dtype)


def ycbcr_to_rgb(values: np.ndarray) -> np.ndarray:
    """Convert full-range YCbCr (CCIR 601, as in JPEG), uint8 H x W x 3, to RGB."""
    y, cb, cr = (values[..., i].astype(np.float64) for i in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def lab_to_rgb(values: np.ndarray, signed: bool) -> np.ndarray:
    """Convert CIELab under D50 to sRGB of the same dtype.

    Args:
        values: uint8 or uint16 H x W x 3.
        signed: whether a* and b* are two's complement (TIFF CIELab); otherwise they have an offset
            (ICC).
    """
    top = np.iinfo(values.dtype).max
    unit = (top + 1) / 256
    lightness = values[..., 0].astype(np.float64) * (
        100 / (top if signed or top == 255 else 0xFF00)
    )
    if signed:
        ab = values[..., 1:].view(np.int8 if top == 255 else np.int16).astype(np.float64) / unit
    else:
        ab = values[..., 1:].astype(np.float64) / unit - 128
    fy = (lightness + 16) / 116
    f = np.stack([fy + ab[..., 0] / 500, fy, fy - ab[..., 1] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2) * D50
    linear = np.clip(xyz @ XYZ_TO_SRGB.T, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(rgb * top).astype(values.dtype)


def unpremultiply(colors: np.ndarray, alpha: np.ndarray, top: float) -> np.ndarray:
    """Undo premultiplied alpha.

    Args:
        colors: H x W x C.
        alpha: H x W, of the same dtype, 0 to `top`.
        top: value of full opacity.
    """
    scale = np.divide(top, alpha, out=np.zeros(alpha.shape), where=alpha > 0)[..., None]
    full = colors.astype(np.float64) * scale
    if colors.dtype.kind == "f":
        return full.astype(colors.dtype)
    return np.clip(np.rint(full), 0, top).astype(colors.dtype)
