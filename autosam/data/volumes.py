"""CT and MR volumes as slices, and masks back as volumes.

```
root[/{train,validation,test}]/{images,masks}/NAME.nii.gz      NIfTI (.nii, .nii.gz)
root[/{train,validation,test}]/images/NAME/*.dcm               DICOM, a folder for each series
```

Masks are NIfTI, of the same size as their volume. A split is drawn by volume, never by slice. An
uncompressed .nii is read slice by slice; .nii.gz and DICOM are read whole, and a few of them kept.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from autosam.config import DataConfig
from autosam.data.folders import ALIASES
from autosam.data.images import MAX_PIXELS, Window, digest, stretch
from autosam.data.layouts import root_of
from autosam.data.pairs import PARTS, Pair
from autosam.errors import DataError

T = TypeVar("T")
KEPT = 4
"""Volumes held in memory by each process that reads."""
SUFFIXES = (".nii.gz", ".nii")


def is_volume(path: Path) -> bool:
    """Whether a file's name is that of a volume, or a folder holds DICOM files."""
    if path.is_dir():
        return any(path.glob("*.dcm"))
    return path.name.lower().endswith(SUFFIXES)


def kept(most: int) -> Callable[[Callable[[Path], T]], Callable[[Path], T]]:
    """Keep what a function makes of the last `most` files, as long as they do not change."""

    def decorate(function: Callable[[Path], T]) -> Callable[[Path], T]:
        @functools.lru_cache(maxsize=most)
        def remembered(path: Path, changed: int) -> T:
            return function(path)

        def call(path: Path) -> T:
            try:
                return remembered(path, path.stat().st_mtime_ns)
            except FileNotFoundError:
                raise DataError(f"{path}: no such file. Mend the path.") from None

        return functools.wraps(function)(call)

    return decorate


@kept(64)
def _open(path: Path) -> Any:
    """A NIfTI image of which nothing but the header is read."""
    try:
        from monai.data import NibabelReader

        image = NibabelReader().read(str(path))
    except Exception as error:  # nibabel's own errors descend from Exception alone
        raise _unreadable(path, error) from None
    header = image.header
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise DataError(
            f"{path}: holds no orientation (sform and qform codes are 0), so nobody knows which "
            "axis is which. Write it again with its affine."
        )
    if image.get_data_dtype().kind not in "biuf":
        raise DataError(
            f"{path}: values of type {image.get_data_dtype()}; expected numbers. Write it again as "
            "such."
        )
    return image


@kept(KEPT)
def _series(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A DICOM series: its values along NIfTI's axes, and the affine 4 x 4 in NIfTI's frame."""
    try:
        from monai.data import PydicomReader

        reader = PydicomReader(swap_ij=True, affine_lps_to_ras=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Failed to read")  # it would go on without that slice
            values, meta = reader.get_data(reader.read(str(path)))
    except Exception as error:  # of pydicom and of MONAI, many kinds
        raise _unreadable(path, error) from None
    return np.asarray(values), np.asarray(meta["affine"])


def _unreadable(path: Path, error: Exception) -> DataError:
    missing = isinstance(error, ImportError) or "is not installed" in str(error)
    hint = "pip install 'autosam[data]'" if missing else "Replace or remove it."
    return DataError(f"{path}: cannot be read as a volume ({str(error)[:120]}). {hint}")


def affine_of(path: Path) -> np.ndarray:
    """4 x 4, from indices to millimetres in NIfTI's frame."""
    return _series(path)[1] if path.is_dir() else _open(path).affine


def shape_of(path: Path) -> tuple[int, int, int]:
    """Sizes along the three axes.

    Raises:
        DataError: not a volume, or not of three axes.
    """
    shape = _series(path)[0].shape if path.is_dir() else _open(path).shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or 0 in shape:
        raise DataError(
            f"{path}: has the shape {shape}; expected three axes. Save each volume as a file."
        )
    return shape


@kept(KEPT)
def _array(path: Path) -> np.ndarray:
    """A whole volume."""
    return _series(path)[0] if path.is_dir() else np.asanyarray(_open(path).dataobj)


def read_slice(path: Path, axis: int, index: int) -> np.ndarray:
    """One slice as stored values, rows along the later of the two axes left: H x W.

    Raises:
        DataError: unreadable, or larger than the limit on pictures.
    """
    shape = shape_of(path)
    height, width = [size for i, size in enumerate(shape) if i != axis][::-1]
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{path}: slices of {width} x {height}, limit {MAX_PIXELS} pixels. "
            "Cut it into smaller volumes."
        )
    place = tuple(index if i == axis else slice(None) for i in range(3))
    try:
        whole = _open(path).dataobj if path.name.lower().endswith(".nii") else _array(path)
        return np.asarray(whole[place]).reshape(width, height).T
    except Exception as error:  # of nibabel and of what it unpacks with, many kinds
        raise _unreadable(path, error) from None


@kept(1024)
def window_of(path: Path) -> Window:
    """The 0.1 and 99.9 percentile of a volume (of every fourth voxel along each axis): all of its
    slices are stretched alike."""
    shape_of(path)
    try:
        whole = _array(path) if path.is_dir() else _open(path).dataobj
        some = np.asarray(whole[::4, ::4, ::4], np.float64)
    except Exception as error:  # see `read_slice`
        raise _unreadable(path, error) from None
    some = some[np.isfinite(some)]
    if not len(some):
        raise DataError(f"{path}: holds NaN or infinite pixels. Repair or remove it.")
    low, high = np.percentile(some, (0.1, 99.9))
    return float(low), float(high)


@dataclass(frozen=True)
class Slice:
    """A picture, or with `mask` a mask, out of a volume."""

    path: Path
    axis: int
    index: int
    mask: bool = False
    window: Window | None = None

    def read(self) -> np.ndarray:
        values = read_slice(self.path, self.axis, self.index)
        if not self.mask:
            window = self.window or window_of(self.path)
            return np.repeat(stretch(values, str(self), window)[..., None], 3, axis=2)
        if not (values.min() >= 0 and values.max() < 2**16 and not (values % 1).any()):
            raise DataError(
                f"{self}: mask values must be whole numbers from 0 to 65535. Save it as such."
            )
        return values.astype(np.uint16 if values.max() > 255 else np.uint8)

    def digest(self) -> str:
        how = f"{_digest(self.path)} {self.axis} {self.index} {self.window}"
        return hashlib.sha256(how.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.path} slice {self.index}"


@kept(1024)
def _digest(path: Path) -> str:
    files = sorted(path.glob("*.dcm")) if path.is_dir() else [path]
    return "".join(map(digest, files))


def pairs_of_volumes(config: DataConfig) -> list[Pair]:
    """A pair for each slice; a volume's slices are a group.

    Raises:
        DataError: a volume without mask or the reverse, other sizes or orientation.
    """
    root = root_of(config)
    found: list[Pair] = []
    for part in PARTS:
        for alias in ALIASES[part]:
            if (root / alias).is_dir():
                pairs = _pairs(root / alias, config)
                found += [dataclasses.replace(pair, part=part) for pair in pairs]
                break
    return found or _pairs(root, config)


def _pairs(folder: Path, config: DataConfig) -> list[Pair]:
    volumes, masks = _by_name(folder / "images"), _by_name(folder / "masks")
    stripped = {name.removesuffix(config.mask_suffix): path for name, path in masks.items()}
    if alone := sorted(set(volumes) ^ set(stripped)):
        raise DataError(f"{folder}: {alone[0]} stands in only one of images/ and masks/ "
                        f"({len(alone)} such names). Add it, or remove the other.")  # fmt: skip
    found = []
    for name, path in volumes.items():
        shape, mask = shape_of(path), stripped[name]
        if shape_of(mask) != shape:
            raise DataError(
                f"{path} is {shape} but its mask {mask} is {shape_of(mask)}. Export both at one "
                "size."
            )
        if not np.allclose(affine_of(path), affine_of(mask), atol=1e-3):
            raise DataError(
                f"{path} and its mask {mask} differ in orientation (affine). Resample one of them."
            )
        width = len(str(shape[config.axis]))
        found += [
            Pair(
                f"{name}-{i:0{width}d}",
                Slice(path, config.axis, i, window=config.window),
                Slice(mask, config.axis, i, mask=True),
                group=name,
            )
            for i in range(shape[config.axis])
        ]
    return found


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Mend the path, or make it.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not is_volume(path):
            continue
        name = name_of(path)
        if name in found:
            raise DataError(f"{found[name]} and {path.name}: the same name twice; keep one.")
        found[name] = path
    if not found:
        raise DataError(
            f"{folder}: holds no volume (.nii, .nii.gz, or folders of .dcm). Mend the path."
        )
    return found


def name_of(path: Path) -> str:
    """A volume's name without its extensions."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def stack(slices: list[np.ndarray], axis: int) -> np.ndarray:
    """The inverse of cutting: H x W slices along an axis -> a volume in its own axes."""
    return np.stack([one.T for one in slices], axis)


def write_volume(path: Path, label: np.ndarray, like: Path) -> None:
    """Write a label as NIfTI with the orientation of the volume it was made from.

    Args:
        path: .nii.gz or .nii.
        label: uint8, of the volume's own shape.
        like: that volume.
    """
    import nibabel

    nibabel.save(nibabel.Nifti1Image(label, affine_of(like)), path)
