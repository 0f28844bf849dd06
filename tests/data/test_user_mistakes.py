"""Common mistakes of users: each ends in an error with the file and the remedy."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import miniature
import numpy as np
import pytest
from PIL import Image

from autosam.config import DataConfig
from autosam.data.checks import check_splits
from autosam.data.layouts import load_splits
from autosam.errors import DataError


def checked(root: Path, **settings: object) -> None:
    config = DataConfig(root=str(root), **settings)  # type: ignore[arg-type]
    check_splits(load_splits(config), config)


def large(width: int, height: int) -> bytes:
    """A small file that is a large image."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def deep(width: int, height: int) -> bytes:
    """The head of a PNG of 16-bit colours, which another library decodes."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", 64) + b"IDAT" + bytes(64)


BAD = {
    "an empty file": (b"", "cannot be read as an image"),
    "a page of HTML": (b"<html>not found</html>", "cannot be read as an image"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(64), "cannot be read as an image"),
    "PostScript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "cannot be read as an image",
    ),
    "a video": (b"\x00\x00\x00\x18ftypmp42" + bytes(64), "cannot be read as an image"),
    "30,000 x 30,000 pixels of 16 bits": (deep(30_000, 30_000), "30000 x 30000 pixels, more than"),
    "30,000 x 30,000 pixels": (large(30_000, 30_000), r"30000 x 30000 pixels, more than the limit"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_no_image(tmp_path: Path, what: str) -> None:
    content, message = BAD[what]
    miniature.folders(tmp_path, suffix=".png")
    (tmp_path / "images/003.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"003\.png: {message}"):
        checked(tmp_path)


def test_truncated_images(tmp_path: Path) -> None:
    miniature.folders(tmp_path, suffix=".png")
    path = tmp_path / "images/003.png"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"003\.png: cannot be read as an image"):
        checked(tmp_path)


def test_a_link_that_leads_to_itself(tmp_path: Path) -> None:
    miniature.folders(tmp_path, suffix=".png")
    path = tmp_path / "images/003.png"
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(DataError, match=r"003\.png: (cannot be read|no such file)"):
        checked(tmp_path)


def test_a_folder_that_leads_to_itself(tmp_path: Path) -> None:
    root = miniature.monuseg(tmp_path / "data")
    (root / "again").symlink_to(root, target_is_directory=True)
    checked(root, layout="monuseg", validation=0.25)


def test_a_folder_with_the_name_of_a_image(tmp_path: Path) -> None:
    miniature.folders(tmp_path, suffix=".png")
    (tmp_path / "images/003.png").unlink()
    (tmp_path / "images/003.png").mkdir()
    with pytest.raises(DataError, match=r"003\.png: cannot be read"):
        checked(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    miniature.folders(tmp_path, suffix=".png")
    (tmp_path / "images/003.png").chmod(0)
    with pytest.raises(DataError, match=r"003\.png: cannot be read"):
        checked(tmp_path)


@pytest.mark.parametrize("name", ["set.h5", "clip.mp4", "list.csv"])
def test_a_file_in_place_of_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(DataError, match=rf"{name}: is a file\. For CSV .* videos must be unpacked"):
        load_splits(DataConfig(root=str(tmp_path / name)))


def test_a_folder_of_other_files(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.h5").write_bytes(b"content")
    with pytest.raises(DataError, match=r"images: holds no image \(\.bmp"):
        load_splits(DataConfig(root=str(tmp_path)))


def test_not_finite_pixels(tmp_path: Path) -> None:
    miniature.folders(tmp_path, suffix=".png")
    values = np.full(miniature.SIZE, np.inf, np.float32)
    (tmp_path / "images/003.png").unlink()
    Image.fromarray(values).save(tmp_path / "images/003.tif")
    with pytest.raises(DataError, match=r"003\.tif: holds NaN or infinite pixels"):
        checked(tmp_path)
