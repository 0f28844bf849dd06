"""Scenes: deterministic, valid, varied in size and fast to draw."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from autosam.data.synthetic.drawing import FAMILIES, TEXTURES, noise_field, rasterise
from autosam.data.synthetic.photos import PHOTOS, load_photos, photo_texture
from autosam.data.synthetic.scenes import (
    MIN_VISIBLE_AREA,
    Scene,
    draw_scene,
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.default_rng([3, i])) for i in range(100)]


@pytest.fixture(scope="module")
def areas(scenes: list[Scene]) -> list[np.ndarray]:
    """Visible pixels per object, one array per scene."""
    return [np.bincount(scene.instances.ravel())[1:] for scene in scenes]


def test_same_seed_same_scene(scenes: list[Scene]) -> None:
    for i in range(20):
        again = draw_scene(np.random.default_rng([3, i]))
        assert np.array_equal(again.image, scenes[i].image)
        assert np.array_equal(again.instances, scenes[i].instances)


def test_scenes_differ(scenes: list[Scene]) -> None:
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_global_random_state_is_not_used() -> None:
    cv2.setRNGSeed(1)
    np.random.seed(1)
    first = draw_scene(np.random.default_rng(5)).image
    cv2.setRNGSeed(2)
    np.random.seed(2)
    assert np.array_equal(first, draw_scene(np.random.default_rng(5)).image)


@pytest.mark.parametrize("size", [96, 256, 384])
def test_form(size: int) -> None:
    for seed in range(10):
        scene = draw_scene(np.random.default_rng(seed), size)
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.instances.shape == (size, size)
        assert scene.instances.dtype == np.uint8
        counts = np.bincount(scene.instances.ravel())[1:]
        assert len(counts) >= 1  # a scene without objects teaches nothing
        assert counts.min() >= MIN_VISIBLE_AREA * (size / 256) ** 2  # also: no gaps in the ids


def test_object_counts(areas: list[np.ndarray]) -> None:
    counts = np.array([len(scene) for scene in areas])
    assert counts.min() >= 1
    assert counts.max() <= 18
    assert 3 <= counts.mean() <= 8
    assert (counts == 1).mean() >= 0.05


def test_sizes_cover_the_range(areas: list[np.ndarray]) -> None:
    share = np.concatenate(areas) / 256**2
    assert (share < 0.004).mean() >= 0.1  # small: side under 16 px
    assert ((share > 0.01) & (share < 0.1)).mean() >= 0.2
    assert (share > 0.1).mean() >= 0.05
    assert share.max() >= 0.35


def test_images_use_the_range(scenes: list[Scene]) -> None:
    spread = np.array([scene.image.std() for scene in scenes])
    mean = np.array([scene.image.mean() for scene in scenes])
    assert (spread > 8).mean() >= 0.9
    assert mean.min() < 70
    assert mean.max() > 160
    saturated = np.mean([((s.image == 0) | (s.image == 255)).mean() for s in scenes])
    assert saturated < 0.15


def test_most_objects_stand_out(scenes: list[Scene]) -> None:
    """An object differs from the band around it in mean or in texture, in most cases clearly."""
    contrasts = []
    for scene in scenes[:50]:
        image = cv2.GaussianBlur(scene.image, (0, 0), 1).astype(np.float32)
        for index in range(1, scene.instances.max() + 1):
            inside = (scene.instances == index).astype(np.uint8)
            band = cv2.dilate(inside, np.ones((9, 9), np.uint8)) - inside
            if band.any():
                (mean, spread), (mean2, spread2) = (
                    [v.ravel() for v in cv2.meanStdDev(image, mask=m)] for m in (inside, band)
                )
                contrasts.append(max(np.abs(mean - mean2).max(), np.abs(spread - spread2).max()))
    assert np.mean(np.array(contrasts) > 6) >= 0.9
    assert np.mean(np.array(contrasts) < 40) >= 0.2  # but not all are easy


def test_time_per_scene(scenes: list[Scene]) -> None:
    """Far from the budget of 12 ms, since tests share their machine; catches slips only."""
    start = time.process_time()
    for seed in range(20):
        draw_scene(np.random.default_rng(seed))
    assert (time.process_time() - start) / 20 < 0.1


@pytest.mark.parametrize("texture", sorted(set(TEXTURES), key=lambda f: f.__name__))
def test_textures_are_fields_in_the_unit_range(texture) -> None:
    for shape in [(3, 3), (40, 17), (256, 192)]:
        field = texture(np.random.default_rng(0), shape, 9.0)
        assert field.shape == shape
        assert field.dtype == np.float32
        assert field.min() >= -1e-6
        assert field.max() <= 1 + 1e-6


@pytest.mark.parametrize("family", sorted(set(FAMILIES), key=lambda f: f.__name__))
def test_shapes_have_about_the_asked_size(family) -> None:
    for seed in range(20):
        stencil = rasterise(family(np.random.default_rng(seed), 40.0), (128, 128), (256, 256))
        assert stencil is not None
        assert stencil.alpha.dtype == np.uint8
        assert 10 <= max(stencil.alpha.shape) / 2 <= 70
        assert (stencil.alpha > 127).sum() >= 100


def test_rasterise_clips_and_reports_misses() -> None:
    paths = FAMILIES[0](np.random.default_rng(0), 30.0)
    clipped = rasterise(paths, (0, 50), (100, 100))
    assert clipped is not None
    assert clipped.x == 0
    assert clipped.window(np.zeros((100, 100))).shape == clipped.alpha.shape
    assert rasterise(paths, (500, 50), (100, 100)) is None


def test_noise_is_smooth_at_its_cell_size() -> None:
    field = noise_field(np.random.default_rng(0), (128, 128), 32, octaves=1)
    assert np.abs(np.diff(field, axis=0)).max() < 0.2
    assert field.min() == pytest.approx(0, abs=1e-5)
    assert field.max() == pytest.approx(1, abs=1e-5)


def test_photographs_lend_their_textures() -> None:
    photos = load_photos()
    assert len(photos) == len(PHOTOS)
    for photo in photos:
        assert photo.dtype == np.float32
        assert photo.shape[2] == 3
        assert 0 <= photo.min() < photo.max() <= 1
    for i in range(40):
        shape = (3 + 11 * i, 300 - 7 * i)
        piece = photo_texture(np.random.default_rng(i), photos, shape)
        assert piece.shape == (*shape, 3)
        assert piece.dtype == np.float32
        assert 0 <= piece.min() <= piece.max() <= 1
    plain = draw_scene(np.random.default_rng([3, 1]))
    with_photos = [draw_scene(np.random.default_rng([3, i]), 256, photos) for i in range(8)]
    assert any(not np.array_equal(s.image, plain.image) for s in with_photos)
    again = draw_scene(np.random.default_rng([3, 7]), 256, photos)
    assert np.array_equal(again.image, with_photos[7].image)
