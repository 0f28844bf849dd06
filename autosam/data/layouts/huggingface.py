"""Hugging Face data sets: by name on the hub, or from a folder written by `save_to_disk`.

`--data.root` is the name or the folder. The data set's splits (train, validation or val, test) are
kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autosam.config import DataConfig
from autosam.data.images import (
    ImageReader,
    StoredMask,
    Window,
    open_raster,
    read_mask_file,
    values_of,
)
from autosam.data.layouts.manifest import SPLIT_OF
from autosam.data.pairs import Pair
from autosam.errors import DataError
from autosam.utils import hub
from autosam.utils.paths import is_hub_name, nearest


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

    @property
    def path(self) -> Path:
        return Path(self.where)

    def _bytes(self) -> bytes:
        cell = self.table[self.row][self.column]
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
        columns = (config.image_column, config.mask_column)
        for column in columns:
            if column not in table.column_names:
                raise DataError(
                    f"{where}: no column {column!r}; it has {', '.join(table.column_names)}. "
                    "Set --data.image_column and --data.mask_column."
                )
            if not isinstance(table.features[column], datasets.Image):
                raise DataError(
                    f"{where}: column {column!r} holds no images. Set --data.image_column and "
                    "--data.mask_column."
                )
        image, mask = (
            table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
            for column in columns
        )
        width = len(str(len(table)))
        found += [
            Pair(
                f"{i:0{width}d}",
                Cell(
                    image, i, columns[0], where, False, config.window, config.bands, config.nodata
                ),
                Cell(mask, i, columns[1], where, True),
                SPLIT_OF[split] if split and len(tables) > 1 else "",
            )
            for i in range(len(table))
        ]
    return found
