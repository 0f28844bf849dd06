"""GlaS (Warwick QU), see docs/data.md."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from autosam.config import DataConfig
from autosam.data.images import MaskFile
from autosam.data.layouts.base import root_of
from autosam.data.layouts.folders import by_stem
from autosam.data.pairs import Pair
from autosam.data.readers.files import image_file
from autosam.data.tables import csv_rows
from autosam.errors import DataError


def pairs_of_glas(config: DataConfig) -> list[Pair]:
    """Find train_1.bmp with train_1_anno.bmp, testA_1.bmp, testB_1.bmp; patients are in Grade.csv.

    Raises:
        DataError: an image has no mask, an unexpected file, or no image.
    """
    root = root_of(config)
    files = by_stem(root)
    patients = _patients(root / "Grade.csv")
    found = []
    for stem, path in files.items():
        name = re.fullmatch(r"(train|testA|testB)_\d+", stem)
        if stem.endswith("_anno") and stem.removesuffix("_anno") in files:
            continue
        if name is None:
            raise DataError(
                f"{path}: expected train_1.bmp, train_1_anno.bmp, testA_1.bmp, ... Rename or "
                "remove it."
            )
        if f"{stem}_anno" not in files:
            raise DataError(
                f"{path}: has no mask {stem}_anno{path.suffix} beside it. Add it, or remove the "
                "image."
            )
        pair = Pair(stem, image_file(path, config), MaskFile(files[f"{stem}_anno"]))
        test = name[1] != "train"
        found.append(
            dataclasses.replace(
                pair,
                split="test" if test else "train",
                subset=name[1] if test else "",
                group=patients.get(stem, ""),
            )
        )
    return found


def _patients(path: Path) -> dict[str, str]:
    """Map images to patients by GlaS's table; empty without a table."""
    if not path.is_file():
        return {}
    rows = [row for _, row in csv_rows(path)]
    if rows and not {"name", "patient ID"} <= rows[0].keys():
        raise DataError(
            f"{path}: expected the columns name and patient ID, found {list(rows[0])}. "
            "Fix its first line."
        )
    return {row["name"]: row["patient ID"] for row in rows}
