"""DICOM files for tests, written by pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

SERIES = generate_uid()
UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def make(
    values: np.ndarray,
    kind: str = CTImageStorage,
    syntax: str = ExplicitVRLittleEndian,
    **tags: Any,
) -> FileDataset:
    """A data set that is valid but for the given tags; None takes a tag out.

    Args:
        values: [frames x] H x W or H x W x 3.
        kind: SOPClassUID.
        syntax: uncompressed transfer syntax.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = syntax
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID = SERIES, SERIES
    data.FrameOfReferenceUID, data.Modality = SERIES, "CT"
    colour = values.shape[-1] == 3
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = values.shape[-3:-1] if colour else values.shape[-2:]
    if values.ndim - colour == 3:
        data.NumberOfFrames = len(values)
    bits = 8 * values.dtype.itemsize
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data.PixelData = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data["PixelData"].VR = "OW" if bits > 8 else "OB"
    for name, value in tags.items():
        if value is not None:
            setattr(data, name, value)
    return data


def save(data: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def save_bare(data: FileDataset, path: Path) -> Path:
    """As old files are: no preamble, no file meta information, implicit VR."""
    data.file_meta, data.preamble = FileMetaDataset(), None
    pydicom.dcmwrite(path, data, implicit_vr=True, little_endian=True)
    return path


def series(
    folder: Path, volume: np.ndarray, *, normal_step: float = 2.5, orientation: tuple[float, ...]
    = UPRIGHT, origin: tuple[float, ...] = (-12.5, 20.0, 7.0), **tags: Any,
) -> Path:  # fmt: skip
    """slices x H x W as a file each; names and InstanceNumber run against the order in space."""
    normal = np.cross(orientation[:3], orientation[3:])
    numbers = np.random.default_rng(3).permutation(len(volume))
    for k, values in enumerate(volume):
        position = [round(float(v), 6) for v in origin + k * normal_step * normal]
        given = {"ImagePositionPatient": position, "InstanceNumber": int(numbers[k]) + 1,
                 "ImageOrientationPatient": list(orientation), "PixelSpacing": [0.7, 0.9],
                 "SliceThickness": 5.0, **tags}  # fmt: skip
        own = {name: v[k] if isinstance(v, tuple) else v for name, v in given.items()}
        save(make(values, **own), folder / f"{numbers[k]}.dcm")
    return folder


def enhanced(values: np.ndarray, positions: list[list[float]], slopes: list[float]) -> FileDataset:
    """A multi-frame CT that says of each frame where it lies and how it is scaled."""
    data = make(values, EnhancedCTImageStorage)
    shared = Dataset()
    plane, measures = Dataset(), Dataset()
    plane.ImageOrientationPatient = list(UPRIGHT)
    measures.PixelSpacing, measures.SliceThickness = [0.7, 0.9], 5.0
    shared.PlaneOrientationSequence = Sequence([plane])
    shared.PixelMeasuresSequence = Sequence([measures])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for position, slope in zip(positions, slopes, strict=True):
        group, place, scale = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = position
        scale.RescaleSlope, scale.RescaleIntercept = slope, -100
        scale.RescaleType = "HU"
        group.PlanePositionSequence = Sequence([place])
        group.PixelValueTransformationSequence = Sequence([scale])
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return data


def cine(values: np.ndarray, **tags: Any) -> FileDataset:
    """Frames in time, as ultrasound has them: no place in space."""
    return make(values, UltrasoundMultiFrameImageStorage, Modality="US", FrameTime=50, **tags)
