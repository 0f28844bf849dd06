"""Write the masks of an image whose logits do not fit into memory, strip by strip."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autosam.config import DataConfig
from autosam.config.commands import OutputOptions
from autosam.data.images import write_png
from autosam.data.pairs import Pixels
from autosam.data.readers.files import image_file
from autosam.data.readers.georeference import require_geo, require_georeference
from autosam.errors import DataError
from autosam.inference.formats import wanted_formats, write_features
from autosam.inference.georeference import frame_of, write_geopackage, write_geotiff
from autosam.inference.mask_values import mask_arrays, named_classes
from autosam.inference.outlines import Outlines, outlines_of
from autosam.inference.prediction import Prediction
from autosam.inference.predictor import Predictor
from autosam.inference.sources import Source
from autosam.inference.tiling import CHUNK, open_pixels

POSSIBLE = ("masks", "geotiff", "geopackage", "geojson")
"""Formats that masks alone suffice for."""


def write_in_strips(
    source: Source,
    files: list[Path],
    predictor: Predictor,
    options: OutputOptions,
    logits: Any,
) -> dict[str, Any]:
    """Write the files of an image whose logits do not fit into memory.

    Args:
        source: an image.
        files: see `files_of`.
        predictor: the run.
        options: output options.
        logits: zarr array float32 1 x K x H x W.

    Returns:
        Its entry in the progress log; the number of objects is left out.

    Raises:
        DataError: a format is requested that needs probabilities, or coordinates are missing.
    """
    data = predictor.loaded.config.data
    image = image_file(source.path, data)
    _, classes, height, width = logits.shape
    min_area = predictor.min_area_of(height, width)
    wanted = wanted_formats(options)
    outlined = "geopackage" in wanted or "geojson" in wanted
    if not set(wanted) <= set(POSSIBLE) or options.coco != "no":
        raise DataError(
            f"{source.path}: {width} x {height} pixels: for images this large only masks, areas "
            "and polygons are written. Leave --overlay, --probabilities and --coco out."
        )

    def strip(top: int) -> Prediction:
        return predictor.decide(torch.from_numpy(logits[0, :, top : top + CHUNK]), min_area=0.0)

    small = np.zeros(classes, bool)
    if min_area:  # needs the areas of all strips
        counts = [strip(top).masks.sum((1, 2)) for top in range(0, height, CHUNK)]
        small = np.sum(counts, axis=0) < min_area * height * width
    masks: list[np.ndarray] = []
    numbers = np.zeros((outlined * (1 if data.exclusive else classes), height, width), np.uint8)
    pixels, sums = np.zeros(classes, np.int64), np.zeros(classes)
    for top in range(0, height, CHUNK):
        found = strip(top)
        found.masks[small] = False
        parts = list(mask_arrays(found, data))
        masks = masks or [np.zeros((height, width), part.dtype) for part in parts]
        for mask, part in zip(masks, parts, strict=True):
            mask[top : top + CHUNK] = part
        if outlined:
            each = np.arange(1, classes + 1, dtype=np.uint8)[:, None, None]
            numbers[:, top : top + CHUNK] = found.label if data.exclusive else found.masks * each
        pixels += found.masks.sum((1, 2))
        sums += (found.probabilities * found.masks).sum((1, 2), dtype=np.float64)
    if outlined:
        outlines = _outlines_of(numbers, data, options.simplify)
        del numbers
    left = iter(files)
    for name, form in wanted.items():
        own = list(itertools.islice(left, len(form.endings(data))))
        if name == "masks":
            for file, mask in zip(own, masks, strict=True):
                write_png(file, mask)
        elif name == "geotiff":
            georeference = require_georeference(image, "--geotiff")
            write_geotiff(own[0], masks, georeference, _valid_strips(image, height, width))
        elif name == "geopackage":
            georeference = require_georeference(image, "--geopackage")
            write_geopackage(own[0], frame_of(outlines, georeference))
        else:
            write_features(own[0], outlines, image)
    rows = [
        {
            "file": source.name,
            **named,
            "pixels": int(count),
            "share": round(int(count) / (height * width), 6),
            "objects": "",
            "score": round(float(total / count), 4) if count else "",
        }
        for named, count, total in zip(named_classes(data), pixels, sums, strict=True)
    ]
    return {"size": {"height": height, "width": width}, "rows": rows, "objects": []}


def _valid_strips(image: Pixels, height: int, width: int) -> Iterator[np.ndarray]:
    """Where an image holds data, bool h x W in strips of `CHUNK` rows."""
    with contextlib.closing(open_pixels(image)) as opened:
        for top in range(0, height, CHUNK):
            rows = min(CHUNK, height - top)
            valid = opened.part(top, 0, rows, width)[1]
            yield np.ones((rows, width), bool) if valid is None else valid


def _outlines_of(labels: np.ndarray, data: DataConfig, simplify: float = 0.0) -> Outlines:
    """The outlines of the 4-connected components of masks; uint8 N x H x W of class numbers, N > 1
    for overlapping classes."""
    require_geo("polygons of images this large")
    import shapely
    from rasterio.features import shapes
    from shapely.geometry import shape

    named, rows, geometries = named_classes(data), [], []
    for label in labels:
        # Converted one by one: lists of points need ten times the memory of shapely's arrays.
        for outline, number in shapes(label, label, connectivity=4):
            geometries.append(shape(outline))
            rows.append({**named[int(number) - 1], "pixels": round(geometries[-1].area)})
    exact = list(shapely.orient_polygons(geometries))
    return outlines_of(rows, exact, simplify, disjoint=data.exclusive)
