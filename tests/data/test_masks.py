"""From stored mask values to classes: correct, or refused with the file and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autosam.config import ClassConfig, DataConfig
from autosam.config.validation import check_data
from autosam.data.checks import check_pairs, check_splits
from autosam.data.labels import IGNORED, class_masks
from autosam.data.layouts.folders import find_pairs
from autosam.data.pairs import Pair
from autosam.errors import ConfigError, DataError

H, W = 64, 96
BOX = np.zeros((H, W), bool)
BOX[21:40, 31:60] = True
DISK = np.hypot(*(np.mgrid[:H, :W] - np.array([30, 40])[:, None, None])) < 20
EMPTY = np.zeros((H, W), bool)
RED, BLACK, WHITE = (255, 0, 0), (0, 0, 0), (255, 255, 255)


def pairs_of(folder: Path, masks: dict[str, Image.Image | np.ndarray], **how: object) -> list[Pair]:
    """Write masks by file name, and an image for each."""
    for name, mask in masks.items():
        path = folder / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / "images").mkdir(exist_ok=True)
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        image.save(path, **({"quality": 75} if path.suffix == ".jpg" else {}), **how)
        pixels = np.random.default_rng(len(name)).integers(0, 255, (H, W, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{path.stem}.png")
    if not any("/" in name for name in masks):
        return find_pairs(folder / "images", folder / "masks")
    return []


def labels(
    folder: Path, masks: dict[str, Image.Image | np.ndarray], config: DataConfig | None = None
) -> tuple[list[np.ndarray], str]:
    """The labels of these masks in order of their names, and how they were read."""
    pairs, config = pairs_of(folder, masks), config or DataConfig()
    check_data(config)
    encoding = check_pairs(pairs, config).encoding
    return [encoding.read(pair.mask) for pair in pairs], encoding.description


def two(low: int, high: int, shape: np.ndarray = BOX, dtype: type = np.uint8) -> np.ndarray:
    return np.where(shape, high, low).astype(dtype)


def palette(indices: np.ndarray, *colors: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8)).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette([value for color in colors for value in color])
    return image


# ---- one class ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "how"),
    [
        (two(0, 255), ""),
        (two(0, 1), ""),
        (two(0, 7), "foreground is 7"),
        (two(0, 65535, dtype=np.uint16), "foreground is 65535"),
        (two(0, 1, dtype=np.uint16), ""),
        (two(0, 300, dtype=np.uint16), "foreground is 300"),
        (BOX, ""),  # one bit
        (two(0, 255).repeat(3).reshape(H, W, 3), ""),
    ],
)
def test_two_values_with_0(tmp_path: Path, mask: np.ndarray, how: str) -> None:
    found, said = labels(tmp_path, {"a.png": mask})
    assert np.array_equal(found[0], BOX)
    assert how in said
    assert bool(how) == bool(said)


@pytest.mark.parametrize("values", [(1, 2), (2, 1), (100, 200), (255, 128), (1, 255)])
def test_two_values_without_0_are_refused_and_may_be_said(
    tmp_path: Path, values: tuple[int, int]
) -> None:
    mask = two(*values)
    with pytest.raises(DataError, match=rf"a\.png.*no mask holds 0.*--data\.values {max(values)}"):
        labels(tmp_path / "one", {"a.png": mask})
    apart = {"a.png": np.full_like(mask, values[0]), "b.png": np.full_like(mask, values[1])}
    with pytest.raises(DataError, match="no mask holds 0"):
        labels(tmp_path / "apart", apart)
    found, how = labels(tmp_path / "said", {"a.png": mask}, DataConfig(values=values[1]))
    assert np.array_equal(found[0], BOX)
    assert how == f"{values[1]} is foreground, {values[0]} background"


@pytest.mark.parametrize(
    "values",
    [[0, 1, 2], [0, 85, 170], [0, 128, 255], [0, 1, 255], list(range(201)), list(range(256)),
     list(range(300)), [*range(20), 255]],
)  # fmt: skip
def test_several_values_ask_for_what_is_meant(tmp_path: Path, values: list[int]) -> None:
    kind = np.uint16 if max(values) > 255 else np.uint8
    mask = np.resize(values, 16 * 24).reshape(16, 24).repeat(4, 0).repeat(4, 1).astype(kind)
    with pytest.raises(
        DataError, match=r"a\.png: mask values.*--data\.num_classes.*--data\.values"
    ):
        labels(tmp_path, {"a.png": mask})


def test_jpeg(tmp_path: Path) -> None:
    noisy = Image.fromarray((DISK * 255).astype(np.uint8))
    found, how = labels(tmp_path, {"a.jpg": noisy, "b.jpg": EMPTY.astype(np.uint8)})
    assert np.array_equal(found[0], DISK)
    assert not found[1].any()
    assert "of 2 masks: 1 hold grey values, thresholded at half of white" in how


def test_noise_in_an_empty_mask_is_no_foreground(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 9, (H, W)).astype(np.uint8)
    found, how = labels(tmp_path, {"a.jpg": two(0, 255, DISK), "b.jpg": noise})
    assert np.array_equal(found[0], DISK)
    assert not found[1].any()
    assert "1 hold only noise (up to" in how
    with pytest.raises(
        DataError, match=r"b\.jpg: grey values up to \d+, and no mask has a value near"
    ):
        labels(tmp_path / "alone", {"a.jpg": EMPTY.astype(np.uint8), "b.jpg": noise})
    names = {"a.jpg": two(0, 255, DISK), "b.jpg": noise, "c.png": two(0, 1)}
    with pytest.raises(DataError, match=r"c\.png: holds only 0 and 1, while .*b\.jpg holds"):
        labels(tmp_path / "mixed", names)


def test_mixed_encodings_are_read_file_by_file(tmp_path: Path) -> None:
    masks = {"a.png": two(0, 1), "b.png": two(0, 255, DISK), "c.png": EMPTY.astype(np.uint8)}
    found, how = labels(tmp_path / "png", masks)
    assert [np.array_equal(x, y) for x, y in zip(found, (BOX, DISK, EMPTY), strict=True)] == [1] * 3
    assert how == "of 3 masks: foreground is 1 in some and 255 in others"
    masks = {"a.png": two(0, 1), "b.jpg": two(0, 255, DISK), "c.png": two(0, 65535, BOX, np.uint16)}
    found, how = labels(tmp_path / "jpg", masks)
    assert [np.array_equal(x, y) for x, y in zip(found, (BOX, DISK, BOX), strict=True)] == [1] * 3
    assert "foreground is 1 in some and 65535 in others; 1 hold grey values" in how
    for one, other in ((1, 2), (7, 255), (100, 200)):
        both = {"a.png": two(0, one), "b.png": two(0, other, DISK)}
        with pytest.raises(DataError, match="look like several classes"):
            labels(tmp_path / f"{one}", both)


@pytest.mark.parametrize("bits", [8, 16])
def test_anti_aliased_masks(tmp_path: Path, bits: int) -> None:
    large = Image.fromarray((DISK * 255).astype(np.uint8)).resize((4 * W, 4 * H))
    soft = np.asarray(large.resize((W, H), Image.Resampling.BICUBIC))
    mask = soft if bits == 8 else soft.astype(np.uint16) * 257
    assert len(np.unique(mask)) > 16
    found, how = labels(tmp_path, {"a.png": mask})
    assert np.array_equal(found[0], soft > 127)
    assert "grey values" in how


def test_a_photograph_or_numbers_of_objects_are_no_mask_of_greys(tmp_path: Path) -> None:
    y, x = np.mgrid[:H, :W]
    photo = np.clip(128 + 127 * np.sin(x / 9) * np.cos(y / 7), 0, 255).astype(np.uint8)
    cells = (1 + x // 6 + 16 * (y // 6)).astype(np.uint8)  # 176 numbers, up to 176
    cells[0] = 0
    cells[-1] = 255
    for name, mask in {"photo": photo, "cells": cells}.items():
        with pytest.raises(DataError, match="look like several classes or objects"):
            labels(tmp_path / name, {"a.png": mask})


def test_inverted_masks_are_a_warning_and_may_be_said(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, {"a.png": two(255, 0), "b.png": two(255, 0, DISK)})
    assert any(
        "are they inverted? --data.values 0" in w for w in check_pairs(pairs, DataConfig()).warnings
    )
    found, _ = labels(tmp_path, {"a.png": two(255, 0)}, DataConfig(values="0"))
    assert np.array_equal(found[0], BOX)


# ---- palettes -----------------------------------------------------------------------------------


def test_the_order_of_a_palette_says_nothing(tmp_path: Path) -> None:
    white_first = palette(~BOX, WHITE, BLACK)
    masks = {
        "a.png": white_first,
        "b.png": palette(BOX, BLACK, WHITE),
        "c.png": palette(~BOX, RED, BLACK),
        "d.png": palette(BOX, BLACK, RED),
        "e.png": palette(EMPTY, BLACK),
        "f.png": palette(EMPTY, WHITE),  # nothing but white
    }
    found, how = labels(tmp_path, masks)
    for label, shape in zip(found, (BOX, BOX, BOX, BOX, EMPTY, ~EMPTY), strict=True):
        assert np.array_equal(label, shape)
    assert "4 by the colours of their palette, black is background" in how


@pytest.mark.parametrize(
    "colors", [(RED, WHITE), (WHITE, RED), (RED, (0, 0, 255)), ((9, 9, 9), (9, 9, 9))]
)
def test_palettes_with_an_ambiguous_background(tmp_path: Path, colors: tuple) -> None:
    with pytest.raises(DataError, match=r"a\.png: .*palette"):
        labels(tmp_path, {"a.png": palette(BOX, *colors)})
    if colors[0] != colors[1]:
        found, _ = labels(tmp_path, {"a.png": palette(BOX, *colors)}, DataConfig(values=1))
        assert np.array_equal(found[0], BOX)
        both = {"a.png": palette(BOX, *colors), "b.png": palette(BOX, *reversed(colors))}
        with pytest.raises(DataError, match=r"index 0 of its palette is .* but in .*a\.png it is"):
            labels(tmp_path / "both", both, DataConfig(values=1))


def test_palettes_of_several_classes(tmp_path: Path) -> None:
    index = BOX.astype(np.uint8)
    index[50:] = 2
    config = DataConfig(num_classes=2)
    found, how = labels(tmp_path / "a", {"a.png": palette(index, BLACK, RED, WHITE)}, config)
    assert np.array_equal(found[0], index)
    assert how == ""
    for colors in ((RED, BLACK, WHITE), (RED, WHITE, (0, 0, 255))):
        with pytest.raises(DataError, match=r"a\.png: index [12] of its palette is (black|white)"):
            labels(tmp_path / "b", {"a.png": palette(index, *colors)}, config)
    said = DataConfig(classes=[ClassConfig("a", values=[0]), ClassConfig("b", values=[1, 2])])
    found, _ = labels(tmp_path / "b", {"a.png": palette(index, *colors)}, said)
    assert np.array_equal(found[0], np.where(index == 0, 1, 2))
    other = {"a.png": palette(index, BLACK, RED, WHITE), "b.png": palette(index, BLACK, WHITE, RED)}
    with pytest.raises(DataError, match="mean different things"):
        labels(tmp_path / "c", other, config)


# ---- alpha --------------------------------------------------------------------------------------


def rgba(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    color = color.astype(np.uint8) * 255 if color.dtype == bool else color
    color = color if color.ndim == 3 else np.repeat(color[..., None], 3, 2)
    return np.dstack([color, alpha.astype(np.uint8) * 255]).astype(np.uint8)


@pytest.mark.parametrize("color", [WHITE, BLACK, RED])
def test_the_shape_in_the_alpha_channel(tmp_path: Path, color: tuple[int, int, int]) -> None:
    flat = np.broadcast_to(np.array(color, np.uint8), (H, W, 3))
    found, how = labels(tmp_path, {"a.png": rgba(flat, BOX)})
    assert np.array_equal(found[0], BOX)
    assert how == "of 1 masks: 1 store the shape in the alpha channel"
    with pytest.raises(DataError, match="its shape is in the alpha channel, which can encode one"):
        labels(tmp_path, {"a.png": rgba(flat, BOX)}, DataConfig(num_classes=2))


def test_colour_and_alpha_together(tmp_path: Path) -> None:
    masks = {
        "a.png": rgba(BOX, ~EMPTY),  # opaque
        "b.png": rgba(BOX, BOX),  # both
        "c.png": rgba(BOX, BOX | DISK),
        "d.png": np.dstack([two(0, 1), two(255, 255)]),  # grey and alpha
        "e.png": rgba(np.where(BOX[..., None], RED, BLACK).astype(np.uint8), BOX),
    }
    found, _ = labels(tmp_path, masks)
    assert all(np.array_equal(label, BOX) for label in found)
    for name, mask in {"hidden": rgba(BOX, ~BOX), "half": rgba(BOX, DISK)}.items():
        with pytest.raises(DataError, match=r"a\.png: values other than 0 where it is transparent"):
            labels(tmp_path / name, {"a.png": mask})


def test_masks_without_shape_among_those_drawn_by_alpha(tmp_path: Path) -> None:
    masks = {
        "a.png": rgba(~EMPTY, BOX),
        "b.png": rgba(~EMPTY, EMPTY),  # white, transparent: empty
        "c.png": rgba(~EMPTY, ~EMPTY),
    }
    found, _ = labels(tmp_path, masks)
    assert [label.mean() for label in found] == [BOX.mean(), 0, 1]
    with pytest.raises(DataError, match=r"d\.png: black and fully opaque, while other masks"):
        labels(tmp_path, {"a.png": rgba(~EMPTY, BOX), "d.png": rgba(EMPTY, ~EMPTY)})
    with pytest.raises(DataError, match=r"b\.png: fully transparent, but its colour is not 0"):
        labels(tmp_path / "x", {"a.png": rgba(BOX, ~EMPTY), "b.png": rgba(~EMPTY, EMPTY)})


def test_transparent_entries_of_a_palette(tmp_path: Path) -> None:
    image = palette(~BOX, RED, WHITE)
    image.save(tmp_path / "t.png", transparency=1)
    found, _ = labels(tmp_path, {"a.png": Image.open(tmp_path / "t.png")})
    assert np.array_equal(found[0], BOX)


def test_colours_are_refused_and_named(tmp_path: Path) -> None:
    mask = np.where(BOX[..., None], RED, BLACK).astype(np.uint8)
    with pytest.raises(
        DataError, match=r"a\.png: a mask in colour \(2 colours: #000000, #ff0000\)"
    ):
        labels(tmp_path, {"a.png": mask})


# ---- several classes, objects, layers ------------------------------------------------------------


def test_numbers_in_jpeg_are_refused(tmp_path: Path) -> None:
    for config in (DataConfig(num_classes=2), DataConfig(instances=True), DataConfig(values=255)):
        with pytest.raises(DataError, match=r"a\.jpg: JPEG.* cannot hold numbers"):
            labels(tmp_path, {"a.jpg": two(0, 2)}, config)
    found, _ = labels(tmp_path, {"a.jpg": two(0, 255, DISK)}, DataConfig(values="128-255"))
    assert np.array_equal(found[0], DISK)


def test_each_class_in_a_file_of_its_own(tmp_path: Path) -> None:
    config = DataConfig(classes=[ClassConfig("a"), ClassConfig("b")], exclusive=False)
    noise = np.random.default_rng(0).integers(0, 9, (H, W)).astype(np.uint8)
    pairs_of(tmp_path, {"a/0.jpg": two(0, 255, DISK), "a/1.jpg": noise, "b/0.png": two(0, 1),
                        "b/1.png": two(0, 255)})  # fmt: skip
    (tmp_path / "masks" / "a" / "1.jpg").unlink()
    Image.fromarray(EMPTY.astype(np.uint8)).save(tmp_path / "masks" / "a" / "1.jpg")
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks", config)
    report = check_pairs(pairs, config)
    for pair, expected in zip(pairs, ([DISK, BOX], [EMPTY, BOX]), strict=True):
        assert np.array_equal(class_masks(report.encoding.read(pair.mask), 2), expected)
    assert "foreground is 1 in some and 255 in others" in report.encoding.description
    said = DataConfig(classes=config.classes, exclusive=False, values="128-255")
    report = check_pairs(pairs, said)
    assert np.array_equal(class_masks(report.encoding.read(pairs[1].mask), 2), [EMPTY, BOX])


def test_ignored_values(tmp_path: Path) -> None:
    mask = two(0, 1)
    mask[:5] = 255
    found, _ = labels(tmp_path, {"a.png": mask}, DataConfig(ignore=255))
    expected = BOX.astype(np.uint8)
    expected[:5] = IGNORED
    assert np.array_equal(found[0], expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(values="two"), "expected mask values"),
        (DataConfig(values="5-2"), "expected mask values"),
        (DataConfig(values=70_000), "expected mask values"),
        (DataConfig(values=1, num_classes=2), "belong in --data.classes"),
        (DataConfig(values=1, classes=[ClassConfig("a", values=[2])]), "belong in --data.classes"),
        (DataConfig(values=1, instances=True), "exclude each other"),
        (DataConfig(values="1-9", ignore=5), "which --data.ignore leaves out"),
        (DataConfig(values=1, layout="coco"), "has no mask values"),
    ],
)
def test_values_that_cannot_be(config: DataConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_data(config)


# ---- what train and check accept -----------------------------------------------------------------


def test_a_class_that_no_mask_holds_is_a_warning(tmp_path: Path) -> None:
    config = DataConfig(num_classes=3)
    pairs = pairs_of(tmp_path, {"a.png": two(0, 1), "b.png": two(0, 3, DISK)})
    splits = {"train": pairs[:1], "validation": pairs[1:], "test": []}
    warnings = check_splits(splits, config).warnings
    assert any("No mask holds the class 2" in warning for warning in warnings)
    empty = {"train": pairs_of(tmp_path / "e", {"a.png": EMPTY}), "validation": pairs, "test": []}
    with pytest.raises(DataError, match="Of the training split: Every mask is empty"):
        check_splits(empty, config)


# ---- every way of writing one shape --------------------------------------------------------------


def tiff(path: Path, values: np.ndarray, **how: object) -> None:
    import tifffile

    tifffile.imwrite(path, values, **how)


def pillow(mode: str, **how: object) -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, shape: np.ndarray) -> None:
        Image.fromarray((shape * 255).astype(np.uint8)).convert(mode).save(path, **how)

    return write


def few_colors(path: Path, shape: np.ndarray, first: tuple[int, int, int]) -> None:
    other = BLACK if first == WHITE else WHITE
    palette(shape if first == BLACK else ~shape, first, other).save(path)


def quantized(path: Path, shape: np.ndarray) -> None:
    """The order of the palette is what Pillow's quantiser makes of the image."""
    Image.fromarray(two(0, 255, shape)).convert("RGB").quantize(2).save(path)


WAYS: dict[str, tuple[str, Callable[[Path, np.ndarray], object]]] = {
    "one bit": (".png", pillow("1")),
    "grey": (".png", pillow("L")),
    "colour": (".png", pillow("RGB")),
    "opaque": (".png", pillow("RGBA")),
    "grey, opaque": (".png", pillow("LA")),
    "16 bits": (".png", lambda p, s: Image.fromarray(two(0, 65535, s, np.uint16)).save(p)),
    "16 bits, 0/1": (".png", lambda p, s: Image.fromarray(two(0, 1, s, np.uint16)).save(p)),
    "web palette": (".png", pillow("P")),
    "black first": (".png", lambda p, s: few_colors(p, s, BLACK)),
    "white first": (".png", lambda p, s: few_colors(p, s, WHITE)),
    "quantized": (".png", quantized),
    "alpha": (".png", lambda p, s: Image.fromarray(rgba(~EMPTY, s)).save(p)),
    "JPEG": (".jpg", pillow("L", quality=60)),
    "JPEG in colour": (".jpg", pillow("RGB", quality=95)),
    "progressive JPEG": (".jpg", pillow("L", quality=30, progressive=True)),
    "BMP": (".bmp", pillow("L")),
    "BMP of one bit": (".bmp", pillow("1")),
    "BMP white first": (".bmp", lambda p, s: few_colors(p, s, WHITE)),
    "WebP": (".webp", pillow("RGB", lossless=True)),
    "lossy WebP": (".webp", pillow("RGB", quality=60)),
    "TIFF": (".tif", lambda p, s: tiff(p, two(0, 255, s), compression="zlib")),
    "TIFF of one bit": (".tif", lambda p, s: tiff(p, s, photometric="minisblack")),
    "one bit, white is zero": (".tif", pillow("1", compression="group4")),
    "white is zero": (".tif", lambda p, s: tiff(p, two(255, 0, s), photometric="miniswhite")),
    "TIFF of 32 bits": (".tif", lambda p, s: tiff(p, two(0, 1, s, np.int32))),
    "TIFF of floats": (".tif", lambda p, s: tiff(p, two(0, 1, s, np.float32))),
    "TIFF palette": (".tif", lambda p, s: palette(~s, WHITE, BLACK).save(p)),
    "TIFF in colour": (".tif", pillow("RGB", compression="tiff_lzw")),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_one_shape(tmp_path: Path, way: str) -> None:
    suffix, write = WAYS[way]
    shapes = {"a": BOX, "b": DISK, "c": EMPTY, "d": ~EMPTY}
    for name, shape in shapes.items():
        pairs_of(tmp_path, {f"{name}.png": two(0, 255, shape)})
        (tmp_path / "masks" / f"{name}.png").unlink()
        write(tmp_path / "masks" / f"{name}{suffix}", shape)
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks")
    encoding = check_pairs(pairs, DataConfig()).encoding
    for pair, shape in zip(pairs, shapes.values(), strict=True):
        wrong = (encoding.read(pair.mask) == 1) != shape
        lossy = suffix == ".jpg" or way == "lossy WebP"
        assert wrong.mean() <= (0.01 if lossy else 0)
