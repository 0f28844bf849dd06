"""Outlines and run-length codes as masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from autosam.errors import DataError


def rasterize(shape: Any, height: int, width: int, where: str) -> np.ndarray:
    """Fill polygons, or decode a run-length code.

    Args:
        shape: as in COCO: a list of polygons [x0, y0, x1, y1, ...] whose union is meant, or
            {"size": [h, w], "counts": list or compressed text}. x and y are measured from the
            picture's corner, so that the first pixel covers 0..1.
        height, width: of the picture.
        where: what a message should name.

    Returns:
        bool H x W.

    Raises:
        DataError: not such a shape.
    """
    try:
        from pycocotools import mask as coco
    except ImportError:
        raise DataError(
            f"{where}: outlines are drawn by pycocotools: pip install 'autosam[data]'"
        ) from None
    if isinstance(shape, dict):
        if list(shape.get("size", [])) != [height, width]:
            raise DataError(
                f"{where}: run-length code of size {shape.get('size')}, but the picture is "
                f"{height} x {width}."
            )
        counts = shape.get("counts")
        if isinstance(counts, list):
            if (
                any(not isinstance(n, int) or n < 0 for n in counts)
                or sum(counts) != height * width
            ):
                raise DataError(f"{where}: run lengths must add up to {height * width} pixels.")
            shape = coco.frPyObjects(shape, height, width)
        elif not isinstance(counts, str | bytes):
            raise DataError(f"{where}: a run-length code without counts.")
        try:
            mask = coco.decode(shape)
        except ValueError as error:
            raise DataError(f"{where}: not a run-length code: {error}") from None
        return mask > 0
    polygons = [np.asarray(p, np.float64).ravel() for p in shape] if _is_polygons(shape) else None
    if polygons is None or not all(np.isfinite(p).all() for p in polygons):
        raise DataError(f"{where}: expected polygons [[x0, y0, x1, y1, ...]] or a run-length code.")
    drawn = [p.tolist() for p in polygons if len(p) >= 6]
    if not drawn:
        return np.zeros((height, width), bool)
    return coco.decode(coco.merge(coco.frPyObjects(drawn, height, width))) > 0


def _is_polygons(shape: Any) -> bool:
    return isinstance(shape, list) and all(
        isinstance(p, list) and len(p) % 2 == 0 and all(isinstance(v, int | float) for v in p)
        for p in shape
    )
