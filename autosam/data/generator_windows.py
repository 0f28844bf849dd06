"""The windows of the bands that the prompt generator reads, measured on training images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from autosam.config import DataConfig
from autosam.data.blocks import Block
from autosam.data.checks import sample_pairs
from autosam.data.images import ImageFile
from autosam.data.pairs import Pair, Pixels, Splits
from autosam.data.readers.stretch import Window, require_finite, standard_window
from autosam.errors import DataError

VALUES = 65_536
"""Most values of a band that are taken of an image."""


def measured(data: DataConfig, splits: Splits) -> tuple[DataConfig, Splits]:
    """Measure the windows of `generator_bands`, if the settings have none.

    Args:
        data: the settings.
        splits: the pairs that they describe.

    Returns:
        Settings with windows, and the pairs that these describe.

    Raises:
        DataError: images whose bands cannot be read.
    """
    if data.generator_bands is None or data.generator_window is not None:
        return data, splits
    windows = measure_windows(splits["train"], data)
    splits = {
        name: [dataclasses.replace(p, image=with_windows(p.image, windows)) for p in pairs]
        for name, pairs in splits.items()
    }
    return dataclasses.replace(data, generator_window=windows), splits


def with_windows(image: Pixels, windows: list[Window]) -> Pixels:
    """An image whose bands are read by these windows.

    Raises:
        DataError: not a TIFF.
    """
    if not isinstance(image, ImageFile | Block):
        raise _no_tiff(image)
    return image.with_windows(tuple(windows))


def measure_windows(pairs: Sequence[Pair], data: DataConfig) -> list[Window]:
    """Measure `standard_window` of each band over images; of many images over a sample.

    Args:
        pairs: the images.
        data: with the C bands.

    Returns:
        C windows.

    Raises:
        DataError: an image is no TIFF, a band holds no data, or values that are not finite.
    """
    assert isinstance(data.generator_bands, list)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(_values, sample_pairs(list(pairs))))
    windows = []
    for i, band in enumerate(data.generator_bands):
        known = np.concatenate([values[i] for values in found])
        if not known.size:
            raise DataError(
                f"--data.generator_bands: band {band} holds no data in the training images. Leave "
                "it out."
            )
        windows.append(standard_window(known))
    return windows


def _no_tiff(image: Pixels) -> DataError:
    return DataError(
        f"{image}: not a TIFF file, whose bands --data.generator_bands could choose. Leave it out."
    )


def _values(pair: Pair) -> list[np.ndarray]:
    """Some known values of each band of an image."""
    if not isinstance(pair.image, ImageFile | Block):
        raise _no_tiff(pair.image)
    values, missing = pair.image.sample_channels()
    bands = []
    for i in range(values.shape[2]):
        band = values[..., i]
        known = band.ravel() if missing is None else band[~missing[..., i]]
        require_finite(known, str(pair.image))
        bands.append(known[:: max(1, len(known) // VALUES)])
    return bands
