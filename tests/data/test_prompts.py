"""Positions of prompts derived from masks."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from autosam.config import PromptConfig
from autosam.data.prompts import (
    box_from_mask,
    correction_point,
    draw_prompts,
    objects_of,
    points_around,
    points_from_mask,
)
from autosam.types import Batch, InputSpec, ObjectPrompts, Sample


def mask(y: slice, x: slice, size: int = 32) -> np.ndarray:
    result = np.zeros((size, size), bool)
    result[y, x] = True
    return result


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_objects_are_connected_parts_without_specks() -> None:
    whole = mask(slice(0, 20), slice(0, 20), 64) | mask(slice(30, 40), slice(30, 40), 64)
    parts, numbers = objects_of(whole | mask(slice(60, 63), slice(60, 63), 64))
    assert [int((parts == n).sum()) for n in numbers] == [400, 100]
    assert np.array_equal(np.isin(parts, numbers), whole)
    assert objects_of(np.zeros((8, 8), bool))[1] == []
    assert len(objects_of(np.eye(12, dtype=bool))[1]) == 1


def test_boxes_end_at_the_last_pixel() -> None:
    object_ = mask(slice(5, 15), slice(10, 30))
    assert box_from_mask(object_, rng()).tolist() == [10, 5, 29, 14]
    for seed in range(50):
        x0, y0, x1, y1 = box_from_mask(object_, rng(seed), jitter=0.1)
        assert abs(x0 - 10) <= 2
        assert abs(x1 - 29) <= 2
        assert abs(y0 - 5) <= 1
        assert abs(y1 - 14) <= 1
        assert 0 <= x0 < x1 <= 31
    moved = np.stack([box_from_mask(object_, rng(seed), pixels=3) for seed in range(200)])
    assert 2.5 < np.abs(moved[:, 1] - 5).max() <= 3


def test_a_box_moved_beyond_itself_stays_a_box() -> None:
    for seed in range(100):
        x0, y0, x1, y1 = box_from_mask(mask(slice(7, 9), slice(7, 9)), rng(seed), pixels=20)
        assert 0 <= x0 <= x1 <= 31
        assert 0 <= y0 <= y1 <= 31


def test_points_lie_deep_inside() -> None:
    # The largest inner radius of a square of 20 is 10: points keep 5 from the edge.
    points = points_from_mask(mask(slice(4, 24), slice(4, 24)), rng(), 40, erosion=0.5)
    assert points.min() >= 4 + 4
    assert points.max() <= 23 - 4
    thin = points_from_mask(mask(slice(7, 8), slice(0, 32)), rng(), 20)
    assert set(thin[:, 1]) == {7.0}
    assert (points == points.round()).all()


def distances(points: np.ndarray) -> list[float]:
    return [float(np.linalg.norm(a - b)) for a, b in combinations(points, 2)]


@pytest.mark.parametrize("side", [8, 40])
def test_the_distance_between_points_adapts_to_the_object(side: int) -> None:
    object_ = mask(slice(4, 4 + side), slice(4, 4 + side), 64)
    for seed in range(20):
        drawn = points_from_mask(object_, rng(seed), 3, erosion=0.0, spacing=0.4)
        assert min(distances(drawn)) >= 0.2 * side  # halved once at most


def test_an_object_too_small_for_its_points_gets_them_all_the_same() -> None:
    points = points_from_mask(mask(slice(3, 4), slice(3, 5)), rng(), 6)
    assert points.shape == (6, 2)
    assert {tuple(p) for p in points} == {(3.0, 3.0), (4.0, 3.0)}


def test_narrow_room_still_gives_different_points() -> None:
    y, x = np.ogrid[:64, :64]
    disc = (x - 32) ** 2 + (y - 32) ** 2 <= 20**2
    for seed in range(50):
        points = points_from_mask(disc, rng(seed), 3, erosion=0.9)
        assert len({tuple(p) for p in points}) == 3


def test_negative_points_lie_near_the_object_on_the_background() -> None:
    object_, other = mask(slice(10, 20), slice(10, 20)), mask(slice(10, 20), slice(22, 26))
    drawn = points_around(object_, object_ | other, rng(), 30, PromptConfig())
    x, y = drawn.astype(int).T
    assert not (object_ | other)[y, x].any()
    assert drawn.min() >= 10 - 7
    assert drawn.max() <= 19 + 7
    everywhere = np.ones((8, 8), bool)
    assert points_around(everywhere, everywhere, rng(), 2, PromptConfig()).shape == (2, 2)


def test_correction_points_lie_where_the_prediction_is_wrong() -> None:
    truth, predicted = mask(slice(0, 8), slice(0, 8)), mask(slice(0, 8), slice(4, 12))
    for seed in range(30):
        (x, _y), label = correction_point(truth, predicted, rng(seed))
        assert label == (1 if x < 4 else 0)
        assert x < 4 or 8 <= x < 12
    assert correction_point(truth, truth, rng())[1] == 1


LABEL = np.zeros((24, 32), np.uint8)
LABEL[2:8, 2:8] = 1
LABEL[2:8, 12:24] = 2
LABEL[12:20, 4:20] = 1


def test_every_object_is_prompted_in_evaluation() -> None:
    input_spec = InputSpec(32, 32, 16, prompts="box")
    prompts, label = draw_prompts(LABEL, input_spec, PromptConfig(objects=1), rng(), False, 2)
    assert prompts.boxes.tolist() == [[4, 12, 19, 19], [2, 2, 7, 7], [12, 2, 23, 7]]
    assert prompts.classes.tolist() == [0, 0, 1]
    assert prompts.masks is None
    assert np.array_equal(label, LABEL)


def test_training_prompts_some_objects_and_forgets_the_others() -> None:
    input_spec = InputSpec(32, 32, 16, prompts="points")
    settings = PromptConfig(objects=1, points=2, negative_points=1, multimask="true")
    sizes = set()
    for seed in range(12):
        prompts, label = draw_prompts(LABEL, input_spec, settings, rng(seed), True, 2)
        assert prompts.points.shape == (1, 3, 2)
        assert prompts.labels.tolist() == [[1, 1, 0]]
        assert label.max() == prompts.classes[0] + 1
        sizes.add(int((label > 0).sum()))
        x, y = prompts.points[0, :2].int().T
        assert (label[y, x] > 0).all()
        assert prompts.masks.sum() * 4 == (label > 0).sum()
    assert sizes == {36, 72, 128}


def test_specks_are_no_target_of_a_prompted_training() -> None:
    label = LABEL.copy()
    label[22:24, 28:31] = 1  # six pixels
    prompts, kept = draw_prompts(
        label, InputSpec(32, 32, 16, prompts="box"), PromptConfig(), rng(), True, 2
    )
    assert len(prompts) == 3
    assert np.array_equal(kept, LABEL)


def test_a_image_without_objects_has_no_prompts() -> None:
    for kind, shape in (("box", (0, 4)), ("points", (0, 3, 2))):
        input_spec = InputSpec(32, 32, 16, prompts=kind)
        empty, _ = draw_prompts(np.zeros_like(LABEL), input_spec, PromptConfig(), rng(), train=True)
        assert len(empty) == 0
        assert (empty.boxes if kind == "box" else empty.points).shape == shape


def test_a_batch_knows_whose_prompts_they_are() -> None:
    input_spec = InputSpec(32, 32, 16, prompts="box")
    view = torch.zeros(3, 32, 32, dtype=torch.uint8)
    samples = []
    for label in (LABEL, np.zeros_like(LABEL), LABEL):
        prompts, _ = draw_prompts(label, input_spec, PromptConfig(), rng(), False, 2)
        samples.append(Sample("x", view, (32, 32), view, (32, 32), (32, 32), prompts=prompts))
    batch = Batch.collate(samples).to("cpu")
    assert isinstance(batch.prompts, ObjectPrompts)
    assert batch.prompts.images.tolist() == [0, 0, 0, 2, 2, 2]
    assert len(batch.prompts.part(2, 5)) == 3
    assert Batch.collate([Sample("x", view, (32, 32), view, (32, 32), (32, 32))]).prompts is None
