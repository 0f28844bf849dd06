"""Reading pictures and masks from files, whatever their bit depth, channels or orientation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from autosam.errors import DataError
from autosam.files import write_atomically

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""What a picture's content may be, whatever its name: Pillow knows others, of which one (EPS) is a
program that it has run."""
MAX_PIXELS = 300_000_000
"""Larger pictures are refused before they are decoded."""
MAX_VALUES = 10 * MAX_PIXELS
"""The same for all bands together."""

Image.MAX_IMAGE_PIXELS = None  # our own limit above is an error, not Pillow's warning


def _refuse_large(path: Path, width: int, height: int, bands: int = 1) -> None:
    """Before anything is decoded: a small file may hold a large picture."""
    if width * height > MAX_PIXELS or width * height * bands > MAX_VALUES:
        of = f" of {bands} bands" if bands > 1 else ""
        raise DataError(
            f"{path}: {width} x {height} pixels{of}, more than the limit of {MAX_PIXELS}"
            f"{f' ({MAX_VALUES} values)' * (bands > 1)}. Cut it into tiles."
        )


def _open(path: Path) -> Image.Image:
    require_file(path)
    try:
        picture = Image.open(path, formats=FORMATS)
        _refuse_large(path, picture.width, picture.height)
        pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
        if pages > 1:
            raise DataError(f"{path}: holds {pages} pages. Save each as a file.")
        picture.load()
        # Cameras store turned pictures with a note to turn them back; masks are drawn upright.
        return ImageOps.exif_transpose(picture)
    except DataError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(
            f"{path}: cannot be read as an image ({str(error)[:120]}). The file may be truncated "
            "or of another kind; replace or remove it."
        ) from None


def require_file(path: Path) -> None:
    """
    Raises:
        DataError: not there; or a folder or a pipe, from which one might read for ever.
    """
    if not path.is_file():
        what = "it is a folder, a pipe or the like" if path.exists() else "no such file"
        raise DataError(f"{path}: cannot be read: {what}. Replace it, or remove its name.")


Window = tuple[float, float]
"""Stored values that become 0 and 255; what lies outside is cut."""


def read_image(
    path: Path, bands: tuple[int, int, int] | None = None, window: Window | None = None
) -> np.ndarray:
    """Read a picture: uint8 H x W x 3 RGB.

    Grey becomes RGB, transparency is dropped, EXIF orientation is applied. Pictures of more than
    8 bits are stretched linearly from their own 0.1 to 99.9 percentile to 0..255, because 12-bit
    data in a 16-bit file would come out nearly black otherwise.

    Args:
        path: the file.
        bands: of a TIFF, the bands (from 1) to take for red, green and blue.
        window: stretch from here instead.

    Raises:
        DataError: the file is missing, unreadable, truncated or too large.
    """
    if bands is not None:
        chosen = read_bands(path)
        if max(bands) > chosen.shape[2] or min(bands) < 1:
            raise DataError(
                f"{path}: has {chosen.shape[2]} bands, but --data.bands asks for {list(bands)}: "
                f"choose from 1 to {chosen.shape[2]}."
            )
        chosen = chosen[..., [band - 1 for band in bands]]
        if chosen.dtype == np.uint8 and window is None:
            return np.ascontiguousarray(chosen)
        return stretch(chosen, path, window)
    if _is_deep_colour(path):
        return stretch(_read_deep_colour(path), path, window)
    return rgb_of(_open(path), path, window)


def rgb_of(picture: Image.Image, path: Path | str, window: Window | None = None) -> np.ndarray:
    """A decoded picture of any mode -> uint8 H x W x 3; `path` names it in messages."""
    if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        return np.repeat(stretch(np.asarray(picture), path, window)[..., None], 3, axis=2)
    if window is not None:
        raise DataError(f"{path}: --data.window is for values of more than 8 bits. Leave it out.")
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
        deep = len(head) == 26 and head[24] == 16 and head[25] in (2, 6)
        if deep:
            _refuse_large(path, *(int.from_bytes(head[i : i + 4], "big") for i in (16, 20)))
        return deep
    try:
        with Image.open(path, formats=FORMATS) as picture:
            bits = picture.tag_v2.get(258) if isinstance(picture, TiffImageFile) else None
            pages = getattr(picture, "n_frames", 1)
            _refuse_large(path, picture.width, picture.height)
    except DataError:
        raise
    except Exception:  # it is opened once more, to say what is wrong
        return False
    return bits is not None and len(bits) >= 3 and max(bits) == 16 and pages == 1


def _read_deep_colour(path: Path) -> np.ndarray:
    """uint16 H x W x 3 RGB, through OpenCV."""
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3 or values.dtype != np.uint16:
        raise DataError(f"{path}: cannot be read as an image. Replace or remove it.")
    return values[..., 2::-1]


def read_bands(path: Path) -> np.ndarray:
    """All bands of a TIFF as stored: H x W x C of any number type.

    Raises:
        DataError: not a TIFF, unreadable, too large, or a stack of pages.
    """
    try:
        import tifffile
    except ImportError:
        raise DataError(
            f"{path}: several bands are read by tifffile: pip install 'autosam[data]'"
        ) from None
    require_file(path)
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            axes = "".join(axis for axis, size in zip(series.axes, series.shape, strict=True)
                           if size > 1 or axis in "YX")  # fmt: skip
            shape = dict(zip(series.axes, series.shape, strict=True))
            height, width = shape["Y"], shape["X"]
            _refuse_large(path, width, height, series.size // max(1, width * height))
            others = axes.replace("Y", "").replace("X", "")
            if len(others) > 1:
                raise DataError(
                    f"{path}: a stack with axes {axes} {series.shape}; expected one picture. "
                    "Save each as a file."
                )
            stored = series.asarray()
            if stored.shape != series.shape:  # it says so in a log alone
                raise ValueError(f"{stored.size} values instead of {series.size}")
            values = np.squeeze(
                stored,
                tuple(i for i, axis in enumerate(series.axes) if axis not in axes),
            )
    except DataError:
        raise
    except Exception as error:  # of tifffile and of what it unpacks with, many kinds
        raise DataError(
            f"{path}: cannot be read as a TIFF ({str(error)[:120]}). --data.bands and "
            "--rough.method index are for TIFFs."
        ) from None
    if not others:
        return values[..., None]
    return np.moveaxis(values, axes.index(others), 2)


def stretch(values: np.ndarray, path: Path | str, window: Window | None = None) -> np.ndarray:
    """Any numbers -> uint8, linearly from a window; without one, from the 0.1 to the 99.9
    percentile.

    Raises:
        DataError: NaN or infinite values.
    """
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds NaN or infinite pixels. Repair or remove it.")
    low, high = window or np.percentile(values, (0.1, 99.9))
    return np.clip((values - low) / max(high - low, 1e-9) * 255, 0, 255).round().astype(np.uint8)


def read_mask(path: Path, grey: bool = False) -> np.ndarray:
    """Read a mask's values as they are stored: uint8 or uint16 H x W.

    Palette images give their indices. Colour images are accepted if their channels are equal, or
    turned to grey.

    Args:
        path: the file.
        grey: whether colours are turned to grey.

    Raises:
        DataError: the file is unreadable, or holds colours.
    """
    picture = _open(path)
    return values_of(picture.convert("L") if grey else picture, path)


def values_of(picture: Image.Image, path: Path | str) -> np.ndarray:
    """A decoded mask -> its values, uint8 or uint16 H x W; `path` names it in messages."""
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
    whole = values.ndim == 2 and values.min() >= 0 and values.max() < 2**16
    if not whole or (picture.mode == "F" and (values % 1).any()):
        raise DataError(
            f"{path}: mode {picture.mode} is not a mask of whole numbers from 0 to 65535; save it "
            "as 8-bit grey."
        )
    return values.astype(np.uint16 if values.max() > 255 else np.uint8)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 H x W (grey) or H x W x 3 (RGB) as PNG.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomically(path, lambda to: Image.fromarray(pixels).save(to, "PNG"), lasting=False)


def digest(path: Path, how: str = "") -> str:
    """Hash of a file and of how it is read.

    Raises:
        DataError: it cannot be read.
    """
    require_file(path)
    try:
        return hashlib.sha256(path.read_bytes() + how.encode()).hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Replace or remove it."
        ) from None


@dataclass(frozen=True)
class ImageFile:
    """A picture in a file of its own, see `read_image`."""

    path: Path
    bands: tuple[int, int, int] | None = None
    window: Window | None = None

    def read(self) -> np.ndarray:
        return read_image(self.path, self.bands, self.window)

    def digest(self) -> str:
        how = f"{self.bands} {self.window}" if self.bands or self.window else ""
        return digest(self.path, how)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class MaskFile:
    """A mask in a file of its own, see `read_mask`."""

    path: Path

    def read(self) -> np.ndarray:
        return read_mask(self.path)

    def digest(self) -> str:
        return digest(self.path)

    def __str__(self) -> str:
        return str(self.path)
