"""A picture that is in memory already, read as one from a file is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from autosam.data.images import Window, rgb_of, stretch
from autosam.errors import DataError


@dataclass(frozen=True, eq=False)
class MemoryImage:
    """An array or a PIL picture as `Pixels`."""

    values: np.ndarray | Image.Image
    """Array: uint8 or uint16, H x W (grey), or H x W x C with C 1 (grey), 2 (grey and
    transparency), 3 (RGB) or 4 (RGB and transparency)."""
    name: str = "the picture"
    window: Window | None = None

    @property
    def path(self) -> Path:
        raise DataError(f"{self.name}: is in memory; what reads bands needs a TIFF file.")

    def read(self) -> np.ndarray:
        """uint8 H x W x 3 RGB, see `autosam.data.images.read_image`.

        Raises:
            DataError: not a picture, or of another number type.
        """
        if isinstance(self.values, Image.Image):
            return rgb_of(ImageOps.exif_transpose(self.values), self.name, self.window)
        values = self.values
        if values.dtype not in (np.uint8, np.uint16):
            raise DataError(
                f"{self.name}: an array of {values.dtype}; expected uint8 or uint16. Of values "
                "from 0 to 1: (255 * image).astype(np.uint8)."
            )
        if values.ndim == 2:
            values = values[..., None]
        if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4) or 0 in values.shape:
            raise DataError(
                f"{self.name}: an array of shape {self.values.shape}; expected H x W or H x W x 3."
            )
        colours = values[..., :1] if values.shape[2] < 3 else values[..., :3]
        if colours.shape[2] == 1:
            colours = np.repeat(colours, 3, axis=2)
        if colours.dtype == np.uint16 or self.window is not None:
            return stretch(colours, self.name, self.window)
        return np.ascontiguousarray(colours)

    def digest(self) -> str:
        return hashlib.sha256(self.read().tobytes()).hexdigest()

    def __str__(self) -> str:
        return self.name
