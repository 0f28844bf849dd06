"""Reading pictures and masks from files, whatever their bit depth, channels or orientation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from autosam.errors import DataError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 300_000_000
"""Larger pictures are refused before they are decoded."""

Image.MAX_IMAGE_PIXELS = None  # our own limit above is an error, not Pillow's warning


def _open(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        if picture.width * picture.height > MAX_PIXELS:
            raise DataError(
                f"{path}: {picture.width} x {picture.height} pixels, more than the limit of "
                f"{MAX_PIXELS}. Cut it into tiles."
            )
        pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
        if pages > 1:
            raise DataError(f"{path}: holds {pages} pages. Save each as a file.")
        picture.load()
        # Cameras store turned pictures with a note to turn them back; masks are drawn upright.
        return ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as an image ({str(error)[:120]}). The file may be truncated "
            "or of another kind; replace or remove it."
        ) from None


def read_image(path: Path) -> np.ndarray:
    """Read a picture: uint8 H x W x 3 RGB.

    Grey becomes RGB, transparency is dropped, EXIF orientation is applied. Pictures of more than
    8 bits are stretched linearly from their own 0.1 to 99.9 percentile to 0..255, because 12-bit
    data in a 16-bit file would come out nearly black otherwise.

    Raises:
        DataError: the file is missing, unreadable, truncated or too large.
    """
    if _is_deep_colour(path):
        return _stretch(_read_deep_colour(path), path)
    picture = _open(path)
    if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        return np.repeat(_stretch(np.asarray(picture), path)[..., None], 3, axis=2)
    if picture.mode in ("P", "PA", "LA", "RGBA"):
        picture = picture.convert("RGBA")
    return np.ascontiguousarray(np.asarray(picture.convert("RGB")))


def _is_deep_colour(path: Path) -> bool:
    """Whether a PNG or TIFF holds 16-bit colour, which Pillow cuts to 8 bits without a word."""
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (".png", ".tif", ".tiff"):
        return False
    if suffix == ".png":
        with open(path, "rb") as file:
            head = file.read(26)  # signature, IHDR length and name, size, depth, colour type
        return len(head) == 26 and head[24] == 16 and head[25] in (2, 6)
    try:
        with Image.open(path) as picture:
            bits = picture.tag_v2.get(258) if isinstance(picture, TiffImageFile) else None
            pages = getattr(picture, "n_frames", 1)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False
    return bits is not None and len(bits) >= 3 and max(bits) == 16 and pages == 1


def _read_deep_colour(path: Path) -> np.ndarray:
    """uint16 H x W x 3 RGB, through OpenCV."""
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3 or values.dtype != np.uint16:
        raise DataError(f"{path}: cannot be read as an image. Replace or remove it.")
    return values[..., 2::-1]


def _stretch(values: np.ndarray, path: Path) -> np.ndarray:
    """Any numbers -> uint8, linearly from the 0.1 to the 99.9 percentile."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds NaN or infinite pixels. Repair or remove it.")
    low, high = np.percentile(values, (0.1, 99.9))
    return np.clip((values - low) / max(high - low, 1e-9) * 255, 0, 255).round().astype(np.uint8)


def read_mask(path: Path) -> np.ndarray:
    """Read a mask's values as they are stored: uint8 or uint16 H x W.

    Palette images give their indices. Colour images are accepted if their channels are equal.

    Raises:
        DataError: the file is unreadable, or holds colours.
    """
    picture = _open(path)
    if picture.mode == "1":
        picture = picture.convert("L")
    values = np.asarray(picture)
    if picture.mode in ("LA", "RGB", "RGBA"):
        colours = values[..., : 1 if picture.mode == "LA" else 3]
        if np.any(colours != colours[..., :1]):
            raise DataError(
                f"{path}: a mask in colour. Save it as one channel whose values are the classes "
                "(0 background, 1..K), or 0 and 255."
            )
        values = colours[..., 0]
    if values.ndim != 2 or not (values.min() >= 0 and values.max() < 2**16):
        raise DataError(f"{path}: mode {picture.mode} is not a mask; save it as 8-bit grey.")
    return values.astype(np.uint16 if values.max() > 255 else np.uint8)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 H x W (grey) or H x W x 3 (RGB) as PNG."""
    Image.fromarray(pixels).save(path)
