"""Windows of stored values that are measured on the training images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from autosam.config import DataConfig
from autosam.data.blocks import Block
from autosam.data.checks import sample_pairs
from autosam.data.images import ImageFile
from autosam.data.pairs import Pair, Pixels, Splits
from autosam.data.readers.stretch import (
    Window,
    percentile_window,
    require_finite,
    standard_window,
)
from autosam.errors import DataError
from autosam.utils.threads import cores

VALUES = 65_536
"""Most values of a band that are taken of an image."""


def measured(data: DataConfig, splits: Splits) -> tuple[DataConfig, Splits]:
    """Measure `window` (with `stretch: dataset`) and `generator_window`, if they are unset.

    Args:
        data: the settings.
        splits: the pairs that they describe.

    Returns:
        Settings with windows, and the pairs whose images are read by them.

    Raises:
        DataError: images whose bands cannot be read.
    """
    window, windows = data.window, data.generator_window
    if data.stretch == "dataset" and window is None:
        window = measure_window(splits["train"])
    if data.generator_bands is not None and windows is None:
        windows = measure_windows(splits["train"], data)
    if (window, windows) == (data.window, data.generator_window):
        return data, splits

    def read_by(pair: Pair) -> Pair:
        own = _file(pair.image)
        file = dataclasses.replace(own, window=window, channel_windows=tuple(windows or ()))
        image = pair.image
        image = dataclasses.replace(image, file=file) if isinstance(image, Block) else file
        return dataclasses.replace(pair, image=image)

    splits = {name: list(map(read_by, pairs)) for name, pairs in splits.items()}
    return dataclasses.replace(data, window=window, generator_window=windows), splits


def measure_window(pairs: Sequence[Pair]) -> Window | None:
    """Measure `percentile_window` over images; of many images over a sample.

    Returns:
        None if all have 8 bits.

    Raises:
        DataError: images that are no files, or see `percentile_window`.
    """
    found = _values(pairs, lambda file: file.bands)
    if all(values.dtype == np.uint8 for bands in found for values in bands):
        return None
    known = np.concatenate([values for bands in found for values in bands])
    return percentile_window(known, None, "the training images")


def measure_windows(pairs: Sequence[Pair], data: DataConfig) -> list[Window]:
    """Measure `standard_window` of each of the generator's bands, as `measure_window`.

    Args:
        pairs: the images.
        data: with the C bands.

    Returns:
        C windows.

    Raises:
        DataError: an image is no TIFF, a band holds no data, or values that are not finite.
    """
    assert isinstance(data.generator_bands, list)
    found = _values(pairs, lambda file: file.channels)
    windows = []
    for i, band in enumerate(data.generator_bands):
        known = np.concatenate([bands[i] for bands in found])
        if not known.size:
            raise DataError(
                f"--data.generator_bands: band {band} holds no data in the training images. Leave "
                "it out."
            )
        windows.append(standard_window(known))
    return windows


def _values(
    pairs: Sequence[Pair], bands_of: Callable[[ImageFile], tuple[int, ...] | None]
) -> list[list[np.ndarray]]:
    """Some known values of each band of each image."""

    def read(pair: Pair) -> list[np.ndarray]:
        region = pair.image.region if isinstance(pair.image, Block) else None
        file = _file(pair.image)
        values, missing = file.sample(bands_of(file), region)
        bands = []
        for i in range(values.shape[2]):
            band = values[..., i]
            known = band.ravel() if missing is None else band[~missing[..., i]]
            require_finite(known, str(pair.image))
            bands.append(known[:: max(1, len(known) // VALUES)].copy())
        return bands

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(read, sample_pairs(list(pairs))))


def _file(image: Pixels) -> ImageFile:
    """
    Raises:
        DataError: an image that is not read from an image file.
    """
    file = image.file if isinstance(image, Block) else image
    if not isinstance(file, ImageFile):
        raise DataError(
            f"{image}: not an image file, as --data.generator_bands and --data.stretch dataset "
            "need them. Leave these out."
        )
    return file
