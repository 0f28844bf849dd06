"""Overlays of instances: neighbours differ in colour, and only objects are drawn on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from skimage.segmentation import find_boundaries

from autosam.evaluation.visualize_instances import (
    INSTANCE_COLOURS,
    instance_colours,
    instances_cell,
    neighbour_pairs,
    outlines,
    overlay_instances,
)


def voronoi(seed: int, count: int, side: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    seeds = rng.random((count, 2)) * side
    grid = np.stack(np.mgrid[:side, :side], -1)
    ids = np.linalg.norm(grid[:, :, None] - seeds, axis=-1).argmin(-1)
    kept = np.unique(ids)
    return np.searchsorted(kept, ids).astype(np.int32) + 1


def test_neighbours_are_the_pairs_within_reach() -> None:
    """Against all pairs of pixels."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids = np.where(rng.random((9, 12)) < 0.15, rng.integers(1, 8, (9, 12)), 0).astype(np.int32)
        ids[rng.random(ids.shape) < 0.1] = -1
        expected = set()
        points = np.argwhere(ids > 0)
        for (y, x), (v, u) in itertools.combinations(points.tolist(), 2):
            down, right = abs(y - v), abs(x - u)
            straight = down == 0 or right == 0 or down == right
            if straight and max(down, right) <= 3 and ids[y, x] != ids[v, u]:
                expected.add(tuple(sorted((int(ids[y, x]), int(ids[v, u])))))
        assert [tuple(pair) for pair in neighbour_pairs(ids).tolist()] == sorted(expected)
    assert neighbour_pairs(np.array([[1, 2]], np.int32)).tolist() == [[1, 2]]
    assert neighbour_pairs(np.zeros((0, 0), np.int32)).shape == (0, 2)


@pytest.mark.parametrize("count", [5, 60, 400])
def test_neighbours_have_different_colours(count: int) -> None:
    for seed in range(3):
        ids = voronoi(seed, count)
        ids[seed::7] = 0
        ids = np.where(np.isin(ids, np.arange(1, 5)), 1, ids)  # an object of several parts
        kept = np.unique(ids[ids > 0])
        ids = np.where(ids > 0, np.searchsorted(kept, ids) + 1, 0).astype(np.int32)
        colours = instance_colours(ids)
        assert colours.shape == (ids.max(), 3)
        pairs = neighbour_pairs(ids) - 1
        assert len(pairs)
        assert (colours[pairs[:, 0]] != colours[pairs[:, 1]]).any(1).all()
        assert np.array_equal(colours, instance_colours(ids.copy()))


def test_colours_follow_the_number() -> None:
    """Unless a neighbour that chose before has the colour: the next hue is taken then."""
    ids = np.zeros((10, 300), np.int32)
    ids[2:6, 5:300:15] = np.arange(1, 21)
    colours = instance_colours(ids)
    assert np.array_equal(colours, np.resize(INSTANCE_COLOURS[:12], (20, 3)))
    assert len(np.unique(INSTANCE_COLOURS, axis=0)) == 24
    ids = np.zeros((4, 60), np.int32)
    ids[:, :5], ids[:, 5:10] = 1, 13
    ids[0, 20:60:4] = np.arange(2, 12)
    ids[3, 50] = 12
    colours = instance_colours(ids)
    assert np.array_equal(colours[:12], INSTANCE_COLOURS[:12])
    assert np.array_equal(colours[12], INSTANCE_COLOURS[1])


def test_overlays_tint_objects_and_outline_them_on_their_own_pixels() -> None:
    ids = np.zeros((40, 50), np.int32)
    ids[5:15, 5:15], ids[5:15, 15:25], ids[30, 30] = 1, 2, 3
    ids[20:28, 40:] = -1
    image = np.full((40, 50, 3), 100, np.uint8)
    drawn = overlay_instances(image, ids, alpha=0.5)
    colours = instance_colours(ids)
    assert (image == 100).all()
    assert (drawn[ids <= 0] == 100).all()
    for number, inner in ((1, (slice(6, 14), slice(6, 14))), (2, (slice(6, 14), slice(16, 24)))):
        own = colours[number - 1]
        assert np.abs(drawn[inner] - (100 + own.astype(float)) / 2).max() <= 0.5
        outline = (ids == number) & ~np.isin(np.arange(ids.size).reshape(ids.shape),
            np.arange(ids.size).reshape(ids.shape)[inner])  # fmt: skip
        assert (drawn[outline] == own).all()
    assert np.array_equal(drawn[30, 30], colours[2])


def test_outlines_are_those_of_scikit_image() -> None:
    for seed in range(3):
        ids = voronoi(seed, 40)
        ids[ids % 5 == 0] = 0
        expected = find_boundaries(ids, connectivity=2, mode="inner")
        assert np.array_equal(outlines(ids, 1), expected)


def test_cells_of_contact_sheets_have_the_colours_of_the_overlay() -> None:
    ids = np.zeros((400, 300), np.int32)
    ids[10:200, 10:140], ids[10:200, 140:290], ids[210:390, 10:290] = 1, 2, 3
    image = np.zeros((400, 300, 3), np.uint8)
    cell = instances_cell(image, ids, 100)
    assert cell.shape == (100, 75, 3)
    colours = instance_colours(ids)
    for colour, (y, x) in zip(colours, ((25, 18), (25, 54), (75, 37)), strict=True):
        assert np.abs(cell[y, x] - 0.35 * colour).max() <= 0.5
        assert np.array_equal(overlay_instances(image, ids)[4 * y, 4 * x], cell[y, x])
