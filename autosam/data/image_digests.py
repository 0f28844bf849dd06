"""Digests of the images that a training used, kept in its checkpoint in place of their names."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
from pathlib import Path

from autosam.data.pairs import Pair
from autosam.data.splits import read_tail

BYTES = 6
"""Length of a digest. Comparing 10,000 with 10,000 images gives less than one false match."""


def digest_images(pairs: list[Pair]) -> str:
    """Two digests per image: of its name, and of its name, file size and last bytes.

    Returns:
        The digests in base64, 2 * `BYTES` for each image.
    """
    return base64.b64encode(b"".join(_by_name(p) + _by_file(p) for p in pairs)).decode()


def find_seen(pairs: list[Pair], digests: object, by_name: bool) -> list[Pair]:
    """The pairs whose image is among the digests.

    Args:
        pairs: images.
        digests: the result of `digest_images`. No image matches if it cannot be decoded.
        by_name: compare the name with the split given by the folders; otherwise the name without
            it, the file size and the last bytes.
    """
    try:
        content = base64.b64decode(str(digests), validate=True)
    except (binascii.Error, ValueError):
        return []
    first, digest = (0, _by_name) if by_name else (BYTES, _by_file)
    known = {content[i : i + BYTES] for i in range(first, len(content), 2 * BYTES)}
    return [pair for pair in pairs if digest(pair) in known]


def _by_name(pair: Pair) -> bytes:
    return _digest(dataclasses.replace(pair, qualified=True).name)


def _by_file(pair: Pair) -> bytes:
    path = Path(pair.image.path)
    try:
        file = f"{path.stat().st_size} {read_tail(path).hex()}"
    except OSError:  # for example a folder
        file = ""
    return _digest(f"{pair.stem} {file}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:BYTES]
