"""Assemble DICOM files and frames into a volume.

A volume is one series of parallel, evenly spaced slices, ordered by position in space; instance
numbers are ignored. Any other series is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autosam.data.readers.dicom import GREY, Frame, Header, read_headers
from autosam.errors import DataError


@dataclass(frozen=True)
class Series:
    """A volume of DICOM slices, in order along their normal."""

    frames: tuple[Frame, ...]
    size: tuple[int, int]
    """H, W of each slice."""
    affine: np.ndarray
    """4 x 4, from (column, row, slice) to mm in NIfTI coordinates (RAS)."""
    inverted: bool
    """Whether the lowest value is white (MONOCHROME1)."""


def read_series(path: Path) -> Series:
    """Read the series in a file or in the files of a folder.

    Raises:
        DataError: unreadable, several series, colour, or slices that do not form a regular grid.
    """
    headers = read_headers(path)
    titles: dict[str, list[Header]] = {}
    for header in headers:
        titles.setdefault(header.series, []).append(header)
    if len(titles) > 1:
        listed = "; ".join(
            f"{found[0].title} ({len(found)} files, {found[0].path.name} ..)"
            for found in list(titles.values())[:5]
        )
        raise DataError(
            f"{path}: holds {len(titles)} series: {listed}. Move each into a folder of its own, or "
            "pass files one by one."
        )
    first = headers[0]
    for header in headers:
        if header.photometric not in GREY:
            raise DataError(
                f"{header.path}: {header.photometric} pixels; a volume is grey. Segment its frames "
                "one by one (`predict --input FILE`), or save them as images."
            )
        if (header.size, header.photometric) != (first.size, first.photometric):
            raise DataError(
                f"{header.path}: {header.size} {header.photometric}, but {first.path.name} of the "
                f"same series: {first.size} {first.photometric}. Move one of them away."
            )
    frames = [frame for header in headers for frame in header.frames]
    order, affine = place(frames, first.thickness, path)
    ordered = tuple(frames[i] for i in order)
    return Series(ordered, first.size, affine, first.photometric == "MONOCHROME1")


def place(frames: list[Frame], thickness: float, path: Path) -> tuple[list[int], np.ndarray]:
    """Order frames along their normal.

    Args:
        frames: of one series.
        thickness: slice thickness in mm, used for a single frame.
        path: for messages.

    Returns:
        Indices of the frames in order, and the affine 4 x 4 from (column, row, slice) to mm in
        NIfTI coordinates (RAS).

    Raises:
        DataError: the frames are not an evenly spaced stack of parallel slices.
    """

    def name(i: int) -> str:
        frame = frames[i]
        several = sum(other.path == frame.path for other in frames) > 1
        return f"frame {frame.index + 1}" if several else frame.path.name

    for i, frame in enumerate(frames):
        if not (frame.position and frame.orientation and frame.spacing):
            raise DataError(
                f"{path}: {name(i)} has no position (ImagePositionPatient, "
                "ImageOrientationPatient, PixelSpacing), so it cannot be part of a volume. Remove "
                "it, or save the images as single files."
            )
    orientations = np.array([frame.orientation for frame in frames])
    spacings = np.array([frame.spacing for frame in frames])
    across, down = orientations[0].reshape(2, 3)
    odd = (np.abs(orientations - orientations[0]) > 1e-3).any(1)
    odd |= (np.abs(spacings - spacings[0]) > 1e-3 * spacings[0]).any(1)
    if odd.any():
        raise DataError(
            f"{path}: {name(int(odd.argmax()))} has another orientation or pixel spacing than "
            f"{name(0)}. Move each group of parallel slices (a scout, a reformat) into a folder of "
            "its own."
        )
    lengths = [np.linalg.norm(across), np.linalg.norm(down)]
    if not np.allclose(lengths, 1, atol=1e-2) or abs(across @ down) > 1e-2 or min(spacings[0]) <= 0:
        raise DataError(
            f"{path}: {name(0)} has ImageOrientationPatient {frames[0].orientation} and "
            f"PixelSpacing {frames[0].spacing}; expected two perpendicular unit vectors and "
            "positive spacings. Write it again."
        )
    normal = np.cross(across, down)
    positions = np.array([frame.position for frame in frames])
    order = np.argsort(positions @ normal, kind="stable").tolist()
    along = (positions @ normal)[order]
    step = _step(along, [name(i) for i in order], path) if len(order) > 1 else thickness
    offset = positions[order] - positions[order[0]] - np.outer(along - along[0], normal)
    if (shift := np.abs(offset).max()) > 0.05 + 0.01 * (along[-1] - along[0]):
        raise DataError(
            f"{path}: slices are shifted by up to {shift:.2f} mm within their planes (a gantry "
            "tilt), so they are no rectangular volume. Resample it, for example with dcm2niix."
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * spacings[0][1], down * spacings[0][0]
    affine[:3, 2], affine[:3, 3] = normal * step, positions[order[0]]
    return order, np.diag([-1.0, -1, 1, 1]) @ affine


def _step(along: np.ndarray, names: list[str], path: Path) -> float:
    """Distance between slices in mm.

    Args:
        along: positions along the normal in mm, ascending.
        names: of the slices, in the same order.
        path: for messages.

    Raises:
        DataError: two slices at one position, or uneven gaps.
    """
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    if (gaps < 1e-3).any():
        i = int((gaps < 1e-3).argmax())
        raise DataError(
            f"{path}: {names[i]} and {names[i + 1]} lie at one position "
            f"({int((gaps < 1e-3).sum())} such pairs): a duplicate, or several time points, echoes "
            "or phases. Keep one of each, or move each phase into a folder of its own."
        )
    off = np.abs(gaps - usual)
    if off.max() > max(0.05, 0.02 * usual):
        i = int(off.argmax())
        raise DataError(
            f"{path}: {gaps[i]:.2f} mm between {names[i]} and {names[i + 1]}, {usual:.2f} mm "
            "elsewhere: slices are missing, or unevenly spaced. Add them, or resample."
        )
    return float(along[-1] - along[0]) / len(gaps)
