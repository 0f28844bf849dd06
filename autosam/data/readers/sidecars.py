"""Sidecar files of GDAL that mark pixels without data."""

from __future__ import annotations

import re
from pathlib import Path

from autosam.errors import DataError
from autosam.utils.io import read_text


def sidecars_of(path: Path) -> list[Path]:
    """The sidecars of an image that are read: `NAME.tif.aux.xml` where it exists."""
    notes = Path(f"{path}.aux.xml")
    return [notes] if path.suffix.lower() in (".tif", ".tiff") and notes.is_file() else []


def facts_of(notes: Path) -> str:
    """What a `.aux.xml` says of pixels without data and of the place of the image; not the
    statistics that viewers add to it."""
    text = notes.read_text(encoding="utf-8", errors="replace")
    found = re.finditer(r"<(NoDataValue|SRS|GeoTransform|GCPList)\b.*?</\1>", text, re.S)
    return "\n".join(fact[0] for fact in found)


def sidecar_nodata(path: Path) -> float | None:
    """The nodata value in `NAME.tif.aux.xml`; None without.

    Args:
        path: the TIFF.

    Raises:
        DataError: the bands have different values, or there is a mask file `NAME.tif.msk`.
    """
    mask, notes = Path(f"{path}.msk"), Path(f"{path}.aux.xml")
    if mask.exists():
        raise DataError(
            f"{path}: {mask.name} beside it marks pixels without data, but is not read. Write "
            "the mask into the TIFF (gdal_translate --config GDAL_TIFF_INTERNAL_MASK YES), "
            "or remove it."
        )
    if not notes.is_file():
        return None
    texts = re.findall(r"<NoDataValue[^>]*>\s*([^<\s]+)\s*</NoDataValue>", read_text(notes))
    try:
        values = {float(text) for text in texts}
    except ValueError:
        values = set()
    if len(values) != len(set(texts)) or len(values) > 1:
        raise DataError(
            f"{notes}: its nodata values are {', '.join(texts)}; expected one number. Write one "
            "into the file, or remove it and set --data.nodata."
        )
    return values.pop() if values else None
