"""TIFFs for the matrix of readers, by tifffile and by GDAL; see matrix_cases."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from matrix_cases import (
    CMYK,
    GREY,
    PALETTE,
    RGB,
    WHITE_0,
    Case,
    H,
    W,
    gdal,
    numbers,
    pillow,
    write,
)
from PIL import Image

ORIENT = itertools.cycle([1, 6, 1, 3, 8, 1, 2, 5, 4, 7, 1])
SHAPES = itertools.cycle(
    [
        {},
        {"tile": (16, 32)},
        {"rowsperstrip": 7},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"tile": (32, 16), "byteorder": ">"},
        {"rowsperstrip": 1, "bigtiff": True, "byteorder": ">"},
    ]
)
PACKED: list[dict[str, Any]] = [
    {},
    {"compression": "lzw"},
    {"compression": "zlib", "predictor": True},
    {"compression": "zstd"},
    {"compression": "packbits"},
    {"compression": "lzma"},
    {"compression": "lzw", "predictor": True},
]
DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "f2", "f4", "f8")
SAMPLES: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    (GREY, 1, {"photometric": "minisblack"}, {}),
    (WHITE_0, 1, {"photometric": "miniswhite"}, {}),
    (
        GREY,
        2,
        {"photometric": "minisblack", "extrasamples": ["unassalpha"]},
        {"alpha": "straight", "extra": 1},
    ),
    (
        GREY,
        2,
        {"photometric": "minisblack", "extrasamples": ["unspecified"]},
        {"refused": "has 2 bands"},
    ),
    (RGB, 3, {"photometric": "rgb"}, {}),
    (RGB, 3, {"photometric": "minisblack", "extrasamples": ["unspecified"] * 2}, {}),
    (
        RGB,
        4,
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        {"alpha": "straight", "extra": 1},
    ),
    (
        RGB,
        4,
        {"photometric": "rgb", "extrasamples": ["assocalpha"]},
        {"alpha": "multiplied", "extra": 1},
    ),
    (RGB, 5, {"photometric": "rgb", "extrasamples": ["unspecified"] * 2}, {"extra": 2}),
    (
        GREY,
        6,
        {"photometric": "minisblack", "extrasamples": ["unspecified"] * 5},
        {"refused": "has 6 bands"},
    ),
]


def tiffs(folder: Path) -> Iterator[Case]:
    """Number types x samples x planes x compressions, in strips or tiles, byte orders, turns."""
    grid = itertools.product(DTYPES, SAMPLES, ("contig", "separate"), range(len(PACKED)))
    for i, (dtype, (kind, channels, how, meta), planar, packed) in enumerate(grid):
        if (channels == 1 and planar == "separate") or (i // 7 + packed) % 2:
            continue
        if meta.get("alpha") == "multiplied" and dtype not in ("u1", "u2"):
            continue
        if dtype[0] == "f" and kind == WHITE_0 and packed > 2:
            continue
        shape, orientation = next(SHAPES), next(ORIENT)
        packing = dict(PACKED[packed])
        if packing.get("predictor") and dtype[0] == "f":
            packing["predictor"] = 3
        values = numbers(dtype, channels, i)
        if meta.get("alpha") == "multiplied":
            values[..., 3] = np.maximum(values[..., 3], values.max())
            values[:5, :5, 3], values[:5, :5, :3] = 0, 0
        path = folder / f"t{i}.tif"
        tags = [(274, "H", 1, orientation, True)] * (orientation > 1)
        try:
            write(path, values, planar, extratags=tags, **how, **packing, **shape)
        except (ValueError, TypeError, NotImplementedError):
            continue
        name = f"tiff {dtype} {channels} {list(how.values())} {planar} {packing} {shape}"
        yield Case(
            f"{name} orientation {orientation}",
            path,
            values,
            kind,
            8 * values.itemsize,
            orientation,
            second=gdal,
            **meta,
        )


def small_bits(folder: Path) -> Iterator[Case]:
    """1, 2, 4, 12 bits; palettes; fill order; CCITT."""
    for i, (bits, kind, orientation) in enumerate(
        itertools.product((1, 2, 4, 6, 10, 12, 14), (GREY, WHITE_0), range(1, 9))
    ):
        how = {"photometric": "minisblack" if kind == GREY else "miniswhite"}
        values = numbers("?" if bits == 1 else "u1" if bits < 8 else "u2", 1, i, bits)
        path = folder / f"s{i}.tif"
        tags = [(274, "H", 1, orientation, True)]
        if bits > 1:
            how["bitspersample"] = bits
        shape = next(SHAPES)
        if bits not in (1, 8):  # tifffile itself writes others wrongly in that order
            shape = {key: value for key, value in shape.items() if key != "byteorder"}
        write(path, values, "contig", extratags=tags, **how, **shape)
        second = gdal if kind == GREY or bits > 1 else None
        yield Case(
            f"tiff {bits} bits {kind} orientation {orientation}",
            path,
            values,
            kind,
            bits,
            orientation,
            second=second,
        )
    for i, (bits, orientation, packing) in enumerate(
        itertools.product((8, 4, 16), (1, 6, 7), PACKED[:4])
    ):
        rng = np.random.default_rng(i)
        colors = rng.integers(0, 256, (2 ** min(bits, 8), 3), dtype=np.uint8)
        table = np.zeros((3, 2**bits), np.uint16)
        table[:, : len(colors)] = colors.T.astype(np.uint16) * (257 if i % 2 else 256)
        values = rng.integers(0, len(colors), (H, W, 1)).astype("u2" if bits == 16 else "u1")
        path = folder / f"p{i}.tif"
        how = {"bitspersample": bits} if bits == 4 else {}
        if bits == 4 and packing:
            continue
        tags = [(274, "H", 1, orientation, True)]
        try:
            write(
                path,
                values,
                "contig",
                photometric="palette",
                colormap=table,
                extratags=tags,
                **how,
                **packing,
                **next(SHAPES),
            )
        except ValueError:
            continue
        yield Case(
            f"tiff palette {bits} bits {packing} orientation {orientation}",
            path,
            values,
            PALETTE,
            bits,
            orientation,
            palette=(table.T >> 8).astype(np.uint8),
            second=gdal,
        )
    bilevel = numbers("?", 1)
    for name in ("group3", "group4", "tiff_ccitt"):
        path = folder / f"{name}.tif"
        Image.fromarray(bilevel[..., 0]).save(path, compression=name)
        yield Case(f"tiff {name} by pillow", path, bilevel, GREY, 1, second=pillow)


def inks_and_light(folder: Path) -> Iterator[Case]:
    """CMYK, with and without more, in 8 and 16 bits; YCbCr; JPEG inside TIFF."""
    for i, (dtype, channels, planar, packing, orientation) in enumerate(
        itertools.product(("u1", "u2"), (4, 5), ("contig", "separate"), PACKED[:3], (1, 5, 8))
    ):
        values, path = numbers(dtype, channels, i), folder / f"c{i}.tif"
        how: dict[str, Any] = {"extrasamples": ["unassalpha"]} if channels == 5 else {}
        write(
            path,
            values,
            planar,
            photometric="separated",
            extratags=[(274, "H", 1, orientation, True)],
            **how,
            **packing,
            **next(SHAPES),
        )
        yield Case(
            f"tiff cmyk {dtype} {channels} {planar} {packing} orientation {orientation}",
            path,
            values,
            CMYK,
            8 * values.itemsize,
            orientation,
            extra=channels - 4,
            second=(pillow if orientation != 5 else None) if dtype == "u1" else gdal,
            upright=dtype == "u1",
        )
    smooth = cv2.GaussianBlur(numbers("u1", 3), (9, 9), 3)
    for i, (subsampling, tile, orientation) in enumerate(
        itertools.product([(1, 1), (2, 1), (2, 2)], [None, (32, 32)], (1, 6))
    ):
        path = folder / f"j{i}.tif"
        tifffile.imwrite(
            path,
            smooth,
            photometric="rgb",
            compression="jpeg",
            tile=tile,
            subsampling=subsampling,
            compressionargs={"level": 98},
            metadata=None,
            extratags=[(274, "H", 1, orientation, True)],
        )
        yield Case(
            f"tiff jpeg {subsampling} {tile} orientation {orientation}",
            path,
            gdal(path),
            RGB,
            8,
            orientation,
            second=pillow,
            upright=True,
            close=2,
        )
    for name, dtype, channels in itertools.product(
        ("webp", "jpeg2000", "lerc", "png"), ("u1", "u2", "f4"), (1, 3)
    ):
        path, values = folder / f"{name}{dtype}{channels}.tif", numbers(dtype, channels)
        try:
            write(
                path,
                values,
                "contig",
                photometric="rgb" if channels == 3 else "minisblack",
                compression=name,
                **({"compressionargs": {"lossless": True}} if name == "webp" else {}),
            )
        except Exception:  # of the codecs, many kinds
            continue
        second = gdal if name in ("webp", "lerc") else None
        yield Case(
            f"tiff {name} {dtype} {channels}",
            path,
            values,
            RGB if channels == 3 else GREY,
            8 * values.itemsize,
            second=second,
        )
