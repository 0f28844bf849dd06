"""The table of output formats: the files that `predict` can write for each image."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autosam.config import DataConfig
from autosam.config.commands import OutputOptions
from autosam.data.images import write_png
from autosam.data.pairs import Pixels, read_valid
from autosam.data.readers.georeference import find_georeference, require_georeference
from autosam.errors import ConfigError
from autosam.inference.georeference import frame_of, wgs84, write_geopackage, write_geotiff
from autosam.inference.label_image import write_label_image
from autosam.inference.mask_values import mask_arrays, mask_endings, named_classes
from autosam.inference.outlines import Outlines, outlines_of
from autosam.inference.polygons import polygons_of
from autosam.inference.regions import regions_of
from autosam.utils.io import write_atomically

if TYPE_CHECKING:
    from autosam.inference.prediction import Prediction


@dataclass(frozen=True)
class Format:
    """An output format of one or several files for each image."""

    endings: Callable[[DataConfig], list[str]]
    """Returns what each file adds to the image's name, with the suffix."""
    write: Callable[..., None]
    """Writes the files, given in the order of `endings`: (paths, found: Prediction, data:
    DataConfig)."""
    require: Callable[[Pixels], object] = lambda image: None
    """Raises a DataError if the format cannot be written of an image."""
    options: tuple[str, ...] = ()
    """Settings of `OutputOptions` that `write` also takes, as keywords."""


def write_masks(paths: list[Path], found: Prediction, data: DataConfig) -> None:
    """Write the masks as PNG files, see `mask_arrays`; of instances the label image."""
    if found.instances is not None:
        write_label_image(paths[0], found.instances.ids)
        return
    for path, values in zip(paths, mask_arrays(found, data), strict=True):
        write_png(path, values)


def probability_endings(data: DataConfig) -> list[str]:
    """Name the probability files: one for each class."""
    if data.num_classes == 1:
        return ["_probability.png"]
    return [f"_probability_{k}.png" for k in range(1, data.num_classes + 1)]


def write_probabilities(paths: list[Path], found: Prediction, data: DataConfig) -> None:
    """Write the probabilities as 16-bit PNG files: 0 to 65535 for 0 to 1."""
    for path, values in zip(paths, found.probabilities, strict=True):
        write_png(path, (values * 65535).round().astype(np.uint16))


def write_overlay(paths: list[Path], found: Prediction, data: DataConfig) -> None:
    """Write the image with its masks drawn on it as a PNG file."""
    write_png(paths[0], found.overlay())


def write_geojson(
    paths: list[Path], found: Prediction, data: DataConfig, simplify: float = 0.0
) -> None:
    """Write the polygons as GeoJSON, see `write_features`."""
    write_features(paths[0], found_outlines(found, data, simplify), found.image)


def write_features(path: Path, outlines: Outlines, image: Pixels | None) -> None:
    """Write polygons as GeoJSON: in pixels, or of an image with coordinates in WGS 84."""
    georeference = find_georeference(image)
    features = outlines.features()
    if georeference is not None:
        features = wgs84(frame_of(outlines, georeference))

    def write(to: Path) -> None:
        with open(to, "w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            for i, feature in enumerate(features):  # one by one: as text they are large
                file.write((", " if i else "") + json.dumps(feature))
            file.write("]}")

    write_atomically(path, write)


def found_outlines(found: Prediction, data: DataConfig, simplify: float = 0.0) -> Outlines:
    """The polygons of the objects of a prediction, see `geojson` and `outlines_of`."""
    features = geojson(found, data)["features"]
    return outlines_of(
        [one["properties"] for one in features],
        [one["geometry"] for one in features],
        simplify,
        disjoint=data.exclusive or found.instances is not None,
    )


def geojson(found: Prediction, data: DataConfig) -> dict[str, Any]:
    """Convert the objects to a GeoJSON FeatureCollection of polygons with holes, see `regions_of`.

    Args:
        found: a prediction.
        data: names and values of the classes.

    Returns:
        One feature for each object: a Polygon, or a MultiPolygon for an instance of several
        4-connected parts. Coordinates are pixels from the top left corner of the image, x to the
        right, y down; for the order of the points see `rings_of`.
    """
    named = named_classes(data)
    features = []
    for region in regions_of(found):
        parts = polygons_of(region.mask, region.left, region.top)
        several = len(parts) > 1
        features.append(
            {
                "type": "Feature",
                "properties": {
                    **named[region.category - 1],
                    "pixels": region.area,
                    **region.facts,
                },
                "geometry": {
                    "type": "MultiPolygon" if several else "Polygon",
                    "coordinates": parts if several else parts[0],
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def write_polygons(
    paths: list[Path], found: Prediction, data: DataConfig, simplify: float = 0.0
) -> None:
    """Write the polygons as a GeoPackage in the image's CRS."""
    georeference = require_georeference(found.image, "--geopackage")
    write_geopackage(paths[0], frame_of(found_outlines(found, data, simplify), georeference))


def write_raster(paths: list[Path], found: Prediction, data: DataConfig) -> None:
    """Write the masks as a GeoTIFF with the image's coordinates, a band for each file of masks."""
    georeference = require_georeference(found.image, "--geotiff")
    assert found.image is not None
    masks = list(mask_arrays(found, data))
    if found.instances is not None:
        masks = [found.instances.ids.astype(np.uint32)]
    write_geotiff(paths[0], masks, georeference, [read_valid(found.image)[1]])


FORMATS: dict[str, Format] = {
    "masks": Format(lambda data: [f"{end}.png" for end in mask_endings(data)], write_masks),
    "probabilities": Format(probability_endings, write_probabilities),
    "overlay": Format(lambda data: ["_overlay.png"], write_overlay),
    "geojson": Format(lambda data: [".geojson"], write_geojson, options=("simplify",)),
    "geopackage": Format(
        lambda data: [".gpkg"],
        write_polygons,
        functools.partial(require_georeference, option="--geopackage"),
        ("simplify",),
    ),
    "geotiff": Format(
        lambda data: ["_mask.tif"],
        write_raster,
        functools.partial(require_georeference, option="--geotiff"),
    ),
}
"""Output formats by the setting of `OutputOptions` that turns them on. A format without such a
setting is always written."""


def wanted_formats(options: OutputOptions) -> dict[str, Format]:
    """Select the formats that the settings turn on.

    Args:
        options: output options.

    Returns:
        Formats by name, in the order of `FORMATS`; `write` has its options.
    """
    wanted = {name: form for name, form in FORMATS.items() if getattr(options, name, True)}
    for name, form in wanted.items():
        own = {option: getattr(options, option) for option in form.options}
        wanted[name] = replace(form, write=functools.partial(form.write, **own))
    return wanted


def format_of(path: Path, data: DataConfig) -> Format:
    """Find the first format whose files have the suffix of a path.

    Args:
        path: name of a file.
        data: the classes.

    Raises:
        ConfigError: no format has this suffix.
    """
    known = [Path(f"name{form.endings(data)[0]}").suffix for form in FORMATS.values()]
    for suffix, form in zip(known, FORMATS.values(), strict=True):
        if suffix == path.suffix.lower():
            return form
    raise ConfigError(f"{path}: unknown suffix. Expected one of {', '.join(dict.fromkeys(known))}.")
