"""Color prior: a rough mask from a rule on colours, from which prompts are taken."""

from __future__ import annotations

import cv2
import numpy as np

from autosam.config import RoughConfig
from autosam.data.images import read_bands
from autosam.data.pairs import Pixels
from autosam.errors import DataError


def color_prior_mask(image: Pixels, rough: RoughConfig) -> np.ndarray:
    """Apply the rule to an image, and clean the result, see `clean`.

    Args:
        image: the image; with method `index` a TIFF with the bands.
        rough: the rule.

    Returns:
        uint8 H x W, 0 or 1.

    Raises:
        DataError: unreadable, or without the bands.
    """
    if rough.method == "index":
        found = _index(image, rough)
    elif rough.method == "hsv":
        found = _in_range(image.read(), rough)
    else:
        grey = cv2.cvtColor(image.read(), cv2.COLOR_RGB2GRAY)
        level = rough.threshold
        if level is None:
            level = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0]
        found = grey <= level if rough.dark else grey > level
    return clean(found, rough)


def clean(mask: np.ndarray, rough: RoughConfig) -> np.ndarray:
    """Erode a mask, bool H x W, and remove components below `min_share` of the image; uint8."""
    mask = mask.astype(np.uint8)
    if rough.erosion:
        side = 2 * rough.erosion + 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        mask = cv2.erode(mask, kernel, borderType=cv2.BORDER_REPLICATE)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    large = stats[:, cv2.CC_STAT_AREA] >= rough.min_share * mask.size
    large[0] = False
    return large[parts].astype(np.uint8)


def _in_range(image: np.ndarray, rough: RoughConfig) -> np.ndarray:
    """Hue, saturation and value within bounds; hue wraps around if its lower bound is larger."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    low, high = np.array(rough.lower), np.array(rough.upper)
    inside = np.asarray((hsv >= low) & (hsv <= high))
    if low[0] > high[0]:
        inside[..., 0] = (hsv[..., 0] >= low[0]) | (hsv[..., 0] <= high[0])
    return np.asarray(inside.all(2))


def _index(image: Pixels, rough: RoughConfig) -> np.ndarray:
    """Threshold the normalised difference of two bands. With green and near infrared it is the
    water index NDWI (McFeeters 1996, equation 2)."""
    bands, missing = read_bands(image.path, getattr(image, "nodata", None))
    if max(rough.bands) > bands.shape[2] or min(rough.bands) < 1:
        raise DataError(
            f"{image}: has {bands.shape[2]} bands, but --rough.bands asks for {list(rough.bands)}."
        )
    first, second = (bands[..., band - 1].astype(np.float64) for band in rough.bands)
    absent = np.zeros(first.shape, bool)
    if missing is not None:
        absent = np.asarray(missing[..., [band - 1 for band in rough.bands]].any(2))
        first[absent] = second[absent] = 0
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError(f"{image}: holds NaN or infinite pixels. Fix or remove it.")
    total = first + second
    index = np.divide(first - second, total, out=np.zeros_like(total), where=total != 0)
    level = 0.0 if rough.threshold is None else rough.threshold
    return np.asarray((index > level) & ~absent)
