"""Resizing, padding and their inverse."""

from __future__ import annotations

import hypothesis.extra.numpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils.transforms import ResizeLongestSide

from autosam.data.geometry import (
    cell_weight,
    class_shares,
    content_size,
    object_shares,
    pad,
    resize_image,
    resize_label,
    restore,
)
from autosam.data.labels import known

SHAPES = [(1, 1), (64, 64), (37, 211), (500, 3), (480, 640), (641, 479), (1080, 1920), (255, 257)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [64, 256, 1024])
def test_content_size_is_segment_anything_s(shape: tuple[int, int], size: int) -> None:
    expected = ResizeLongestSide.get_preprocess_shape(*shape, size)
    assert content_size(*shape, size, "longest-pad") == tuple(max(1, v) for v in expected)
    assert content_size(*shape, size, "square") == (size, size)


def test_resizing_is_segment_anything_s() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 97, 3), dtype=np.uint8)
    assert np.array_equal(resize_image(image, (33, 64)), ResizeLongestSide(64).apply_image(image))


@pytest.mark.parametrize("geometry", ["longest-pad", "square"])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_round_trip(shape: tuple[int, int], geometry: str) -> None:
    """A half plane drawn at an image's size comes back to within a cell's width."""
    height, width = shape
    label = np.zeros(shape, np.uint8)
    label[:, : width // 2] = 1
    size, mask_size = 256, 64
    content = content_size(height, width, size, geometry)
    shares = class_shares(resize_label(label, content), 1, size, mask_size)
    back = restore(shares - 0.5, shape, size, geometry)
    assert back.shape == (1, height, width)
    edge = (back[0] > 0).float().sum(1)
    cell = max(width / content[1] * size / mask_size, 1)
    assert (edge - width // 2).abs().max() <= cell


def test_restore_of_a_linear_ramp_is_exact_inside() -> None:
    ramp = torch.arange(64).float().expand(1, 64, 64)
    back = restore(ramp, (64, 64), 64)
    assert torch.equal(back, ramp)
    cut = restore(ramp, (32, 64), 64)
    assert torch.equal(cut, ramp[:, :32])


def test_class_shares_by_hand() -> None:
    label = np.array([[1, 1, 2], [0, 1, 2]], np.uint8)
    shares = class_shares(label, 2, image_size=4, mask_size=2)
    # The right cell is half padding: class 2 covers all of what is image.
    assert shares.tolist() == [[[0.75, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]]
    label[0, :2], label[1, 2] = 255, 0  # pixels of unknown class
    shares = class_shares(label, 2, image_size=4, mask_size=2)
    assert shares.tolist() == [[[0.5, 0.0], [0.0, 0.0]], [[0.0, 0.5], [0.0, 0.0]]]


def test_a_column_without_labels_leaves_the_target_as_it_is() -> None:
    label = np.ones((8, 8), np.uint8)
    label[:, 3] = 255
    assert torch.equal(class_shares(label, 1, 8, 2), torch.ones(1, 2, 2))
    assert cell_weight(known(label), 8, 2).tolist() == [[[0.75, 1], [0.75, 1]]]
    assert torch.equal(class_shares(label, 1, 8, 8)[0, :, 3], torch.zeros(8))  # full resolution
    assert cell_weight(known(label), 8, 8).sum() == 56


LABELS = hypothesis.extra.numpy.arrays
CELLS = st.integers(1, 12).flatmap(
    lambda height: st.integers(1, 12).flatmap(
        lambda width: st.one_of(
            LABELS(np.uint8, (height, width), elements=st.sampled_from([0, 1, 2, 3, 255])),
            LABELS(np.int32, (height, width), elements=st.integers(0, 7)),  # classes overlap
        )
    )
)


@settings(max_examples=200, deadline=None)
@given(CELLS, st.sampled_from([3, 4, 6, 12]))
def test_targets_and_weights_are_those_counted_pixel_by_pixel(label: np.ndarray, m: int) -> None:
    side = 12 // m
    shares, weight = class_shares(label, 3, 12, m), cell_weight(known(label), 12, m)
    assert shares.min() >= 0
    assert shares.max() <= 1
    for row, column in np.ndindex(m, m):
        cell = label[row * side : (row + 1) * side, column * side : (column + 1) * side].ravel()
        pixels = [int(v) for v in cell if label.dtype == np.int32 or v != 255]
        assert weight[0, row, column].item() == pytest.approx(len(pixels) / side**2, abs=1e-6)
        for k in (1, 2, 3):
            bits = label.dtype == np.int32
            inside = sum((v >> (k - 1)) & 1 if bits else v == k for v in pixels)
            expected = inside / len(pixels) if pixels else 0.0
            assert shares[k - 1, row, column].item() == pytest.approx(expected, abs=1e-6)


def test_cells_that_are_not_whole_pixels_wide() -> None:
    """3.5 pixels, as in SAM 3: the middle row and column count half on either side."""
    label = np.zeros((7, 7), np.uint8)
    label[:3, :4] = 1
    expected = torch.tensor([[3 * 3.5, 3 * 0.5], [0, 0]]) / 3.5**2
    assert torch.allclose(class_shares(label, 1, 7, 2)[0], expected)
    assert torch.equal(class_shares(np.ones((7, 7), np.uint8), 1, 7, 2), torch.ones(1, 2, 2))
    weight = cell_weight(np.ones((7, 3), bool), 7, 2)[0]
    assert torch.allclose(weight, torch.tensor([[3, 0], [3, 0]]) / 3.5)
    noise = np.random.default_rng(0).integers(0, 2, (98, 70)).astype(np.uint8)
    shares = object_shares(noise.astype(np.int32), [1], (98, 98), 28)
    whole = class_shares(noise, 1, 98, 28) * cell_weight(noise < 2, 98, 28)
    assert torch.allclose(whole, shares, atol=1e-6)


def test_cell_weight_by_hand() -> None:
    # 3 of 4 rows and all 4 columns hold image: the lower cells are half full and count half.
    assert cell_weight(np.ones((3, 4), bool), 4, 2).tolist() == [[[1, 1], [0.5, 0.5]]]
    assert cell_weight(np.ones((2, 3), bool), 4, 2).tolist() == [[[1, 0.5], [0, 0]]]
    # An image narrower than half a cell is learned from, too.
    assert cell_weight(np.ones((1, 1), bool), 4, 2).tolist() == [[[0.25, 0], [0, 0]]]
    hole = np.ones((4, 4), bool)
    hole[:2, 2:] = False  # pixels of unknown class
    assert cell_weight(hole, 4, 2).tolist() == [[[1, 0], [1, 1]]]  # no padding


def test_pad_is_at_the_bottom_and_right() -> None:
    padded = pad(np.ones((2, 3, 3), np.uint8), 4)
    assert padded.shape == (4, 4, 3)
    assert padded[:2, :3].all()
    assert not padded[2:].any()
    assert not padded[:, 3:].any()
