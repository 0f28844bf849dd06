"""Additions of `lite` to SAM: prompts drawn into the mask prompt, and high-resolution levels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autosam.models.sam import SAMS
from autosam.models.sam.lite import STRENGTH, Lite, build_lite
from autosam.types import ImageEmbedding


@pytest.fixture(scope="module")
def sam() -> Lite:
    torch.manual_seed(0)
    return build_lite(replace(SAMS["lite"], image_size=64)).eval()  # grid 8 x 8, masks 32 x 32


def test_a_box_is_drawn_as_a_bulge(sam: Lite) -> None:
    # Pixels 8..15 by 20..31 are the cells 4..7 by 10..15; their centres lie 1/4 and 3/4 of the way
    # from the middle to the sides, and 1/6, 3/6 and 5/6.
    drawn = sam.draw(None, torch.tensor([[8.0, 20.0, 15.0, 31.0]]), None)
    assert drawn.shape == (1, 1, 32, 32)
    across = torch.tensor([3 / 4, 1 / 4, 1 / 4, 3 / 4]) ** 2
    down = torch.tensor([5 / 6, 3 / 6, 1 / 6, 1 / 6, 3 / 6, 5 / 6]) ** 2
    bulge = STRENGTH * (1 - across[None] - down[:, None])
    torch.testing.assert_close(drawn[0, 0, 10:16, 4:8], bulge)
    assert drawn[0, 0, 10, 4] < 0 < drawn[0, 0, 10, 5]  # the ellipse cuts the corners
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[10:16, 4:8] = False
    assert drawn[0, 0][outside].eq(-STRENGTH).all()


def test_points_are_drawn_as_discs_over_the_rest(sam: Lite) -> None:
    places = torch.tensor([[[31.5, 31.5], [11.5, 11.5]]])
    drawn = sam.draw((places, torch.tensor([[1, 0]])), None, None)[0, 0]
    # Radius 5 px is 2.5 cells around a corner where four meet: those 1.5 x 1.5 cells away and
    # nearer, not those 0.5 x 2.5 away (2.55).
    assert drawn[14:18, 14:18].eq(2 * STRENGTH).all()
    assert (drawn > 0).sum() == 16
    assert drawn[4:8, 4:8].eq(-2 * STRENGTH).all()
    assert (drawn < 0).sum() == 16
    boxes = torch.tensor([[0.0, 0.0, 63.0, 63.0]])
    both = sam.draw((places, torch.tensor([[1, 0]])), boxes, None)[0, 0]
    torch.testing.assert_close(both[0, 0].item(), STRENGTH * (1 - 2 * (31 / 32) ** 2))
    assert both[4:8, 4:8].lt(0).all()  # beside the object, whatever the box says


def test_a_mask_prompt_stays_below_what_is_drawn(sam: Lite) -> None:
    masks = torch.full((1, 1, 32, 32), 3.0)
    drawn = sam.draw((torch.tensor([[[31.5, 31.5]]]), torch.tensor([[0]])), None, masks)[0, 0]
    assert drawn[0, 0] == 3
    assert drawn[15, 15] == -2 * STRENGTH
    boxed = sam.draw(None, torch.tensor([[0.0, 0.0, 31.0, 63.0]]), masks)[0, 0]
    corner = 3 + STRENGTH * (1 - (15 / 16) ** 2 - (31 / 32) ** 2)
    torch.testing.assert_close(boxed[0, 0].item(), corner)
    assert boxed[0, 31] == 3 - STRENGTH


@torch.no_grad()
def test_no_prompt_and_a_mask_alone_are_sam_s_own(sam: Lite) -> None:
    masks = torch.randn(2, 1, 32, 32)
    sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=masks)
    prompt = sam.encode_prompt(masks=masks)
    assert torch.equal(prompt.dense, dense)
    assert torch.equal(prompt.sparse, sparse)
    no_mask = sam.prompt_encoder.no_mask_embed.weight
    assert torch.equal(sam.no_prompt(1).dense[0, :, 3, 5], no_mask[0])


@torch.no_grad()
def test_the_finer_levels_reach_the_mask(sam: Lite) -> None:
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    embedding = sam.encode_image(images, torch.tensor([[64, 64]]))
    shapes = [tuple(level.shape) for level in (embedding.features, *embedding.high_res_features)]
    assert shapes == [(1, 128, 8, 8), (1, 32, 16, 16), (1, 16, 32, 32)]
    prompt = sam.encode_prompt(boxes=torch.tensor([[8.0, 8.0, 40.0, 40.0]]))
    logits, _ = sam.decode_mask(embedding, prompt)
    for i in range(2):
        high_res = list(embedding.high_res_features)
        high_res[i] = high_res[i] + 1
        other, _ = sam.decode_mask(ImageEmbedding(embedding.features, tuple(high_res)), prompt)
        assert not torch.allclose(logits, other)
