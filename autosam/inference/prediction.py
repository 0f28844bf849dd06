"""The prediction for one image, with methods to draw and save it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from autosam.config import DataConfig
from autosam.data.pairs import Pixels
from autosam.errors import ConfigError
from autosam.evaluation.visualize import overlay, palette
from autosam.evaluation.visualize_instances import overlay_instances
from autosam.inference.formats import format_of
from autosam.inference.label_image import LABEL_SUFFIXES, write_label_image
from autosam.types import Instances

DISPLAY_SIDE = 1024
"""Longest side of the image that a notebook displays, pixels."""


@dataclass(frozen=True)
class Prediction:
    """Masks, probabilities and logits of one image.

    The image itself is not kept: an image in a file is read again to draw the prediction.
    """

    probabilities: np.ndarray
    """float32 K x H x W in [0, 1]."""
    masks: np.ndarray
    """bool K x H x W; with exclusive classes at most one is True per pixel."""
    logits: np.ndarray
    """float32 K x H x W."""
    data: DataConfig | None = field(default=None, repr=False, compare=False)
    """Names, colours and mask values of the classes."""
    image: Pixels | None = field(default=None, repr=False, compare=False)
    """Where the image is read from."""
    instances: Instances | None = field(default=None, repr=False, compare=False)
    """The objects; None where a run only predicts classes."""

    @property
    def score(self) -> float:
        """Mean probability of the predicted pixels, in [0, 1]; 0 if there are none. This is not an
        estimate of Dice."""
        return float(self.probabilities[self.masks].mean()) if self.masks.any() else 0.0

    @property
    def label(self) -> np.ndarray:
        """uint8 H x W: 0 for background, 1 to K for a class; the last of overlapping classes."""
        numbers = np.arange(1, len(self.masks) + 1, dtype=np.uint8)
        return (self.masks * numbers[:, None, None]).max(0)

    def overlay(self, alpha: float = 0.35) -> np.ndarray:
        """Draw the masks on the image, or the instances with one colour for each.

        Args:
            alpha: strength of the tint, in [0, 1].

        Returns:
            uint8 H x W x 3, RGB.

        Raises:
            ConfigError: the prediction was made without an image, from logits.
            DataError: the image can no longer be read.
        """
        if self.image is None:
            raise ConfigError("This prediction has no image to draw on.")
        if self.instances is not None:
            return overlay_instances(self.image.read(), self.instances.ids, alpha=alpha)
        return overlay(self.image.read(), self.masks, palette(self._data), alpha)

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the masks, or the label image of instances, as `autosam predict` does.

        Args:
            path: `NAME.png` (written as `NAME_1.png`, ... for independent classes), or another
                suffix of `autosam.inference.formats.FORMATS`, such as `NAME.geojson`, or of a
                GeoTIFF `NAME.tif`. Label images may also be `NAME.tif`.

        Returns:
            The files that were written.

        Raises:
            ConfigError: no format has this suffix.
        """
        path = Path(path)
        if self.instances is not None and path.suffix.lower() in LABEL_SUFFIXES:
            return [write_label_image(path, self.instances.ids)]
        chosen = format_of(path, self._data)
        endings = chosen.endings(self._data)
        files = [path.with_name(path.stem + ending) for ending in endings]
        if len(files) == 1:
            files = [path]
        chosen.write(files, self, self._data)
        return files

    @property
    def _data(self) -> DataConfig:
        return self.data or DataConfig(num_classes=len(self.masks))

    def __repr__(self) -> str:
        height, width = self.masks.shape[1:]
        names = self._data.class_names
        if self._data.classes is None:
            names = [f"class {name}" for name in names] if len(names) > 1 else ["foreground"]
        shares = [f"{name} {mask.mean():.1%}" for name, mask in zip(names, self.masks, strict=True)]
        return f"Prediction({height} x {width}: {', '.join(shares)})"

    def _repr_png_(self) -> bytes | None:
        """Draw the overlay for a notebook: the bytes of a PNG file."""
        if self.image is None:
            return None
        image = self.overlay()
        scale = DISPLAY_SIDE / max(image.shape[:2])
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        _, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return png.tobytes()
