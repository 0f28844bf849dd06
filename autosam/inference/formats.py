"""What `predict` writes of an image: masks, probabilities, areas, outlines, COCO's objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from autosam.config import DataConfig
from autosam.config.validation import value_ranges
from autosam.data.images import write_png
from autosam.errors import ConfigError
from autosam.inference.predictor import Prediction


def own_values(data: DataConfig) -> list[int] | None:
    """The mask value of each class, as the user named them (the first that is not 0); None: the
    user named none."""
    listed = _listed(data)
    return [next(filter(None, values), 0) for values in listed] if listed else None


def _listed(data: DataConfig) -> list[list[int]]:
    """Of each class the values that masks of the user's own hold, or nothing."""
    if data.values is not None:
        ranges = value_ranges(data.values)
        usual = [255] * any(least <= 255 <= most for least, most in ranges)
        values = [value for least, most in ranges for value in range(least, most + 1)]
        return [usual + values] * data.num_classes
    if data.exclusive and any(entry.values for entry in data.classes or []):
        return [entry.values or [k] for k, entry in enumerate(data.classes or [], 1)]
    return []


def mask_files(found: Prediction, data: DataConfig) -> Iterator[np.ndarray]:
    """uint8 H x W for each file of `mask_names` (uint16 for values above 255): 0 is background; the
    classes have the user's own values, else 255, or 1 to K where they exclude each other. Where the
    user calls 0 a class, background is the highest value up to 255 that is none."""
    several = data.num_classes > 1 and data.exclusive
    usual = list(range(1, data.num_classes + 1)) if several else [255] * data.num_classes
    named = {value for values in _listed(data) for value in values}
    background = 0
    if 0 in named:
        unused = (v for v in range(255, 0, -1) if v not in named and v != data.ignore)
        background = next(unused, 0)
    table = [background, *(own_values(data) or usual)]
    lookup = np.array(table, np.uint16 if max(table) > 255 else np.uint8)
    if several:
        yield lookup[found.label]
    else:
        for k, mask in enumerate(found.masks, 1):
            yield lookup[mask * np.uint8(k)]


def mask_names(num_classes: int, exclusive: bool) -> list[str]:
    """What the name of each mask file adds to the image's."""
    single = num_classes == 1 or exclusive
    return [""] if single else [f"_{k + 1}" for k in range(num_classes)]


def probability_names(num_classes: int) -> list[str]:
    """What the name of each file of probabilities adds to the image's."""
    if num_classes == 1:
        return ["_probability"]
    return [f"_probability_{k + 1}" for k in range(num_classes)]


def write_probabilities(paths: Sequence[Path], found: Prediction) -> None:
    """16-bit PNGs, 0 to 65535 for 0 to 1."""
    for path, values in zip(paths, found.probabilities, strict=True):
        write_png(path, (values * 65535).round().astype(np.uint16))


def rows_of(file: str, found: Prediction, data: DataConfig) -> list[dict[str, Any]]:
    """Area, number of connected parts and mean probability of each class."""
    rows = []
    for named, mask, likely in zip(named_classes(data), found.masks, found.probabilities,
                                   strict=True):  # fmt: skip
        pixels = int(mask.sum())
        rows.append({
            "file": file,
            **named,
            "pixels": pixels,
            "share": round(pixels / mask.size, 6),
            "objects": cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1,
            "score": round(float(likely[mask].mean()), 4) if pixels else "",
        })  # fmt: skip
    return rows


def named_classes(data: DataConfig) -> list[dict[str, Any]]:
    """`class` of each class, its name; and `value`, if the user named mask values."""
    values = own_values(data)
    return [
        {"class": name} | ({"value": values[k]} if values else {})
        for k, name in enumerate(data.class_names)
    ]


def geojson(found: Prediction, data: DataConfig) -> dict[str, Any]:
    """Outlines with holes as a FeatureCollection; x to the right and y down, in pixels from the
    corner of the image. As RFC 7946 asks, outer rings run counter-clockwise and holes clockwise
    by their numbers, that is, where y is drawn upwards."""
    features = []
    for named, mask, likely in zip(named_classes(data), found.masks, found.probabilities,
                                   strict=True):  # fmt: skip
        for part, rings in _polygons(mask):
            features.append({
                "type": "Feature",
                "properties": {
                    **named,
                    "pixels": int(part.sum()),
                    "score": round(float(likely[part].mean()), 4),
                },
                "geometry": {"type": "Polygon", "coordinates": rings},
            })  # fmt: skip
    return {"type": "FeatureCollection", "features": features}


def _polygons(mask: np.ndarray) -> Iterator[tuple[np.ndarray, list[list[list[float]]]]]:
    """Each connected part, bool H x W, and its rings: the outer one, then its holes, closed."""
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    for number in range(1, count):
        part = parts == number
        yield part, rings_of(part)


def rings_of(part: np.ndarray) -> list[list[list[float]]]:
    """The edges of the pixels of a connected part, as closed rings: the outer one before holes,
    which run the other way round, see `geojson`.

    OpenCV's outlines run through the centres of pixels and would lose half a pixel all around. In
    an image twice as large those centres lie a quarter off the edges, to which they are rounded.
    """
    large = cv2.resize(part.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, levels = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = []
    for contour, level in zip(contours, levels[0], strict=True):
        corners = (contour[:, 0] / 2 + 0.25).round()
        corners = corners[(corners != np.roll(corners, 1, axis=0)).any(1)]
        steps = corners - np.roll(corners, 1, axis=0)
        turns = (steps != 0) != (np.roll(steps, -1, axis=0) != 0)
        corners = corners[turns.any(1)]  # points on straight edges go
        x, y = corners.T
        counter_clockwise = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0
        is_hole = level[3] >= 0
        if counter_clockwise == is_hole:
            corners = corners[::-1]
        rings.append((is_hole, [*corners.tolist(), corners[0].tolist()]))
    return [ring for _, ring in sorted(rings, key=lambda entry: entry[0])]


def objects_of(found: Prediction, rle: bool) -> list[dict[str, Any]]:
    """COCO annotations without numbers: one for each connected part of each class, in pixels.

    Args:
        found: a prediction.
        rle: run lengths (exact); else polygons, whose holes COCO's format cannot hold.

    Raises:
        ConfigError: run lengths are wanted and pycocotools is missing.
    """
    if rle:
        try:
            from pycocotools import mask as coco
        except ImportError:
            raise ConfigError(
                "--coco rle: needs pycocotools: pip install 'autosam[data]'; or --coco polygon."
            ) from None
    objects = []
    for k, (mask, likely) in enumerate(zip(found.masks, found.probabilities, strict=True)):
        for part, rings in _polygons(mask):
            segmentation: Any = [[number for point in rings[0][:-1] for number in point]]
            if rle:
                packed = coco.encode(np.asfortranarray(part.astype(np.uint8)))
                segmentation = {"size": packed["size"], "counts": packed["counts"].decode()}
            xs, ys = np.flatnonzero(part.any(0)), np.flatnonzero(part.any(1))
            x, y = int(xs[0]), int(ys[0])
            objects.append({
                "category_id": k + 1,
                "segmentation": segmentation,
                "area": int(part.sum()),
                "bbox": [x, y, int(xs[-1]) - x + 1, int(ys[-1]) - y + 1],
                "iscrowd": 0,
                "score": round(float(likely[part].mean()), 4),
            })  # fmt: skip
    return objects
