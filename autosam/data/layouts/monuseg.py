"""MoNuSeg: TIFF tiles with Aperio ImageScope XML that holds a polygon for each nucleus.

```
root/**/Tissue Images/NAME.tif     with root/**/Annotations/NAME.xml
root/**/NAME.tif                   with NAME.xml beside it
```

A folder whose name contains "test" is the test split; others are for training.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from autosam.config import DataConfig
from autosam.data.images import digest, read_image, require_file
from autosam.data.instances import from_patches, label_of
from autosam.data.layouts.base import root_of
from autosam.data.pairs import Pair
from autosam.data.readers.file_cache import stamp
from autosam.data.readers.files import image_file
from autosam.data.readers.polygons import rasterize_patch
from autosam.errors import DataError
from autosam.types import Instances
from autosam.utils.io import list_folder

log = logging.getLogger("autosam")


@dataclass(frozen=True)
class Nuclei:
    """The regions of an XML file as the mask of an image; implements `Pixels`."""

    path: Path
    image: Path

    def read(self) -> np.ndarray:
        return label_of(self.read_instances())

    def read_instances(self) -> Instances:
        """Read each region as an object, in the order of the file; small ones lie on top."""
        height, width = read_image(self.image).shape[:2]
        nuclei, holes = [], []
        for i, (hole, polygon) in enumerate(read_regions(self.path), 1):
            # Vertices are relative to pixel centres, polygons to the image corner.
            flat = [[value + 0.5 for xy in polygon for value in xy]]
            patch = rasterize_patch(flat, height, width, f"{self.path}: region {i}")
            if hole:
                holes.append(patch)
            else:
                nuclei.append((1, patch))
        if empty := sum(not patch.mask.any() for _, patch in nuclei):
            _report_empty(self.path.parent, f"{self.path}: {empty} of {len(nuclei)}")
        return from_patches((height, width), nuclei, self.path, holes=holes)

    def digest(self) -> str:
        return digest(self.path)

    def stamp(self) -> Hashable:
        """See `stamp_of`."""
        return stamp(self.path, self.image)

    def __str__(self) -> str:
        return str(self.path)


def read_regions(path: Path) -> list[tuple[bool, list[tuple[float, float]]]]:
    """Read Annotations/Annotation/Regions/Region/Vertices/Vertex with X and Y.

    Returns:
        For each region: whether it is a hole (NegativeROA), and its vertices x, y in px, with
        integers at pixel centres.

    Raises:
        DataError: not Aperio's XML; the message names the line or the region.
    """
    require_file(path)
    try:
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise DataError(f"{path}: XML with DOCTYPE or ENTITY is not read. Remove them.")
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}:{error.position[0]}: not XML: {error}. Fix it.") from None
    except (ValueError, LookupError, OSError) as error:  # an unknown text encoding
        raise DataError(f"{path}: not XML: {error}. Fix it: save it as UTF-8.") from None
    if root.tag != "Annotations":
        raise DataError(
            f"{path}: expected <Annotations>, found <{root.tag}>. Export it as Aperio's XML."
        )
    found = []
    for i, region in enumerate(root.findall("./Annotation/Regions/Region"), 1):
        try:
            polygon = [
                (float(vertex.attrib["X"]), float(vertex.attrib["Y"]))
                for vertex in region.findall("./Vertices/Vertex")
            ]
            if not np.isfinite(polygon).all():
                raise ValueError("not finite")
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{path}: region {i}: a vertex without X or Y as numbers ({error}). Fix or remove "
                "it."
            ) from None
        found.append((region.attrib.get("NegativeROA", "0").lower() in ("1", "true"), polygon))
    return found


@cache
def _report_empty(folder: Path, which: str) -> None:
    log.warning(
        "%s regions enclose no pixel (fewer than three vertices, no area, outside of the image) "
        "and are ignored, perhaps also in other files of the folder.",
        which,
    )


def pairs_of_monuseg(config: DataConfig) -> list[Pair]:
    """Find the tiles under `--data.root`. Tiles of one patient (TCGA code) are a group.

    Raises:
        DataError: a tile without XML, an XML without tile, or no tile.
    """
    root = root_of(config)
    found_files = list_folder(root, "**/*")
    tiles = {_key(p): p for p in found_files if p.suffix.lower() in (".tif", ".tiff")}
    files = {_key(p): p for p in found_files if p.suffix.lower() == ".xml"}
    for mine, other, what in ((tiles, files, "XML"), (files, tiles, "tile")):
        if alone := sorted(set(mine) - set(other)):
            raise DataError(
                f"{mine[alone[0]]}: has no {what} ({len(alone)} such files). Add it, or remove "
                "the file."
            )
    if not tiles:
        raise DataError(f"{root}: holds no .tif with an .xml. Fix the path.")
    found = []
    for key, tile in tiles.items():
        test = "test" in str(tile.relative_to(root).parent).lower()
        patient = re.match(r"TCGA-\w+-\w+", tile.stem)
        pair = Pair(tile.stem, image_file(tile, config), Nuclei(files[key], tile))
        found.append(
            dataclasses.replace(
                pair, split="test" if test else "train", group=patient[0] if patient else ""
            )
        )
    return found


def _key(path: Path) -> tuple[Path, str]:
    """Key that a tile and its XML share: they are in one folder, or in sibling folders."""
    folder = path.parent
    siblings = ("tissue images", "annotations", "images")
    return (folder.parent if folder.name.lower() in siblings else folder), path.stem
