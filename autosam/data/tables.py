"""Tables of text: CSV as spreadsheets write it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from autosam.errors import DataError
from autosam.utils.io import read_text


def csv_rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a table whose values are separated by commas, semicolons or tabs, as
    its first line is; UTF-8, or UTF-16 as Excel writes it. Empty lines, and empty values at the end
    of lines, are left out.

    Raises:
        DataError: naming the line: not CSV, more or fewer values than columns; or a duplicate
            column.
    """
    text = read_text(table, wide=True)
    first, _, rest = text.partition("\n")
    skipped = 0
    if said := re.fullmatch(r'"?sep=(.)"?\r?', first):  # a line of Excel's
        text, skipped, separator = rest, 1, said[1]
    else:
        separator = max(",;\t", key=first.count)
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    names: list[str] = []
    while True:
        try:
            values = [value.strip() for value in next(lines)]
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{table}:{lines.line_num + skipped}: not CSV: {error}. Fix the line."
            ) from None
        number = lines.line_num + skipped
        if not any(values):
            continue
        if not names:
            names = _trimmed(values, 1)
            if twice := [name for name in names if names.count(name) > 1]:
                raise DataError(f"{table}: duplicate column {twice[0]!r}. Rename one.")
            continue
        values = _trimmed(values, len(names))
        if len(values) != len(names):
            raise DataError(
                f"{table}:{number}: expected {len(names)} values ({', '.join(names)}), found "
                f"{len(values)}. Fix the line."
            )
        yield number, dict(zip(names, values, strict=True))


def _trimmed(values: list[str], least: int) -> list[str]:
    """Without empty values at the end, down to so many."""
    while len(values) > least and not values[-1]:
        values = values[:-1]
    return values
