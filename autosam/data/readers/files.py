"""Open an image file of any supported format."""

from __future__ import annotations

from pathlib import Path

from autosam.config import DataConfig
from autosam.data.images import ImageFile
from autosam.data.pairs import Pixels
from autosam.data.readers.dicom import DicomImage, is_dicom


def image_file(path: Path, config: DataConfig) -> Pixels:
    """An image file with the reading settings applied: DICOM, or any format of `read_image`."""
    if is_dicom(path):
        return DicomImage(path, config.window, config.nodata)
    bands = config.generator_bands if isinstance(config.generator_bands, list) else ()
    windows = tuple((low, high) for low, high in config.generator_window or ())
    return ImageFile(path, config.bands, config.window, config.nodata, tuple(bands), windows)
