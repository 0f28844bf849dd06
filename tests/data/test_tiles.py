"""Crops and tiles: where they lie, and that samples hold the pixels of the file."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autosam.config import AugmentConfig
from autosam.data.augment import build_augment
from autosam.data.dataset import Cropping, PairDataset
from autosam.data.images import ImageFile, image_size
from autosam.data.labels import IGNORED
from autosam.data.layouts.folders import find_pairs
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.tiles import draw_crop, read_region, tile_regions
from autosam.types import Batch, InputSpec

SPEC = InputSpec(64, 64, 64)
STILL = AugmentConfig(flip=0, rotate=0, scale=0, color=0, hue=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(32, 200), st.floats(0, 0.9))
def test_tiles_cover_the_image_and_overlap(
    height: int, width: int, size: int, overlap: float
) -> None:
    counts = np.zeros((height, width), int)
    regions = tile_regions((height, width), size, overlap)
    for y, x, high, wide in regions:
        assert (high, wide) == (min(size, height), min(size, width))
        part = counts[y : y + high, x : x + wide]
        assert part.shape == (high, wide)
        part += 1
    assert counts.min() >= 1
    columns = sorted({x for _, x, *_ in regions})
    assert all(b - a <= size * (1 - overlap) + 1 for a, b in itertools.pairwise(columns))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 60), st.integers(0, 1000))
def test_crops_lie_in_the_image_and_hold_foreground(
    height: int, width: int, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    label = np.zeros((height, width), np.uint8)
    label[rng.integers(height), rng.integers(width)] = 1
    label[label == 0] = rng.choice([0, IGNORED], (label == 0).sum())
    for foreground in (0.0, 1.0):
        y, x, high, wide = draw_crop(label, size, foreground, rng)
        part = label[y : y + high, x : x + wide]
        assert part.shape == (min(size, height), min(size, width))
        assert foreground == 0 or (part == 1).sum() == 1


def test_the_share_of_crops_on_foreground() -> None:
    """A foreground pixel in a corner of a large image: hardly any crop holds it by chance."""
    label = np.zeros((2000, 2000), np.uint8)
    label[5, 7] = 1
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        y, x, high, wide = draw_crop(label, 64, 0.25, rng)
        held += bool(label[y : y + high, x : x + wide].any())
    assert 0.25 * 400 - 30 < held < 0.25 * 400 + 30


def opened(folder: Path, **keywords: object) -> PairDataset:
    pairs = find_pairs(folder / "images", folder / "masks")
    keywords.setdefault("cropping", Cropping(64))
    return PairDataset(pairs, SPEC, MaskEncoding(), **keywords)  # type: ignore[arg-type]


def test_a_crop_is_a_part_of_the_file_at_its_own_scale(tmp_path: Path) -> None:
    draw(tmp_path, 2, size=(100, 150))
    data = opened(tmp_path, augment=build_augment(STILL))
    assert len(data) == 2 * 2 * 3
    places = set()
    for epoch in range(4):
        for position in range(len(data)):
            sample = data[epoch, position]
            image = np.asarray(Image.open(data.pairs[position // 6].image.path))
            crop = sample.generator_input.permute(1, 2, 0).numpy()
            [place] = [
                (y, x)
                for y in range(37)
                for x in range(87)
                if (image[y, x] == crop[0, 0]).all()
                and np.array_equal(image[y : y + 64, x : x + 64], crop)
            ]
            mask = np.asarray(Image.open(data.pairs[position // 6].mask.path)) > 0
            y, x = place
            assert sample.target is not None
            assert np.array_equal(sample.target[0].numpy() > 0, mask[y : y + 64, x : x + 64])
            places.add(place)
    assert len(places) > 20  # drawn again at each visit


def test_tiles_of_an_image_hold_its_pixels(tmp_path: Path) -> None:
    draw(tmp_path, 2, size=(100, 150))
    draw(tmp_path, 1, start=7, size=(40, 30))
    data = opened(tmp_path)
    batch = Batch.collate([data[0, i] for i in range(len(data))])
    assert batch.names == ["img00", "img01", "img07"]
    assert batch.sizes == [(100, 150), (100, 150), (40, 30)]
    assert [len(regions) for regions in batch.regions] == [6, 6, 1]
    assert len(batch) == 13
    for i, pair in enumerate(data.pairs[:2]):
        image = np.asarray(Image.open(pair.image.path))
        for row, (y, x, high, wide) in zip(batch.rows(i), batch.regions[i], strict=True):
            shown = batch.generator_input[row].permute(1, 2, 0).numpy()
            assert np.array_equal(shown, image[y : y + high, x : x + wide])
    part = batch.part(6, 9)
    assert len(part) == 3
    assert part.targets is not None
    assert batch.targets is not None
    assert np.array_equal(part.targets, batch.targets[6:9])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_sizes_without_decoding(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Pillow's own transposition says what the size is."""
    from PIL import ImageOps

    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (50, 30)).save(path, exif=exif)
    with Image.open(path) as image:
        shown = ImageOps.exif_transpose(image).size
    assert image_size(path) == shown[::-1]


def test_a_file_that_replaces_one_of_equal_size_and_time_is_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / name for name in ("a.tif", "b.tif", "c.tif")]
    for path, most in zip(paths, (1000, 60_000, 60_000), strict=True):
        values = rng.integers(0, most, (64, 64), np.uint16)
        Image.fromarray(values).save(path)
        os.utime(path, (1.6e9, 1.6e9))
    shutil.copyfile(paths[1], paths[2])
    region = (0, 0, 32, 32)
    before = read_region(ImageFile(paths[0]), region)[0]
    assert paths[0].stat().st_size == paths[1].stat().st_size
    os.replace(paths[1], paths[0])
    now = read_region(ImageFile(paths[0]), region)[0]
    assert np.array_equal(now, read_region(ImageFile(paths[2]), region)[0])
    assert not np.array_equal(now, before)
