"""Read CSV tables as spreadsheets write them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from autosam.errors import DataError
from autosam.utils.io import read_text


def csv_rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a table with a header line, separated by commas, semicolons or tabs; UTF-8, or UTF-16 as
    Excel writes it. Empty lines and trailing empty values are skipped.

    Args:
        table: the file.

    Yields:
        Line number, and value by column name.

    Raises:
        DataError: not CSV, a wrong number of values, or a duplicate column; the message names the
            line.
    """
    text = read_text(table, wide=True)
    first, _, rest = text.partition("\n")
    skipped = 0
    if said := re.fullmatch(r'"?sep=(.)"?\r?', first):  # written by Excel
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
            if duplicates := [name for name in names if names.count(name) > 1]:
                raise DataError(f"{table}: duplicate column {duplicates[0]!r}. Rename one.")
            continue
        values = _trimmed(values, len(names))
        if len(values) != len(names):
            raise DataError(
                f"{table}:{number}: expected {len(names)} values ({', '.join(names)}), found "
                f"{len(values)}. Fix the line."
            )
        yield number, dict(zip(names, values, strict=True))


def _trimmed(values: list[str], least: int) -> list[str]:
    """Remove trailing empty values, down to `least` values."""
    while len(values) > least and not values[-1]:
        values = values[:-1]
    return values
