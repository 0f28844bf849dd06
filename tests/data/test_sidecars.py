"""GDAL's sidecar files about pixels without data."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile

from autosam.data.images import ImageFile
from autosam.errors import DataError

VALUES = np.arange(48, dtype=np.uint16).reshape(6, 8) * 100
HOLE = VALUES < 800


def test_nodata_in_a_file_beside_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.where(HOLE, 65535, VALUES))
    before = ImageFile(path).digest()
    Path(f"{path}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>65535</NoDataValue>'
        "</PAMRasterBand></PAMDataset>"
    )
    with rasterio.open(path) as raster:
        assert raster.nodata == 65535
    image, valid = ImageFile(path).read_valid()
    assert valid is not None
    assert (valid == ~HOLE).all()
    assert image[valid].min() == 0
    assert image[valid].max() == 255
    assert ImageFile(path).digest() != before


def test_statistics_beside_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, VALUES)
    Path(f"{path}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">3</MDI>'
        "</Metadata></PAMRasterBand></PAMDataset>"
    )
    assert ImageFile(path).read_valid()[1] is None


def test_a_mask_in_a_file_of_its_own_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False),
        rasterio.open(
            path, "w", driver="GTiff", width=8, height=6, count=1, dtype="uint16"
        ) as raster,
    ):
        raster.write(VALUES, 1)
        raster.write_mask(~HOLE)
    assert Path(f"{path}.msk").exists()
    with pytest.raises(DataError, match=re.escape("a.tif.msk")):
        ImageFile(path).read_valid()


def test_two_values_beside_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, VALUES)
    bands = "".join(f"<NoDataValue>{value}</NoDataValue>" for value in ("0", "65535"))
    Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    with pytest.raises(DataError, match="expected one number"):
        ImageFile(path).read_valid()
