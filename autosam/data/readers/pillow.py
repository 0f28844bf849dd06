"""Read PNG, JPEG, WebP and BMP with Pillow, and 16-bit PNG with imagecodecs."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image, UnidentifiedImageError

from autosam.data.readers.raster import (
    StoredMask,
    equals,
    orient,
    orientation_steps,
    refuse_large,
)
from autosam.errors import DataError
from autosam.types import Region

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
"""The formats that Pillow may open. Others are excluded: for EPS, for one, it runs a program."""
ORIENTATION = 0x0112

Image.MAX_IMAGE_PIXELS = None  # our own limit is an error, not Pillow's warning


class PlainImage:
    """A PNG, JPEG, WebP or BMP, decoded as a whole; see `Raster`.

    Args:
        source: the file, or its content.
        name: for messages.

    Raises:
        DataError: another format, damaged, too large, or animated.
    """

    def __init__(self, source: Path | bytes, name: str) -> None:
        self.name = name
        try:
            content = source if isinstance(source, bytes) else source.read_bytes()
            self._decode(_opened(content, name), content)
        except DataError:
            raise
        except Exception as error:  # Pillow raises many kinds for damaged files
            raise _unreadable(name, error) from None
        self.shape: tuple[int, int] = self.values.shape[:2]

    @classmethod
    def of(cls, image: Image.Image, name: str) -> PlainImage:
        """From a PIL image.

        Raises:
            DataError: the image has no pixels, or cannot be decoded (damaged, or its file is
                closed).
        """
        self = cls.__new__(cls)
        self.name = name
        if 0 in image.size:
            raise DataError(
                f"{name}: {image.width} x {image.height} pixels; expected at least one."
            )
        try:
            image.load()  # before getexif: for TIFF, load() applies the orientation and resets it
            self._decode(image, b"")
        except Exception as error:  # see `__init__`
            raise _unreadable(name, error) from None
        self.shape = self.values.shape[:2]
        return self

    def _decode(self, image: Image.Image, content: bytes) -> None:
        self.palette: np.ndarray | None = None
        alpha: np.ndarray | None = None
        self.mode, self.grey_bits = image.mode, 8
        lossless = image.format == "WEBP" and b"VP8L" in content[:64]
        self.lossy = image.format in ("JPEG", "MPO", "WEBP") and not lossless
        bits, kind = (content[24], content[25]) if image.format == "PNG" and content else (8, 0)
        image.load()  # detects damage that libpng only warns of; orients TIFFs
        steps = orientation_steps(image.getexif().get(ORIENTATION))
        if bits == 16:
            values = imagecodecs.png_decode(content)
            values = values[..., None] if values.ndim == 2 else values
            self.mode = "deep"
            if values.shape[2] in (2, 4):
                values, alpha = values[..., :-1], values[..., -1]
        else:
            if bits < 8 and kind == 0:
                self.grey_bits = bits
            if image.mode in ("P", "PA"):
                self.palette = _palette(image)
                bands = image.getchannel("P") if image.mode == "PA" else image
                values = np.asarray(bands)[..., None]
                if image.mode == "PA":
                    alpha = np.asarray(image.getchannel("A"))
                elif "transparency" in image.info:
                    alpha = np.asarray(image.convert("RGBA"))[..., 3]
            else:
                if image.mode == "1":
                    image = image.convert("L")
                if "transparency" in image.info and image.mode in ("L", "RGB"):
                    alpha = np.asarray(image.convert("RGBA"))[..., 3]
                if image.mode in ("La", "RGBa"):
                    image = image.convert(image.mode.upper())
                if image.mode in ("HSV", "YCbCr", "LAB", "RGBX"):  # only PIL images in memory
                    image = image.convert("RGB")
                values = np.asarray(image)
                values = values[..., None] if values.ndim == 2 else values
                if image.mode in ("LA", "RGBA"):
                    values, alpha = values[..., :-1], values[..., -1]
        self.values = orient(values, steps)
        self.alpha = None if alpha is None else orient(alpha, steps)

    def colors(self, region: Region, nodata: float | None) -> tuple[np.ndarray, np.ndarray | None]:
        y, x, height, width = region
        values = self.values[y : y + height, x : x + width]
        missing: np.ndarray | None = None
        if nodata is not None:
            missing = equals(self._stored(values) if self.palette is None else values, nodata)
        if self.palette is not None:
            values = self.palette[values[..., 0]]
            missing = None if missing is None else np.repeat(missing, 3, axis=2)
        elif self.mode == "CMYK":
            image = Image.fromarray(np.ascontiguousarray(values), mode="CMYK")
            values = np.asarray(image.convert("RGB"))
            if missing is not None:
                missing = np.repeat(missing.all(axis=2, keepdims=True), 3, axis=2)
        elif self.mode == "F" or values.dtype.kind == "f":
            missing = np.isnan(values) if missing is None else missing | np.isnan(values)
        return values, missing

    def _stored(self, values: np.ndarray) -> np.ndarray:
        """Undo Pillow's scaling of grey values of fewer than 8 bits."""
        return values if self.grey_bits == 8 else values // (255 // (2**self.grey_bits - 1))

    def mask(self) -> StoredMask:
        if self.mode == "CMYK":
            raise DataError(f"{self.name}: mode CMYK is not a mask; save it as 8-bit grey.")
        values = self.values
        if self.palette is None and self.grey_bits > 1:  # one bit stays 0 and 255
            values = self._stored(values)
        if values.shape[2] == 1 or (values == values[..., :1]).all():
            values = values[..., 0]
        return StoredMask(values, self.palette, self.alpha, lossy=self.lossy)


def plain_size(path: Path, name: str) -> tuple[int, int]:
    """H, W as stored, without decoding the image.

    Raises:
        DataError: see `PlainImage`.
    """
    try:
        image = _opened(path.read_bytes(), name)
        return image.height, image.width
    except DataError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise _unreadable(name, error) from None


def read_orientation(path: Path) -> int:
    """The orientation tag of an image file (TIFF included), 1 to 8; 1 without a tag. Pixels are not
    decoded."""
    try:
        with Image.open(path, formats=(*FORMATS, "TIFF")) as image:
            unread = image.format == "PNG" and "exif" not in image.info  # getexif would decode it
            value = 1 if unread else image.getexif().get(ORIENTATION, 1)
    except Exception:  # several types from Pillow; reading the pixels reports it
        return 1
    return value if value in range(1, 9) else 1


def _opened(content: bytes, name: str) -> Image.Image:
    """Open an image without decoding its pixels."""
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    refuse_large(name, image.width, image.height)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a photo with a preview or a stereo pair
        raise DataError(
            f"{name}: an animation of {frames} frames; expected one image. Save each frame as a "
            "file."
        )
    return image


def _unreadable(name: str, error: Exception) -> DataError:
    unknown = isinstance(error, UnidentifiedImageError)
    what = "not a PNG, JPEG, WebP, BMP or TIFF" if unknown else str(error)[:120]
    return DataError(
        f"{name}: cannot be read as an image ({what}). The file may be truncated or of another "
        "kind; replace or remove it."
    )


def _palette(image: Image.Image) -> np.ndarray:
    """uint8 256 x 3; missing entries are black."""
    colors = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return np.pad(colors, ((0, 256 - len(colors)), (0, 0)))
