"""Read slices of volumes (NIfTI, DICOM) as images, and write masks as volumes.

An uncompressed .nii, and DICOM along its third axis, are read slice by slice. Others are read as a
whole, and each process caches the last few.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from autosam.config import DataConfig
from autosam.data.images import MAX_PIXELS, Window, digest
from autosam.data.readers import dicom, dicom_values
from autosam.data.readers.dicom import is_dicom
from autosam.data.readers.dicom_series import Series, read_series
from autosam.data.readers.file_cache import signature, stamp
from autosam.errors import DataError
from autosam.utils.io import is_hidden

T = TypeVar("T")
CACHED_VOLUMES = 4
"""Volumes that each process keeps in memory."""
SUFFIXES = (".nii.gz", ".nii")
Values = tuple[np.ndarray, np.ndarray | None]
"""Values, and where they are padding, bool of the same shape (None: nowhere)."""


def is_nifti(path: Path) -> bool:
    """Whether a path is a NIfTI file, by its extension."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file() and not is_hidden(path)


def is_volume(path: Path) -> bool:
    """Whether a path is a NIfTI or DICOM file, or a folder with DICOM files directly in it."""
    return bool(dicom.files_of(path)) if path.is_dir() else is_nifti(path) or is_dicom(path)


def cache_unchanged(most: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Cache results for the last `most` files or folders, until they change, see `signature`."""

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        @functools.lru_cache(maxsize=most)
        def cached(path: Path, facts: Hashable, *rest: Any) -> T:
            return function(path, *rest)

        def call(path: Path, *rest: Any) -> T:
            if not path.exists():
                raise DataError(f"{path}: no such file. Fix the path.")
            return cached(path, signature(path), *rest)

        return functools.wraps(function)(call)

    return decorate


@cache_unchanged(64)
def _open(path: Path) -> Any:
    """Open a NIfTI image; only its header is read."""
    try:
        import nibabel

        image: Any = nibabel.load(path)
    except Exception as error:  # nibabel's errors have no common base class
        raise _unreadable(path, error) from None
    header = image.header
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise DataError(
            f"{path}: holds no orientation (sform and qform codes are 0), so its axes are "
            "undefined. Write it again with its affine."
        )
    affine = np.asarray(image.affine)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(
            f"{path}: its affine is not finite or singular, so its voxels have no position. "
            "Write it again with its affine."
        )
    if image.get_data_dtype().kind not in "biuf":
        raise DataError(
            f"{path}: values of type {image.get_data_dtype()}; expected numbers. Write it again as "
            "numbers."
        )
    return image


@cache_unchanged(64)
def _series(path: Path) -> Series:
    """Read the headers of a DICOM volume."""
    return read_series(path)


def _unreadable(path: Path, error: Exception) -> DataError:
    hint = "Replace or remove it."
    if isinstance(error, ImportError):
        hint = "pip install 'autosam[data]'"
    return DataError(f"{path}: cannot be read as a volume ({str(error)[:120]}). {hint}")


def affine_of(path: Path) -> np.ndarray:
    """4 x 4, from indices to mm in NIfTI coordinates (RAS)."""
    return _open(path).affine if is_nifti(path) else _series(path).affine


def shape_of(path: Path) -> tuple[int, int, int]:
    """Size along each of the three axes (DICOM: columns, rows, slices).

    Raises:
        DataError: not a volume, or not three axes.
    """
    if not is_nifti(path):
        series = _series(path)
        return series.size[1], series.size[0], len(series.frames)
    shape = _open(path).shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or 0 in shape:
        raise DataError(
            f"{path}: has the shape {shape}; expected three axes. Save each volume as a file."
        )
    return shape


def is_inverted(path: Path) -> bool:
    """Whether the lowest value of a volume is white (MONOCHROME1)."""
    return not is_nifti(path) and _series(path).inverted


@cache_unchanged(CACHED_VOLUMES)
def _array(path: Path) -> Values:
    """Read a whole volume, in stored axes."""
    if is_nifti(path):
        return np.asanyarray(_open(path).dataobj), None
    slices = [dicom.read_values(frame)[:2] for frame in _series(path).frames]
    values = np.stack([values.T for values, _ in slices], 2)
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    if all(padded is None for _, padded in slices):
        return values, None
    none = np.zeros(slices[0][0].shape, bool)
    return values, np.stack([(none if padded is None else padded).T for _, padded in slices], 2)


def read_slice(path: Path, axis: int, index: int) -> Values:
    """Read one slice.

    Args:
        path: the volume.
        axis: 0 to 2, the axis that is cut.
        index: position along the axis.

    Returns:
        Values H x W, with rows along the later of the two remaining axes, and padding, see
        `Values`.

    Raises:
        DataError: unreadable, or larger than `MAX_PIXELS`.
    """
    shape = shape_of(path)
    height, width = [size for i, size in enumerate(shape) if i != axis][::-1]
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{path}: slices of {width} x {height}, limit {MAX_PIXELS} pixels. "
            "Cut it into smaller volumes."
        )
    if not is_nifti(path) and axis == 2:
        return dicom.read_values(_series(path).frames[index])[:2]
    place = tuple(index if i == axis else slice(None) for i in range(3))
    try:
        in_pieces = path.name.lower().endswith(".nii")
        whole, padded = (_open(path).dataobj, None) if in_pieces else _array(path)
        values = np.asarray(whole[place]).reshape(width, height).T
        return values, None if padded is None else padded[place].T
    except DataError:
        raise
    except Exception as error:  # several types, from nibabel and its codecs
        raise _unreadable(path, error) from None


@cache_unchanged(1024)
def window_of(path: Path, nodata: float | None = None) -> Window:
    """The 0.1 and 99.9 percentiles of a volume, the window of all its slices. Computed from every
    fourth voxel along each axis that holds data.

    Raises:
        DataError: see `autosam.data.readers.stretch.percentile_window`.
    """
    depth, samples = shape_of(path)[2], []
    if is_nifti(path):
        try:
            sample = np.asarray(_open(path).dataobj[::4, ::4, ::4])
        except Exception as error:  # see `read_slice`
            raise _unreadable(path, error) from None
        samples.append((sample, dicom_values.missing_pixels(sample, None, nodata)))
    else:
        for index in range(0, depth, 4):
            values, padded = read_slice(path, 2, index)
            missing = dicom_values.missing_pixels(values, padded, nodata)
            samples.append((values[::4, ::4], None if missing is None else missing[::4, ::4]))
    return dicom_values.shared_window(samples, str(path))


@dataclass(frozen=True)
class Slice:
    """A slice of a volume as an image, or with `mask` as a mask; implements `Pixels`."""

    path: Path
    axis: int
    index: int
    mask: bool = False
    window: Window | None = None
    nodata: float | None = None
    """Value of voxels without data, in addition to padding and NaN."""
    count: int = 1
    """C: number of slices that the prompt generator reads, this one in the middle; 1: the RGB
    image."""

    @classmethod
    def image(cls, path: Path, index: int, config: DataConfig) -> Slice:
        """A slice as an image, with the reading settings applied."""
        window, nodata = config.window, config.nodata
        return cls(path, config.axis, index, False, window, nodata, config.slices)

    def read_valid(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Read an image: uint8 H x W x (3 + C), and where it holds data, bool H x W (None:
        everywhere). Beyond the ends of the volume its first or last slice is repeated."""
        colors, valid = self._colors()
        if self.count == 1:
            return colors, valid
        last, reach = shape_of(self.path)[self.axis] - 1, self.count // 2
        places = [min(max(0, self.index + i), last) for i in range(-reach, reach + 1)]
        greys = [replace(self, index=place)._colors()[0][..., 0] for place in places]
        return np.dstack([colors, *greys]), valid

    def _colors(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The slice alone, uint8 H x W x 3, and where it holds data."""
        values, padded = read_slice(self.path, self.axis, self.index)
        missing = dicom_values.missing_pixels(values, padded, self.nodata)
        window = self.window or window_of(self.path, self.nodata)
        return dicom.to_image(values, missing, is_inverted(self.path), window, str(self))

    def read(self) -> np.ndarray:
        """Read an image, uint8 H x W x 3 RGB; or the values of a mask, uint8 or uint16 H x W.

        Raises:
            DataError: unreadable, or mask values that are not whole numbers from 0 to 65535.
        """
        if not self.mask:
            return self._colors()[0]
        values, _ = read_slice(self.path, self.axis, self.index)
        if not (values.min() >= 0 and values.max() < 2**16 and not (values % 1).any()):
            raise DataError(
                f"{self}: mask values must be whole numbers from 0 to 65535. Save them so."
            )
        return values.astype(np.uint16 if values.max() > 255 else np.uint8)

    def digest(self) -> str:
        how = f"{_digest(self.path)} {self.axis} {self.index} {self.window} {self.nodata}"
        return hashlib.sha256(how.encode()).hexdigest()

    def stamp(self) -> Hashable:
        """See `stamp_of`; a series of files has none."""
        settings = (self.axis, self.index, self.mask, self.window, self.nodata, self.count)
        return (own := stamp(self.path)) and (own, settings)

    def __str__(self) -> str:
        return f"{self.path} slice {self.index}"


@cache_unchanged(1024)
def _digest(path: Path) -> str:
    files = dicom.files_of(path) if path.is_dir() else [path]
    return "".join(map(digest, files))


def name_of(path: Path) -> str:
    """A volume's name without its extensions."""
    for suffix in (*SUFFIXES, *dicom.SUFFIXES):
        if not path.is_dir() and path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def stack(slices: list[np.ndarray], axis: int) -> np.ndarray:
    """Stack H x W slices along an axis to a volume in stored axes."""
    return np.stack([one.T for one in slices], axis)


def write_volume(path: Path, label: np.ndarray, like: Path) -> None:
    """Write a label as NIfTI with the geometry of a volume: sform and qform with their codes, and
    axes of size 1 beyond the third.

    Args:
        path: .nii.gz or .nii.
        label: uint8 or uint16, of the shape of the volume.
        like: the volume.
    """
    import nibabel

    if is_nifti(like):
        source = _open(like)
        header = nibabel.Nifti1Header.from_header(source.header, check=False)
        header.set_data_dtype(label.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        written = nibabel.Nifti1Image(label.reshape(source.shape), None, header)
    else:
        written = nibabel.Nifti1Image(label, None)
        written.header.set_xyzt_units("mm")
        written.set_qform(affine_of(like), 1)
        written.set_sform(affine_of(like), 1)
    nibabel.save(written, path)
