"""PNG, JPEG, WebP and BMP for the matrix of readers, and TIFFs by Pillow and ImageMagick; see
matrix_cases."""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import png
from matrix_cases import (
    CMYK,
    GREY,
    PALETTE,
    RGB,
    WHITE_0,
    Case,
    H,
    W,
    decoded_jpeg,
    gdal,
    libpng,
    numbers,
    opencv,
    pillow,
)
from PIL import Image


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def turned(content: bytes, orientation: int) -> bytes:
    """A PNG with an eXIf chunk."""
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HHI", orientation, 0, 0)
    return content[:33] + chunk(b"eXIf", exif) + content[33:]


def pngs(folder: Path) -> Iterator[Case]:
    """Colour types x depths x interlace x orientation x transparency, by pypng."""
    grid = itertools.product(
        [("grey", 1, d) for d in (1, 2, 4, 8, 16)]
        + [("grey alpha", 2, d) for d in (8, 16)]
        + [("rgb", 3, d) for d in (8, 16)]
        + [("rgba", 4, d) for d in (8, 16)]
        + [("palette", 1, d) for d in (1, 2, 4, 8)],
        (False, True),
        range(1, 9),
        (False, True),
    )
    for i, ((color, planes, depth), interlace, orientation, transparent) in enumerate(grid):
        if transparent and (planes in (2, 4) or orientation not in (1, 6)):
            continue
        values = numbers("u2" if depth == 16 else "u1", planes, i, depth)
        how: dict[str, Any] = {"bitdepth": depth, "interlace": interlace, "alpha": planes in (2, 4)}
        colors = None
        if color == "palette":
            colors = np.random.default_rng(i).integers(0, 256, (2**depth, 3), dtype=np.uint8)
            opacity = [[255 - k % 2] for k in range(2**depth)] if transparent else [[]] * 2**depth
            how["palette"] = [(*row.tolist(), *o) for row, o in zip(colors, opacity, strict=True)]
        else:
            how["greyscale"] = planes < 3
            if transparent:
                how["transparent"] = (
                    tuple(values[3, 3].tolist()) if planes == 3 else int(values[3, 3, 0])
                )
        path = folder / f"{i}.png"
        with open(path, "wb") as file:
            png.Writer(W, H, **how).write(file, values.reshape(H, -1).tolist())
        if orientation > 1:
            path.write_bytes(turned(path.read_bytes(), orientation))
        kind = PALETTE if color == "palette" else RGB if planes > 2 else GREY
        yield Case(
            f"png {color} {depth} bits {interlace=} {orientation=} {transparent=}",
            path,
            values,
            kind,
            depth,
            orientation,
            bands=False,
            extra=int(planes in (2, 4)),
            alpha="straight" if planes in (2, 4) else "",
            palette=colors,
            second=libpng,
        )


def photos(folder: Path) -> Iterator[Case]:
    """JPEG, WebP and BMP by Pillow and OpenCV."""
    smooth = cv2.GaussianBlur(numbers("u1", 4), (9, 9), 3)
    options: list[dict[str, Any]] = [
        {},
        {"progressive": True},
        {"subsampling": 2},
        {"optimize": True},
    ]
    for i, (mode, orientation, how) in enumerate(
        itertools.product(("L", "RGB", "CMYK"), range(1, 9), options)
    ):
        exif = Image.Exif()
        exif[274] = orientation
        path = folder / f"{i}.jpg"
        image = (
            Image.fromarray(smooth[..., 0])
            if mode == "L"
            else Image.fromarray(smooth[..., :3] if mode == "RGB" else smooth, mode=mode)
        )
        try:
            image.save(path, quality=98, exif=exif, **how)
        except OSError:
            continue
        yield Case(
            f"jpeg {mode} orientation {orientation} {how}",
            path,
            smooth[..., : len(image.getbands())],
            {"L": GREY, "RGB": RGB, "CMYK": CMYK}[mode],
            8,
            orientation,
            bands=False,
            second=decoded_jpeg,
            close=3 if how.get("subsampling") is None else 12,
        )
    for i, (channels, orientation) in enumerate(itertools.product((3, 4), range(1, 9))):
        exif = Image.Exif()
        exif[274] = orientation
        path, values = folder / f"{i}.webp", numbers("u1", channels, i)
        values[..., 3:] = np.maximum(values[..., 3:], 1)
        Image.fromarray(values).save(path, lossless=True, exif=exif, exact=True)
        yield Case(
            f"webp {channels} orientation {orientation}",
            path,
            values,
            RGB,
            8,
            orientation,
            bands=False,
            alpha="straight" if channels == 4 else "",
            extra=channels - 3,
            second=lambda p: imagecodecs.webp_decode(p.read_bytes()),
        )
    for i, channels in enumerate((1, 3, 4)):
        path, values = folder / f"{i}.bmp", numbers("u1", channels, i)
        Image.fromarray(values[..., 0] if channels == 1 else values).save(path)
        yield Case(
            f"bmp {channels}",
            path,
            values[..., :3],
            GREY if channels == 1 else RGB,
            8,
            bands=False,
            second=lambda p: opencv(p)[..., :3],
        )
        for suffix in (".png", ".bmp", ".tif"):
            path = folder / f"cv{i}{suffix}"
            cv2.imwrite(str(path), values[..., [2, 1, 0, 3][:channels]] if channels > 1 else values)
            kind = GREY if channels == 1 else RGB
            yield Case(
                f"opencv {suffix} {channels}",
                path,
                values,
                kind,
                8,
                bands=suffix == ".tif",
                alpha="straight" if channels == 4 else "",
                extra=int(channels == 4),
                second=gdal,
            )
    for channels in (1, 3, 4):
        values = numbers("u2", channels)
        for suffix in (".png", ".tif"):
            path = folder / f"deep{channels}{suffix}"
            cv2.imwrite(str(path), values[..., [2, 1, 0, 3][:channels]] if channels > 1 else values)
            kind = GREY if channels == 1 else RGB
            yield Case(
                f"opencv {suffix} {channels} of 16 bits",
                path,
                values,
                kind,
                16,
                bands=suffix == ".tif",
                alpha="straight" if channels == 4 else "",
                extra=int(channels == 4),
                second=gdal,
            )


def of_pillow(folder: Path) -> Iterator[Case]:
    """TIFFs of every mode that Pillow writes, and by every compression."""
    modes = {
        "1": ("?", 1, GREY, 1),
        "L": ("u1", 1, GREY, 8),
        "LA": ("u1", 2, GREY, 8),
        "RGB": ("u1", 3, RGB, 8),
        "RGBA": ("u1", 4, RGB, 8),
        "CMYK": ("u1", 4, CMYK, 8),
        "I;16": ("u2", 1, GREY, 16),
        "I": ("i4", 1, GREY, 32),
        "F": ("f4", 1, GREY, 32),
    }
    for i, ((mode, (dtype, channels, kind, bits)), packing) in enumerate(
        itertools.product(
            modes.items(), (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd")
        )
    ):
        values, path = numbers(dtype, channels, i), folder / f"pil{i}.tif"
        image = Image.fromarray(values[..., 0] if channels == 1 else values)
        if mode == "CMYK":
            image = Image.fromarray(values, mode="CMYK")
        try:
            image.save(path, compression=packing)
        except (ValueError, OSError, KeyError):
            continue
        transparent = mode in ("LA", "RGBA")
        yield Case(
            f"pillow {mode} {packing}",
            path,
            values,
            kind,
            bits,
            second=pillow,
            alpha="straight" if transparent else "",
            extra=int(transparent),
        )


def of_imagemagick(folder: Path) -> Iterator[Case]:
    """What ImageMagick writes, where it is installed."""
    tool = shutil.which("magick") or shutil.which("convert")
    if tool is None:
        return
    rgb = numbers("u1", 3)
    Image.fromarray(rgb).save(folder / "im.png")
    grey = (rgb[..., :1] // 16 * 17).astype(np.uint8)
    Image.fromarray(grey[..., 0]).save(folder / "im_grey.png")
    ways: list[tuple[str, str, list[str], dict[str, Any]]] = [
        (
            "cmyk",
            "im.png",
            ["-colorspace", "CMYK"],
            {"raw": rgb, "kind": RGB, "close": 1, "bands": False, "no_mask": True},
        ),
        ("planes", "im.png", ["-interlace", "plane"], {"raw": rgb, "kind": RGB}),
        (
            "left bottom",
            "im.png",
            ["-orient", "LeftBottom"],
            {"raw": rgb, "kind": RGB, "orientation": 8},
        ),
        (
            "16 bits",
            "im.png",
            ["-depth", "16"],
            {"raw": rgb.astype(np.uint16) * 257, "kind": RGB, "bits": 16},
        ),
        (
            "big end",
            "im.png",
            ["-endian", "MSB", "-depth", "16"],
            {"raw": rgb.astype(np.uint16) * 257, "kind": RGB, "bits": 16},
        ),
        ("4 bits", "im_grey.png", ["-depth", "4"], {"raw": grey // 17, "bits": 4}),
        (
            "white is zero",
            "im_grey.png",
            ["-define", "quantum:polarity=min-is-white"],
            {"raw": grey, "kind": WHITE_0},
        ),
        (
            "fill order",
            "im_grey.png",
            ["-define", "tiff:fill-order=lsb", "-compress", "none"],
            {"raw": grey},
        ),
        (
            "jpeg",
            "im_grey.png",
            ["-compress", "JPEG", "-quality", "100"],
            {"raw": grey, "close": 2},
        ),
        (
            "alpha",
            "im.png",
            ["-alpha", "set"],
            {
                "raw": np.dstack([rgb, np.full((H, W), 255, np.uint8)]),
                "kind": RGB,
                "alpha": "straight",
                "extra": 1,
            },
        ),
        (
            "multiplied alpha",
            "im.png",
            ["-alpha", "set", "-define", "tiff:alpha=associated"],
            {
                "raw": np.dstack([rgb, np.full((H, W), 255, np.uint8)]),
                "kind": RGB,
                "alpha": "multiplied",
                "extra": 1,
            },
        ),
        (
            "floats",
            "im_grey.png",
            ["-define", "quantum:format=floating-point", "-depth", "32"],
            {"raw": (grey / 255).astype(np.float32), "bits": 32, "close": 1e-6},
        ),
    ]
    for name, source, how, meta in ways:
        path = folder / f"im {name}.tif"
        done = subprocess.run([tool, str(folder / source), *how, str(path)], capture_output=True)
        if done.returncode == 0 and path.is_file():
            yield Case(f"imagemagick {name}", path, **meta)
