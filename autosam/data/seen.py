"""Which images a training has seen, noted in its checkpoint without their names."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
from pathlib import Path

from autosam.data.pairs import Pair
from autosam.data.splits import end_of

BYTES = 6
"""Of each digest: of 10,000 times 10,000 images less than one is taken for another."""


def note(pairs: list[Pair]) -> str:
    """Of each image two digests: of its name, and of its name, size in bytes and last bytes."""
    return base64.b64encode(b"".join(_by_name(p) + _by_file(p) for p in pairs)).decode()


def among(pairs: list[Pair], noted: object, by_name: bool) -> list[Pair]:
    """Those of the pairs that are in a note; none of a note that cannot be read.

    Args:
        pairs: images.
        noted: what `note` gave.
        by_name: by the name, with the split that the folders give; otherwise by the name without
            it, and the size and last bytes of the file.
    """
    try:
        content = base64.b64decode(str(noted), validate=True)
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
        file = f"{path.stat().st_size} {end_of(path).hex()}"
    except OSError:  # of a folder, for one
        file = ""
    return _digest(f"{pair.stem} {file}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:BYTES]
