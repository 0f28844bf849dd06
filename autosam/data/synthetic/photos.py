"""Photographic textures for synthetic scenes, from the public-domain images in scikit-image.

Only `autosam pretrain` uses them, so scikit-image is in the extra `pretrain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

from autosam.data.synthetic.drawing import Array, Rng, colourise, draw_palette, log_uniform
from autosam.errors import ConfigError

# Public domain or CC0 according to the docstrings of skimage.data.
PHOTOS = (
    "astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel",
    "hubble_deep_field", "immunohistochemistry", "moon", "retina", "rocket",
)  # fmt: skip


@cache
def load_photos() -> tuple[Array, ...]:
    """Load `PHOTOS`, each float32 H x W x 3 in [0, 1].

    Raises:
        ConfigError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        raise ConfigError(
            "Pretraining needs textures from scikit-image: pip install 'autosam[pretrain]'."
        ) from None
    photos = []
    for name in PHOTOS:
        photo = getattr(data, name)()
        photo = np.repeat(photo[..., None], 3, axis=2) if photo.ndim == 2 else photo
        photos.append(photo.astype(np.float32) / 255)
    return tuple(photos)


def photo_texture(rng: Rng, photos: Sequence[Array], shape: tuple[int, int]) -> Array:
    """Draw a random crop of a photograph, scaled and flipped.

    A third of the crops keep their colours, a third get new colours per channel, and a third map
    their brightness to a random palette.

    Args:
        rng: random generator.
        photos: float32 H x W x 3 each.
        shape: h, w of the result.

    Returns:
        float32 h x w x 3 in [0, 1], a new array.
    """
    photo = photos[int(rng.integers(len(photos)))]
    height, width = shape
    zoom = log_uniform(rng, 0.4, 2.5)
    # The crop is limited to the size of the photograph.
    factor = max(zoom, height / photo.shape[0], width / photo.shape[1])
    rows = min(photo.shape[0], max(2, round(height / factor)))
    columns = min(photo.shape[1], max(2, round(width / factor)))
    top = rng.integers(photo.shape[0] - rows + 1)
    left = rng.integers(photo.shape[1] - columns + 1)
    piece = photo[top : top + rows, left : left + columns]
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    piece = cv2.resize(piece, (width, height), interpolation=way)
    flip = int(rng.integers(-1, 3))
    if flip < 2:
        piece = cv2.flip(piece, flip)
    kind = rng.integers(3)
    if kind == 0:
        grey = cv2.cvtColor(piece, cv2.COLOR_RGB2GRAY)
        grey = cv2.normalize(grey, None, 0, 1, cv2.NORM_MINMAX)  # type: ignore[call-overload]
        return colourise(grey, draw_palette(rng))
    if kind == 1:
        piece = piece[..., rng.permutation(3)] * rng.uniform(0.6, 1.3, 3).astype(np.float32)
    else:
        piece = piece * np.float32(rng.uniform(0.7, 1.2))
    return np.clip(piece, 0, 1).astype(np.float32)
