"""Polyp data sets in the archives of PraNet, see docs/data.md."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from autosam.config import DataConfig
from autosam.data.layouts.base import root_of
from autosam.data.layouts.folders import find_pairs
from autosam.data.pairs import Pair
from autosam.errors import DataError
from autosam.utils.io import list_folder


def pairs_of_polyps(config: DataConfig) -> list[Pair]:
    """Find TrainDataset/{images,masks} and TestDataset/SET/{images,masks}, or `image` and `mask`.

    Each SET (CVC-300, CVC-ClinicDB, CVC-ColonDB, ETIS-LaribPolypDB, Kvasir, others) is a subset.

    Raises:
        DataError: see `find_pairs`.
    """
    root = root_of(config)

    def within(folder: Path) -> list[Pair]:
        for images, masks in (("images", "masks"), ("image", "mask")):
            if (folder / images).is_dir():
                return find_pairs(folder / images, folder / masks, config)
        raise DataError(
            f"{folder}: expected images/ and masks/ (or image/ and mask/). Unpack it again."
        )

    found = [dataclasses.replace(pair, split="train") for pair in within(root / "TrainDataset")]
    for folder in [p for p in list_folder(root / "TestDataset") if p.is_dir()]:
        found += [
            dataclasses.replace(pair, split="test", subset=folder.name) for pair in within(folder)
        ]
    return found
