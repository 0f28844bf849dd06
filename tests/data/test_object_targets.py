"""What training learns of single objects: maps of centres, boxes, points and masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from instance_cases import drawn, odd_cells, of_ids
from scipy import ndimage

from autosam.config import AugmentConfig, PromptConfig
from autosam.data.augment import build_augment
from autosam.data.instances import label_of
from autosam.data.object_targets import center_map, draw_objects, edge_distance, heat_map
from autosam.data.prompts import draw_prompts
from autosam.data.sample import Visit, make_sample
from autosam.types import Batch, InputSpec, Instances, ObjectPrompts

SPEC = InputSpec(64, 64, 32, prompts="objects")
EMPTY = Instances(np.zeros((64, 48), np.int32), np.zeros(0, np.uint8))
CROSS = ndimage.generate_binary_structure(2, 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_heat_by_hand() -> None:
    """A square of 5 x 5 beside one of 2 x 5 that the border cuts, a pixel and an unknown one."""
    found = drawn("""
        .........
        .1111122.
        .1111122.
        .1111122.
        .1111122.
        .11111223
        ........?
    """)
    expected = np.zeros((7, 9))
    near = [math.exp(-(d**2) / (2 * (0.4 * 3) ** 2)) for d in (2, 1, 0, 1, 2)]  # 3 px deep
    expected[1:6, 1:6] = np.outer(near, near)
    near = [math.exp(-(d**2) / (2 * 0.4**2)) for d in (2, 1, 0, 1, 2)]  # 1 px deep
    # All are equally deep; of those nearest to the mean the first.
    expected[1:6, 6:8] = np.outer(near, near[2:4])
    expected[5, 8] = 1
    assert heat_map(found.ids) == pytest.approx(np.maximum(expected, 1e-6 * (found.ids > 0)))


@pytest.mark.parametrize("seed", range(8))
def test_heat_is_that_of_each_object_alone(seed: int) -> None:
    """By scipy's exact distance transform, from its definition."""
    ids = odd_cells(seed)
    assert (ids == -1).any()
    heat = heat_map(ids)
    assert heat.dtype == np.float32
    assert np.array_equal(heat > 0, ids > 0)
    for number in range(1, ids.max() + 1):
        alone = ids == number
        edge = alone & ~ndimage.binary_erosion(alone, CROSS)
        depth = (ndimage.distance_transform_edt(~edge) + 1) * alone
        (y, x), *others = np.argwhere(alone & (heat == 1))
        assert not others
        assert depth[y, x] == depth.max()
        rows, columns = np.nonzero(np.isclose(depth, depth.max()))
        mean = ndimage.center_of_mass(alone)
        to_mean = np.hypot(rows - mean[0], columns - mean[1])
        assert np.hypot(y - mean[0], x - mean[1]) == pytest.approx(to_mean.min())
        rows, columns = np.nonzero(alone)
        scaled = np.hypot(rows - y, columns - x) / (0.4 * depth.max())
        assert heat[alone] == pytest.approx(np.maximum(np.exp(-(scaled**2) / 2), 1e-6), rel=1e-5)


def test_distances_are_exact_and_the_same_wherever_arrays_lie() -> None:
    """By scipy; up to 700 pixels from the edge."""
    y, x = np.mgrid[:1500, :1500]
    masks = [(y - 740) ** 2 + (x - 760) ** 2 < 710**2, odd_cells(1) > 0, np.ones((9, 9), bool)]
    kept = []
    for mask in masks:
        expected = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].astype(np.float32)
        for i in range(10 if mask.size < 10_000 else 2):
            kept.append(np.empty(10 + 7 * i))
            assert np.array_equal(edge_distance(mask.copy()), expected)


def test_heat_without_objects() -> None:
    assert not heat_map(np.zeros((4, 5), np.int32)).any()
    assert not heat_map(np.full((4, 5), -1, np.int32)).any()
    assert heat_map(np.ones((3, 3), np.int32))[1, 1] == 1


@pytest.mark.parametrize("shape", [(64, 44), (64, 64), (30, 64)])
@pytest.mark.parametrize("classes", [1, 3])
def test_each_object_holds_a_cell_of_one_in_the_map_of_its_class(
    shape: tuple[int, int], classes: int
) -> None:
    instances = of_ids(odd_cells(classes, shape), rng(), classes)
    heat = heat_map(instances.ids)
    centers = center_map(instances, heat, classes, SPEC)
    assert centers.shape == (classes, 32, 32)
    assert centers.dtype == torch.float32
    expected = np.zeros((classes, 32, 32))
    of = np.append(instances.classes, [0, 0])[instances.ids - 1]  # the last two: -1 and 0
    for y, x in zip(*np.nonzero(instances.ids > 0), strict=True):
        cell = expected[of[y, x] - 1, y // 2 : y // 2 + 1, x // 2 : x // 2 + 1]
        np.maximum(cell, heat[y, x], out=cell)
    assert np.array_equal(centers.numpy(), expected.astype(np.float32))
    for number, k in enumerate(instances.classes, 1):
        y, x = np.nonzero((instances.ids == number) & (heat == 1))
        assert (centers[k - 1, y // 2, x // 2] == 1).all()


def test_a_pixel_between_two_cells_is_in_both() -> None:
    """Where cells are 3.5 pixels wide."""
    ids = np.zeros((7, 7), np.int32)
    ids[1, 3] = 1
    centers = center_map(of_ids(ids, rng(), 1), heat_map(ids), 1, InputSpec(7, 7, 2, "square"))
    assert centers.tolist() == [[[1, 1], [0, 0]]]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(64, 44), (30, 64)])
def test_drawn_objects_are_those_of_the_image(shape: tuple[int, int], train: bool) -> None:
    instances = of_ids(odd_cells(5, shape), rng(), 3)
    heat = heat_map(instances.ids)
    found = draw_objects(instances, heat, SPEC, 500, rng(1), train)
    assert len(found) == len(instances)
    assert found.points is not None
    assert found.boxes is not None
    assert found.masks is not None
    assert found.labels is not None
    assert not found.images.any()
    assert found.labels.tolist() == [[1]] * len(found)
    x, y = found.points[:, 0].long().T.numpy()
    numbers = instances.ids[y, x]
    assert sorted(numbers) == [*range(1, len(instances) + 1)]
    assert (heat[y, x] >= (0.5 if train else 1)).all()
    assert np.array_equal(found.classes, instances.classes[numbers - 1] - 1)
    for i, number in enumerate(numbers):
        alone = instances.ids == number
        rows, columns = np.nonzero(alone)
        box = [columns.min(), rows.min(), columns.max(), rows.max()]
        assert found.boxes[i].tolist() == box
        whole = np.zeros((64, 64))
        whole[: shape[0], : shape[1]] = alone
        shares = whole.reshape(32, 2, 32, 2).mean((1, 3))
        assert found.masks[i].numpy() == pytest.approx(shares, abs=1e-6)


def numbers_of(found: ObjectPrompts, ids: np.ndarray) -> set[int]:
    assert found.points is not None
    x, y = found.points[:, 0].long().T.numpy()
    return set(ids[y, x].tolist())


def test_training_draws_other_objects_and_points_at_each_visit() -> None:
    instances = of_ids(odd_cells(2), rng())
    heat, seen, points = heat_map(instances.ids), [], set()
    for seed in range(40):
        found = draw_objects(instances, heat, SPEC, 3, rng(seed), True)
        again = draw_objects(instances, heat, SPEC, 3, rng(seed), True)
        for name, value in found.tensors().items():
            assert torch.equal(value, again.tensors()[name])
        seen.append(numbers_of(found, instances.ids))
        assert len(seen[-1]) == len(found) == 3  # no object twice
        assert found.points is not None
        points |= {tuple(p) for p in found.points[:, 0].tolist()}
    assert set().union(*seen) == {*range(1, len(instances) + 1)}
    assert len(points) > len(instances)


def test_an_image_without_objects_has_none_to_draw() -> None:
    heat = heat_map(EMPTY.ids)
    found = draw_objects(EMPTY, heat, SPEC, 8, rng(), True)
    shapes = {name: tuple(value.shape) for name, value in found.tensors().items()}
    assert shapes == {
        "images": (0,), "classes": (0,), "boxes": (0, 4), "points": (0, 1, 2), "labels": (0, 1),
        "masks": (0, 32, 32),
    }  # fmt: skip
    assert not center_map(EMPTY, heat, 2, SPEC).any()


def sample(ids: np.ndarray, seed: int = 0, augment: bool = True, classes: int = 2, spec=SPEC):
    instances = of_ids(ids, rng(), classes)
    moves = build_augment(AugmentConfig(flip=0.5, rotate=30)) if augment else None
    image = rng(seed).integers(0, 255, (*ids.shape, 3), dtype=np.uint8)
    return make_sample(
        "a", image, spec, label_of(instances), classes, Visit(moves, (seed,)),
        PromptConfig(objects=4), instances=instances,
    )  # fmt: skip


def test_samples_hold_objects_of_the_moved_image() -> None:
    """Points lie on the classes that the semantic target of the same sample shows."""
    for seed in range(8):
        found = sample(odd_cells(seed, (52, 80)), seed)
        assert found.instances is None
        assert found.label is None
        assert found.prompts is not None
        assert found.target is not None
        assert found.centers is not None
        assert found.weight is not None
        assert 0 < len(found.prompts) <= 4
        assert found.prompts.points is not None
        assert found.prompts.masks is not None
        x, y = (found.prompts.points[:, 0].long() // 2).T
        assert (found.target[found.prompts.classes, y, x] > 0).all()
        # Shares are of known pixels in the target, of all in the mask of an object.
        each = found.target[found.prompts.classes] * found.weight
        assert (found.prompts.masks <= each + 1e-5).all()
        assert np.array_equal(found.centers > 0, found.target > 0)


def test_samples_for_evaluation_keep_the_true_objects() -> None:
    ids = odd_cells(1, (52, 80))
    found = sample(ids, augment=False)
    assert found.instances is not None
    assert np.array_equal(found.instances.ids, ids)
    assert found.label is not None


def test_images_with_and_without_objects_are_stacked() -> None:
    empty = sample(np.zeros((40, 56), np.int32))
    batch = Batch.collate([empty, sample(odd_cells(3, (52, 80))), empty])
    assert batch.prompts is not None
    assert batch.centers is not None
    assert batch.centers.shape == (3, 2, 32, 32)
    assert set(batch.prompts.images.tolist()) == {1}
    assert Batch.collate([empty, empty]).prompts is not None


TOUCHING = drawn(
    """
    ............
    .111222.....
    .111222...3.
    .111222.....
    .......11...
    ?...........
    """,
    [2, 1, 1],
)


def test_boxes_of_objects_that_touch_or_have_two_parts_or_one_pixel() -> None:
    spec = InputSpec(12, 12, 6, prompts="box")
    label = label_of(TOUCHING)
    found, same = draw_prompts(label, spec, PromptConfig(), rng(), False, 2, instances=TOUCHING)
    assert found.boxes is not None
    assert found.boxes.tolist() == [[4, 1, 6, 3], [10, 2, 10, 2], [1, 1, 8, 4]]
    assert found.classes.tolist() == [0, 0, 1]
    assert np.array_equal(same, label)


def test_of_objects_that_training_does_not_draw_nothing_is_left() -> None:
    spec, label = InputSpec(12, 12, 6, prompts="points"), label_of(TOUCHING)
    seen = set()
    for seed in range(20):
        found, left = draw_prompts(
            label, spec, PromptConfig(objects=1, points=1), rng(seed), True, 2, instances=TOUCHING
        )
        assert found.points is not None
        (number,) = numbers_of(found, TOUCHING.ids)
        seen.add(number)
        k = TOUCHING.classes[number - 1]
        assert np.array_equal(left, np.where(TOUCHING.ids == number, k, (label == 255) * 255))
    assert seen == {1, 2, 3}
