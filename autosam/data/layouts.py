"""Public data sets as they are unpacked: Pascal VOC, GlaS, polyps as PraNet has them, StaVer.

docs/data.md has a tree of each.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autosam.config import DataConfig
from autosam.data.folders import by_stem, find_pairs, image_file
from autosam.data.images import MaskFile, StoredMask, read_mask
from autosam.data.manifest import csv_rows
from autosam.data.pairs import Pair
from autosam.errors import DataError
from autosam.utils.io import list_folder, read_text

log = logging.getLogger("autosam")
VOC_PARTS = {"train": "train", "val": "validation", "test": "test"}


def root_of(config: DataConfig) -> Path:
    """`--data.root` as a folder.

    Raises:
        DataError: unset, or no folder.
    """
    if not config.root:
        raise DataError(f"--data.layout {config.layout} needs --data.root DIR.")
    if not Path(config.root).is_dir():
        raise DataError(f"--data.root {config.root}: no such folder. Mend the path.")
    return Path(config.root)


def pairs_of_voc(config: DataConfig) -> list[Pair]:
    """JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/{train,val,test}.txt.

    Raises:
        DataError: a folder or list is missing, or a list names a file that is not there.
    """
    root = root_of(config)
    images, masks = by_stem(root / "JPEGImages"), by_stem(root / "SegmentationClass")
    lists = root / "ImageSets" / "Segmentation"
    found = []
    for file, part in VOC_PARTS.items():
        path = lists / f"{file}.txt"
        if not path.is_file():
            continue
        for number, line in enumerate(read_text(path).splitlines(), 1):
            stem = line.strip()
            if not stem:
                continue
            for files, folder in ((images, "JPEGImages"), (masks, "SegmentationClass")):
                if stem not in files:
                    raise DataError(
                        f"{path}:{number}: {stem} is not in {root / folder}. Remove the line, or "
                        "add the file."
                    )
            pair = Pair(stem, image_file(images[stem], config), MaskFile(masks[stem]), part)
            found.append(pair)
    if not found:
        raise DataError(
            f"{lists}: holds no train.txt, val.txt or test.txt with names. Write a name on a line."
        )
    return found


def pairs_of_glas(config: DataConfig) -> list[Pair]:
    """train_1.bmp beside train_1_anno.bmp, testA_1.bmp, testB_1.bmp; Grade.csv names the patients.

    Raises:
        DataError: a file has no partner, or the folder holds none.
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
                "picture."
            )
        pair = Pair(stem, image_file(path, config), MaskFile(files[f"{stem}_anno"]))
        test = name[1] != "train"
        found.append(
            dataclasses.replace(
                pair,
                part="test" if test else "train",
                subset=name[1] if test else "",
                group=patients.get(stem, ""),
            )
        )
    return found


def _patients(path: Path) -> dict[str, str]:
    """Picture -> patient, of GlaS's table; nothing where there is none."""
    if not path.is_file():
        return {}
    rows = [row for _, row in csv_rows(path)]
    if rows and not {"name", "patient ID"} <= rows[0].keys():
        raise DataError(
            f"{path}: expected the columns name and patient ID, found {list(rows[0])}. "
            "Mend its first line."
        )
    return {row["name"]: row["patient ID"] for row in rows}


def pairs_of_polyps(config: DataConfig) -> list[Pair]:
    """TrainDataset/{images,masks}, TestDataset/SET/{images,masks}; `image` and `mask` also serve.

    Each SET (CVC-300, CVC-ClinicDB, CVC-ColonDB, ETIS-LaribPolypDB, Kvasir, or another) is a subset
    of its own.

    Raises:
        DataError: see `find_pairs`.
    """
    root = root_of(config)

    def within(folder: Path) -> list[Pair]:
        for images, masks in (("images", "masks"), ("image", "mask")):
            if (folder / images).is_dir():
                return find_pairs(folder / images, folder / masks, config)
        raise DataError(
            f"{folder}: expected images/ and masks/ (or image/ and mask/). Unpack the archive anew."
        )

    found = [dataclasses.replace(pair, part="train") for pair in within(root / "TrainDataset")]
    for folder in [p for p in list_folder(root / "TestDataset") if p.is_dir()]:
        found += [
            dataclasses.replace(pair, part="test", subset=folder.name) for pair in within(folder)
        ]
    return found


@dataclass(frozen=True)
class DarkMask(MaskFile):
    """What is not white (or, with `black`, what is black) in a scan's truth is foreground."""

    black: bool = False

    def read(self) -> np.ndarray:
        values = read_mask(self.path, grey=True)
        return (values == 0 if self.black else values < 255).astype(np.uint8)

    def stored(self) -> StoredMask:
        return StoredMask(self.read())


def pairs_of_stamps(config: DataConfig) -> list[Pair]:
    """StaVer: scans/, ground-truth-pixel/ (black where a stamp is) and ground-truth-maps/ (a dark
    region on white for each stamp), each possibly in a second folder of the same name.

    Scans that have no pixel truth (the archive has some, beyond number 400) are left out, with a
    warning.

    Raises:
        DataError: a scan has a pixel truth but no region map, or none has a truth.
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
            "%d scans without pixel truth are left out, for example %s.", len(without), without[0]
        )
    if len(without) == len(scans):
        raise DataError(
            f"{root / 'ground-truth-pixel'}: holds no NAME-px.png of any scan. Unpack the archive "
            "anew."
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
