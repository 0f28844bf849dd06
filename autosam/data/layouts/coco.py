"""COCO instances, drawn as masks of classes.

```
--data.images DIR --data.annotations FILE.json                   one pool, split by a seed
root/annotations/instances_{train,val,test}2017.json, root/{train,val,test}2017/
root/{train,valid,test}/_annotations.coco.json                   images beside it
```
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import shlex
from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autosam.config import DataConfig
from autosam.data.images import MAX_PIXELS
from autosam.data.instances import from_patches
from autosam.data.labels import pack
from autosam.data.layouts.base import root_of
from autosam.data.layouts.folders import ALIASES
from autosam.data.layouts.manifest import resolve, stem_of
from autosam.data.pairs import SPLITS, Pair
from autosam.data.readers.files import image_file
from autosam.data.readers.polygons import Patch, encloses, rasterize_patch
from autosam.errors import DataError
from autosam.types import Instances
from autosam.utils.io import list_folder, read_text

log = logging.getLogger("autosam")


@dataclass(frozen=True)
class Outlines:
    """The objects of one image; implements `Pixels`."""

    path: Path
    shape: tuple[int, int]
    """H, W."""
    objects: tuple[tuple[int, int, Any], ...] = field(repr=False)
    """(annotation id, class 1..K, polygons or run-length encoding)."""
    overlapping: int = 0
    """K if classes may overlap, else 0."""
    crowds: frozenset[int] = frozenset()
    """Positions in `objects` of those that are groups (`iscrowd`)."""

    def _patches(self) -> list[tuple[int, Patch]]:
        """Class and pixels of each object."""
        return [
            (k, rasterize_patch(shape, *self.shape, f"{self.path}: annotation {number}"))
            for number, k, shape in self.objects
        ]

    def read(self) -> np.ndarray:
        if self.overlapping:
            classes = np.zeros((self.overlapping, *self.shape), bool)
            for k, patch in self._patches():
                classes[k - 1][patch.window] |= patch.mask
            return pack(classes)
        label = np.zeros(self.shape, np.uint8)
        # Small objects are drawn over large ones.
        for k, patch in sorted(self._patches(), key=lambda entry: -int(entry[1].mask.sum())):
            label[patch.window][patch.mask] = k
        return label

    def read_instances(self) -> Instances:
        """Read each annotation as an object, in the order of the file; small ones lie on top. A
        crowd is unknown where no object is."""
        patches = self._patches()
        return from_patches(
            self.shape,
            [entry for i, entry in enumerate(patches) if i not in self.crowds],
            self.path,
            unknown=[patches[i][1] for i in sorted(self.crowds)],
        )

    def digest(self) -> str:
        return hashlib.sha256(
            repr((self.shape, self.objects, self.overlapping)).encode()
        ).hexdigest()

    def stamp(self) -> Hashable:
        """See `stamp_of`: the objects were read with the list of images."""
        return self.digest(), self.crowds

    def __str__(self) -> str:
        return str(self.path)


def pairs_of_coco(config: DataConfig) -> list[Pair]:
    """Find the images of COCO files. The mask of an image without annotations is empty.

    Raises:
        DataError: a missing file or image, not a COCO file, or an annotation whose image or
            category is not listed.
    """
    if config.annotations:
        if not config.images:
            raise DataError("--data.annotations FILE goes with --data.images DIR.")
        return _read(Path(config.annotations), Path(config.images), config)
    root = root_of(config)
    found: list[Pair] = []
    for split in SPLITS:
        for alias in ALIASES[split]:
            beside = root / alias / "_annotations.coco.json"
            named = list_folder(root / "annotations", f"*_{alias}*.json")
            named = [p for p in named if p.stem.rstrip("0123456789").endswith(f"_{alias}")]
            if beside.is_file():
                pairs = _read(beside, beside.parent, config)
            elif named:
                folder = root / named[0].stem.rsplit("_", 1)[1]
                pairs = _read(named[0], folder, config)
            else:
                continue
            found += [dataclasses.replace(pair, split=split) for pair in pairs]
            break
    if not found:
        raise DataError(
            f"{root}: expected annotations/instances_train*.json or train/_annotations.coco.json. "
            "For one file pass --data.images DIR --data.annotations FILE."
        )
    return found


def _read(path: Path, images: Path, config: DataConfig) -> list[Pair]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}. Fix it.") from None
    except (ValueError, RecursionError) as error:  # numbers of 5000 digits, deeply nested lists
        raise DataError(f"{path}: not JSON: {error}. Fix it.") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or any(
        not isinstance(content.get(name), list)
        or any(not isinstance(entry, dict) for entry in content[name])
        for name in lists
    ):
        raise DataError(f"{path}: not a COCO file: expected the lists {', '.join(lists)}.")
    try:
        return _pairs(content, path, images, config)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: an entry is incomplete or mistyped ({error}). Fix it: expected are id, "
            "file_name, height and width of images, id, image_id, category_id and segmentation of "
            "annotations, id and name of categories."
        ) from None


def _pairs(content: dict[str, Any], path: Path, images: Path, config: DataConfig) -> list[Pair]:
    listed = Numbered(content["images"], f"{path}: two images")
    numbers = _classes(Numbered(content["categories"], f"{path}: two categories"), path, config)
    _refuse_shares(content, listed, path)
    objects: dict[Any, list[tuple[int, int, Any]]] = defaultdict(list)
    crowds: dict[Any, set[int]] = defaultdict(set)
    nothing: dict[Any, bool] = {}
    for i, entry in enumerate(content["annotations"], 1):
        number = entry.get("id", i)
        where = f"{path}: annotation {number}"
        if (image := listed.find(entry["image_id"])) is None:
            raise DataError(
                f"{where}: its image {entry['image_id']} is not in the list of images. "
                "Add it, or remove the annotation."
            )
        if (k := numbers.find(entry["category_id"])) is None:
            raise DataError(
                f"{where}: its category {entry['category_id']} is not listed. Add it, or remove "
                "the annotation."
            )
        shape = entry.get("segmentation")
        if not shape:
            raise DataError(
                f"{where}: has no segmentation (a box is not a mask). Add it, or remove the "
                "annotation."
            )
        if isinstance(shape, list):
            sides = int(image["height"]), int(image["width"])
            empty = [not encloses(polygon, *sides) for polygon in shape]
            if any(empty):
                nothing[number] = all(empty)
        if k:
            if int(entry.get("iscrowd") or 0):
                crowds[image["id"]].add(len(objects[image["id"]]))
            objects[image["id"]].append((number, k, shape))
    if nothing:
        _report_empty(nothing, len(content["annotations"]), path)
    overlapping = 0 if config.exclusive or config.num_classes == 1 else config.num_classes
    found = []
    for number, entry in listed.entries.items():
        file = resolve(images, entry["file_name"], config.outside, f"{path}: image {number}")
        shape = (int(entry["height"]), int(entry["width"]))
        if min(shape) < 1 or shape[0] * shape[1] > MAX_PIXELS:
            raise DataError(
                f"{path}: image {number}: {shape[1]} x {shape[0]} pixels; expected at least one "
                f"and at most {MAX_PIXELS}."
            )
        mask = Outlines(path, shape, tuple(objects[number]), overlapping, frozenset(crowds[number]))
        found.append(Pair(stem_of(file, images), image_file(file, config), mask))
    return found


class Numbered:
    """Entries of a COCO file by their id. "7", 7 and 7.0 are the same id.

    Args:
        entries: of the file.
        what: beginning of the message about two entries with one id.

    Raises:
        DataError: two entries have one id.
    """

    def __init__(self, entries: list[dict[str, Any]], what: str) -> None:
        self.entries: dict[Any, Any] = {}
        for entry in entries:
            if entry["id"] in self.entries:
                raise DataError(f"{what} have the id {entry['id']}. Number them again.")
            self.entries[entry["id"]] = entry
        alike = Counter(map(_number, self.entries))
        self.numbers = {_number(key): key for key in self.entries if alike[_number(key)] == 1}

    def find(self, key: Any) -> Any:
        """The entry of an id, or None."""
        if key in self.entries:
            return self.entries[key]
        return self.entries.get(self.numbers.get(_number(key)))


def _number(key: Any) -> Any:
    """Convert an id to a number if possible, whatever its notation."""
    try:
        number = float(key)
    except (TypeError, ValueError):
        return key
    return int(number) if number.is_integer() else key


def _refuse_shares(content: dict[str, Any], listed: Numbered, path: Path) -> None:
    """
    Raises:
        DataError: all coordinates are from 0 to 1, so they are not in pixels.
    """
    shapes = [e["segmentation"] for e in content["annotations"] if e.get("segmentation")]
    values = [
        value
        for shape in shapes
        if isinstance(shape, list)
        for polygon in shape
        if isinstance(polygon, list)
        for value in polygon
        if isinstance(value, int | float)
    ]
    large = any(int(entry["width"]) > 2 for entry in listed.entries.values())
    if values and large and min(values) >= 0 and max(values) <= 1:
        raise DataError(
            f"{path}: the coordinates of its polygons are from 0 to 1, relative to the image; in "
            "COCO they are in pixels. Multiply x by the width and y by the height."
        )


def _report_empty(nothing: dict[Any, bool], total: int, path: Path) -> None:
    """Warn of polygons that enclose no pixel.

    Args:
        nothing: of each annotation with such polygons, whether all its polygons are empty.
        total: number of annotations.
        path: the file.

    Raises:
        DataError: no annotation encloses a pixel.
    """
    what = (
        f"{path}: {len(nothing)} of {total} annotations have polygons that enclose no pixel (fewer "
        f"than three points, no area, outside of the image), for example annotation "
        f"{next(iter(nothing))}"
    )
    if len(nothing) == total and all(nothing.values()):
        raise DataError(
            f"{what}. Export polygons of three points or more, in pixels of the image, or masks."
        )
    log.warning("%s. These polygons are ignored.", what)


@functools.cache
def _report_names(names: tuple[str, ...]) -> None:
    entries = ", ".join(json.dumps({"name": name}, ensure_ascii=False) for name in names)
    log.warning(
        "The categories %s are the classes 1 to %d; reports and outputs call them by these "
        "numbers. To keep the names: --data.classes %s",
        ", ".join(names), len(names), shlex.quote(f"[{entries}]"),
    )  # fmt: skip


def _classes(categories: Numbered, path: Path, config: DataConfig) -> Numbered:
    """Map categories to classes 1..K, or to 0 if `--data.classes` does not list them."""
    names = {number: str(entry["name"]) for number, entry in categories.entries.items()}
    if config.classes:
        wanted = {entry.name: k for k, entry in enumerate(config.classes, 1)}
        if missing := sorted(set(wanted) - set(names.values())):
            raise DataError(
                f"{path}: has no category {', '.join(missing)}, which --data.classes names; it has "
                f"{', '.join(sorted(names.values()))}."
            )
        categories.entries = {number: wanted.get(name, 0) for number, name in names.items()}
    elif config.num_classes == 1:
        categories.entries = dict.fromkeys(names, 1)
    elif config.num_classes != len(names):
        raise DataError(
            f"{path}: has {len(names)} categories ({', '.join(names.values())}), but "
            f"--data.num_classes is {config.num_classes}. Set it, or name some in --data.classes."
        )
    else:
        categories.entries = {number: k for k, number in enumerate(sorted(names, key=_number), 1)}
        if len({*names.values()}) == len(names):
            _report_names(tuple(names[number] for number in categories.entries))
    return categories
