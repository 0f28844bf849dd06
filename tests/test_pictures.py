"""Pictures: the right pixels in the right colours."""

from __future__ import annotations

import numpy as np
import torch

from autosam import pictures
from autosam.report import spread
from autosam.types import Prompt


def test_overlay_leaves_the_rest_alone() -> None:
    image = np.full((40, 40, 3), 100, np.uint8)
    masks = np.zeros((2, 40, 40), bool)
    masks[0, 5:15, 5:15] = True
    masks[1, 25:35, 25:35] = True
    drawn = pictures.overlay(image, masks, alpha=0.5)
    assert np.array_equal(image, np.full_like(image, 100))
    assert np.array_equal(drawn[10, 10], (100 + pictures.COLOURS[0].astype(int)) // 2)
    assert np.array_equal(drawn[30, 30], (100 + pictures.COLOURS[1].astype(int)) // 2)
    assert np.array_equal(drawn[5, 10], pictures.COLOURS[0])  # the outline
    assert (drawn[18:22] == 100).all()


def test_prompt_map_shows_the_direction_of_most_variation() -> None:
    """A dense prompt with one pattern in it gives that pattern, the mask's side bright."""
    pattern = torch.zeros(8, 8)
    pattern[2:5, 3:7] = 1
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))
    dense = 3 + direction[:, None, None] * pattern
    prompt = Prompt(torch.zeros(2, 0, 16), torch.stack([dense, dense]), torch.tensor([0, 0]))
    logits = torch.stack([pattern, 1 - pattern]) * 20 - 10
    shown = pictures.prompt_map(prompt, logits)
    torch.testing.assert_close(shown[0], pattern, atol=1e-4, rtol=0)
    torch.testing.assert_close(shown[1], 1 - pattern, atol=1e-4, rtol=0)


def test_prompt_map_of_a_sparse_prompt_shows_what_it_changes() -> None:
    prompt = Prompt(torch.zeros(1, 2, 16), torch.ones(1, 16, 8, 8), torch.tensor([0]))
    logits, baseline = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    logits[0, 0, 0], baseline[0, 1, 1] = 50, 50
    shown = pictures.prompt_map(prompt, logits, baseline)
    assert shown[0, 0, 0].item() == 0.75
    assert shown[0, 1, 1].item() == 0.25
    assert shown[0, 3, 3].item() == 0.5


def test_contact_sheet_places_every_picture() -> None:
    red, blue = np.zeros((10, 20, 3), np.uint8), np.zeros((30, 10, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 255
    sheet = pictures.contact_sheet([[red, blue], [blue, red]], ["a", "b"], ["one", "two"], side=64)
    assert sheet.shape == (28 + 2 * 70, 6 + 2 * 70, 3)
    centre = [(28 + 32, 6 + 32), (28 + 32, 6 + 70 + 32), (28 + 70 + 32, 6 + 32)]
    assert [int(np.argmax(sheet[c])) for c in centre] == [0, 2, 2]


def test_spread() -> None:
    assert spread(100, 3) == [0, 50, 99]
    assert spread(2, 6) == [0, 1]
    assert spread(1, 6) == [0]
