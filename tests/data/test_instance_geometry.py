"""Objects keep their identities while images are resized and augmented; shares of grid cells."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autosam.config import AugmentConfig
from autosam.data.augment import build_augment
from autosam.data.geometry import content_size, object_shares, pad
from autosam.data.instances import change
from autosam.data.object_sizes import small_objects, square_side
from autosam.data.sample import place
from autosam.types import Instances


def scene(rng: np.random.Generator, count: int) -> Instances:
    """Rectangles at random, some of them hidden in parts or cut in two by others."""
    height, width = rng.integers(12, 90, 2)
    ids = np.zeros((height, width), np.int32)
    for number in range(1, count + 1):
        y, x = rng.integers(0, height), rng.integers(0, width)
        ids[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = number
    ids[rng.random(ids.shape) < 0.03] = -1
    return change(Instances(ids, rng.integers(1, 4, count).astype(np.uint8)), lambda values: values)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["longest-pad", "square"]), st.booleans())
def test_each_object_moves_as_it_does_alone(seed: int, geometry: str, free: bool) -> None:
    rng = np.random.default_rng(seed)
    before = scene(rng, int(rng.integers(0, 30)))
    config = AugmentConfig(flip=0.5, vertical_flip=0.5, quarter_turns=True,
                           rotate=40.0 if free else 0.0, scale=0.3 if free else 0.0)  # fmt: skip
    augment, words = build_augment(config), (int(rng.integers(2**31)), 7)
    size = int(rng.choice([16, 48, 64]))

    def move(array: np.ndarray) -> np.ndarray:
        return place(array, size, geometry, augment, words)

    after = change(before, move)
    numbers = np.unique(after.ids[after.ids > 0])
    assert np.array_equal(numbers, np.arange(1, len(after) + 1))
    assert np.array_equal(after.ids == -1, move((before.ids == -1).astype(np.uint8)) == 1)
    kept = 0
    for number, k in enumerate(before.classes, 1):
        alone = move((before.ids == number).astype(np.uint8)) == 1
        if not alone.any():
            continue
        kept += 1  # in the order of before
        assert np.array_equal(after.ids == kept, alone)
        assert after.classes[kept - 1] == k
    assert kept == len(after)


def test_an_object_cut_in_two_stays_one() -> None:
    ids = np.zeros((8, 8), np.int32)
    ids[1:7, 1:7] = 1
    ids[:, 4] = 2  # a bar across it
    ids[0, 0] = 3
    found = Instances(ids, np.array([1, 2, 3], np.uint8))
    cropped = change(found, lambda values: values[2:, 2:])
    assert len(cropped) == 2
    assert cropped.ids[1].tolist() == [1, 1, 2, 1, 1, 0]
    assert cropped.classes.tolist() == [1, 2]


def many(rng: np.random.Generator, side: int, step: int) -> np.ndarray:
    """A lattice of rectangles, int32."""
    ids = np.zeros((side, side), np.int32)
    number = 0
    for y in range(0, side - step + 1, step):
        for x in range(0, side - step + 1, step):
            number += 1
            high, wide = rng.integers(step // 3, step + 1, 2)
            ids[y : y + high, x : x + wide] = number
    return ids


def exact_shares(mask: np.ndarray, size: tuple[float, float], m: int) -> np.ndarray:
    """Areas of overlap of pixels and cells by two matrices of lengths of overlap."""
    lengths = []
    for axis in (0, 1):
        cell = np.arange(m)[:, None] * size[axis] / m
        pixel = np.arange(mask.shape[axis])[None]
        common = np.minimum(cell + size[axis] / m, pixel + 1) - np.maximum(cell, pixel)
        lengths.append(common.clip(min=0))
    return lengths[0] @ mask @ lengths[1].T * m * m / (size[0] * size[1])


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 24), st.booleans())
def test_shares_are_exact_areas(seed: int, m: int, stretched: bool) -> None:
    rng = np.random.default_rng(seed)
    found = scene(rng, 12)
    height, width = found.ids.shape
    longest = float(max(height, width)) + float(rng.random())
    size = (float(height), float(width)) if stretched else (longest, longest)
    chosen = rng.permutation(np.arange(1, len(found) + 1))[: rng.integers(0, 6)]
    shares = object_shares(found.ids, chosen, size, m)
    assert shares.dtype == torch.float32
    assert shares.shape == (len(chosen), m, m)
    for share, number in zip(shares, chosen, strict=True):
        assert np.allclose(share, exact_shares(found.ids == number, size, m), atol=1e-5)


def test_shares_of_placed_objects_are_means_of_cells() -> None:
    """As `avg_pool2d` of each padded mask, bit for bit."""
    found = scene(np.random.default_rng(1), 20)
    height, width = content_size(*found.ids.shape, 64, "longest-pad")
    placed = change(found, lambda ids: place(ids, 64, "longest-pad", None, None))
    assert placed.ids.shape == (height, width)
    chosen = list(range(1, len(placed) + 1))
    masks = np.stack([pad(placed.ids == number, 64) for number in chosen])
    expected = torch.nn.functional.avg_pool2d(torch.from_numpy(masks).float()[None], 4)[0]
    assert torch.equal(object_shares(placed.ids, chosen, (64, 64), 16), expected)


def test_worked_by_hand() -> None:
    ids = np.array([[1, 1, 2], [1, -1, 2], [0, 0, 2]], np.int32)
    shares = object_shares(ids, [2, 1], (3, 3), 2)  # cells of 1.5 x 1.5 pixels
    right = 1 / 1.5  # a column of one pixel in a cell 1.5 pixels wide
    assert shares[0].numpy() == pytest.approx(np.array([[0, right], [0, right]]))
    # Three pixels, two of them cut in halves by the edges between cells.
    expected = np.array([[2 / 2.25, 0.5 / 2.25], [0.5 / 2.25, 0]])
    assert shares[1].numpy() == pytest.approx(expected)


def test_of_a_crowded_image_a_few_objects_are_fast_and_small() -> None:
    rng = np.random.default_rng(0)
    ids = many(rng, 2000, 44)
    assert ids.max() == 2025
    chosen = rng.choice(np.arange(1, 2026), 16, replace=False)
    tracemalloc.start()
    started = time.perf_counter()
    shares = object_shares(ids, chosen, (2000, 2000), 256)
    seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    areas = np.bincount(ids.ravel())[chosen]
    assert shares.sum((1, 2)).numpy() * (2000 / 256) ** 2 == pytest.approx(areas, rel=1e-4)
    assert seconds < 1
    assert peak < 60e6  # 2025 masks of this size are 8 GB


def test_small_objects() -> None:
    """100 squares in an image of 512 x 256 px, on a grid of 16 cells (of 32 px) for 256 px."""
    side = square_side(256, 512, "longest-pad")
    assert side == 512
    assert square_side(256, 1024, "square") == 512
    diameters = np.array([8, 16] + [31] * 8 + [32] * 40 + [50] * 50)
    found = small_objects(diameters**2, np.full(100, side), 16, 256)
    assert (found.total, found.small, found.share) == (100, 10, 0.1)
    # The second smallest (1 % may stay smaller) has 16 px: 32 cells, so an input of 512 px.
    assert found.image_size == 512
    assert found.tile == 256  # cells of 16 px
    enough = small_objects(diameters**2, np.full(100, side), 32, 512)
    assert (enough.small, enough.tile, enough.image_size) == (1, 0, 0)
    assert small_objects(np.zeros(0), np.zeros(0), 16, 256).share == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([16, 64]))
def test_what_is_proposed_helps(seed: int, grid: int) -> None:
    rng = np.random.default_rng(seed)
    areas = rng.integers(1, 4000, 300)
    sides = rng.choice([256.0, 700.0, 2000.0], 300)
    found = small_objects(areas, sides, grid, 16 * grid)
    if found.image_size:
        cells = found.image_size // 16
        assert found.image_size % 16 == 0
        assert small_objects(areas, sides, cells, found.image_size).image_size == 0
    if found.tile:
        assert (np.sqrt(areas) < found.tile / grid).mean() <= 0.01
