"""Groups of images that lie in one square of the ground, or of a raster."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

from autosam.data.blocks import Block
from autosam.data.pairs import Pair, Pixels
from autosam.data.readers.georeference import (
    Georeference,
    keeps_scale,
    require_georeference,
)
from autosam.data.tiles import image_shape
from autosam.errors import DataError

SQUARE = re.compile(r"(?=[0.]*[1-9])(\d+(?:\.\d+)?)\s*(m|px)")
"""Side of the squares: metres of the ground, or pixels."""


def squares_of(pairs: list[Pair], side: str) -> list[str]:
    """The square that holds the centre of each image.

    Metres are those of the images' CRS if all have the same and it is projected; otherwise of the
    UTM zone of each image.

    Args:
        pairs: their images are GeoTIFFs or blocks of some; for pixels, blocks.
        side: as `SQUARE` describes it.

    Returns:
        The name of each square, with the coordinates of its corner of least x and y.

    Raises:
        ConfigError: a package that reads coordinates is missing.
        DataError: an image without coordinates; for pixels, one that is no block.
    """
    match = SQUARE.fullmatch(side)
    assert match is not None
    length = float(match[1])
    if match[2] == "px":
        return [_square(*_pixels(pair.image, side), length) for pair in pairs]

    georeferences: dict[str, Georeference] = {}  # of files, which may hold many blocks
    places = []
    for pair in pairs:
        file = pair.image.file if isinstance(pair.image, Block) else pair.image
        if (name := str(file)) not in georeferences:
            georeferences[name] = require_georeference(file, f"--data.groups {side}")
        found = georeferences[name]
        places.append((found.crs, *found.at(*_center(pair.image))))
    crs = places[0][0]
    if all(other == crs for other, *_ in places) and keeps_scale(crs):
        unit = crs.axis_info[0].unit_conversion_factor
        return [_square("", unit * x, unit * y, length) for _, x, y in places]
    return [_square(*_utm(*place), length) for place in places]


def _square(prefix: str, x: float, y: float, length: float) -> str:
    corner = (f"{name}{np.floor(v / length) * length:.0f}" for name, v in (("x", x), ("y", y)))
    return " ".join([*([prefix] if prefix else []), *corner])


def _center(image: Pixels) -> tuple[float, float]:
    """Row and column of the middle of an image in its file."""
    y, x, height, width = image.region if isinstance(image, Block) else (0, 0, *image_shape(image))
    return y + height / 2, x + width / 2


def _pixels(image: Pixels, side: str) -> tuple[str, float, float]:
    """The file of a block, and x and y of its middle."""
    if not isinstance(image, Block):
        raise DataError(
            f"{image}: --data.groups {side} is for --data.layout rasters. For other GeoTIFFs give "
            "metres, such as 500m; for other images a CSV file or an expression on the name."
        )
    row, column = _center(image)
    return image.path.stem, column, row


def _utm(crs: Any, x: float, y: float) -> tuple[str, float, float]:
    """The UTM zone of a place, and x and y in it, metres."""
    longitude, latitude = _transformer(crs, 4326).transform(x, y)
    zone = int((longitude + 180) // 6) % 60 + 1
    south = latitude < 0
    east, north = _transformer(4326, (32700 if south else 32600) + zone).transform(
        longitude, latitude
    )
    return f"{zone}{'S' if south else 'N'}", east, north


@functools.lru_cache(64)
def _transformer(source: Any, target: Any) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)
