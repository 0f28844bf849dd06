"""CT and MR volumes with masks; each slice is an image.

```
root[/{train,validation,test}]/{images,masks}/NAME.nii.gz      NIfTI (.nii, .nii.gz)
root[/{train,validation,test}]/images/NAME/*                   DICOM, one folder per series
root[/{train,validation,test}]/images/NAME.dcm                 DICOM, one file with many frames
```

Masks are NIfTI of the same size as their volume. Splits are drawn by volume, not by slice.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np

from autosam.config import DataConfig
from autosam.data.layouts.base import root_of
from autosam.data.layouts.folders import ALIASES
from autosam.data.pairs import SPLITS, Pair
from autosam.data.readers.volumes import Slice, affine_of, is_volume, name_of, shape_of
from autosam.errors import DataError
from autosam.utils.io import is_hidden

log = logging.getLogger("autosam")


def pairs_of_volumes(config: DataConfig) -> list[Pair]:
    """Find a pair for each slice. The slices of a volume are a group.

    Raises:
        DataError: a volume without mask, a mask without volume, or different sizes or orientations.
    """
    root = root_of(config)
    found: list[Pair] = []
    for split in SPLITS:
        for alias in ALIASES[split]:
            if (root / alias).is_dir():
                pairs = _pairs(root / alias, config)
                found += [dataclasses.replace(pair, split=split) for pair in pairs]
                break
    found = found or _pairs(root, config)
    _compare_orientations(found, config.axis)
    return found


def _compare_orientations(pairs: list[Pair], axis: int) -> None:
    """Warn of volumes that are stored mirrored.

    Raises:
        DataError: the axis is a different anatomical axis in some volumes.
    """
    from nibabel.orientations import aff2axcodes

    stored: dict[str, list[str]] = {}
    for path, name in {pair.image.path: pair.group for pair in pairs}.items():
        codes = "".join(str(code) for code in aff2axcodes(affine_of(path)))
        stored.setdefault(codes, []).append(name)
    if len(stored) == 1:
        return
    listed = ", ".join(f"{len(names)} {codes} ({names[0]} ..)" for codes, names in stored.items())
    planes = {"LRAPSI".index(codes[axis]) // 2 for codes in stored}
    if len(planes) > 1:
        raise DataError(
            f"Volumes are stored in different orientations: {listed}. Slices along --data.axis "
            f"{axis} would be different planes of the body. Reorient them (nibabel.as_closest_"
            "canonical), masks too."
        )
    log.warning(
        "Volumes are stored in different orientations: %s. Slices of some are mirrored.", listed
    )


def _pairs(folder: Path, config: DataConfig) -> list[Pair]:
    volumes, masks = _by_name(folder / "images"), _by_name(folder / "masks")
    stripped = {name.removesuffix(config.mask_suffix): path for name, path in masks.items()}
    if alone := sorted(set(volumes) ^ set(stripped)):
        raise DataError(
            f"{folder}: {alone[0]} is in only one of images/ and masks/ "
            f"({len(alone)} such names). Add it, or remove the other."
        )
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
                Slice.image(path, i, config),
                Slice(mask, config.axis, i, mask=True),
                group=name,
            )
            for i in range(shape[config.axis])
        ]
    return found


def volume_of(pair: Pair) -> str | None:
    """The name of the volume that the image of a pair is a slice of; None for other images."""
    return pair.name.rpartition("-")[0] if isinstance(pair.image, Slice) else None


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Fix the path, or make it.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_hidden(path) or not is_volume(path):
            continue
        name = name_of(path)
        if name in found:
            raise DataError(f"{found[name]} and {path.name}: a duplicate name. Keep one of them.")
        found[name] = path
    if not found:
        raise DataError(
            f"{folder}: holds no volume (.nii, .nii.gz, DICOM files, or folders of DICOM files). "
            "Fix the path."
        )
    return found
