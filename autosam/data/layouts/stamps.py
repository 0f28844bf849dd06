"""Stamps (StaVer), see docs/data.md."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autosam.config import DataConfig
from autosam.data.images import MaskFile, StoredMask, read_mask
from autosam.data.layouts.base import root_of
from autosam.data.layouts.folders import by_stem
from autosam.data.pairs import Pair
from autosam.data.readers.files import image_file
from autosam.errors import DataError

log = logging.getLogger("autosam")


@dataclass(frozen=True)
class DarkMask(MaskFile):
    """A mask file whose foreground is not white (with `black`: whose foreground is black)."""

    black: bool = False

    def read(self) -> np.ndarray:
        values = read_mask(self.path, grey=True)
        return (values == 0 if self.black else values < 255).astype(np.uint8)

    def stored(self) -> StoredMask:
        return StoredMask(self.read())


def pairs_of_stamps(config: DataConfig) -> list[Pair]:
    """Find scans/, ground-truth-pixel/ (stamps are black) and ground-truth-maps/ (a dark region on
    white for each stamp), each possibly nested in a folder of the same name.

    Scans without pixel truth (some beyond number 400 in the archive) are skipped with a warning.

    Raises:
        DataError: a scan has a pixel truth but no region map, or no scan has a pixel truth.
    """
    root = root_of(config)

    def folder(name: str) -> dict[str, Path]:
        inner = root / name / name
        return by_stem(inner if inner.is_dir() else root / name)

    scans, truth, maps = map(folder, ("scans", "ground-truth-pixel", "ground-truth-maps"))
    found = []
    without = [stem for stem in scans if f"{stem}-px" not in truth]
    if without:
        log.warning(
            "%d scans without pixel truth are skipped, for example %s.", len(without), without[0]
        )
    if len(without) == len(scans):
        raise DataError(
            f"{root / 'ground-truth-pixel'}: holds no NAME-px.png of any scan. Unpack the archive "
            "again."
        )
    for stem, path in scans.items():
        if stem in without:
            continue
        if f"{stem}-gt" not in maps:
            raise DataError(f"{path}: has no region map {stem}-gt.png. Add it, or remove the scan.")
        found.append(
            Pair(
                stem,
                image_file(path, config),
                DarkMask(truth[f"{stem}-px"], black=True),
                regions=DarkMask(maps[f"{stem}-gt"]),
            )
        )
    return found
