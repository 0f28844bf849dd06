"""A table of pairs: CSV, or JSONL with an object a line.

```
image,mask,split,group            image, mask: paths from the table's own folder
images/a.png,masks/a.png,train,patient1
images/b.png,masks/b.png,test,patient2
```

`split` (train, validation or val, test) and `group` may be missing; without splits they are drawn.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from autosam.config import DataConfig
from autosam.data.folders import ALIASES, image_file
from autosam.data.images import EXTENSIONS, MaskFile
from autosam.data.pairs import Pair
from autosam.errors import DataError
from autosam.files import read_text

PART_OF = {alias: part for part, aliases in ALIASES.items() for alias in aliases}


def pairs_of_manifest(config: DataConfig) -> list[Pair]:
    """The pairs of `--data.root FILE`.

    Raises:
        DataError: naming the line: a column or value is missing, a path leaves the table's folder
            (unless `outside`), a file is not there, a picture stands twice, or only some lines
            have a split.
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
                    "--data.image_column and --data.mask_column name them."
                )
            paths.append(resolve(table.parent, text, config.outside, f"{table}:{number}"))
        image, mask = paths
        if image in seen:
            raise DataError(
                f"{table}:{number}: {image} stands in line {seen[image]} already. Keep one of them."
            )
        seen[image] = number
        word = row.get("split", "")
        if word and word.lower() not in PART_OF:
            raise DataError(f"{table}:{number}: split {word!r}; expected train, validation, test.")
        stem = str(PurePosixPath(row[config.image_column]).with_suffix("")).lstrip("./")
        found.append(
            Pair(
                stem.replace("/", "-"),
                image_file(image, config),
                MaskFile(mask),
                PART_OF.get(word.lower(), ""),
                row.get("group", ""),
            )
        )
    if not found:
        raise DataError(f"{table}: holds no pair. Write a line for each picture.")
    given = [bool(pair.part) for pair in found]
    if any(given) and not all(given):
        raise DataError(
            f"{table}: {given.count(False)} of {len(given)} lines have no split. Give all, or none."
        )
    return found


def resolve(folder: Path, text: str, outside: bool, where: str) -> Path:
    """A path named in a file, from that file's folder.

    Args:
        folder: of the file.
        text: the path.
        outside: whether it may lead out of the folder.
        where: file and line, for messages.

    Raises:
        DataError: it leads out, or to no picture.
    """
    path = folder / text
    if not outside and (Path(text).is_absolute() or ".." in Path(text).parts):
        raise DataError(
            f"{where}: {text} leads out of {folder}. --data.outside true allows that, for files "
            "that you trust."
        )
    if path.suffix.lower() not in EXTENSIONS:
        raise DataError(
            f"{where}: {text} is no picture ({', '.join(sorted(EXTENSIONS))}). Mend the line."
        )
    try:
        there = path.is_file()
    except OSError:  # the name is too long
        there = False
    if not there:
        raise DataError(f"{where}: {path}: no such file. Mend the line, or bring the file.")
    return path


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows."""
    if table.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return _json_rows(table, read_text(table))
    return csv_rows(table)


def csv_rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV file.

    Raises:
        DataError: naming the line: not CSV, more or fewer values than columns; or a column that
            stands twice.
    """
    reader = csv.DictReader(io.StringIO(read_text(table), newline=""), strict=True)
    while True:
        try:
            names = [name.strip() for name in reader.fieldnames or []]
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{table}:{reader.line_num}: not CSV: {error}. Mend the line."
            ) from None
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{table}: the column {twice[0]!r} stands twice. Rename one.")
        if None in row or None in row.values():
            raise DataError(
                f"{table}:{reader.line_num}: expected {len(names)} values ({', '.join(names)}). "
                "Mend the line."
            )
        yield reader.line_num, {key.strip(): value.strip() for key, value in row.items()}


def _json_rows(table: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # numbers of 5000 digits are the former
            raise DataError(f"{table}:{number}: not JSON: {error}. Mend the line.") from None
        if not isinstance(row, dict):
            raise DataError(
                f"{table}:{number}: expected an object, found {type(row).__name__}. Write "
                '{"image": ..., "mask": ...}.'
            )
        yield number, {str(key): "" if value is None else str(value) for key, value in row.items()}
