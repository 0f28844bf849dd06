"""Images and masks that cannot be used as they are."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from corpus import Bad, Good, cause, copied, cut, reading, scoring, some
from PIL import Image

from autosam.errors import ConfigError, DataError

UNREADABLE = r"cannot be read as an image.*(replace or remove|Replace or remove)"
SIZE = (40, 56)
BANDS = {"photometric": "minisblack", "planarconfig": "contig"}


def noise(rng: Random, *shape: int) -> np.ndarray:
    return np.random.default_rng(rng.randrange(1000)).integers(0, 200, shape, dtype=np.uint8)


def replaced(good: Good, folder: Path, rng: Random, suffix: str, what: str = "images") -> Path:
    """The path of an image or mask that was taken away, with another extension."""
    path = copied(good, folder) / what / f"{some(rng)}.png"
    path.unlink()
    return path.with_suffix(suffix)


def met(rng: Random, good: Good, path: Path, *flags: str) -> Bad:
    root = path.parent.parent
    return reading(rng, good, root.parent, f"--data.root={root}", *flags), path.name


def png(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    """The head of a PNG, without its pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", 64) + b"IDAT" + bytes(64)


# --- images


@cause("image", DataError, UNREADABLE)
def empty_file(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, rng.choice([".png", ".jpg", ".bmp", ".tif", ".webp"]))
    path.touch()
    return met(rng, good, path)


@cause("image", DataError, UNREADABLE)
def random_bytes(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, rng.choice([".png", ".jpg", ".tif"]))
    path.write_bytes(rng.randbytes(rng.randrange(1, 5000)))
    return met(rng, good, path)


@cause("image", DataError, UNREADABLE)
def another_kind_of_file(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, rng.choice([".png", ".jpeg"]))
    heads = [b"<html>404</html>", b"\x89HDF\r\n\x1a\n", b"\x00\x00\x00\x18ftypmp42", b"%PDF-1.7\n",
             b"PK\x03\x04", b"\x08\x08\x12\x07pytorch", good.sam.read_bytes()[:4000]]  # fmt: skip
    path.write_bytes(rng.choice(heads) + bytes(rng.randrange(200)))
    return met(rng, good, path)


@cause("image", DataError, UNREADABLE)
def postscript(rng: Random, folder: Path, good: Good) -> Bad:
    """Pillow would have Ghostscript run it."""
    path = replaced(good, folder, rng, rng.choice([".png", ".jpg"]))
    box = f"%%BoundingBox: 0 0 {rng.randrange(9, 99)} 50"
    path.write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n{box}\n%%EndComments\nshowpage\n%%EOF\n")
    return met(rng, good, path)


def _truncated(suffix: str, **how: object) -> object:
    def make(rng: Random, folder: Path, good: Good) -> Bad:
        path = replaced(good, folder, rng, suffix)
        Image.fromarray(noise(rng, *SIZE, 3)).save(path, **how)  # type: ignore[arg-type]
        return met(rng, good, cut(rng, path))

    make.__name__ = f"truncated_{suffix[1:]}"
    return make


for _suffix in (".png", ".jpg", ".tif", ".bmp", ".webp"):
    cause("image", DataError, UNREADABLE)(_truncated(_suffix))  # type: ignore[arg-type]


@cause("image", DataError, UNREADABLE)
def truncated_png_of_16_bits(rng: Random, folder: Path, good: Good) -> Bad:
    import cv2

    path = replaced(good, folder, rng, ".png")
    cv2.imwrite(str(path), noise(rng, *SIZE, 3).astype(np.uint16) * 200)
    return met(rng, good, cut(rng, path, 0.1))


@cause("image", DataError, UNREADABLE)
def truncated_tiff_of_16_bits(rng: Random, folder: Path, good: Good) -> Bad:
    import cv2

    path = replaced(good, folder, rng, ".tif")
    cv2.imwrite(str(path), noise(rng, *SIZE, 3).astype(np.uint16) * 200)
    return met(rng, good, cut(rng, path, 0.1))


@cause("image", DataError, UNREADABLE)
def no_width(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, ".png")
    path.write_bytes(png(*rng.choice([(0, 40), (40, 0), (0, 0)]), rng.choice([8, 16])))
    return met(rng, good, path)


@cause("image", DataError, r"more than the limit of 300000000.*Cut it into tiles")
def too_many_pixels(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, ".png")
    path.write_bytes(png(rng.randrange(20_000, 2**31 - 1), rng.randrange(20_000, 2**31 - 1)))
    return met(rng, good, path)


@cause("image", DataError, r"more than the limit of 300000000.*Cut it into tiles")
def too_many_pixels_of_16_bits(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, ".png")
    path.write_bytes(png(rng.randrange(20_000, 90_000), 90_000, 16))
    return met(rng, good, path)


@cause("image", DataError, r"holds \d pages\. Save each as a file")
def several_pages(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, ".tif")
    first, *others = (Image.fromarray(noise(rng, *SIZE, 3)) for _ in range(rng.randrange(2, 5)))
    first.save(path, save_all=True, append_images=others)
    return met(rng, good, path)


@cause("image", DataError, r"has \d bands, but does not define which are red.*--data\.bands")
def bands_without_a_name(rng: Random, folder: Path, good: Good) -> Bad:
    import tifffile

    path = replaced(good, folder, rng, ".tif")
    tifffile.imwrite(path, noise(rng, *SIZE, rng.choice([2, 4, 5, 8])), **BANDS)
    return met(rng, good, path)


@cause("image", DataError, r"far from all others.*--data\.nodata -9999")
def fillings_that_nobody_named(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, ".tif")
    values = noise(rng, *SIZE).astype(rng.choice([np.float32, np.int32]))
    values[rng.randrange(40), rng.randrange(56)] = -9999
    Image.fromarray(values).save(path)
    return met(rng, good, path)


@cause("image", DataError, r"no pixel holds data\. Remove it")
def nothing_but_nan(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, ".tif")
    Image.fromarray(np.full(SIZE, np.nan, np.float32)).save(path)
    return met(rng, good, path)


@cause("image", DataError, r"an animation of \d frames; expected one image\. Save each frame")
def animation(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, rng.choice([".png", ".webp"]))
    first, *others = (Image.fromarray(noise(rng, *SIZE, 3)) for _ in range(rng.randrange(2, 5)))
    first.save(path, save_all=True, append_images=others)
    return met(rng, good, path)


@cause("image", DataError, r"a TIFF with .*which is not read\. Save it")
def tiff_of_a_kind_that_is_not_read(rng: Random, folder: Path, good: Good) -> Bad:
    import tifffile

    path = replaced(good, folder, rng, ".tif")
    tifffile.imwrite(path, noise(rng, *SIZE), photometric="minisblack")
    tag, value = rng.choice([(259, 6), (259, 32771), (262, 32803), (262, 34892), (339, 6)])
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages[0].tags
        if tag in tags:
            tags[tag].overwrite(value)
        else:
            tags[259].overwrite(6)
    return met(rng, good, path)


@cause("image", DataError, r"holds NaN or infinite pixels\. Fix or remove it")
def pixels_that_are_not_finite(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, ".tif")
    values = noise(rng, *SIZE).astype(np.float32)
    values[rng.randrange(40), rng.randrange(56)] = rng.choice([np.inf, -np.inf])
    Image.fromarray(values).save(path)
    return met(rng, good, path)


@cause("image", DataError, r"cannot be read.*[Rr]emove")
def a_folder_in_its_place(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, rng.choice([".png", ".jpg"]))
    path.mkdir()
    return met(rng, good, path)


@cause("image", DataError, r"cannot be read.*[Rr]emove")
def a_link_to_nowhere(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, ".png")
    path.symlink_to(path if rng.random() < 0.5 else path.with_name("gone"))
    return met(rng, good, path)


@cause("image", DataError, r"cannot be read.*[Rr]emove")
def a_pipe_that_nobody_fills(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, rng.choice([".png", ".tif"]))
    os.mkfifo(path)
    return met(rng, good, path)


@cause("image", DataError, r"cannot be read as a TIFF.*--data\.bands and .* are for TIFFs")
def bands_of_a_png(rng: Random, folder: Path, good: Good) -> Bad:
    root = copied(good, folder)
    return scoring(good, f"--data.root={root}", f"--data.bands=[1,2,{rng.randrange(3, 9)}]"), ".png"


@cause("image", DataError, r"has 4 bands, but --data\.bands or .* asks for .*from 1 to 4")
def bands_that_are_not_there(rng: Random, folder: Path, good: Good) -> Bad:
    import tifffile

    root = copied(good, folder)
    for path in (root / "images").iterdir():
        path.unlink()
        tifffile.imwrite(path.with_suffix(".tif"), noise(rng, *SIZE, 4), **BANDS)
    bands = rng.choice([(1, 2, 5), (0, 1, 2), (9, 8, 7), (-1, 1, 2)])
    return scoring(good, f"--data.root={root}", f"--data.bands={list(bands)}"), ".tif"


@cause("image", DataError, r"a stack of .*expected one image.*Save")
def a_stack_for_bands(rng: Random, folder: Path, good: Good) -> Bad:
    import tifffile

    root, name = copied(good, folder), some(rng)
    for path in (root / "images").iterdir():
        path.unlink()
        pixels, how = noise(rng, *SIZE, 4), BANDS
        if path.stem == name:
            pixels, how = noise(rng, rng.randrange(2, 5), 4, *SIZE), {"photometric": "minisblack"}
        tifffile.imwrite(path.with_suffix(".tif"), pixels, **how)
    return scoring(good, f"--data.root={root}", "--data.bands=[1,2,3]"), f"{name}.tif"


@cause("image", DataError, r"--data\.window is for values of more than 8 bits.*Leave it out")
def window_for_8_bits(rng: Random, folder: Path, good: Good) -> Bad:
    root = copied(good, folder)
    return reading(rng, good, folder, f"--data.root={root}", "--data.window=[0,9]"), ".png"


@cause("image", ConfigError, r"--data\.window .*the first value must be below the second")
def window_upside_down(rng: Random, folder: Path, good: Good) -> Bad:
    root, low = copied(good, folder), rng.randrange(-500, 500)
    high = rng.choice([low, low - rng.randrange(1, 400), float("nan")])
    flag = f"--data.window=[{low},{str(high).replace('nan', '.nan')}]"
    return reading(rng, good, folder, f"--data.root={root}", flag), "--data.window"


# --- masks


def rewritten(good: Good, folder: Path, rng: Random, *values: float) -> Path:
    """A mask with other values in some of its pixels."""
    path = copied(good, folder) / "masks" / f"{some(rng)}.png"
    mask = np.asarray(Image.open(path)).astype(np.asarray(values).dtype)
    for value in values:
        mask[rng.randrange(40), rng.randrange(56)] = value
    path.unlink()
    wide = mask.dtype.kind == "f" or mask.min() < 0
    if wide:
        path = path.with_suffix(".tif")
    number = {"f": np.float32}.get(mask.dtype.kind, np.int32 if wide else np.uint8)
    Image.fromarray(mask.astype(number)).save(path)
    return path


@cause("mask", DataError, r"a mask in colour.* Save it as one channel")
def in_colour(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, ".png", "masks")
    Image.fromarray(noise(rng, *SIZE, rng.choice([3, 4]))).save(path)
    return met(rng, good, path)


def all_masks(
    rng: Random, good: Good, folder: Path, make: Callable[[np.ndarray], Image.Image], *flags: str
) -> Bad:
    """Every mask, written again from where its foreground is."""
    root = copied(good, folder)
    for path in (root / "masks").iterdir():
        make(np.asarray(Image.open(path)) > 0).save(path)
    return met(rng, good, root / "masks" / "000.png", *flags)


@cause("mask", DataError, r"masks hold the values \d+ and \d+, and no mask holds 0.*--data\.values")
def two_values_without_0(rng: Random, folder: Path, good: Good) -> Bad:
    low, high = rng.sample(range(1, 256), 2)
    return all_masks(
        rng, good, folder, lambda m: Image.fromarray(np.where(m, high, low).astype(np.uint8))
    )


@cause("mask", DataError, r"colour of its palette is black.*--data\.values INDEX")
def a_palette_without_black(rng: Random, folder: Path, good: Good) -> Bad:
    colors = [rng.randrange(60, 256) for _ in range(6)]

    def make(mask: np.ndarray) -> Image.Image:
        image = Image.fromarray(mask.astype(np.uint8), mode="P")
        image.putpalette(colors)
        return image

    return all_masks(rng, good, folder, make)


@cause("mask", DataError, r"values other than 0 where it is transparent.*Save it")
def colour_and_alpha_that_differ(rng: Random, folder: Path, good: Good) -> Bad:
    white = rng.choice([1, 255])

    def make(mask: np.ndarray) -> Image.Image:
        grey, alpha = mask * np.uint8(white), np.roll(mask, 9, 1) * np.uint8(255)
        return Image.fromarray(np.dstack([grey, alpha]).astype(np.uint8))

    return all_masks(rng, good, folder, make)


@cause("mask", DataError, r"JPEG .*cannot hold numbers of classes or objects.*Save masks as PNG")
def numbers_in_a_jpeg(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, ".jpg", "masks")
    Image.fromarray(noise(rng, *SIZE)).save(path)
    return met(rng, good, path, "--data.instances=true")


@cause("mask", ConfigError, r"--data\.values .*(expected mask|exclude each other|leaves out)")
def values_that_cannot_be(rng: Random, folder: Path, good: Good) -> Bad:
    root = copied(good, folder)
    flags = rng.choice([["--data.values=x"], ["--data.values=9-2"], ["--data.values=70000"],
                        ["--data.values=1", "--data.instances=true"],
                        ["--data.values=1-9", "--data.ignore=3"]])  # fmt: skip
    return reading(rng, good, folder, f"--data.root={root}", *flags), "--data.values"


@cause("mask", DataError, r"(CMYK|SEPARATED) is not a mask.*save it as 8-bit grey")
def in_printing_colours(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, rng.choice([".tif", ".jpg"]), "masks")
    Image.fromarray(noise(rng, *SIZE, 4), mode="CMYK").save(path)
    return met(rng, good, path)


@cause("mask", DataError, UNREADABLE)
def truncated_mask(rng: Random, folder: Path, good: Good) -> Bad:
    path = copied(good, folder) / "masks" / f"{some(rng)}.png"
    return met(rng, good, cut(rng, path))


@cause("mask", DataError, r"whole numbers.*save it as 8-bit grey")
def fractions(rng: Random, folder: Path, good: Good) -> Bad:
    return met(rng, good, rewritten(good, folder, rng, rng.uniform(0.1, 0.9)))


@cause("mask", DataError, r"is not a mask.*save it as 8-bit grey")
def negative_values(rng: Random, folder: Path, good: Good) -> Bad:
    return met(rng, good, rewritten(good, folder, rng, -rng.randrange(1, 99)))


@cause("mask", DataError, r"look like several classes or objects.*Set --data\.num_classes")
def several_values_for_one_class(rng: Random, folder: Path, good: Good) -> Bad:
    values = rng.sample(range(2, 90), rng.randrange(2, 6))
    return met(rng, good, rewritten(good, folder, rng, *values))


@cause("mask", DataError, r"mask value \d+, but --data\.num_classes is \d.*renumber")
def more_values_than_classes(rng: Random, folder: Path, good: Good) -> Bad:
    classes = rng.randrange(2, 6)
    path = rewritten(good, folder, rng, rng.randrange(classes + 1, 250))
    return met(rng, good, path, f"--data.num_classes={classes}")


@cause("mask", DataError, r"mask value 255.*--data\.ignore 255")
def borders_that_nobody_named(rng: Random, folder: Path, good: Good) -> Bad:
    path = rewritten(good, folder, rng, 255)
    return met(rng, good, path, f"--data.num_classes={rng.randrange(2, 9)}")


@cause("mask", DataError, r"which --data\.classes does not list.*List it, or set --data\.ignore")
def value_of_no_class(rng: Random, folder: Path, good: Good) -> Bad:
    path = rewritten(good, folder, rng, rng.randrange(3, 250))
    classes = '[{"name": "a", "values": [1]}, {"name": "b", "values": [2]}]'
    return met(rng, good, path, f"--data.classes={classes}")


@cause("mask", DataError, r"but its mask .*height x width.*Export both at one size")
def another_size(rng: Random, folder: Path, good: Good) -> Bad:
    path = replaced(good, folder, rng, ".png", "masks")
    size = rng.choice([(56, 40), (rng.randrange(1, 39), 56), (40, rng.randrange(57, 99))])
    Image.fromarray(noise(rng, *size) // 199).save(path)
    return met(rng, good, path)


@cause("mask", DataError, r"masks of one image differ in size.*Export all at one size")
def classes_of_several_sizes(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = copied(good, folder), some(rng)
    masks = (root / "masks").rename(root / "drawn")
    for k in "ab":
        (root / "masks" / k).mkdir(parents=True)
        for path in masks.iterdir():
            Image.open(path).save(root / "masks" / k / path.name)
    Image.fromarray(noise(rng, rng.randrange(1, 39), 56)).save(root / f"masks/a/{name}.png")
    flags = ('--data.classes=[{"name": "a"}, {"name": "b"}]', "--data.exclusive=false")
    return reading(rng, good, folder, f"--data.root={root}", *flags), f"{name}.png"


@cause("mask", DataError, r"every mask is empty.*(Give data|Look at them)")
def nothing_but_background(rng: Random, folder: Path, good: Good) -> Bad:
    root = copied(good, folder)
    for path in (root / "masks").iterdir():
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)
    return reading(rng, good, folder, f"--data.root={root}"), str(root)
