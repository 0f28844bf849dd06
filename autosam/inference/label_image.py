"""Write the objects of an image as a label image, whose pixel values are the object numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autosam.data.images import write_png
from autosam.errors import ConfigError
from autosam.utils.io import write_atomically

MOST_IN_16_BITS = 65535
"""Largest number of objects of a 16-bit file."""
TIFF_SUFFIXES = (".tif", ".tiff")
LABEL_SUFFIXES = (".png", *TIFF_SUFFIXES)


def label_path(path: Path, objects: int) -> Path:
    """Choose the file of a label image: PNG has no 32-bit pixels, so that more than 65535 objects
    are written as TIFF.

    Args:
        path: `NAME.png` or `NAME.tif`.
        objects: number of objects.

    Returns:
        The path, with the suffix `.tif` where PNG does not suffice.
    """
    too_many = objects > MOST_IN_16_BITS and path.suffix.lower() not in TIFF_SUFFIXES
    return path.with_suffix(".tif") if too_many else path


def write_label_image(path: Path, ids: np.ndarray) -> Path:
    """Write a label image: 16 bits, or 32 bits (TIFF) if there are more than 65535 objects.

    Args:
        path: `NAME.png`, or `NAME.tif` for a compressed TIFF.
        ids: int32 H x W, see `Instances`; unknown pixels become background.

    Returns:
        The file that was written, see `label_path`.

    Raises:
        ConfigError: another suffix.
        StorageError: the file cannot be written.
    """
    if path.suffix.lower() not in LABEL_SUFFIXES:
        raise ConfigError(f"{path}: unknown suffix for a label image. Expected .png or .tif.")
    most = int(ids.max(initial=0))
    pixels = np.maximum(ids, 0).astype(np.uint32 if most > MOST_IN_16_BITS else np.uint16)
    path = label_path(path, most)
    if path.suffix.lower() in TIFF_SUFFIXES:
        write_atomically(path, lambda to: _write_tiff(to, pixels), lasting=False)
    else:
        write_png(path, pixels)
    return path


def _write_tiff(path: Path, pixels: np.ndarray) -> None:
    from tifffile import TiffWriter

    with TiffWriter(path) as file:
        file.write(pixels, compression="zlib", photometric="minisblack")
