"""Drawings: the right pixels in the right colours."""

from __future__ import annotations

import numpy as np
import torch

from autosam.evaluation import visualize
from autosam.evaluation.visualize import spread


def test_overlay_leaves_the_rest_alone() -> None:
    image = np.full((40, 40, 3), 100, np.uint8)
    masks = np.zeros((2, 40, 40), bool)
    masks[0, 5:15, 5:15] = True
    masks[1, 25:35, 25:35] = True
    drawn = visualize.overlay(image, masks, alpha=0.5)
    assert np.array_equal(image, np.full_like(image, 100))
    assert np.array_equal(drawn[10, 10], (100 + visualize.COLOURS[0].astype(int)) // 2)
    assert np.array_equal(drawn[30, 30], (100 + visualize.COLOURS[1].astype(int)) // 2)
    assert np.array_equal(drawn[5, 10], visualize.COLOURS[0])  # the outline
    assert (drawn[18:22] == 100).all()


def test_prompt_maps_show_the_direction_of_most_variation() -> None:
    """Maps with one pattern in them give that pattern, each at its own size, the mask's side
    bright."""
    pattern = torch.zeros(8, 8)
    pattern[2:5, 3:7] = 1
    generator = torch.Generator().manual_seed(0)

    def level(channels: int, finer: int) -> torch.Tensor:
        direction = torch.randn(channels, 1, 1, generator=generator)
        shown = pattern.repeat_interleave(finer, 0).repeat_interleave(finer, 1)
        return (3 + direction * shown).repeat(2, 1, 1, 1)

    levels = [level(16, 1), level(4, 2), level(2, 4)]
    mask = pattern.repeat_interleave(4, 0).repeat_interleave(4, 1)
    logits = torch.stack([mask, 1 - mask]) * 20 - 10
    maps = visualize.prompt_maps(levels, logits)
    assert list(maps) == ["8 x 8", "16 x 16", "32 x 32"]
    for shown in maps.values():
        small = shown[:, :: shown.shape[-1] // 8, :: shown.shape[-1] // 8]
        torch.testing.assert_close(small[0], pattern, atol=1e-4, rtol=0)
        torch.testing.assert_close(small[1], 1 - pattern, atol=1e-4, rtol=0)
    flat = [torch.ones(2, 16, 8, 8), *levels[1:]]  # the columns of a contact sheet stay the same
    assert list(visualize.prompt_maps(flat, logits)) == ["8 x 8", "16 x 16", "32 x 32"]


def test_prompt_maps_leave_padding_out() -> None:
    """Whatever a prompt says on padding, it is 0 there and does not stretch the rest."""
    dense = torch.zeros(1, 3, 8, 8)
    dense[0, 0, :4, 2:4] = 1
    dense[0, 1, 4:] = 100  # padding
    logits = torch.zeros(1, 8, 8)
    logits[0, :4, 2:4] = 9
    shown = visualize.prompt_maps([dense], logits, valid=(0.5, 1.0))["8 x 8"][0]
    assert shown[:4, 2:4].min() > 0.99
    assert shown[4:].abs().max() == 0


def test_prompt_maps_of_a_sparse_prompt_show_what_it_changes() -> None:
    logits, baseline = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    logits[0, 0, 0], baseline[0, 1, 1] = 50, 50
    shown = visualize.prompt_maps([], logits, baseline)["tokens"]
    assert shown[0, 0, 0].item() == 0.75
    assert shown[0, 1, 1].item() == 0.25
    assert shown[0, 3, 3].item() == 0.5


def test_contact_sheet_places_every_image() -> None:
    red, blue = np.zeros((10, 20, 3), np.uint8), np.zeros((30, 10, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 255
    sheet = visualize.image_grid([[red, blue], [blue, red]], ["a", "b"], ["one", "two"], side=64)
    assert sheet.shape == (28 + 2 * 70, 6 + 2 * 70, 3)
    centre = [(28 + 32, 6 + 32), (28 + 32, 6 + 70 + 32), (28 + 70 + 32, 6 + 32)]
    assert [int(np.argmax(sheet[c])) for c in centre] == [0, 2, 2]


def test_spread() -> None:
    assert spread(100, 3) == [0, 50, 99]
    assert spread(2, 6) == [0, 1]
    assert spread(1, 6) == [0]


def test_a_legend_names_the_classes_and_breaks_into_lines() -> None:
    cell = np.zeros((10, 10, 3), np.uint8)
    classes = {f"class number {k}": visualize.COLOURS[k] for k in range(4)}
    sheet = visualize.image_grid([[cell, cell]], ["a", "b"], ["one"], 64, classes)
    assert sheet.shape == (28 + 70 + 4 * 28, 6 + 2 * 70, 3)  # 146 pixels hold one entry
    for k, colour in enumerate(classes.values()):
        assert (sheet[98 + 28 * k + 10, 16] == colour).all()
    wide = visualize.image_grid([[cell] * 10], ["a"] * 10, ["one"], 64, classes)
    assert len(wide) == 28 + 70 + 28


def test_outlines_stand_out_from_light_and_dark_images_of_any_size() -> None:
    for level in (0, 128, 255):
        for side in (40, 1000):
            image = np.full((side, side, 3), level, np.uint8)
            mask = np.zeros((1, side, side), bool)
            mask[:, side // 4 : side // 2, side // 4 : side // 2] = True
            cell = visualize.masked_cell(image, mask, 224)
            assert cell.shape == (224, 224, 3)
            row = cell[84].astype(int)  # through the mask
            assert (row == visualize.COLOURS[0]).all(1).sum() == 2
            assert (row == 0).all(1).sum() >= 4
