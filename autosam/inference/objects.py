"""Compute the areas of classes for areas.csv, and the objects of an image for COCO."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from autosam.config import DataConfig
from autosam.errors import ConfigError
from autosam.inference.mask_values import named_classes
from autosam.inference.polygons import connected_parts
from autosam.inference.prediction import Prediction


def rows_of(file: str, found: Prediction, data: DataConfig) -> list[dict[str, Any]]:
    """Compute the rows of areas.csv for one image.

    Args:
        file: name of the image.
        found: a prediction.
        data: names and values of the classes.

    Returns:
        For each class its area in pixels and as a share of the image, the number of 4-connected
        components and the mean probability of its pixels ("" for an empty mask).
    """
    rows = []
    for named, mask, likely in zip(
        named_classes(data), found.masks, found.probabilities, strict=True
    ):
        pixels = int(mask.sum())
        rows.append(
            {
                "file": file,
                **named,
                "pixels": pixels,
                "share": round(pixels / mask.size, 6),
                "objects": cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1,
                "score": round(float(likely[mask].mean()), 4) if pixels else "",
            }
        )
    return rows


def objects_of(found: Prediction, rle: bool) -> list[dict[str, Any]]:
    """Convert the masks to COCO annotations, one for each 4-connected component of each class.

    Args:
        found: a prediction.
        rle: use run-length encoding, which is exact, instead of polygons, which cannot have holes
            in COCO's format.

    Returns:
        Annotations without `id` and `image_id`, in pixels.

    Raises:
        ConfigError: `rle` without pycocotools.
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
        for part, rings in connected_parts(mask):
            segmentation: Any = [[number for point in rings[0][:-1] for number in point]]
            if rle:
                packed = coco.encode(np.asfortranarray(part.astype(np.uint8)))
                segmentation = {"size": packed["size"], "counts": packed["counts"].decode()}
            xs, ys = np.flatnonzero(part.any(0)), np.flatnonzero(part.any(1))
            x, y = int(xs[0]), int(ys[0])
            objects.append(
                {
                    "category_id": k + 1,
                    "segmentation": segmentation,
                    "area": int(part.sum()),
                    "bbox": [x, y, int(xs[-1]) - x + 1, int(ys[-1]) - y + 1],
                    "iscrowd": 0,
                    "score": round(float(likely[part].mean()), 4),
                }
            )
    return objects
