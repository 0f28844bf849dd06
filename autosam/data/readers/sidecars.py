"""What GDAL keeps beside a raster instead of in it: pixels without data."""

from __future__ import annotations

import re
from pathlib import Path

from autosam.errors import DataError
from autosam.utils.io import read_text


def sidecar_nodata(path: Path) -> float | None:
    """The stored value of pixels without data that `NAME.tif.aux.xml` names; None: it names none.

    Raises:
        DataError: bands with different values; or a mask in a file of its own, `NAME.tif.msk`.
    """
    mask, notes = Path(f"{path}.msk"), Path(f"{path}.aux.xml")
    if mask.exists():
        raise DataError(
            f"{path}: which pixels hold data is said in {mask.name} beside it, which is not read. "
            "Write it into the file (gdal_translate --config GDAL_TIFF_INTERNAL_MASK YES), or "
            "remove it."
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
            f"{notes}: its values of pixels without data are {', '.join(texts)}; expected one "
            "number. Write one into the file, or remove it and set --data.nodata."
        )
    return values.pop() if values else None
