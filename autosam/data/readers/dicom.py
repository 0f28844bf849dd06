"""Read headers and pixel values of DICOM files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autosam.data.images import EXTENSIONS, MAX_PIXELS, Window, digest
from autosam.data.readers.dicom_values import (
    max_palette_value,
    missing_pixels,
    padding_mask,
    shared_window,
    used_bits,
)
from autosam.data.readers.stretch import percentile_window, to_rgb
from autosam.errors import DataError
from autosam.utils.io import list_folder

SUFFIXES = (".dcm", ".dicom", ".ima")
OTHERS = {*EXTENSIONS, ".nii", ".gz", ".csv", ".json", ".txt", ".xml"}
"""Extensions of files that are not tested for DICOM content."""
TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices",
    "RescaleSlope", "RescaleIntercept", "SharedFunctionalGroupsSequence", "TotalPixelMatrixColumns",
    "PerFrameFunctionalGroupsSequence", "FrameTime", "CineRate",
]  # fmt: skip
PIXEL_TAGS = [
    "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit",
    *(f"{colour}PaletteColorLookupTable{what}" for colour in ("Red", "Green", "Blue")
      for what in ("Descriptor", "Data")),
]  # fmt: skip
GREY = ("MONOCHROME1", "MONOCHROME2")
COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True)
class Frame:
    """One image of a DICOM file and its position."""

    path: Path
    index: int
    """Index in the file, from 0."""
    slope: float
    intercept: float
    """Rescaled value = stored value * `slope` + `intercept` (CT: Hounsfield units)."""
    position: tuple[float, ...]
    """x, y, z of the first pixel's centre, in mm, in DICOM patient coordinates; empty: unknown."""
    orientation: tuple[float, ...]
    """Unit vectors along increasing column and row, 6 numbers; empty: unknown."""
    spacing: tuple[float, ...]
    """Distance between rows and between columns, in mm; empty: unknown."""


@dataclass(frozen=True)
class Header:
    """Header of a DICOM file, read without pixel values."""

    path: Path
    series: str
    """SeriesInstanceUID."""
    title: str
    """Name of the series in messages."""
    size: tuple[int, int]
    """H, W."""
    photometric: str
    thickness: float
    """Thickness of a single slice in mm (SpacingBetweenSlices, else 1)."""
    rate: float
    """Frames per second."""
    frames: tuple[Frame, ...]

    @property
    def is_placed(self) -> bool:
        """Whether all frames have a position."""
        return all(frame.position for frame in self.frames)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its extension or else by its content."""
    suffix = path.suffix.lower()
    if suffix in OTHERS or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    if suffix in SUFFIXES:
        return True
    return _has_preamble(path)


def _has_preamble(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def files_of(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder."""
    return [path for path in list_folder(folder) if is_dicom(path)]


def unreadable(path: Path, error: Exception) -> DataError:
    """The error for a file that pydicom cannot read or decompress."""
    text = str(error)
    hint = "Replace or remove it."
    if isinstance(error, ImportError):
        hint = "pip install 'autosam[data]'."
    elif "missing dependencies" in text or "plugins" in text:
        packages = "pylibjpeg pylibjpeg-openjpeg" if "High-Throughput" in text else "python-gdcm"
        text = text.split("because")[0].strip()
        hint = f"pip install {packages}, or save it uncompressed."
    elif "Unable to decode" in text and re.search("MPEG|HEVC", text):
        hint = "Its frames are a video: save it as .mp4, or uncompressed."
    return DataError(f"{path}: cannot be read as DICOM ({text[:160]}). {hint}")


def read_header(path: Path) -> Header | None:
    """Read the header of a DICOM file; None if it holds no image (a report, a plan, a directory).

    Raises:
        DataError: not a DICOM file, or damaged.
    """
    try:
        import pydicom

        forced = path.suffix.lower() in SUFFIXES  # old files have no preamble
        tags: list[Any] = TAGS
        data = pydicom.dcmread(path, stop_before_pixels=True, force=forced, specific_tags=tags)
        if "SOPClassUID" not in data and "Rows" not in data:
            raise DataError(
                f"{path}: cannot be read as DICOM: not a DICOM file, or damaged. "
                "Replace or remove it."
            )
        return _header(path, data) if "Rows" in data and "Columns" in data else None
    except DataError:
        raise
    except Exception as error:  # several types from pydicom
        raise unreadable(path, error) from None


def _header(path: Path, data: Any) -> Header:
    count = int(data.get("NumberOfFrames") or 1)
    if (whole := int(data.get("TotalPixelMatrixColumns") or 0)) > int(data.Columns):
        raise DataError(
            f"{path}: holds tiles of an image {whole} pixels wide (a slide), not one image. "
            "Convert it to a TIFF, for example by wsidicomizer or bfconvert."
        )
    shared = (data.get("SharedFunctionalGroupsSequence") or [{}])[0]
    each = data.get("PerFrameFunctionalGroupsSequence") or []
    if each and len(each) != count:
        raise DataError(
            f"{path}: has {count} frames but positions of {len(each)}. Replace or remove it."
        )
    top = data if count == 1 and not each else {}

    def number(i: int, group: str, name: str) -> Any:
        for place in (each[i] if each else {}, shared):
            if found := place.get(group):
                return found[0].get(name)
        return top.get(name)

    def numbers(i: int, group: str, name: str, size: int) -> tuple[float, ...]:
        values = tuple(float(value) for value in number(i, group, name) or ())
        if len(values) not in (0, size) or not np.isfinite(values).all():
            raise DataError(
                f"{path}: {name} is {list(values)}; expected {size} numbers. Replace or remove it."
            )
        return values

    scale, frames = "PixelValueTransformationSequence", []
    for i in range(count):
        slope, intercept = number(i, scale, "RescaleSlope"), number(i, scale, "RescaleIntercept")
        if slope is not None and float(slope) == 0:
            raise DataError(
                f"{path}: its RescaleSlope is 0, so all pixels are equal. Write it "
                "again with its original slope."
            )
        frames.append(
            Frame(
                path,
                i,
                1.0 if slope is None else float(slope),
                0.0 if intercept is None else float(intercept),
                numbers(i, "PlanePositionSequence", "ImagePositionPatient", 3),
                numbers(i, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
                numbers(i, "PixelMeasuresSequence", "PixelSpacing", 2),
            )
        )
    thickness = data.get("SpacingBetweenSlices") or number(
        0, "PixelMeasuresSequence", "SpacingBetweenSlices"
    )
    duration = float(data.get("FrameTime") or 0)
    return Header(
        path,
        str(data.get("SeriesInstanceUID") or ""),
        str(data.get("SeriesDescription") or data.get("SeriesInstanceUID") or "unnamed"),
        (int(data.Rows), int(data.Columns)),
        str(data.get("PhotometricInterpretation") or "MONOCHROME2"),
        abs(float(thickness or 1)),
        1000 / duration if duration > 0 else float(data.get("CineRate") or 0),
        tuple(frames),
    )


def read_headers(path: Path) -> list[Header]:
    """Read the headers of a file, or of all files in a folder that hold images.

    Raises:
        DataError: no file holds an image, or one is unreadable.
    """
    files = files_of(path) if path.is_dir() else [path]
    headers = [header for header in map(read_header, files) if header is not None]
    if not headers:
        raise DataError(
            f"{path}: cannot be read as DICOM: none of its {len(files)} DICOM files "
            "holds an image. Replace or remove it."
        )
    return headers


def read_values(frame: Frame) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Read the values of one frame.

    Returns:
        values: rescaled values H x W, or uint8 H x W x 3 RGB.
        padding: bool H x W, or None.
        photometric: the photometric interpretation.

    Raises:
        DataError: damaged, too large, or a compression that no installed package supports.
    """
    try:
        from pydicom.pixels import apply_color_lut, apply_modality_lut

        stored, data = _stored(frame)
        meaning = str(data.PhotometricInterpretation)
        if meaning == "PALETTE COLOR":
            colours = apply_color_lut(used_bits(stored, data), data)
            # Entries have 16 bits; some programs write only the lower 8.
            deep = colours.dtype.itemsize > 1 and max_palette_value(data) > 255
            return (colours >> 8 if deep else colours).astype(np.uint8), None, "RGB"
        if stored.ndim == 3:
            if stored.dtype != np.uint8 or meaning not in COLORS:
                raise DataError(
                    f"{frame.path}: {meaning} pixels of {stored.dtype}; expected grey, "
                    "or colours of 8 bits. Convert it."
                )
            return stored, None, "RGB"
        if meaning not in GREY:
            raise DataError(f"{frame.path}: {meaning} pixels; expected grey or RGB. Convert it.")
        stored = used_bits(stored, data)
        padded = padding_mask(stored, data)
        if data.get("ModalityLUTSequence"):
            return np.asarray(apply_modality_lut(stored, data)), padded, meaning
        if frame.slope == 1 and frame.intercept == 0:
            return stored, padded, meaning
        if frame.slope.is_integer() and frame.intercept.is_integer():
            return (
                stored.astype(np.int64) * int(frame.slope) + int(frame.intercept),
                padded,
                meaning,
            )
        return stored * frame.slope + frame.intercept, padded, meaning
    except DataError:
        raise
    except Exception as error:  # several types, from pydicom and its codecs
        raise unreadable(frame.path, error) from None


def _stored(frame: Frame) -> tuple[np.ndarray, Any]:
    """Read stored values (YBR converted to RGB), and the tags in `PIXEL_TAGS`."""
    import pydicom
    from pydicom.pixels import pixel_array

    meta: Any = (
        pydicom.filereader.read_file_meta_info(frame.path) if _has_preamble(frame.path) else {}
    )
    if meta and meta.get("TransferSyntaxUID") != pydicom.uid.DeflatedExplicitVRLittleEndian:
        data, tags = pydicom.Dataset(), [int(pydicom.tag.Tag(name)) for name in PIXEL_TAGS]
        return pixel_array(frame.path, index=frame.index, ds_out=data, specific_tags=tags), data
    data = pydicom.dcmread(frame.path, force=True)
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if implicit else explicit
        )
    return pixel_array(data, index=frame.index), data


def to_image(
    values: np.ndarray, missing: np.ndarray | None, inverted: bool, window: Window | None, name: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert values of `read_values` to an image.

    Grey values are stretched, except those of 8 bits without a window.

    Args:
        values: H x W, or uint8 H x W x 3 RGB.
        missing: bool H x W, pixels without data; None: none.
        inverted: whether the lowest value is white (MONOCHROME1).
        window: values that map to black and white; None: the 0.1 and 99.9 percentiles.
        name: for messages.

    Returns:
        uint8 H x W x 3 RGB, and where it holds data, bool H x W (None: everywhere).

    Raises:
        DataError: a window for a colour image, or values that are not finite.
    """
    if values.ndim == 3:
        if window is not None:
            raise DataError(f"{name}: --data.window is for grey values. Leave it out.")
        return values, None
    grey = values[..., None]
    missing = None if missing is None else missing[..., None]
    if window is None and values.dtype != np.uint8:
        window = percentile_window(grey, missing, name)
    rgb, valid = to_rgb(grey, missing, name, window)
    if inverted:
        rgb = 255 - rgb if valid is None else np.where(valid[..., None], 255 - rgb, 0)
    return rgb.astype(np.uint8), valid


@dataclass(frozen=True)
class DicomImage:
    """A DICOM file with a single image; implements `Pixels`."""

    path: Path
    window: Window | None = None
    nodata: float | None = None

    def read_valid(self) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 H x W x 3 RGB, and where it holds data, bool H x W (None: everywhere)."""
        header = _one(self.path)
        if len(header.frames) > 1:
            raise DataError(
                f"{self.path}: holds {len(header.frames)} frames; expected one image. "
                "`predict --input FILE` segments each frame."
            )
        values, padded, meaning = read_values(header.frames[0])
        missing = missing_pixels(values, padded, self.nodata) if values.ndim == 2 else None
        return to_image(values, missing, meaning == "MONOCHROME1", self.window, str(self.path))

    def read(self) -> np.ndarray:
        """uint8 H x W x 3 RGB."""
        return self.read_valid()[0]

    def digest(self) -> str:
        return digest(self.path, f"{self.window} {self.nodata}")

    def __str__(self) -> str:
        return str(self.path)


def _one(path: Path) -> Header:
    (header,) = read_headers(path)
    height, width = header.size
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{path}: {width} x {height} pixels, more than the limit of {MAX_PIXELS}. "
            "Cut it into tiles."
        )
    return header


def frames_of(path: Path, window: Window | None) -> Iterator[np.ndarray]:
    """Read the frames of a file in stored order. Grey frames of more than 8 bits share one window.

    Args:
        path: the file.
        window: values that map to black and white; None: percentiles of up to 16 frames.

    Yields:
        uint8 H x W x 3 RGB.

    Raises:
        DataError: see `read_values`.
    """
    frames = _one(path).frames
    if window is None:
        values, _, _ = read_values(frames[0])
        if values.ndim == 2 and values.dtype != np.uint8:
            some = (read_values(frame)[:2] for frame in frames[:: max(1, len(frames) // 16)])
            window = shared_window(some, str(path))
    for frame in frames:
        values, padded, meaning = read_values(frame)
        yield to_image(values, padded, meaning == "MONOCHROME1", window, str(path))[0]


def rate_of(path: Path) -> float:
    """Frames per second; 0 if the file does not define it."""
    return _one(path).rate
