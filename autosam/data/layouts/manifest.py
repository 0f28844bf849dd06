"""A table of pairs: CSV, or JSONL with one object per line.

```
image,mask,split,group            image, mask: paths relative to the table's folder
images/a.png,masks/a.png,train,patient1
images/b.png,masks/b.png,test,patient2
```

`split` (train, validation or val, test) and `group` are optional; missing splits are drawn.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autosam.config import DataConfig
from autosam.data.images import EXTENSIONS, MaskFile
from autosam.data.layouts.folders import ALIASES
from autosam.data.pairs import Pair
from autosam.data.readers.files import image_file
from autosam.data.tables import csv_rows
from autosam.errors import DataError
from autosam.utils.io import read_text

SPLIT_OF = {alias: split for split, aliases in ALIASES.items() for alias in aliases}


def pairs_of_manifest(config: DataConfig) -> list[Pair]:
    """The pairs of `--data.root FILE`.

    Raises:
        DataError: a missing column, value or file, a path outside of the table's folder (unless
            `outside`), a duplicate image, or only some lines have a split. The message names the
            line.
    """
    table = Path(config.root or "")
    if not table.is_file():
        raise DataError(
            f"--data.root {table}: {'is a folder' if table.is_dir() else 'no such file'}; layout "
            "manifest needs a CSV or JSONL."
        )
    found: list[Pair] = []
    seen: dict[Path, int] = {}
    for number, row in _rows(table):
        paths = []
        for column in (config.image_column, config.mask_column):
            text = row.get(column, "")
            if not text:
                raise DataError(
                    f"{table}:{number}: no {column!r}; columns found: {', '.join(row)}. "
                    "Set --data.image_column and --data.mask_column."
                )
            paths.append(resolve(table.parent, text, config.outside, f"{table}:{number}"))
        image, mask = paths
        whole = Path(os.path.abspath(image))
        if whole in seen:
            raise DataError(
                f"{table}:{number}: {image} is a duplicate of line {seen[whole]}. Keep one of them."
            )
        seen[whole] = number
        word = row.get("split", "")
        if word and word.lower() not in SPLIT_OF:
            raise DataError(f"{table}:{number}: split {word!r}; expected train, validation, test.")
        found.append(
            Pair(
                stem_of(image, table.parent),
                image_file(image, config),
                MaskFile(mask),
                SPLIT_OF.get(word.lower(), ""),
                row.get("group", ""),
            )
        )
    if not found:
        raise DataError(f"{table}: holds no pair. Write a line for each image.")
    given = [bool(pair.split) for pair in found]
    if any(given) and not all(given):
        raise DataError(
            f"{table}: {given.count(False)} of {len(given)} lines have no split. Set all or none."
        )
    return found


def resolve(folder: Path, text: str, outside: bool, where: str) -> Path:
    """Resolve a path that a file lists.

    Args:
        folder: folder of that file.
        text: the path, with slashes or backslashes; absolute paths must be inside the folder, too.
        outside: whether paths outside of the folder are allowed.
        where: file and line, for messages.

    Raises:
        DataError: the path is outside of the folder, or not an image file.
    """
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: {text!a}: this system's file names are in {sys.getfilesystemencoding()}"
            ", which lacks these characters. Set PYTHONUTF8=1, or a UTF-8 locale."
        ) from None
    path = folder / text
    if "\\" in text and not _is_file(path):
        text = text.replace("\\", "/")
        path = folder / text
    if not outside and (_below(path, folder) is None or ".." in Path(text).parts):
        raise DataError(
            f"{where}: {text} is outside of {folder}. --data.outside true allows it, for files "
            "that you trust."
        )
    if path.suffix.lower() not in EXTENSIONS:
        raise DataError(
            f"{where}: {text} is not an image ({', '.join(sorted(EXTENSIONS))}). Fix the line."
        )
    if not _is_file(path):
        raise DataError(f"{where}: {path}: no such file. Fix the line, or add the file.")
    return path


def _below(path: Path, folder: Path) -> Path | None:
    """The path relative to the folder; None if it is outside."""
    for whole in (os.path.abspath, os.path.realpath):
        if Path(whole(path)).is_relative_to(whole(folder)):
            return Path(whole(path)).relative_to(whole(folder))
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


def stem_of(path: Path, folder: Path) -> str:
    """The name of an image without extension, with its folders below `folder`, joined by "-"."""
    return "-".join((_below(path, folder) or path).with_suffix("").parts).lstrip("./-")


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and values of each row."""
    if table.suffix.lower() in (".xlsx", ".xls", ".ods", ".parquet"):
        raise DataError(f"{table}: not a text file. Save the table as CSV.")
    if table.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return _json_rows(table, read_text(table))
    return csv_rows(table)


def _json_rows(table: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Parse one object per line, or one list of objects."""
    lines: list[tuple[int, Any]] = [
        (number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()
    ]
    whole = table.suffix.lower() == ".json" and text.lstrip().startswith("[")
    if whole:
        lines = [(1, text)]
    for number, line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError also for numbers of 5000 digits
            raise DataError(f"{table}:{number}: not JSON: {error}. Fix the line.") from None
        rows = found if whole and isinstance(found, list) else [found]
        for i, row in enumerate(rows, 1):
            if not isinstance(row, dict):
                raise DataError(
                    f"{table}:{number}: expected an object, found {type(row).__name__}. Write "
                    '{"image": ..., "mask": ...}.'
                )
            values = {str(k): "" if v is None else str(v).strip() for k, v in row.items()}
            yield i if whole else number, values
