"""Compute the areas of classes for areas.csv, and the objects of an image for COCO."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from autosam.config import DataConfig
from autosam.errors import ConfigError
from autosam.inference.mask_values import named_classes
from autosam.inference.polygons import polygons_of
from autosam.inference.prediction import Prediction
from autosam.inference.regions import Region, regions_of


def rows_of(file: str, found: Prediction, data: DataConfig) -> list[dict[str, Any]]:
    """Compute the rows of areas.csv for one image.

    Args:
        file: name of the image.
        found: a prediction.
        data: names and values of the classes.

    Returns:
        For each class its area in pixels and as a share of the image, the number of its instances
        or else of 4-connected components, and the mean probability of its pixels ("" for an empty
        mask).
    """
    rows = []
    for k, (named, mask, likely) in enumerate(
        zip(named_classes(data), found.masks, found.probabilities, strict=True), 1
    ):
        pixels = int(mask.sum())
        if found.instances is not None:
            count = int((found.instances.classes == k).sum())
        else:
            count = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
        rows.append(
            {
                "file": file,
                **named,
                "pixels": pixels,
                "share": round(pixels / mask.size, 6),
                "objects": count,
                "score": round(float(likely[mask].mean()), 4) if pixels else "",
            }
        )
    return rows


def objects_of(found: Prediction, rle: bool) -> list[dict[str, Any]]:
    """Convert the objects to COCO annotations, see `regions_of`.

    Args:
        found: a prediction.
        rle: use run-length encoding, which is exact, instead of polygons, which cannot have holes
            in COCO's format.

    Returns:
        One annotation for each object, without `id` and `image_id`, in pixels; of instances with
        their number as `object`.

    Raises:
        ConfigError: `rle` without pycocotools.
    """
    if rle:
        _require_pycocotools()
    size = found.masks.shape[1:]
    objects = []
    for region in regions_of(found):
        segmentation: Any
        if rle:
            segmentation = compressed_rle(region, size)
        else:
            outer = [rings[0] for rings in polygons_of(region.mask, region.left, region.top)]
            segmentation = [[number for point in ring[:-1] for number in point] for ring in outer]
        objects.append(
            {
                "category_id": region.category,
                "segmentation": segmentation,
                "area": region.area,
                "bbox": region.box,
                "iscrowd": 0,
                **region.facts,
            }
        )
    return objects


def compressed_rle(region: Region, size: tuple[int, ...]) -> dict[str, Any]:
    """Encode an object as COCO's compressed run-length encoding, from its box alone.

    Args:
        region: the object.
        size: H, W of the image.

    Returns:
        `size` and `counts`, as JSON takes them.

    Raises:
        ConfigError: pycocotools is not installed.
    """
    coco = _require_pycocotools()
    height, width = size
    # Runs go down the columns of the image, one column after the other.
    columns = np.pad(region.mask.T.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(columns, axis=1)
    starts, ends = (
        (region.left + column) * height + region.top + row
        for column, row in (np.nonzero(steps == 1), np.nonzero(steps == -1))
    )
    apart = starts[1:] != ends[:-1]  # a run may go on at the top of the next column
    starts, ends = starts[np.r_[True, apart]], ends[np.r_[apart, True]]
    counts = np.diff(np.stack([starts, ends], 1).ravel(), prepend=0, append=height * width)
    if counts[-1] == 0:
        counts = counts[:-1]
    plain = {"size": [height, width], "counts": counts.tolist()}
    packed = coco.frPyObjects(plain, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode()}


def _require_pycocotools() -> Any:
    """Import `pycocotools.mask`."""
    try:
        from pycocotools import mask
    except ImportError:
        raise ConfigError(
            "--coco rle: needs pycocotools: pip install 'autosam[data]'; or --coco polygon."
        ) from None
    return mask
