"""Find the images, volumes and videos to segment."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from autosam.data.images import EXTENSIONS, MAX_PIXELS, Window
from autosam.data.readers import dicom
from autosam.data.readers.sidecars import facts_of, sidecars_of
from autosam.data.readers.volumes import is_nifti, name_of
from autosam.errors import DataError
from autosam.models.state_dict import file_hash
from autosam.utils.io import is_hidden, list_folder
from autosam.utils.text import count_of

log = logging.getLogger("autosam")
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
"""Extensions of videos."""
Kind = Literal["image", "volume", "video"]


@dataclass(frozen=True)
class Source:
    """An image, a volume or a video to segment."""

    path: Path
    name: str
    """Path of its masks relative to the output folder, without extension, separated by "/"."""
    kind: Kind

    @property
    def key(self) -> str:
        """The name with the extension, its key in the progress log."""
        return Path(self.name).with_name(self.path.name).as_posix()

    @property
    def files(self) -> list[Path]:
        """The files that it consists of; of a DICOM series all slices."""
        return dicom.files_of(self.path) if self.path.is_dir() else [self.path]

    def stamp(self) -> str:
        """Hash the paths, sizes, times and inodes of its files and sidecars: 16 hexadecimal digits.

        This is faster than `digest` and changes when a file is replaced.
        """
        facts = []
        for path in [*self.files, *sidecars_of(self.path)]:
            seen = path.stat()
            facts.append(
                [
                    str(path.absolute()),
                    seen.st_size,
                    seen.st_mtime_ns,
                    seen.st_ctime_ns,
                    seen.st_ino,
                ]
            )
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def digest(self) -> str:
        """Hash the content of its files, without their names, and what is read of sidecars, by
        SHA-256."""
        whole = hashlib.sha256()
        for path in self.files:
            whole.update(f"{path.suffix} {file_hash(path)}\n".encode())
        for path in sidecars_of(self.path):
            whole.update(facts_of(path).encode())
        return whole.hexdigest()


def find_sources(where: str, recursive: bool, output: Path, flag: str = "--input") -> list[Source]:
    """Find everything to segment in a file, a folder or a pattern such as `scans/*/*.png`.

    A folder with DICOM slices is one volume; any other DICOM file is an image, a volume or a video.
    Hidden and system files are ignored.

    Args:
        where: path or pattern.
        recursive: whether to search sub-folders.
        output: output folder, which is not searched.
        flag: the setting that `where` comes from, for messages.

    Returns:
        The sources in order of their paths.

    Raises:
        DataError: nothing is found, or a file is of an unknown kind.
    """
    path = Path(where)
    if path.is_file():
        if (kind := _kind(path)) is None:
            raise DataError(
                f"{flag} {where}: not an image, a volume or a video by its extension "
                f"({', '.join(sorted(EXTENSIONS | VIDEOS))}, .nii, .nii.gz, .dcm, a folder of "
                "DICOM slices)."
            )
        return [Source(path, _stem(path), kind)]
    if path.is_dir():
        base, found = path, [path, *list_folder(path, "**/*" if recursive else "*")]
    elif glob.has_magic(where):
        base = Path(*path.parts[: _first_magic(path)])
        matches = sorted(Path(name) for name in glob.iglob(where, recursive=True))
        found = [match for match in matches if not is_hidden(match, base)]
    else:
        raise DataError(f"{flag} {where}: no such file or folder. Fix the path.")
    sources, series, written = [], set(), 0
    for file in found:
        if file.is_dir() and _holds_slices(file):
            series.add(file)
    for file in found:
        if file.parent in series and dicom.is_dicom(file):
            continue
        kind = "volume" if file in series else _kind(file)
        if kind is None:
            continue
        if output.resolve() in (file.resolve(), *file.resolve().parents):
            written += 1
            continue
        folder = file.parent.relative_to(base) if file != base else Path()
        sources.append(Source(file, (folder / _stem(file)).as_posix(), kind))
    if not sources and written:
        raise DataError(
            f"{flag} {where}: its {count_of(written, 'file')} lie in --output {output}, where "
            "files are taken for masks of earlier calls. Choose another --output."
        )
    if not sources:
        further = flag == "--input" and not recursive and path.is_dir()
        deeper = " --recursive true searches sub-folders." if further else ""
        raise DataError(
            f"{flag} {where}: holds no image ({', '.join(sorted(EXTENSIONS))}), volume or "
            f"video.{deeper}"
        )
    return sources


def _kind(path: Path) -> Kind | None:
    suffix = path.suffix.lower()
    if is_nifti(path):
        return "volume"
    if dicom.is_dicom(path):
        return _kind_of_dicom(path)
    dangling = path.is_symlink() and not path.exists()
    if not path.is_file() and not dangling:
        return None
    return "image" if suffix in EXTENSIONS else "video" if suffix in VIDEOS else None


def _kind_of_dicom(path: Path) -> Kind | None:
    """Read the kind of a DICOM file from its header. A file with a damaged header counts as an
    image, so that reading it reports the error."""
    try:
        header = dicom.read_header(path)
    except DataError:
        return "image"
    if header is None:
        return None
    if len(header.frames) == 1:
        return "image"
    return "volume" if header.is_placed else "video"


def _holds_slices(folder: Path) -> bool:
    """Whether a folder holds DICOM files of one image each, at least one with a position."""
    for path in dicom.files_of(folder):
        try:
            header = dicom.read_header(path)
        except DataError:
            continue
        if header is not None and len(header.frames) == 1 and header.is_placed:
            return True
    return False


def _stem(path: Path) -> str:
    """The name of a file without its extension. DICOM files may have names with dots and without an
    extension."""
    if path.is_dir():
        return path.name or path.resolve().name
    if is_nifti(path) or dicom.is_dicom(path):
        return name_of(path)
    return path.stem


def _first_magic(path: Path) -> int:
    """The number of parts of a path before the first wildcard."""
    return next(i for i, part in enumerate(path.parts) if glob.has_magic(part))


def frames_of(path: Path, window: Window | None = None) -> Iterator[np.ndarray]:
    """Read the frames of a video or a DICOM file.

    Args:
        path: the file.
        window: intensity window, see `autosam.data.images.read_image`; for DICOM only.

    Yields:
        uint8 H x W x 3, RGB.

    Raises:
        DataError: the file cannot be read, or its frames have more pixels than `MAX_PIXELS`.
    """
    if dicom.is_dicom(path):
        yield from dicom.frames_of(path, window)
        return
    video = cv2.VideoCapture(str(path))
    try:
        width, height = video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if not video.isOpened() or width * height > MAX_PIXELS:
            raise DataError(
                f"{path}: cannot be read as a video, or its frames have more than {MAX_PIXELS} "
                "pixels. Convert it, or save its frames as images."
            )
        count = 0
        while True:
            success, frame = video.read()
            if not success:
                break
            count += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if count == 0:
            raise DataError(f"{path}: holds no frame that can be decoded. Convert it.")
        stated = video.get(cv2.CAP_PROP_FRAME_COUNT)  # an estimate for some containers
        if count < stated - max(1, 0.02 * stated):
            log.warning(
                "%s: %d of about %d frames could be decoded: it is truncated or damaged. "
                "Take another copy of it.",
                path,
                count,
                stated,
            )
    finally:
        video.release()


def rate_of(path: Path) -> float:
    """Read the frame rate of a video.

    Args:
        path: the file.

    Returns:
        Frames per second; 25 if the file does not state it.
    """
    if dicom.is_dicom(path):
        return dicom.rate_of(path) or 25.0
    video = cv2.VideoCapture(str(path))
    rate = float(video.get(cv2.CAP_PROP_FPS))
    video.release()
    return rate if 0 < rate < 1000 else 25.0
