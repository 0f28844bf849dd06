"""Objects of large images are joined across tiles: none twice, none lost."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from instance_cases import of_ids, scored

from autosam.config import DataConfig
from autosam.data.instances import compact
from autosam.data.readers.memory import MemoryImage
from autosam.data.tiles import starts
from autosam.evaluation.join_objects import join_objects
from autosam.evaluation.predict_instances import masks_of
from autosam.inference.prediction import Prediction
from autosam.inference.predictor import Predictor
from autosam.inference.tile_objects import objects_in_tiles
from autosam.inference.tiling import WholePixels
from autosam.types import Instances, Region

CLASSES = 3


def discs(seed: int, size: tuple[int, int], most: float, count: int) -> np.ndarray:
    """Discs of a diameter of at most `most` pixels that do not overlap, some cut by borders."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    ids, number = np.zeros(size, np.int32), 0
    for _ in range(count):
        row, column = rng.uniform((0, 0), size)
        disc = (y - row) ** 2 + (x - column) ** 2 <= (rng.uniform(1.5, most - 1) / 2) ** 2
        if disc.any() and not ids[disc].any():
            number += 1
            ids[disc] = number
    return ids


def image_of(ids: np.ndarray) -> np.ndarray:
    """The object numbers as colours."""
    return np.stack([ids % 256, ids // 256, ids * 0], 2).astype(np.uint8)


class Knows:
    """Returns the true objects of the part it is shown, with other scores and order each time."""

    def __init__(self, truth: Instances) -> None:
        self.truth, self.rng, self.calls = truth, np.random.default_rng(0), 0
        self.segmenter = SimpleNamespace(num_classes=CLASSES)
        self.loaded = SimpleNamespace(config=SimpleNamespace(data=DataConfig(num_classes=CLASSES)))

    def __call__(self, image: MemoryImage) -> Prediction:
        self.calls += 1
        pixels = image.read().astype(int)
        numbers = pixels[..., 0] + 256 * pixels[..., 1]
        found = self.rng.permutation(np.unique(numbers[numbers > 0]))
        ids = np.zeros(numbers.shape, np.int32)
        for i, number in enumerate(found, 1):
            ids[numbers == number] = i
        scores = -np.sort(-self.rng.uniform(0.5, 1, len(found))).astype(np.float32)
        objects = Instances(ids, self.truth.classes[found - 1], scores)
        masks = masks_of(objects, CLASSES)
        logits = np.where(masks, self.rng.uniform(1, 9), -20).astype(np.float32)
        return Prediction(masks.astype(np.float32), masks, logits, None, image, objects)


def tiled(ids: np.ndarray, size: int, overlap: float) -> tuple[Instances, Prediction, Knows]:
    truth = of_ids(ids, np.random.default_rng(1), CLASSES)
    knows, image = Knows(truth), MemoryImage(image_of(ids))
    pixels = WholePixels(image)
    found = objects_in_tiles(cast(Predictor, knows), pixels, size, overlap, image)
    return truth, found, knows


@pytest.mark.parametrize("overlap", [0.25, 0.5])
@pytest.mark.parametrize("size", [(150, 230), (64, 300), (131, 64)])
@pytest.mark.parametrize("seed", range(3))
def test_objects_smaller_than_the_overlap_come_out_exactly(
    size: tuple[int, int], overlap: float, seed: int
) -> None:
    tile = 64
    ids = discs(seed, size, overlap * tile, 200)
    truth, found, knows = tiled(ids, tile, overlap)
    assert knows.calls == len(starts(size[0], tile, overlap)) * len(starts(size[1], tile, overlap))
    objects = found.instances
    assert objects is not None
    assert objects.scores is not None
    assert len(objects) == len(truth) == objects.ids.max() > 20
    assert np.array_equal(objects.ids > 0, ids > 0)
    pairs = np.unique(np.stack([ids[ids > 0], objects.ids[ids > 0]]), axis=1)
    assert pairs.shape[1] == len(truth)  # one to one, to the pixel
    assert np.array_equal(objects.classes[pairs[1] - 1], truth.classes[pairs[0] - 1])
    assert ((objects.scores >= 0.5) & (objects.scores <= 1)).all()
    assert scored(truth, objects, CLASSES)["pq"] == 1
    assert np.array_equal(found.masks, masks_of(truth, CLASSES))
    assert np.array_equal(found.logits > 0, found.masks)
    assert np.array_equal(found.probabilities > 0.5, found.masks)
    assert ((found.probabilities >= 0) & (found.probabilities <= 1)).all()


@pytest.mark.parametrize("seed", range(3))
def test_masks_that_end_before_the_border_of_a_tile(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells of masks are larger than pixels: what a tile cuts ends up to 2 px before its border."""
    real = Knows.__call__

    def short(self: Knows, image: MemoryImage) -> Prediction:
        found = real(self, image)
        assert found.instances is not None
        ids, scores = found.instances.ids, found.instances.scores
        end = int(self.rng.integers(1, 3))
        ids[:end] = ids[-end:] = ids[:, :end] = ids[:, -end:] = 0
        mixed = Instances(ids, found.instances.classes, self.rng.permutation(scores))
        return dataclasses.replace(found, instances=compact(mixed))

    monkeypatch.setattr(Knows, "__call__", short)
    ids = discs(seed, (300, 340), 24, 200)
    truth, found, _ = tiled(ids, 128, 0.25)
    assert found.instances is not None
    assert len(found.instances) == len(truth)
    areas = np.bincount(ids.ravel())[1:]
    inside = np.bincount(ids[found.instances.ids > 0], minlength=len(areas) + 1)[1:]
    framed = np.zeros_like(ids)
    framed[2:-2, 2:-2] = ids[2:-2, 2:-2]
    left = np.bincount(framed.ravel(), minlength=len(areas) + 1)[1:]
    assert (inside[left == areas] == areas[left == areas]).all()


def test_only_objects_larger_than_the_overlap_may_be_cut() -> None:
    """A bar of the height of the image over three tiles: whatever becomes of it, no pixel of the
    others is lost, and none is in two objects."""
    ids = discs(5, (150, 230), 16, 60)
    others = np.where(np.isin(ids, np.unique(ids[:, 100:130])), 0, ids)
    bar = np.zeros_like(ids)
    bar[:, 105:125] = 1
    whole = np.where(bar, others.max() + 1, others)
    numbers = np.unique(whole)
    truth, found, _ = tiled(np.searchsorted(numbers, whole).astype(np.int32), 64, 0.25)
    objects = found.instances
    assert objects is not None
    assert np.array_equal(objects.ids > 0, whole > 0)
    inside, outside = np.unique(objects.ids[bar > 0]), np.unique(objects.ids[others > 0])
    assert not {*inside} & {*outside}
    assert len(outside) == len(truth) - 1
    assert 1 <= len(inside) <= len(starts(150, 64, 0.25))


def test_a_speck_inside_a_cut_object_does_not_remove_it() -> None:
    """An object wider than the overlap, and something small inside it that another tile reports."""

    def tile(
        region: Region, rows: slice, columns: slice, score: float
    ) -> tuple[Region, np.ndarray, Instances]:
        ids = np.zeros(region[2:], np.int32)
        ids[rows, columns] = 1
        logits = np.zeros((1, *region[2:]), np.float32)
        return region, logits, Instances(ids, np.ones(1, np.uint8), np.array([score], np.float32))

    large = tile((0, 0, 256, 256), slice(50, 200), slice(30, 256), 0.95)
    for score, area in ((0.2, 150 * 226), (0.97, 25)):
        speck = tile((0, 192, 256, 256), slice(100, 105), slice(20, 25), score)
        _, found = join_objects([large, speck], (1, 256, 448))
        assert len(found) == 1
        assert (found.ids > 0).sum() == area


@pytest.mark.parametrize("direction", ["down", "across"])
@pytest.mark.parametrize("score", [0.2, 0.97])
def test_an_object_seen_smaller_than_it_is_is_not_counted_again(
    direction: str, score: float
) -> None:
    """A disc of 19 px in rows 80 to 98, of which the tile that shows all of it draws rows 80 to 95.
    The next tile begins at row 93 and draws what is below, with one that the other cannot see."""
    y, x = np.mgrid[:220, :128]
    disc = (y - 89) ** 2 + (x - 60) ** 2 <= 9.5**2
    first, second = disc & (y <= 95), (disc & (y >= 94)).astype(np.int32)
    second[(y - 150) ** 2 + (x - 60) ** 2 <= 4**2] = 2
    beside = (y - 100) ** 2 + (x - 80) ** 2 <= 7**2  # another object, which both tiles show

    def tile(
        top: int, ids: np.ndarray, scores: list[float]
    ) -> tuple[Region, np.ndarray, Instances]:
        own = ids[top : top + 128].astype(np.int32)
        region = (top, 0, *own.shape)
        if direction == "across":
            own, region = own.T, (0, top, *own.T.shape)
        logits = np.zeros((1, *own.shape), np.float32)
        numbers = np.ones(len(scores), np.uint8)
        return region, logits, Instances(own, numbers, np.array(scores, np.float32))

    size = (1, 220, 128) if direction == "down" else (1, 128, 220)
    above = tile(0, first + 2 * beside, [0.6, 0.7])
    below = tile(93, np.where(beside, 3, second), [score, 0.8, 0.7])
    _, found = join_objects([above, below], size)
    assert len(found) == 3
    ids = found.ids if direction == "down" else found.ids.T
    assert {np.count_nonzero(ids == k) for k in (1, 2, 3)} == {
        np.count_nonzero(first), np.count_nonzero(beside), np.count_nonzero(second == 2),
    }  # fmt: skip


def test_neighbours_of_one_size_at_the_border_of_a_tile_stay() -> None:
    """Two objects that touch, each found by one of two tiles that both show them."""

    def tile(region: Region, rows: slice, columns: slice) -> tuple[Region, np.ndarray, Instances]:
        ids = np.zeros(region[2:], np.int32)
        ids[rows, columns] = 1
        logits = np.zeros((1, *region[2:]), np.float32)
        return region, logits, Instances(ids, np.ones(1, np.uint8), np.full(1, 0.9, np.float32))

    one = tile((0, 0, 128, 128), slice(60, 70), slice(100, 110))
    other = tile((0, 93, 128, 128), slice(60, 70), slice(17, 26))  # columns 110 to 118
    _, found = join_objects([one, other], (1, 128, 221))
    assert len(found) == 2
    cut = tile((0, 93, 128, 128), slice(60, 70), slice(1, 9))  # columns 94 to 101
    _, found = join_objects([one, cut], (1, 128, 221))
    assert len(found) == 2


def test_an_image_without_objects_or_without_data() -> None:
    _, found, knows = tiled(np.zeros((100, 90), np.int32), 64, 0.25)
    assert knows.calls == 4
    assert found.instances is not None
    assert len(found.instances) == 0
    assert not found.masks.any()
    assert found.probabilities.max() < 1e-6


def test_an_object_of_a_pixel_at_the_border_of_a_tile() -> None:
    """At each place in two dimensions."""
    rows, columns = starts(100, 64, 0.25), starts(140, 64, 0.25)
    ids = np.zeros((100, 140), np.int32)
    places = [
        (y, x)
        for y in {*rows, *(r + 63 for r in rows)}
        for x in {*columns, *(c + 63 for c in columns)}
    ]
    for number, (y, x) in enumerate(places, 1):
        ids[y, x] = number
    truth, found, _ = tiled(ids, 64, 0.25)
    assert found.instances is not None
    assert len(found.instances) == len(truth) == len(places)
    assert np.array_equal(found.instances.ids > 0, ids > 0)
