"""What `predict` finds to segment: pictures, volumes and videos, in files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from autosam.data.images import EXTENSIONS, MAX_PIXELS
from autosam.data.volumes import is_volume, name_of
from autosam.errors import DataError

VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}


@dataclass(frozen=True)
class Source:
    """Something to segment."""

    path: Path
    name: str
    """Where its masks go under the output folder, without extension: sub-folders are kept."""
    kind: Literal["picture", "volume", "video"]

    @property
    def key(self) -> str:
        """Its name with the extension, by which the journal knows it."""
        return str(Path(self.name).with_name(self.path.name))


def find_sources(where: str, recursive: bool, output: Path, flag: str = "--input") -> list[Source]:
    """What a file, a folder or a pattern such as `scans/*/*.png` names, in order.

    Args:
        where: path or pattern.
        recursive: whether folders are searched to the bottom.
        output: is never searched.
        flag: which setting names it.

    Raises:
        DataError: there is nothing, or a file is of no kind that can be segmented.
    """
    path = Path(where)
    if path.is_file() or is_volume(path):
        kind = _kind(path)
        if kind is None:
            raise DataError(
                f"{flag} {where}: not a picture, a volume or a video by its extension "
                f"({', '.join(sorted(EXTENSIONS | VIDEOS))}, .nii, .nii.gz, a folder of .dcm)."
            )
        return [Source(path, _stem(path, kind), kind)]
    if path.is_dir():
        base, found = path, path.rglob("*") if recursive else path.iterdir()
    elif glob.has_magic(where):
        base = Path(*path.parts[: _first_magic(path)])
        found = (Path(name) for name in glob.iglob(where, recursive=True))
    else:
        raise DataError(f"{flag} {where}: no such file or folder. Mend the path.")
    sources = []
    for file in sorted(found):
        kind = _kind(file)
        if kind is None or output.resolve() in (file.resolve(), *file.resolve().parents):
            continue
        folder = file.parent.relative_to(base)
        sources.append(Source(file, str(folder / _stem(file, kind)), kind))
    if not sources:
        further = flag == "--input" and not recursive and path.is_dir()
        deeper = " --recursive true looks deeper." if further else ""
        raise DataError(
            f"{flag} {where}: holds no picture ({', '.join(sorted(EXTENSIONS))}), volume or "
            f"video.{deeper}"
        )
    return sources


def _kind(path: Path) -> Literal["picture", "volume", "video"] | None:
    if is_volume(path):
        return "volume"
    suffix = path.suffix.lower()
    if not path.is_file():
        return None
    return "picture" if suffix in EXTENSIONS else "video" if suffix in VIDEOS else None


def _stem(path: Path, kind: str) -> str:
    return name_of(path) if kind == "volume" else path.stem


def _first_magic(path: Path) -> int:
    """How many parts of a pattern are fixed."""
    return next(i for i, part in enumerate(path.parts) if glob.has_magic(part))


def frames_of(path: Path) -> Iterator[np.ndarray]:
    """The pictures of a video, uint8 H x W x 3 RGB.

    Raises:
        DataError: it cannot be read, or its frames are larger than the limit on pictures.
    """
    video = cv2.VideoCapture(str(path))
    try:
        width, height = video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if not video.isOpened() or width * height > MAX_PIXELS:
            raise DataError(
                f"{path}: cannot be read as a video (or its frames are of more than {MAX_PIXELS} "
                "pixels). Convert it, or save its frames as pictures."
            )
        count = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            count += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if count == 0:
            raise DataError(f"{path}: holds no frame that can be decoded. Convert it.")
    finally:
        video.release()


def rate_of(path: Path) -> float:
    """Frames per second of a video; 25 where it does not say."""
    video = cv2.VideoCapture(str(path))
    rate = float(video.get(cv2.CAP_PROP_FPS))
    video.release()
    return rate if 0 < rate < 1000 else 25.0
