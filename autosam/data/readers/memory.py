"""Images in memory: arrays, PIL images and tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from autosam.data.images import ImageReader, Window
from autosam.data.readers.pillow import PlainImage
from autosam.data.readers.raster import equals
from autosam.data.readers.stretch import percentile_window, to_rgb
from autosam.errors import DataError


def array_of(image: np.ndarray | Image.Image | torch.Tensor) -> np.ndarray | Image.Image:
    """Convert a tensor to an array for `MemoryImage`; other images stay as they are.

    Args:
        image: a tensor H x W or C x H x W, C 1, 3 or 4; an array or a PIL image.

    Raises:
        DataError: a tensor of another shape, or one whose channel axis is ambiguous.
    """
    if not isinstance(image, torch.Tensor):
        return image
    shape = tuple(image.shape)
    if image.layout != torch.strided or image.is_meta:
        raise DataError("a sparse tensor, or one without values: pass image.to_dense().")
    values = image.detach().cpu()
    if values.dtype == torch.bfloat16:
        values = values.float()
    if values.ndim == 2:
        return values.numpy()
    first = values.ndim == 3 and shape[0] in (1, 3, 4)
    if not first or shape[2] in (1, 3, 4):
        raise DataError(
            f"a tensor of shape {shape}: expected H x W or C x H x W with C 1, 3 or 4. "
            "For H x W x C pass image.numpy(), for several images a list."
        )
    return values.permute(1, 2, 0).numpy()


@dataclass(frozen=True, eq=False)
class MemoryImage:
    """An array or a PIL image as `Pixels`."""

    values: np.ndarray | Image.Image
    """A PIL image; or an array, uint8, uint16 or float from 0 to 1: H x W (grey), or H x W x C with
    C 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha)."""
    name: str = "the image"
    window: Window | None = None
    nodata: float | None = None
    """Value of pixels without data."""
    valid: np.ndarray | None = None
    """bool H x W: where an array holds data; None: everywhere."""
    channels: np.ndarray | None = None
    """uint8 H x W x C: what the prompt generator reads; None: the RGB image."""
    ground: float | None = None
    """Metres of the ground that the side of a pixel covers, if that is known."""

    def __post_init__(self) -> None:
        """Convert subclasses of `np.ndarray` to plain arrays; masked pixels hold no data."""
        if not isinstance(self.values, np.ndarray):
            return
        given, values = self.values, np.asarray(self.values)
        if not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        object.__setattr__(self, "values", values)
        if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
            mask = np.ma.getmaskarray(given)
            known = ~np.asarray(mask.any(2) if mask.ndim > 2 else mask)
            object.__setattr__(self, "valid", known if self.valid is None else known & self.valid)

    @property
    def path(self) -> Path:
        raise DataError(f"{self.name}: is in memory, but reading bands needs a TIFF file.")

    def read_valid(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Read the image.

        Returns:
            uint8 H x W x (3 + C), and where it holds data, bool H x W (None: everywhere).

        Raises:
            DataError: a shape or dtype that is not supported, or floats outside 0 to 1.
        """
        colors, valid = self._rgb()
        return colors if self.channels is None else np.dstack([colors, self.channels]), valid

    def _rgb(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The RGB image, and where it holds data."""
        if isinstance(self.values, Image.Image):
            raster = PlainImage.of(self.values, self.name)
            return ImageReader(raster, self.name, False, self.window, self.nodata).whole()
        colors = self._colors(self.values)
        missing = None if self.nodata is None else equals(colors, self.nodata)
        if self.valid is not None:
            hidden = np.broadcast_to(~self.valid[..., None], colors.shape)
            missing = hidden if missing is None else missing | hidden
        limits = self.window
        if limits is None and colors.dtype != np.uint8:
            limits = percentile_window(colors, missing, self.name)
        return to_rgb(colors, missing, self.name, limits)

    def read(self) -> np.ndarray:
        """uint8 H x W x 3 RGB, see `autosam.data.images.read_image`.

        Raises:
            DataError: see `read_valid`.
        """
        return self._rgb()[0]

    def _colors(self, values: np.ndarray) -> np.ndarray:
        """H x W x C, C 1 or 3."""
        if values.ndim == 4:
            raise DataError(
                f"{self.name}: an array of shape {values.shape}: several images? Pass a list: "
                "list(images)."
            )
        if values.ndim == 2:
            values = values[..., None]
        if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4) or 0 in values.shape:
            hint = ""
            if values.ndim == 3 and values.shape[0] in (1, 3, 4) and 0 not in values.shape:
                hint = " For C x H x W: np.moveaxis(image, 0, 2)."
            raise DataError(
                f"{self.name}: an array of shape {values.shape}; expected H x W or H x W x 3.{hint}"
            )
        colors = values[..., :1] if values.shape[2] < 3 else values[..., :3]
        return colors if colors.dtype in (np.uint8, np.uint16) else self._from_floats(colors)

    def _from_floats(self, colors: np.ndarray) -> np.ndarray:
        """Convert floats from 0 to 1 to uint8; with a window to float32, unscaled."""
        if colors.dtype.kind != "f":
            raise DataError(
                f"{self.name}: an array of {colors.dtype}; expected uint8, uint16, or floats from "
                "0 to 1. For integers from 0 to 255: image.astype(np.uint8)."
            )
        if self.window is not None:
            return colors.astype(np.float32)
        if self.valid is not None and self.valid.any():
            colors = np.where(self.valid[..., None], colors, colors[self.valid].min())
        least, most = float(colors.min()), float(colors.max())
        if not (least >= 0 and most <= 1):  # also true for NaN
            raise DataError(
                f"{self.name}: floats from {least:g} to {most:g}; expected 0 to 1, or uint8 from 0 "
                "to 255. Pass the image before it is normalized."
            )
        return (colors.astype(np.float64) * 255).round().astype(np.uint8)

    @classmethod
    def of(
        cls, image: np.ndarray, name: str, valid: np.ndarray | None, ground: float | None = None
    ) -> MemoryImage:
        """An image that was read, see `read_valid`.

        Args:
            image: uint8 H x W x (3 + C).
            name: for messages.
            valid: where it holds data, bool H x W; None: everywhere.
            ground: see `MemoryImage`.
        """
        channels = image[..., 3:] if image.shape[2] > 3 else None
        return cls(image[..., :3], name, valid=valid, channels=channels, ground=ground)

    def digest(self) -> str:
        return hashlib.sha256(self.read().tobytes()).hexdigest()

    def __str__(self) -> str:
        return self.name
