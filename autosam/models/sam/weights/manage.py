"""The actions of `autosam weights`: list, get, verify and add."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from autosam.errors import CheckpointError
from autosam.models.sam import SAMS
from autosam.models.sam.weights import locate
from autosam.models.sam.weights.hub import endpoint
from autosam.models.sam.weights.identify import guess, recognise
from autosam.models.state_dict import file_hash, read_weights


def show() -> None:
    """Print every SAM with its weights file: shipped, its path, or not downloaded."""
    table = Table("--sam", "image encoder", "MB", Column("file", overflow="fold"), "licence")
    for name, spec in SAMS.items():
        path = locate.find(name)
        megabytes = path.stat().st_size / 1e6 if path else spec.megabytes
        where = "shipped" if locate.shipped(name) else str(path or "not downloaded")
        table.add_row(name, spec.architecture, f"{megabytes:.0f}", where, spec.licence)
    Console(markup=False, emoji=False).print(table)
    print(f"cache folder (AUTOSAM_CACHE): {locate.cache_folder()}")
    print(f"mirror (AUTOSAM_MIRROR): {os.environ.get('AUTOSAM_MIRROR') or 'none'}")
    print(f"mirror of the Hugging Face hub (HF_ENDPOINT): {endpoint() or 'none'}")


def get(*names: str) -> None:
    """Download missing weights files, and print the path of each.

    Raises:
        ConfigError, CheckpointError: see `locate.fetch`.
    """
    for name in names:
        locate.known(name)  # check all names before the first download
    for name in names:
        print(f"{name}: {locate.fetch(name)}")


def verify(file: str | Path, sam: str | None = None) -> None:
    """Identify and check a weights file, and print the result.

    Args:
        file: the weights file.
        sam: the SAM that the file should belong to; None: found by its hash, name and tensors.

    Raises:
        ConfigError: no SAM of that name.
        CheckpointError: the file is of no known SAM, its hash differs, or a tensor does not fit.
    """
    path, state = Path(file), read_weights(file)
    digest = file_hash(path)
    print(f"{path}\n  SHA-256  {digest}")
    names = [sam] if sam else candidates(path, digest, recognise(state)[1])
    if not names:
        raise CheckpointError(f"{path}: not the weights file of a known SAM. {guess(state)}")
    others = f" (could also be {', '.join(names[1:])}: see --sam)" if names[1:] else ""
    print(f"  SAM      {names[0]}{others}")
    locate.check(names[0], path)
    facts = []
    if stated := locate.known(names[0]).sha256:
        facts.append("as its source states it" if stated == digest else f"starts with {stated}")
    if locate.recorded(path):
        facts.append("as recorded next to the file")
    print(f"  hash     {' and '.join(facts) or 'none is stated or recorded to compare it with'}")
    print(f"  tensors  all {len(state)} fit")


def candidates(path: Path, digest: str, fitting: Sequence[str]) -> list[str]:
    """The SAMs that a file may belong to, the most likely first.

    Args:
        path: the file.
        digest: its SHA-256.
        fitting: the SAMs that its tensors fit.

    Returns:
        The SAM with that hash alone, if there is one; else the one with that file name, then those
        of `fitting`, with SAMs of a stated, other hash last.
    """
    for name, spec in SAMS.items():
        if spec.sha256 and digest.startswith(spec.sha256):
            return [name]
    pool = [n for n, spec in SAMS.items() if n in fitting or spec.file == path.name]
    return sorted(pool, key=lambda n: (SAMS[n].file != path.name, bool(SAMS[n].sha256)))


def add(name: str, file: str | Path) -> None:
    """Check a weights file and copy it into the cache folder, where `--sam NAME` finds it.

    Raises:
        ConfigError, CheckpointError: see `locate.add`.
    """
    print(f"{name}: {locate.add(name, file)}")
