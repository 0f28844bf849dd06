"""DICOM files: what their headers say of the images in them, and the values of those."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autosam.data.images import EXTENSIONS, MAX_PIXELS, Window, digest
from autosam.data.readers.dicom_values import highest_color, padding_of, used_bits
from autosam.data.readers.raster import equals
from autosam.data.readers.stretch import finish, limits_of
from autosam.errors import DataError
from autosam.utils.io import list_folder

SUFFIXES = (".dcm", ".dicom", ".ima")
OTHERS = {*EXTENSIONS, ".nii", ".gz", ".csv", ".json", ".txt", ".xml"}
"""Files with these endings are not looked into."""
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


@dataclass(frozen=True)
class Frame:
    """One image of a DICOM file, and where it lies."""

    path: Path
    index: int
    """Its number in the file, from 0."""
    slope: float
    intercept: float
    """Stored values times `slope` plus `intercept` are what they mean (Hounsfield units of CT)."""
    position: tuple[float, ...]
    """x, y, z of the first pixel's centre, millimetres in DICOM's frame; empty: not known."""
    orientation: tuple[float, ...]
    """Directions of increasing column and of increasing row, three numbers each; empty: unknown."""
    spacing: tuple[float, ...]
    """Millimetres from row to row and from column to column; empty: unknown."""


@dataclass(frozen=True)
class Header:
    """What a DICOM file says about its images, whose values are not read."""

    path: Path
    series: str
    """SeriesInstanceUID."""
    title: str
    """The series as messages call it."""
    size: tuple[int, int]
    """H, W."""
    photometric: str
    thickness: float
    """Millimetres along the normal of a slice that is alone (SpacingBetweenSlices, else 1)."""
    rate: float
    """Frames per second."""
    frames: tuple[Frame, ...]

    @property
    def is_placed(self) -> bool:
        """Whether it is known where its frames lie."""
        return all(frame.position for frame in self.frames)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its ending or, where that says nothing, by its content."""
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
    """The DICOM files that lie directly in a folder."""
    return [path for path in list_folder(folder) if is_dicom(path)]


def unreadable(path: Path, error: Exception) -> DataError:
    """The sentence for a file that pydicom cannot read, or whose compression it cannot undo."""
    text = str(error)
    hint = "Replace or remove it."
    if isinstance(error, ImportError):
        hint = "pip install 'autosam[data]'."
    elif "missing dependencies" in text or "plugins" in text:
        packages = "pylibjpeg pylibjpeg-openjpeg" if "High-Throughput" in text else "python-gdcm"
        text = text.split("because")[0].strip()
        hint = f"pip install {packages}, or save it uncompressed."
    elif "Unable to decode" in text and re.search("MPEG|HEVC", text):
        hint = "Its frames are a film: save it as .mp4, or uncompressed."
    return DataError(f"{path}: cannot be read as DICOM ({text[:160]}). {hint}")


def read_header(path: Path) -> Header | None:
    """The header of a DICOM file; None: it holds no image (a report, a plan, a directory).

    Raises:
        DataError: no DICOM file, or damaged.
    """
    try:
        import pydicom

        forced = path.suffix.lower() in SUFFIXES  # old files have no preamble
        tags: list[Any] = TAGS
        data = pydicom.dcmread(path, stop_before_pixels=True, force=forced, specific_tags=tags)
        if "SOPClassUID" not in data and "Rows" not in data:
            raise DataError(f"{path}: cannot be read as DICOM: not a DICOM file, or damaged. "
                            "Replace or remove it.")  # fmt: skip
        return _header(path, data) if "Rows" in data and "Columns" in data else None
    except DataError:
        raise
    except Exception as error:  # of pydicom, many kinds
        raise unreadable(path, error) from None


def _header(path: Path, data: Any) -> Header:
    count = int(data.get("NumberOfFrames") or 1)
    if (whole := int(data.get("TotalPixelMatrixColumns") or 0)) > int(data.Columns):
        raise DataError(
            f"{path}: holds tiles of an image {whole} pixels wide (a slide), and not the image. "
            "Convert it to a TIFF, for example by wsidicomizer or bfconvert."
        )
    shared = (data.get("SharedFunctionalGroupsSequence") or [{}])[0]
    each = data.get("PerFrameFunctionalGroupsSequence") or []
    if each and len(each) != count:
        raise DataError(
            f"{path}: says where {len(each)} frames lie, but holds {count}. Replace or remove it."
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
            raise DataError(f"{path}: its RescaleSlope is 0, which makes all pixels alike. Write "
                            "it again with the slope that it had.")  # fmt: skip
        frames.append(Frame(
            path, i,
            1.0 if slope is None else float(slope),
            0.0 if intercept is None else float(intercept),
            numbers(i, "PlanePositionSequence", "ImagePositionPatient", 3),
            numbers(i, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
            numbers(i, "PixelMeasuresSequence", "PixelSpacing", 2),
        ))  # fmt: skip
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
    """Of a file, or of the files in a folder that hold images.

    Raises:
        DataError: there is none, or one is unreadable.
    """
    files = files_of(path) if path.is_dir() else [path]
    headers = [header for header in map(read_header, files) if header is not None]
    if not headers:
        raise DataError(f"{path}: cannot be read as DICOM: none of its {len(files)} DICOM files "
                        "holds an image. Replace or remove it.")  # fmt: skip
    return headers


def read_values(frame: Frame) -> tuple[np.ndarray, np.ndarray | None, str]:
    """The values of one frame.

    Returns:
        H x W of the numbers that the values mean, or uint8 H x W x 3 RGB; where padding lies, bool
        H x W, or None; and the photometric interpretation.

    Raises:
        DataError: damaged, too large, or compressed in a way that no installed package undoes.
    """
    try:
        from pydicom.pixels import apply_color_lut, apply_modality_lut

        stored, data = _stored(frame)
        meaning = str(data.PhotometricInterpretation)
        if meaning == "PALETTE COLOR":
            colours = apply_color_lut(used_bits(stored, data), data)
            # Entries of 16 bits, of which some programs write the lower 8 alone.
            deep = colours.dtype.itemsize > 1 and highest_color(data) > 255
            return (colours >> 8 if deep else colours).astype(np.uint8), None, "RGB"
        if stored.ndim == 3:
            if stored.dtype != np.uint8 or meaning not in ("RGB", "YBR_FULL", "YBR_FULL_422",
                                                           "YBR_ICT", "YBR_RCT"):  # fmt: skip
                raise DataError(f"{frame.path}: {meaning} pixels of {stored.dtype}; expected grey, "
                                "or colours of 8 bits. Convert it.")  # fmt: skip
            return stored, None, "RGB"
        if meaning not in GREY:
            raise DataError(f"{frame.path}: {meaning} pixels; expected grey or RGB. Convert it.")
        stored = used_bits(stored, data)
        padded = padding_of(stored, data)
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
    except Exception as error:  # of pydicom and of what it unpacks with, many kinds
        raise unreadable(frame.path, error) from None


def _stored(frame: Frame) -> tuple[np.ndarray, Any]:
    """The values as stored (YBR as RGB), and the tags that say what they mean."""
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


def as_image(
    values: np.ndarray, missing: np.ndarray | None, inverted: bool, window: Window | None, name: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Values of `read_values` as an image, uint8 H x W x 3 RGB, and where it holds data, bool H x W
    (None: everywhere). Grey ones are stretched, unless they have 8 bits and there is no window;
    MONOCHROME1 is inverted.

    Raises:
        DataError: a window for colours; values that are not finite.
    """
    if values.ndim == 3:
        if window is not None:
            raise DataError(f"{name}: --data.window is for grey values. Leave it out.")
        return values, None
    grey, holes = values[..., None], None if missing is None else missing[..., None]
    if window is None and values.dtype != np.uint8:
        window = limits_of(grey, holes, name)
    rgb, valid = finish(grey, holes, name, window)
    if inverted:
        rgb = 255 - rgb if valid is None else np.where(valid[..., None], 255 - rgb, 0)
    return rgb.astype(np.uint8), valid


def without_data(
    values: np.ndarray, padded: np.ndarray | None, nodata: float | None = None
) -> np.ndarray | None:
    """bool of the same shape: padding, NaN and what `--data.nodata` names; None: there is none."""
    missing = np.zeros(values.shape, bool) if padded is None else padded
    if nodata is not None:
        missing = missing | equals(values, nodata)
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
    return missing if missing.any() else None


def joint_limits(images: Iterable[tuple[np.ndarray, np.ndarray | None]], name: str) -> Window:
    """The 0.1 and 99.9 percentile of several grey images, where they hold data.

    Raises:
        DataError: see `limits_of`.
    """
    known = [values.ravel() if missing is None else values[~missing] for values, missing in images]
    return limits_of(np.concatenate(known), None, name)


@dataclass(frozen=True)
class DicomImage:
    """A DICOM file that holds one image, as `Pixels`."""

    path: Path
    window: Window | None = None
    nodata: float | None = None

    def read_valid(self) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 H x W x 3 RGB, and where it holds data, bool H x W (None: everywhere)."""
        header = _one(self.path)
        if len(header.frames) > 1:
            raise DataError(
                f"{self.path}: holds {len(header.frames)} frames; expected one image. "
                "`predict --input FILE` goes through them."
            )
        values, padded, meaning = read_values(header.frames[0])
        missing = without_data(values, padded, self.nodata) if values.ndim == 2 else None
        return as_image(values, missing, meaning == "MONOCHROME1", self.window, str(self.path))

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
        raise DataError(f"{path}: {width} x {height} pixels, more than the limit of {MAX_PIXELS}. "
                        "Cut it into tiles.")  # fmt: skip
    return header


def frames_of(path: Path, window: Window | None) -> Iterator[np.ndarray]:
    """The frames of a file in the order in which they are stored, uint8 H x W x 3 RGB; grey ones
    of more than 8 bits are stretched alike.

    Raises:
        DataError: see `read_values`.
    """
    frames = _one(path).frames
    if window is None:
        values, _, _ = read_values(frames[0])
        if values.ndim == 2 and values.dtype != np.uint8:
            some = (read_values(frame)[:2] for frame in frames[:: max(1, len(frames) // 16)])
            window = joint_limits(some, str(path))
    for frame in frames:
        values, padded, meaning = read_values(frame)
        yield as_image(values, padded, meaning == "MONOCHROME1", window, str(path))[0]


def rate_of(path: Path) -> float:
    """Frames per second; 0 where the file does not say."""
    return _one(path).rate
