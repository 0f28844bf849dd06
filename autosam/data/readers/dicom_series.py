"""Which DICOM files and frames make up a volume, in which order, and where it lies.

A volume is one series of parallel, evenly spaced slices, ordered by their position in space; the
numbers that files carry are not looked at. Whatever does not fit is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autosam.data.readers.dicom import GREY, Frame, Header, read_headers
from autosam.errors import DataError


@dataclass(frozen=True)
class Series:
    """A volume of DICOM slices, in the order in which they lie along their normal."""

    frames: tuple[Frame, ...]
    size: tuple[int, int]
    """H, W of each."""
    affine: np.ndarray
    """4 x 4, from (column, row, slice) to millimetres in NIfTI's frame."""
    inverted: bool
    """MONOCHROME1: the lowest value is white."""


def read_series(path: Path) -> Series:
    """The one volume that a file, or the files in a folder, hold.

    Raises:
        DataError: unreadable, several series, colour, or slices that make up no even grid; the
            message names the files.
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
                f"{header.path}: {header.photometric} pixels; a volume is grey. Its frames can be "
                "segmented one by one (`predict --input FILE`), or saved as images."
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
        thickness: millimetres along the normal, where there is one frame alone.
        path: what messages name.

    Returns:
        The order, and the affine 4 x 4 from (column, row, slice) to NIfTI's millimetres.

    Raises:
        DataError: they are no evenly spaced stack of parallel slices.
    """

    def name(i: int) -> str:
        frame = frames[i]
        several = sum(other.path == frame.path for other in frames) > 1
        return f"frame {frame.index + 1}" if several else frame.path.name

    for i, frame in enumerate(frames):
        if not (frame.position and frame.orientation and frame.spacing):
            raise DataError(
                f"{path}: {name(i)} does not say where it lies (ImagePositionPatient, "
                "ImageOrientationPatient, PixelSpacing): no volume can be made of it. Remove it, "
                "or save the images as files of their own."
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
            f"PixelSpacing {frames[0].spacing}; expected two directions at right angles and "
            "lengths above 0. Write it again."
        )
    normal = np.cross(across, down)
    positions = np.array([frame.position for frame in frames])
    order = np.argsort(positions @ normal, kind="stable").tolist()
    along = (positions @ normal)[order]
    step = _step(along, [name(i) for i in order], path) if len(order) > 1 else thickness
    aside = positions[order] - positions[order[0]] - np.outer(along - along[0], normal)
    if (shift := np.abs(aside).max()) > 0.05 + 0.01 * (along[-1] - along[0]):
        raise DataError(
            f"{path}: slices are shifted by up to {shift:.2f} mm within their planes (a gantry "
            "tilt): no straight volume. Resample it first, for example by dcm2niix."
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * spacings[0][1], down * spacings[0][0]
    affine[:3, 2], affine[:3, 3] = normal * step, positions[order[0]]
    return order, np.diag([-1.0, -1, 1, 1]) @ affine


def _step(along: np.ndarray, names: list[str], path: Path) -> float:
    """Millimetres from slice to slice.

    Args:
        along: positions along the normal, ascending.
        names: of the slices, in the same order.
        path: what messages name.

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
