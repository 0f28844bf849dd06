"""From masks of objects, or of classes, to the objects of an image."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch
from instance_cases import cells, odd_cells, of_ids, scored
from scipy import ndimage
from skimage.measure import label as components
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from autosam.data.geometry import content_size, object_shares, resize_label, restore
from autosam.errors import ConfigError
from autosam.evaluation.assemble import assemble, separate
from autosam.evaluation.predict_instances import masks_of
from autosam.models.find_objects import FoundObjects, crop_masks
from autosam.models.prompters import ABSENT
from autosam.types import InputSpec

SIZES = [(64, 64), (40, 56), (23, 90), (200, 130), (128, 31)]


def found_of(
    logits: np.ndarray, scores: np.ndarray | None = None, classes: np.ndarray | None = None
) -> FoundObjects:
    n = len(logits)
    return FoundObjects(
        crop_masks(torch.from_numpy(logits)),
        np.ones(n, np.uint8) if classes is None else classes,
        np.linspace(1, 0.6, n, dtype=np.float32) if scores is None else scores,
    )


def smooth(rng: np.random.Generator, side: int) -> np.ndarray:
    """Logits float32 1 x side x side of a mask of one part."""
    values = ndimage.gaussian_filter(rng.normal(size=(side, side)), side / 12, mode="constant")
    parts, _ = ndimage.label(values > 0)
    others = (parts > 0) & (parts != 1 + np.bincount(parts.ravel())[1:].argmax())
    return (np.where(others, -values, values) / values.std() * 4).astype(np.float32)[None]


@pytest.mark.parametrize("geometry", ["square", "longest-pad"])
@pytest.mark.parametrize("size", SIZES)
def test_a_mask_is_interpolated_as_a_whole_one_is(size: tuple[int, int], geometry: str) -> None:
    """With cells as small as pixels of the square, where the two steps of `restore` are one; at the
    padding's edge it takes the last cell of the image, `assemble` goes on into the padding."""
    spec = InputSpec(64, 64, 64, geometry)
    content = content_size(*size, 64, geometry)
    for seed in range(4):
        logits = smooth(np.random.default_rng(seed), 64)
        whole = restore(torch.from_numpy(logits), size, 64, geometry).numpy()
        drawn, objects = assemble(found_of(logits), size, spec, 1, 0.5)
        inner = [np.arange(n) < (c - 0.5) * n / c - 0.5 for n, c in zip(size, content, strict=True)]
        inside = np.ix_(*inner) if geometry != "square" else np.ix_(*map(np.arange, size))
        assert np.array_equal(objects.ids[inside] > 0, whole[0][inside] > 0)
        shown = drawn[0][inside] > ABSENT
        assert np.allclose(drawn[0][inside][shown], whole[0][inside][shown], atol=1e-4)
        assert (whole[0][inside][~shown] <= 0).all()


@pytest.mark.parametrize("geometry", ["square", "longest-pad"])
@pytest.mark.parametrize("size", SIZES)
def test_masks_of_coarse_cells(size: tuple[int, int], geometry: str) -> None:
    """By scipy's linear interpolation, exactly; by `restore`, which takes two steps, in almost all
    pixels."""
    side, different = 16, 0
    spec = InputSpec(64, 64, side, geometry)
    content = content_size(*size, 64, geometry)
    for seed in range(8):
        logits = smooth(np.random.default_rng(seed), side)
        places = [
            ((np.arange(n) + 0.5) * c / n / 64 * side - 0.5).clip(0)
            for n, c in zip(size, content, strict=True)
        ]
        grid = np.meshgrid(*places, indexing="ij")
        expected = ndimage.map_coordinates(logits[0], grid, order=1, mode="nearest")
        drawn, objects = assemble(found_of(logits), size, spec, 1, 0.5)
        assert np.array_equal(objects.ids > 0, expected > 0)
        shown = drawn[0] > ABSENT
        assert np.allclose(drawn[0][shown], expected[shown], atol=1e-4)
        whole = restore(torch.from_numpy(logits), size, 64, geometry).numpy()[0]
        different += int(((whole > 0) != (objects.ids > 0)).sum())
    assert different <= 0.01 * 8 * size[0] * size[1]


@pytest.mark.parametrize("geometry", ["square", "longest-pad"])
@pytest.mark.parametrize("size", SIZES)
def test_simulated_logits_give_the_true_objects(size: tuple[int, int], geometry: str) -> None:
    """The share of each cell that an object covers, as logits."""
    rng = np.random.default_rng(3)
    ids = cells(rng, 6, max(size), max(size) / 5)[: size[0], : size[1]]
    ids = np.where(np.bincount(ids.ravel())[ids] < 0.01 * ids.size, 0, ids)  # but for slivers
    numbers = np.unique(ids[ids > 0])
    truth = of_ids(np.searchsorted(numbers, ids).astype(np.int32) + (ids > 0), rng, 3)
    content = content_size(*size, 256, geometry)
    small = resize_label(truth.ids, content)
    chosen = rng.permutation(len(truth)) + 1
    shares = object_shares(small, chosen, (256, 256), 64).numpy()
    found = found_of(20 * shares - 10, classes=truth.classes[chosen - 1])
    spec = InputSpec(256, 256, 64, geometry)
    logits, objects = assemble(found, size, spec, 3, 0.5)
    assert logits.shape == (3, *size)
    assert logits.dtype == np.float32
    scores = scored(truth, objects, 3)
    assert scores["count_error"] == 0
    assert scores["f1"] == 1
    assert scores["sq"] > (0.9 if min(size) > 40 else 0.8)
    assert objects.scores is not None
    assert (np.diff(objects.scores) <= 0).all()
    masks = masks_of(objects, 3)
    assert np.array_equal(masks.any(0), objects.ids > 0)
    assert (logits[masks] > 0).all()


def boxes_of(*boxes: tuple[int, int, int, int], levels: tuple[float, ...] = ()) -> np.ndarray:
    """Masks of 16 x 16 cells: rectangles of rows and columns, from..to."""
    logits = np.full((len(boxes), 16, 16), -8, np.float32)
    for i, (top, bottom, left, right) in enumerate(boxes):
        logits[i, top:bottom, left:right] = levels[i] if levels else 8
    return logits


SAME = InputSpec(16, 16, 16)


def test_of_two_that_are_mostly_the_same_the_better_is_kept() -> None:
    logits = boxes_of((0, 8, 0, 8), (0, 8, 1, 9), (2, 4, 2, 4), (10, 14, 10, 14))
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    _, objects = assemble(found_of(logits, scores), (16, 16), SAME, 1, 0.5)
    assert objects.scores is not None
    assert objects.scores.tolist() == pytest.approx([0.9, 0.6])
    assert np.array_equal(objects.ids == 1, logits[0] > 0)
    assert np.array_equal(objects.ids == 2, logits[3] > 0)


def test_a_pixel_of_several_belongs_to_that_of_the_largest_logit() -> None:
    logits = boxes_of((0, 8, 0, 8), (0, 8, 6, 14), (0, 8, 12, 16), levels=(3, 5, 5))
    classes = np.array([2, 1, 2], np.uint8)
    drawn, objects = assemble(found_of(logits, classes=classes), (16, 16), SAME, 2, 0.5)
    assert objects.ids[0].tolist() == [1] * 6 + [2] * 8 + [3] * 2  # of equal ones the first
    assert objects.classes.tolist() == [2, 1, 2]
    assert drawn[0, 0].max() == 5
    assert drawn[1, 0, 6] == 3  # of the class, whoever the pixel belongs to


def test_what_is_hidden_or_below_the_threshold_is_no_object() -> None:
    logits = boxes_of((0, 4, 0, 4), (8, 12, 0, 4), (0, 1, 15, 16), levels=(3, 5, 5))
    logits[0, :4, 4:8] = -8
    scores = np.array([0.9, 0.7, 0.4], np.float32)
    for threshold, count in ((0.1, 3), (0.4, 3), (0.5, 2), (0.7, 2), (0.8, 1), (0.95, 0)):
        drawn, objects = assemble(found_of(logits, scores), (16, 16), SAME, 1, threshold)
        assert len(objects) == objects.ids.max() == count
        assert (drawn.max() > 0) == (count > 0)
    # An image of few pixels, none of which lies on the small object.
    _, objects = assemble(found_of(logits, scores), (4, 4), SAME, 1, 0.1)
    assert len(objects) == objects.ids.max() == 2
    assert objects.scores is not None
    assert objects.scores.tolist() == pytest.approx([0.9, 0.7])


def test_objects_that_prompts_ask_for_stay_whatever_their_score() -> None:
    mask = np.full((4, 4), 5.0, np.float32)
    places = [(0, 0, mask), (10, 10, mask)]
    found = FoundObjects(places, np.ones(2, np.uint8), np.array([0.9, 0.1], np.float32))
    spec = InputSpec(32, 32, 32)
    assert len(assemble(found, (32, 32), spec, 1, 0.5)[1]) == 1
    given = dataclasses.replace(found, given=True)
    assert assemble(given, (32, 32), spec, 1, 0.5)[1].scores.tolist() == pytest.approx([0.9, 0.1])


def test_no_objects() -> None:
    found = FoundObjects([], np.zeros(0, np.uint8), np.zeros(0, np.float32))
    drawn, objects = assemble(found, (5, 9), SAME, 2, 0.5)
    assert (drawn == ABSENT).all()
    assert drawn.shape == (2, 5, 9)
    assert len(objects) == 0
    assert not objects.ids.any()
    objects = separate(np.zeros((2, 5, 9), bool), np.zeros((2, 5, 9)), "watershed")
    assert len(objects) == 0
    assert objects.scores is not None
    assert objects.scores.shape == (0,)


def same_partition(ids: np.ndarray, others: np.ndarray) -> bool:
    pairs = np.unique(np.stack([ids.ravel(), others.ravel()]), axis=1)
    return len(np.unique(ids)) == len(np.unique(others)) == pairs.shape[1]


def masks_of_classes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of three classes, some of which overlap, and probabilities."""
    rng = np.random.default_rng(seed)
    masks = np.stack([odd_cells(3 * seed + k, (50, 70)) > 0 for k in range(3)])
    masks &= rng.random((3, 5, 7)).repeat(10, 1).repeat(10, 2) < 0.6
    masks[2] &= rng.random((50, 70)) < 0.9  # parts of one pixel, and at corners of each other
    return masks, rng.random((3, 50, 70))


def class_on_top(masks: np.ndarray) -> np.ndarray:
    label = np.zeros(masks.shape[1:], int)
    for k, mask in enumerate(masks, 1):
        label[mask] = k
    return label


@pytest.mark.parametrize("how", ["components", "watershed"])
@pytest.mark.parametrize("seed", range(6))
def test_masks_are_divided_as_by_scikit_image(seed: int, how: str) -> None:
    masks, likely = masks_of_classes(seed)
    label, objects = class_on_top(masks), separate(masks, likely, how)
    expected = np.zeros(label.shape, int)
    for k in (1, 2, 3):
        mask = label == k
        if how == "components":
            parts = components(mask, connectivity=1)
        else:
            depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].astype(np.float32)
            seeds = components(h_maxima(depth, 1), connectivity=2)
            parts = watershed(-depth, seeds, connectivity=2, mask=mask)
        assert np.array_equal(parts > 0, mask)
        expected[mask] = parts[mask] + expected.max()
    assert same_partition(objects.ids, expected)
    assert objects.ids.max() == len(objects)
    of = np.append(objects.classes, 0)[objects.ids - 1]
    assert np.array_equal(of, label)
    assert objects.scores is not None
    for number, (k, score) in enumerate(zip(objects.classes, objects.scores, strict=True), 1):
        assert score == pytest.approx(likely[k - 1][objects.ids == number].mean(), abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 30), (40, 2), (3, 3)])
def test_a_watershed_keeps_masks_that_fill_the_image(size: tuple[int, int]) -> None:
    full = np.ones((1, *size), bool)
    found = separate(full, full.astype(np.float32), "watershed")
    assert np.array_equal(found.ids, np.ones(size))


def test_a_watershed_divides_discs_that_touch_and_nothing_else() -> None:
    y, x = np.mgrid[:60, :100]

    def disc(row: int, column: int, radius: int) -> np.ndarray:
        return (y - row) ** 2 + (x - column) ** 2 <= radius**2

    mask = disc(20, 20, 12) | disc(20, 40, 11) | disc(45, 80, 13)
    mask[58, 2:30] = True  # a line
    mask[50, 50] = True
    likely = np.where(mask, 0.75, 0.1)[None]
    watersheds, whole = (separate(mask[None], likely, how) for how in ("watershed", "components"))
    assert (len(watersheds), len(whole)) == (5, 4)
    assert watersheds.scores is not None
    assert watersheds.scores == pytest.approx(0.75)
    (left,), (right,) = watersheds.ids[20:21, 20], watersheds.ids[20:21, 40]
    assert left != right
    for number, row, column, radius in ((left, 20, 20, 12), (right, 20, 40, 11)):
        own, true = watersheds.ids == number, disc(row, column, radius)
        assert (own & true).sum() / (own | true).sum() > 0.95


def test_a_corner_of_another_part_keeps_its_class() -> None:
    """A pixel that touches a square at a corner has no maximum of its own."""
    masks = np.zeros((2, 20, 20), bool)
    masks[0, :3, :3] = True
    masks[1, 6:15, 6:15] = masks[1, 15, 15] = True
    objects = separate(masks, masks.astype(float), "watershed")
    assert objects.classes.tolist() == [1, 2]
    assert objects.ids[15, 15] == objects.ids[10, 10] == 2


def test_a_watershed_without_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("skimage.morphology", "skimage.segmentation"):
        monkeypatch.setitem(sys.modules, name, None)
    masks = np.ones((1, 4, 4), bool)
    with pytest.raises(ConfigError, match=r"autosam\[instances\].*choose --separate components"):
        separate(masks, masks.astype(float), "watershed")
    assert len(separate(masks, masks.astype(float), "components")) == 1
