"""Read the image size of a compressed strip or tile before it is decoded."""

from __future__ import annotations

import io
import struct

from PIL import Image

JPEG = (7, 33007, 34892)
"""TIFF compressions by format, of which each strip or tile stores its own size."""
WAVELET = (33005, 34712)
WEBP, PNG, LERC = 50001, 34933, 34887
PLAIN = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
"""TIFF compressions whose decoder stops at the size in the TIFF's tags: none, CCITT, LZW, Deflate,
PackBits, LZMA, Zstandard."""
READ = (*PLAIN, *JPEG, *WAVELET, WEBP, PNG, LERC)
FORMATS = dict.fromkeys(WAVELET, "JPEG2000") | {WEBP: "WEBP", PNG: "PNG"}


def pixels_in(data: bytes, compression: int) -> int | None:
    """Number of pixels of a strip or tile by its own header; None if its format has no header.

    Args:
        data: the compressed bytes.
        compression: number of the TIFF compression.

    Raises:
        Exception: damaged data; several types.
    """
    if compression in JPEG:
        return _jpeg(data)
    if compression == LERC:
        return _lerc(data)
    if compression in FORMATS:
        with Image.open(io.BytesIO(data), formats=(FORMATS[compression],)) as image:
            return image.width * image.height
    return None


def _jpeg(data: bytes) -> int:
    """From the frame header (SOF)."""
    at = data.find(b"\xff\xd8") + 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("a damaged JPEG")
        kind = data[at + 1]
        if kind == 0xFF or 0xD0 <= kind <= 0xD8 or kind == 1:
            at += 1 if kind == 0xFF else 2
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return int(height * width)
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    raise ValueError("a JPEG without a frame")


def _lerc(data: bytes) -> int:
    if data[:6] != b"Lerc2 ":
        raise ValueError("LERC of an old or compressed kind")
    at = 14 if struct.unpack("<i", data[6:10])[0] >= 3 else 10
    rows, columns = struct.unpack("<ii", data[at : at + 8])
    return int(rows * columns)
