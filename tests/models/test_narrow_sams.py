"""Prompts of SAMs with few or an odd number of channels."""

from __future__ import annotations

import pytest
import torch

from autosam.models.prompt_generator import SparseHead
from autosam.models.surrogate import SurrogateDecoder
from autosam.types import Prompt, high_res_shapes


@pytest.mark.parametrize("width", [16, 28, 32, 36, 256])
def test_masks_of_narrow_and_odd_prompts(width: int) -> None:
    """Of a SAM with fewer than 32 channels the finest map has fewer than 4."""
    count, grid = 3, (4, 4)
    maps = tuple(torch.randn(count, c, *size) for c, size in high_res_shapes(width, grid))
    prompt = Prompt(
        torch.zeros(count, 0, width), torch.randn(count, width, *grid), torch.arange(count), maps
    )
    torch.manual_seed(0)
    decoder = SurrogateDecoder(width, ("dense", "high_res"))
    logits = decoder(prompt)
    assert logits.shape == (count, 16, 16)
    prompt.high_res = (maps[0], maps[1] + 1)
    assert not torch.equal(decoder(prompt), logits)  # the finest map is read


@pytest.mark.parametrize("width", [30, 33, 256])
def test_sparse_prompts_of_an_odd_width(width: int) -> None:
    head = SparseHead(channels=8, num_classes=2, tokens=3, width=width)
    assert head(torch.randn(4, 8, 5, 5)).shape == (8, 3, width)
