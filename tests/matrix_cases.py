"""Image files of every kind that the writers at hand allow, each with the numbers that went in.

Written by tifffile, rasterio (GDAL), Pillow, OpenCV, pypng and ImageMagick; a file that a writer
refuses is no case. What comes out is compared with what went in by test_readers_matrix.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import png
import rasterio
import tifffile
from PIL import Image

H, W = 37, 53
"""Odd, and no multiple of a tile."""
GREY, WHITE_0, RGB, PALETTE, CMYK = "grey", "white is zero", "rgb", "palette", "cmyk"


@dataclass
class Case:
    """A file and what went into it."""

    name: str
    path: Path
    raw: np.ndarray
    """H x W x C as stored, before orientation."""
    kind: str = GREY
    bits: int = 8
    orientation: int = 1
    alpha: str = ""
    """`straight` or `multiplied`: the last channel is opacity."""
    extra: int = 0
    """Last channels that are no colours."""
    nodata: float | None = None
    asked: float | None = None
    """The same by the settings."""
    valid: np.ndarray | None = None
    """bool H x W, of a mask page."""
    palette: np.ndarray | None = None
    """uint8 N x 3."""
    refused: str = ""
    """Part of the message, where it is not read without `--data.bands`."""
    bands: bool = True
    """Whether bands can be chosen: of TIFFs."""
    second: Callable[[Path], np.ndarray] | None = None
    """Another library's reading: H x W x C as stored."""
    upright: bool = False
    """Whether that reading is upright already."""
    close: float = 0
    """How far readings may differ: of lossy files."""
    no_mask: bool = False
    """Whether it is of colours that masks are refused in, whatever `kind` says."""


def numbers(dtype: str, channels: int, seed: int = 0, bits: int | None = None) -> np.ndarray:
    """Noise on a slope, H x W x channels, that uses the range of its type but for its ends."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0.1, 0.8, W)[None, :, None] + rng.random((H, W, channels)) * 0.15
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return slope > 0.5
    if kind.kind == "f":
        return (slope * 40 - 11).astype(kind)
    if bits is not None:
        return (slope * (2**bits)).astype(kind)
    top = 2.0 ** min(8 * kind.itemsize, 50)
    return (slope * top - (top / 2 if kind.kind == "i" else 0)).astype(kind)


def gdal(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.moveaxis(file.read(), 0, 2)


def opencv(path: Path) -> np.ndarray:
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    values = cv2.imread(str(path), flags)
    if values.ndim == 2:
        return values[..., None]
    return values[..., [2, 1, 0, 3][: values.shape[2]]]


def pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


def libpng(path: Path) -> np.ndarray:
    """pypng, which is written in Python."""
    width, height, rows, info = png.Reader(filename=str(path)).read()
    return np.array([list(row) for row in rows]).reshape(height, width, info["planes"])


def write(path: Path, values: np.ndarray, planar: str, **how: Any) -> None:
    """A TIFF of H x W x C by tifffile."""
    if values.shape[2] == 1:
        tifffile.imwrite(path, values[..., 0], metadata=None, **how)
    else:
        if planar == "separate":
            values = np.moveaxis(values, 2, 0)
        tifffile.imwrite(path, values, metadata=None, planarconfig=planar, **how)


def decoded_jpeg(path: Path) -> np.ndarray:
    """By libjpeg through imagecodecs; inks as Adobe stores them are turned round."""
    values = imagecodecs.jpeg_decode(path.read_bytes())
    if values.ndim == 3 and values.shape[2] == 4:
        return 255 - values
    return values if values.ndim == 3 else values[..., None]
