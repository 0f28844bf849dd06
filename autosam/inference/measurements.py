"""Measure the objects of an image for objects.csv, by scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np

from autosam.config import DataConfig
from autosam.errors import ConfigError
from autosam.inference.mask_values import named_classes
from autosam.types import Instances

OBJECT_COLUMNS = (
    "file", "object", "class", "value", "score", "area", "centroid_x", "centroid_y",
    "box_x", "box_y", "box_width", "box_height", "perimeter", "longest_axis", "probability",
)  # fmt: skip
"""Columns of the table; `value` only if the settings name mask values."""


def require_scikit_image() -> Any:
    """Import `skimage.measure`.

    Raises:
        ConfigError: scikit-image is not installed.
    """
    try:
        from skimage import measure
    except ImportError:
        raise ConfigError(
            "objects.csv: needs scikit-image: pip install 'autosam[instances]'."
        ) from None
    return measure


def measure_objects(
    file: str, instances: Instances, data: DataConfig, probabilities: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Compute the rows of objects.csv for one image, see `skimage.measure.regionprops`.

    Coordinates are pixels from the top left corner of the image, as in COCO and GeoJSON, so that
    the centre of the first pixel is (0.5, 0.5); scikit-image counts from that centre.

    Args:
        file: name of the image.
        instances: its objects.
        data: names and values of the classes.
        probabilities: float32 K x H x W in [0, 1]; None if there are none.

    Returns:
        For each object, by number: its class and score, area, centroid and box; perimeter, and the
        major axis of the ellipse of the same second moments, in pixels (both 0 for a single pixel);
        and the mean probability of its class over its pixels. "" for what is not known.

    Raises:
        ConfigError: scikit-image is not installed.
    """
    measure = require_scikit_image()
    if not len(instances):
        return []
    named = named_classes(data)
    ids = np.maximum(instances.ids, 0)
    found = measure.regionprops_table(
        ids, properties=("area", "centroid", "bbox", "perimeter", "axis_major_length")
    )
    scores: list[float | str] = [""] * len(instances)
    if instances.scores is not None:
        scores = [round(float(score), 4) for score in instances.scores]
    means: list[float | str] = [""] * len(instances)
    if probabilities is not None:
        means = [round(mean, 4) for mean in mean_probabilities(instances, probabilities).tolist()]
    rows = []
    for i, category in enumerate(instances.classes.tolist()):
        left, top = int(found["bbox-1"][i]), int(found["bbox-0"][i])
        rows.append(
            {
                "file": file,
                "object": i + 1,
                **named[category - 1],
                "score": scores[i],
                "area": int(found["area"][i]),
                "centroid_x": round(float(found["centroid-1"][i]) + 0.5, 2),
                "centroid_y": round(float(found["centroid-0"][i]) + 0.5, 2),
                "box_x": left,
                "box_y": top,
                "box_width": int(found["bbox-3"][i]) - left,
                "box_height": int(found["bbox-2"][i]) - top,
                "perimeter": round(float(found["perimeter"][i]), 2),
                "longest_axis": round(float(found["axis_major_length"][i]), 2),
                "probability": means[i],
            }
        )
    return rows


def mean_probabilities(instances: Instances, probabilities: np.ndarray) -> np.ndarray:
    """Average the probability of each object's class over its pixels.

    Args:
        instances: the objects of an image.
        probabilities: float32 K x H x W in [0, 1].

    Returns:
        float64 n.
    """
    y, x = np.nonzero(instances.ids > 0)
    numbers = instances.ids[y, x]
    likely = probabilities[instances.classes[numbers - 1].astype(np.int64) - 1, y, x]
    sums = np.bincount(numbers, likely, len(instances) + 1)
    return (sums / np.bincount(numbers, minlength=len(instances) + 1).clip(min=1))[1:]
