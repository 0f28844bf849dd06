"""Kinds of image files that the matrix does not reach: several pages, nodata on its whole way,
CIELab, sizes that lie, and large images whose stretch must not depend on how they are read."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

import autosam
from autosam.config import DataConfig
from autosam.config.commands import PredictConfig
from autosam.data.checks import check_pairs
from autosam.data.dataset import PairDataset
from autosam.data.images import (
    ImageFile,
    image_size,
    open_raster,
    read_image,
    read_mask_file,
    require_file,
)
from autosam.data.labels import IGNORED, class_masks, known, pack, without
from autosam.data.layouts.folders import find_pairs
from autosam.data.readers.memory import MemoryImage
from autosam.errors import DataError
from autosam.inference.tiling import open_pixels
from autosam.predict import predict
from autosam.types import InputSpec

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 200, (40, 56), dtype=np.uint8)


# ---- which page is the image ------------------------------------------------------------------


def test_thumbnails_and_masks_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(NOISE, photometric="minisblack", metadata=None)
        file.write(NOISE[::2, ::2], photometric="minisblack", subfiletype=1, metadata=None)
    assert np.array_equal(read_image(path)[..., 0], NOISE)
    with tifffile.TiffWriter(path) as file:  # the thumbnail first
        file.write(NOISE[::2, ::2], photometric="minisblack", subfiletype=1, metadata=None)
        file.write(NOISE, photometric="minisblack", metadata=None)
    assert np.array_equal(read_image(path)[..., 0], NOISE)
    with tifffile.TiffWriter(path) as file:  # a pyramid below the image, as OME has it
        file.write(NOISE, photometric="minisblack", subifds=1, metadata=None)
        file.write(NOISE[::2, ::2], photometric="minisblack", subfiletype=1, metadata=None)
    assert np.array_equal(read_image(path)[..., 0], NOISE)


@pytest.mark.parametrize("kind", ["pages", "imagej", "ome", "one page", "sizes"])
def test_several_images_are_refused(tmp_path: Path, kind: str) -> None:
    path, stack = tmp_path / "stack.tif", np.stack([NOISE, NOISE, NOISE])
    if kind == "sizes":
        with tifffile.TiffWriter(path) as file:
            file.write(NOISE, photometric="minisblack")
            file.write(NOISE[:30], photometric="minisblack")
    else:
        how = {"imagej": {"imagej": True}, "ome": {"ome": True}, "one page": {"truncate": True}}
        tifffile.imwrite(path, stack, photometric="minisblack", **how.get(kind, {}))
    with pytest.raises(DataError, match=r"stack\.tif: holds [23] pages"):
        read_image(path)
    with pytest.raises(DataError, match=r"holds [23] pages"):
        open_pixels(ImageFile(path))
    with pytest.raises(DataError, match=r"holds [23] pages"):
        read_mask_file(path)


def test_pages_may_be_bands(tmp_path: Path) -> None:
    path, stack = tmp_path / "a.tif", RNG.integers(0, 256, (4, 40, 56), dtype=np.uint8)
    tifffile.imwrite(path, stack, photometric="minisblack")
    found = read_image(path, bands=(4, 1, 2))
    assert np.array_equal(found, np.moveaxis(stack[[3, 0, 1]], 0, 2))
    part = open_pixels(ImageFile(path, bands=(4, 1, 2))).part(10, 20, 8, 9)[0]
    assert np.array_equal(part, found[10:18, 20:29])


def test_animations_are_refused_and_photos_with_a_preview_are_not(tmp_path: Path) -> None:
    frames = [Image.fromarray(NOISE).convert("RGB"), Image.fromarray(255 - NOISE).convert("RGB")]
    for suffix in (".png", ".webp"):
        path = tmp_path / f"a{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
        with pytest.raises(DataError, match=f"a{suffix}: an animation of 2 frames"):
            read_image(path)
    path = tmp_path / "a.jpg"
    frames[0].save(path, "MPO", save_all=True, append_images=frames[1:])
    expected = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
    assert np.array_equal(read_image(path), expected)


# ---- colours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
def test_cielab_is_what_littlecms_makes_of_it(tmp_path: Path, photometric: str) -> None:
    rgb = RNG.integers(30, 226, (40, 56, 3), dtype=np.uint8)
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = np.array(ImageCms.applyTransform(Image.fromarray(rgb), to_lab))
    lab[..., 1:] ^= 128  # a* and b* from 128 on
    deep = lab.astype(np.uint16) << 8
    deep[..., 0] = np.rint(lab[..., 0] / 255 * (65535 if photometric == "cielab" else 65280))
    if photometric == "cielab":
        lab[..., 1:] ^= 128
        deep[..., 1:] ^= 32768
    for name, values in (("8", lab), ("16", deep)):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, values, photometric=photometric, metadata=None)
        found = ImageFile(path, window=(0, 65535) if name == "16" else None).read()
        assert np.abs(found.astype(int) - rgb).max() <= 8  # steps of a* and b* are coarse
        assert np.abs(found.astype(int) - rgb).mean() < 1


def test_ycbcr_without_jpeg(tmp_path: Path) -> None:
    rgb = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    values = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    path = tmp_path / "a.tif"
    tags = [(530, "H", 2, (1, 1), True)]
    tifffile.imwrite(path, values, photometric="ycbcr", extratags=tags, metadata=None)
    expected = np.asarray(Image.fromarray(values, mode="YCbCr").convert("RGB"))
    assert np.abs(read_image(path).astype(int) - expected).max() <= 1


# ---- sizes --------------------------------------------------------------------------------------


def changed(path: Path, tag: int, value: int) -> None:
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[tag].overwrite(value)


def test_sizes_are_explained_at_before_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, NOISE, tile=(16, 16), compression="zlib", photometric="minisblack")
    changed(path, 256, 60_000)
    changed(path, 257, 60_000)
    with pytest.raises(DataError, match="60000 x 60000 pixels, more than"):
        read_image(path)
    with pytest.raises(DataError, match=r"a\.tif: cannot be read as an image"):
        open_pixels(ImageFile(path)).part(50_000, 50_000, 64, 64)
    assert image_size(path) == (60_000, 60_000)
    tifffile.imwrite(path, NOISE, tile=(16, 16), compression="zlib", photometric="minisblack")
    changed(path, 322, 2**31)
    changed(path, 323, 2**31)
    with pytest.raises(DataError, match="strips or tiles of 2147483648 x 2147483648"):
        read_image(path)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "webp", "png", "lerc"])
def test_a_tile_that_holds_a_larger_image(tmp_path: Path, compression: str) -> None:
    """Its own header says 20,000 x 20,000; nothing of that size is made."""
    path = tmp_path / "a.tif"
    rgb = np.repeat(NOISE[:32, :32, None], 3, axis=2)
    one = compression == "lerc"
    tifffile.imwrite(path, rgb[..., 0] if one else rgb, compression=compression, tile=(32, 32),
                     photometric="minisblack" if one else "rgb", metadata=None)  # fmt: skip
    with tifffile.TiffFile(path) as file:
        at, page = file.pages[0].dataoffsets[0], file.pages[0]
        content = bytearray(path.read_bytes())
        data = bytes(content[at : at + page.databytecounts[0]])
    assert read_image(path).shape == (32, 32, 3)
    size = {"jpeg": ">HH", "jpeg2000": ">II", "png": ">II", "lerc": "<ii", "webp": "<HH"}[
        compression
    ]
    old = struct.pack(size, 32, 32)
    if compression == "webp":  # lossless: 14 bits each, of one less
        if b"VP8L" not in data:
            pytest.skip("lossy")
        start = data.index(b"VP8L") + 9
        new = struct.pack("<I", 15_999 | 15_999 << 14)
    else:
        start = data.index(old)
        new = struct.pack(size, 20_000, 20_000)
    content[at + start : at + start + len(new)] = new
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tif: cannot be read as an image"):
        read_image(path)


def test_compressions_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, NOISE, compression="lzw", photometric="minisblack")
    for number, name in ((6, "OJPEG"), (50002, "JPEGXL"), (32771, "CCIRLEW"), (12345, "12345")):
        changed(path, 259, number)
        with pytest.raises(DataError, match=f"a TIFF with compression {name}, which is not read"):
            read_image(path)


# ---- the stretch --------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_stretch_of_a_large_image_does_not_depend_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int
) -> None:
    monkeypatch.setattr("autosam.data.readers.stretch.LIMIT_SIDE", 20)
    monkeypatch.setattr("autosam.data.images.LIMIT_SIDE", 20)
    monkeypatch.setattr("autosam.data.images.BLOCK", 500)
    values = RNG.normal(1000, 300, (101, 143)).astype(np.float32)
    path = tmp_path / "a.tif"
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(path, values, tile=(16, 32), extratags=tags, metadata=None)
    whole, pixels = read_image(path), open_pixels(ImageFile(path))
    height, width = pixels.shape
    for y, x in ((0, 0), (17, 33), (height - 40, width - 40)):
        assert np.array_equal(pixels.part(y, x, 40, 40)[0], whole[y : y + 40, x : x + 40])


# ---- no data ------------------------------------------------------------------------------------


def scene(path: Path, value: float, tag: bool = True, dtype: str = "float32") -> np.ndarray:
    """Around 0.3 with a box of 0.6; two rows hold no data. Returns where data are."""
    values = RNG.normal(0.3, 0.02, (64, 96)).astype(dtype)
    values[20:40, 30:60] += 0.3
    valid = np.ones(values.shape, bool)
    valid[10:12] = False
    values[~valid] = value
    text = f"{value:g}"
    tags = [(42113, "s", len(text) + 1, text, True)] if tag else []
    tifffile.imwrite(path, values, extratags=tags, metadata=None)
    return valid


@pytest.mark.parametrize(("value", "tag", "setting"), [
    (-9999, True, None), (-9999, False, -9999), (np.nan, False, None), (7.5, True, None),
])  # fmt: skip
def test_pixels_without_data_are_left_out(
    tmp_path: Path, value: float, tag: bool, setting: float | None
) -> None:
    path = tmp_path / "a.tif"
    valid = scene(path, value, tag)
    rgb, found = ImageFile(path, nodata=setting).read_valid()
    assert found is not None
    assert np.array_equal(found, valid)
    assert not rgb[~valid].any()
    box = np.zeros_like(valid)
    box[20:40, 30:60] = True
    assert rgb[box & valid].mean() > 200
    assert rgb[~box & valid].mean() < 60


def test_fillings_that_nobody_named_are_refused(tmp_path: Path) -> None:
    scene(tmp_path / "a.tif", -9999, tag=False)
    with pytest.raises(DataError, match=r"192 values are -9999.*--data\.nodata -9999"):
        read_image(tmp_path / "a.tif")
    deep = (NOISE.astype(np.uint16) + 100) * 20
    deep[:4] = 65535
    tifffile.imwrite(tmp_path / "b.tif", deep)
    with pytest.raises(DataError, match=r"224 values are 65535.*--data\.nodata 65535"):
        read_image(tmp_path / "b.tif")
    rgb, valid = ImageFile(tmp_path / "b.tif", nodata=65535).read_valid()
    assert valid is not None
    assert not valid[:4].any()
    assert valid[4:].all()
    assert rgb[4:].max() == 255
    tifffile.imwrite(tmp_path / "c.tif", np.full((9, 9), np.nan, np.float32))
    with pytest.raises(DataError, match="no pixel holds data"):
        read_image(tmp_path / "c.tif")


def test_no_loss_and_no_score_without_data(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    valid = scene(tmp_path / "images/a.tif", -9999)
    mask = np.zeros((64, 96), np.uint8)
    mask[5:40, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "masks/a.png")
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks")
    encoding = check_pairs(pairs, DataConfig()).encoding
    sample = PairDataset(pairs, InputSpec(96, 96, 96), encoding)[0, 0]
    assert sample.label is not None
    assert sample.weight is not None
    assert sample.target is not None
    assert (sample.label[~valid] == IGNORED).all()
    assert np.array_equal(sample.label[valid], mask[valid] > 0)
    assert np.array_equal(sample.weight[0, :64].numpy() > 0, valid)
    assert not sample.target[0, 10:12].any()
    bits = without(pack(np.stack([mask > 0, mask == 0])), valid)
    assert np.array_equal(known(bits), valid)
    assert not class_masks(bits, 2)[:, ~valid].any()
    assert np.array_equal(class_masks(bits, 2)[0, valid], mask[valid] > 0)


def test_nothing_is_predicted_without_data(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    valid = scene(tmp_path / "in/a.tif", -9999)
    predictor = autosam.load(trained, threshold=0.01)
    found = predictor(tmp_path / "in/a.tif")
    assert found.masks[:, valid].any()
    assert not found.masks[:, ~valid].any()
    assert (found.probabilities[:, ~valid] == 0).all()
    explained = predictor.decide(predictor.explain(tmp_path / "in/a.tif").logits)
    assert np.array_equal(explained.masks, found.masks)
    whole = read_image(tmp_path / "in/a.tif")
    hidden = predictor(MemoryImage(whole, valid=valid))
    assert np.array_equal(hidden.masks, found.masks)
    config = PredictConfig(str(trained), str(tmp_path / "in"), str(tmp_path / "out"), tile=40)
    config.threshold = 0.01
    predict(config)
    written = np.asarray(Image.open(tmp_path / "out/a.png"))
    assert written[valid].any()
    assert not written[~valid].any()


def test_content_and_files_are_read_alike(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", NOISE, photometric="miniswhite")
    content = (tmp_path / "a.tif").read_bytes()
    colors, _ = open_raster(content, "x").colors((0, 0, 40, 56), None)
    assert np.array_equal(255 - colors[..., 0], NOISE)
    (tmp_path / "b.png").write_bytes(content)  # whatever its name
    assert np.array_equal(read_image(tmp_path / "b.png")[..., 0], 255 - NOISE)
    assert torch.is_tensor(torch.from_numpy(read_image(tmp_path / "a.tif")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_of_pillow_are_turned_once(tmp_path: Path, orientation: int) -> None:
    rgb = np.dstack([NOISE, NOISE // 2, NOISE // 3])
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", rgb, extratags=tags, photometric="rgb", metadata=None)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    for name in ("a.tif", "a.png"):
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(MemoryImage(image).read(), read_image(tmp_path / name))


def test_a_file_that_cannot_be_read_is_answered_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "cell1.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "gone")
    for name, message in (
        ("cell1.png", "is a folder. Name a file in it"),
        ("link.png", "a link to nowhere. Replace or remove it."),
        ("cell2.png", "no such file. Fix the path. Did you mean .*cell1.png"),
    ):
        with pytest.raises(DataError, match=message):
            require_file(tmp_path / name)
