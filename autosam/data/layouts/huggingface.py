"""Hugging Face data sets: by name on the hub, or from a folder written by `save_to_disk`.

`--data.root` is the name or the folder. The data set's splits (train, validation or val, test) are
kept. The mask column holds an image, or a list with an image for each object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autosam.config import DataConfig
from autosam.data.checks import size_mismatch
from autosam.data.images import (
    ImageReader,
    StoredMask,
    Window,
    open_raster,
    read_mask_file,
    values_of,
)
from autosam.data.instances import from_patches, label_of
from autosam.data.layouts.manifest import SPLIT_OF
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.pairs import Pair, Pixels
from autosam.data.readers.polygons import Patch
from autosam.errors import DataError
from autosam.types import Instances
from autosam.utils import hub
from autosam.utils.paths import is_hub_name, nearest

CATEGORIES = "categories"
"""Column of the classes of objects, where the mask column holds a list of masks."""


@dataclass(frozen=True)
class Cell:
    """An image or mask in a table; implements `Pixels`. The table is memory-mapped and pickled as
    its file names."""

    table: Any
    row: int
    column: str
    where: str
    mask: bool
    window: Window | None = None
    bands: tuple[int, int, int] | None = None
    nodata: float | None = None
    content: Any = None
    """The cell's value, where it is read already."""

    @property
    def path(self) -> Path:
        return Path(self.where)

    def value(self) -> Any:
        """The cell as stored."""
        return self.table[self.row][self.column] if self.content is None else self.content

    def _bytes(self) -> bytes:
        cell = self.value()
        if cell is None or (cell.get("bytes") is None and not cell.get("path")):
            raise DataError(f"{self}: empty. Fill or remove the row.")
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        try:
            return Path(cell["path"]).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self}: {cell['path']} cannot be read ({error.strerror}). Restore it, or save "
                "the data set with its images."
            ) from None

    def read_valid(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Read an image, see `autosam.data.images.ImageFile.read_valid`."""
        raster = open_raster(self._bytes(), str(self), self.bands)
        bands = self.bands is not None
        return ImageReader(raster, str(self), bands, self.window, self.nodata).whole()

    def read(self) -> np.ndarray:
        if self.mask:
            return values_of(read_mask_file(self._bytes(), str(self)), str(self))
        return self.read_valid()[0]

    def stored(self) -> StoredMask:
        """Read a mask as stored."""
        return read_mask_file(self._bytes(), str(self))

    def digest(self) -> str:
        how = repr(self.window)
        if not self.mask:
            how += " upright"  # earlier versions ignored the orientation
        if self.bands is not None or self.nodata is not None:
            how += f" {self.bands} {self.nodata}"
        return hashlib.sha256(self._bytes() + how.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.where} row {self.row} column {self.column}"


@dataclass(frozen=True)
class ObjectCells:
    """The objects of an image: a cell with a list of masks, one for each; implements `Pixels`."""

    masks: Cell
    image: Cell
    classes: Cell | None = None
    """A list of class numbers from 0; None: all are of class 1."""
    num_classes: int = 1

    @property
    def path(self) -> Path:
        return self.masks.path

    def read(self) -> np.ndarray:
        return label_of(self.read_instances())

    def read_instances(self) -> Instances:
        """Read each mask as an object, in the order of the list; later ones lie on top."""
        height, width = self.image.read().shape[:2]
        patches = self._patches((height, width))
        return from_patches((height, width), patches, self.path / "objects")

    def _patches(self, shape: tuple[int, int]) -> Iterator[tuple[int, Patch]]:
        elements = self.masks.value() or []
        classes = [0] * len(elements) if self.classes is None else self.classes.value() or []
        if not isinstance(classes, list) or len(classes) != len(elements):
            raise DataError(
                f"{self.classes}: expected a list of {len(elements)} classes, one for each object; "
                f"found {str(classes)[:40]}. Fix the row."
            )
        for i, (content, k) in enumerate(zip(elements, classes, strict=True)):
            if not isinstance(k, int) or not 0 <= k < self.num_classes:
                raise DataError(
                    f"{self.classes}: class {k}, but --data.num_classes is {self.num_classes}: "
                    f"expected 0 to {self.num_classes - 1}. Set it."
                )
            mask = replace(self.masks, content=content or {}, column=f"{self.masks.column}[{i}]")
            label = MaskEncoding().read(mask)
            if label.shape != shape:
                raise DataError(size_mismatch(self.image, shape, mask, label.shape))
            yield k + 1, Patch(0, 0, label == 1)

    def digest(self) -> str:
        parts = [replace(self.masks, content=value).digest() for value in self.masks.value() or []]
        classes = "" if self.classes is None else self.classes.value()
        return hashlib.sha256(f"{parts} {classes}".encode()).hexdigest()

    def __str__(self) -> str:
        return str(self.masks)


def pairs_of_hub(config: DataConfig) -> list[Pair]:
    """Find the rows of a data set.

    Raises:
        DataError: `datasets` is not installed, the data set is missing, a column is missing or
            holds no images, or a split has another name.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            "--data.layout huggingface needs the package datasets: pip install 'autosam[hf]'"
        ) from None
    name = config.root
    if not name:
        raise DataError("--data.layout huggingface needs --data.root NAME_OR_DIR.")
    trouble = ""
    try:
        if Path(name).is_dir() and any(
            (Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json")
        ):
            loaded = datasets.load_from_disk(name)
        elif Path(name).exists():
            loaded = datasets.load_dataset(name)
        elif is_hub_name(name, owner=False):
            with hub.probe(name, "README.md", "dataset") as trouble:
                loaded = datasets.load_dataset(name)
        else:
            trouble = f"no such folder, and not a name on the hub.{nearest(Path(name))}"
            raise FileNotFoundError(trouble)
    except Exception as error:  # several types, from datasets, the hub and Arrow
        raise DataError(
            f"--data.root {name}: cannot be read as a data set ({trouble or str(error)[:300]}). "
            "Fix the name, or load it with `datasets` and save it again with `save_to_disk`."
        ) from None
    tables = loaded if isinstance(loaded, dict) else {"": loaded}
    found = []
    for split, table in tables.items():
        if split and split not in SPLIT_OF:
            raise DataError(
                f"{name}: has a split {split!r}; expected train, validation, test. Save the splits "
                "you want with `save_to_disk`."
            )
        where = f"{name} {split}".strip()
        for column in (config.image_column, config.mask_column):
            if column not in table.column_names:
                raise DataError(
                    f"{where}: no column {column!r}; it has {', '.join(table.column_names)}. "
                    "Set --data.image_column and --data.mask_column."
                )
        given = SPLIT_OF[split] if split and len(tables) > 1 else ""
        found += [replace(pair, split=given) for pair in _pairs(table, where, config)]
    return found


def _pairs(table: Any, where: str, config: DataConfig) -> list[Pair]:
    """The pairs of one table. A mask column of lists of images has an object in each image."""
    images = _encoded(table, config.image_column)
    masks = _encoded(table, config.mask_column)
    objects = _encoded(table, config.mask_column, True)
    missing = {
        config.image_column: images is None,
        config.mask_column: masks is None and objects is None,
    }
    for column, lacks in missing.items():
        if lacks:
            raise DataError(
                f"{where}: column {column!r} holds no images. Set --data.image_column and "
                "--data.mask_column."
            )
    several = objects is not None and config.num_classes > 1
    if several and CATEGORIES not in table.column_names:
        raise DataError(
            f"{where}: column {config.mask_column!r} holds a mask for each object, and no column "
            f"{CATEGORIES!r} its class (a list of numbers from 0); it has "
            f"{', '.join(table.column_names)}. Rename the column, or leave --data.num_classes out."
        )
    classes = table.select_columns([CATEGORIES]) if several else None
    width = len(str(len(table)))
    pairs = []
    for i in range(len(table)):
        image = Cell(
            images, i, config.image_column, where, False, config.window, config.bands, config.nodata
        )
        mask: Pixels = Cell(masks, i, config.mask_column, where, True)
        if objects is not None:
            mask = ObjectCells(
                Cell(objects, i, config.mask_column, where, True),
                image,
                None if classes is None else Cell(classes, i, CATEGORIES, where, True),
                config.num_classes,
            )
        pairs.append(Pair(f"{i:0{width}d}", image, mask))
    return pairs


def _encoded(table: Any, column: str, listed: bool = False) -> Any:
    """A column of images (`listed`: of lists of images) as encoded files; None: it holds none."""
    import datasets

    feature = table.features[column]
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if not isinstance(inner if listed else feature, datasets.Image):
        return None
    encoded: Any = datasets.Image(decode=False)
    if listed:
        encoded = [encoded] if isinstance(feature, list) else type(feature)(encoded)
    return table.select_columns([column]).cast_column(column, encoded)
