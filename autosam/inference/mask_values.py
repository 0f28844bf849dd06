"""Convert predicted masks to arrays to store, with the pixel values of the user's own masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from autosam.config import DataConfig
from autosam.config.validation import value_ranges

if TYPE_CHECKING:
    from autosam.inference.prediction import Prediction


def own_values(data: DataConfig) -> list[int] | None:
    """Find the value of each class in the user's own masks: the first that is not 0.

    Args:
        data: values of the classes.

    Returns:
        One value for each class; None if the settings name no values.
    """
    listed = _listed(data)
    return [next(filter(None, values), 0) for values in listed] if listed else None


def _listed(data: DataConfig) -> list[list[int]]:
    """List all values of each class in the user's own masks; empty if the settings name none."""
    if data.values is not None:
        ranges = value_ranges(data.values)
        usual = [255] if any(least <= 255 <= most for least, most in ranges) else []
        values = [value for least, most in ranges for value in range(least, most + 1)]
        return [usual + values] * data.num_classes
    if data.exclusive and any(entry.values for entry in data.classes or []):
        return [entry.values or [k] for k, entry in enumerate(data.classes or [], 1)]
    return []


def named_classes(data: DataConfig) -> list[dict[str, Any]]:
    """Describe the classes for tables and annotations.

    Args:
        data: names and values of the classes.

    Returns:
        For each class its name as `class`, and its mask value as `value` if the settings name
        values.
    """
    values = own_values(data)
    return [
        {"class": name} | ({"value": values[k]} if values else {})
        for k, name in enumerate(data.class_names)
    ]


def mask_arrays(found: Prediction, data: DataConfig) -> Iterator[np.ndarray]:
    """Convert masks to arrays to store, one for each ending of `mask_endings`.

    Background is 0. Classes have the user's own values if the settings name them; else 255, or 1 to
    K for several exclusive classes. If 0 is the value of a class, background is the highest unused
    value up to 255.

    Args:
        found: a prediction.
        data: names and values of the classes.

    Yields:
        uint8 H x W, or uint16 H x W if a value is above 255.
    """
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


def mask_endings(data: DataConfig) -> list[str]:
    """Name the mask files of an image.

    Args:
        data: the classes.

    Returns:
        Endings to add to the image's name, without suffix: "" for a single file, "_1" to "_K" for
        independent classes.
    """
    if data.num_classes == 1 or data.exclusive:
        return [""]
    return [f"_{k}" for k in range(1, data.num_classes + 1)]
