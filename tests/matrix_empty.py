"""TIFFs with pixels without data for the matrix of readers, by GDAL and tifffile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tifffile
from matrix_cases import GREY, RGB, Case, H, W, gdal, numbers, write
from matrix_tiffs import PACKED, SAMPLES, SHAPES


def empty_values(folder: Path) -> Iterator[Case]:
    """Pixels without data: GDAL's tag in every number type, NaN, masks inside, by GDAL itself."""
    for i, (dtype, channels, value) in enumerate(
        itertools.product(
            ("uint8", "uint16", "int16", "int32", "float32", "float64"),
            (1, 3),
            (0, 255, 65535, -9999, -3.4028234663852886e38, float("nan")),
        )
    ):
        values, path = numbers(np.dtype(dtype).str[1:], channels, i), folder / f"n{i}.tif"
        kind = values.dtype.kind
        if kind != "f" and not (
            np.isfinite(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
        ):
            continue
        values[3:6], values[:, 50] = value, value
        how: dict[str, Any] = [
            {},
            {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16},
            {"interleave": "band", "compress": "lzw"},
            {"compress": "zstd", "predictor": 2},
        ][i % 4]
        if kind == "f" and how.get("predictor"):
            how = {"compress": "zstd", "predictor": 3}
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=W,
            height=H,
            count=channels,
            dtype=dtype,
            nodata=value,
            **how,
        ) as file:
            file.write(np.moveaxis(values, 2, 0))
        yield Case(
            f"geotiff {dtype} {channels} nodata {value} {how}",
            path,
            values,
            RGB if channels == 3 else GREY,
            8 * values.itemsize,
            nodata=value,
            second=gdal,
        )
    for i, (dtype, channels) in enumerate(
        itertools.product(("uint8", "uint16", "float32"), (1, 3))
    ):
        values, path = numbers(np.dtype(dtype).str[1:], channels, i), folder / f"m{i}.tif"
        valid = np.ones((H, W), bool)
        valid[5:9], valid[:, 20:22] = False, False
        values[~valid] = values.max()
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path, "w", driver="GTiff", width=W, height=H, count=channels, dtype=dtype
            ) as file,
        ):
            file.write(np.moveaxis(values, 2, 0))
            file.write_mask(valid)
        yield Case(
            f"geotiff {dtype} {channels} mask inside",
            path,
            values,
            RGB if channels == 3 else GREY,
            8 * values.itemsize,
            valid=valid,
            second=gdal,
        )
    yield from _sparse_and_more(folder)


def turned_and_empty(folder: Path) -> Iterator[Case]:
    """The same turned, in planes, with opacity, white as zero: by tifffile."""
    kinds = [entry for i, entry in enumerate(SAMPLES) if i in (0, 1, 2, 4, 6)]
    grid = itertools.product(
        (("u1", 7), ("u2", 65535), ("i2", -9999), ("f4", float("nan"))),
        kinds,
        ("contig", "separate"),
        range(1, 9),
    )
    for i, ((dtype, value), (kind, channels, how, meta), planar, orientation) in enumerate(grid):
        if channels == 1 and planar == "separate":
            continue
        values, path = numbers(dtype, channels, i), folder / f"e{i}.tif"
        last = channels - meta.get("extra", 0)
        values[3:6, :, :last], values[:, 50, :last] = value, value
        values[20, 20, 0] = value  # of several channels, one alone
        tags = [(274, "H", 1, orientation, True), (42113, "s", 0, f"{value}", True)]
        write(path, values, planar, extratags=tags, **how, **PACKED[i % 3], **next(SHAPES))
        yield Case(
            f"tiff {dtype} {channels} {list(how.values())} {planar} nodata {value} "
            f"orientation {orientation}",
            path,
            values,
            kind,
            8 * values.itemsize,
            orientation,
            nodata=value,
            second=gdal,
            **meta,
        )
    for i, (dtype, channels, orientation) in enumerate(
        itertools.product(("u1", "u2"), (1, 3), range(1, 9))
    ):
        values, path = numbers(dtype, channels, i), folder / f"t{i}.tif"
        valid = np.ones((H, W), bool)
        valid[5:9], valid[:, 20:22] = False, False
        values[~valid] = values.max()
        tags = [(274, "H", 1, orientation, True)]
        with tifffile.TiffWriter(path) as file:
            file.write(values[..., 0] if channels == 1 else values, metadata=None, extratags=tags,
                       photometric="rgb" if channels == 3 else "minisblack")  # fmt: skip
            file.write(valid, photometric="mask", subfiletype=4, metadata=None, extratags=tags)
        yield Case(
            f"tiff {dtype} {channels} mask inside orientation {orientation}",
            path,
            values,
            RGB if channels == 3 else GREY,
            8 * values.itemsize,
            orientation,
            valid=valid,
            second=gdal,
        )


def _sparse_and_more(folder: Path) -> Iterator[Case]:
    """Tiles that are not there, opacity of 16 bits, overviews."""
    values = numbers("u2", 1)
    path = folder / "sparse.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=W,
        height=H,
        count=1,
        dtype="uint16",
        nodata=7,
        tiled=True,
        blockxsize=16,
        blockysize=16,
        sparse_ok=True,
    ) as file:
        file.write(values[:16, :16, 0], 1, window=rasterio.windows.Window(0, 0, 16, 16))
    values = np.full_like(values, 7)
    values[:16, :16] = numbers("u2", 1)[:16, :16]
    yield Case("geotiff sparse tiles", path, values, GREY, 16, nodata=7, second=gdal)
    path, values = folder / "rgba16.tif", numbers("u2", 4)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=W,
        height=H,
        count=4,
        dtype="uint16",
        photometric="RGB",
        alpha="yes",
    ) as file:
        file.write(np.moveaxis(values, 2, 0))
    yield Case(
        "geotiff rgba 16 bits", path, values, RGB, 16, alpha="straight", extra=1, second=gdal
    )
    path, values = folder / "pyramid.tif", numbers("u2", 3)
    with rasterio.open(
        path, "w", driver="GTiff", width=W, height=H, count=3, dtype="uint16"
    ) as file:
        file.write(np.moveaxis(values, 2, 0))
        file.build_overviews([2, 4])
    yield Case("geotiff with overviews", path, values, RGB, 16, second=gdal)
