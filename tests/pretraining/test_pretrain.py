"""Pretraining of `lite`: it learns and resumes, and its prompts are correct."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autosam.config.commands import PretrainConfig
from autosam.errors import ConfigError
from autosam.models.sam import load_sam
from autosam.pretrain import pretrain
from autosam.pretraining.features import Scenes
from autosam.pretraining.objects import choose_objects, mask_loss

SMALL = {
    "scenes": 8,
    "frozen_steps": 3,
    "batch_size": 2,
    "objects": 2,
    "save_every": 2,
    "held_out": 4,
    "workers": 0,
}


@pytest.mark.parametrize("stop", [2, 4])
def test_a_resumed_pretraining_equals_an_unbroken_one(tmp_path: Path, stop: int) -> None:
    """Stopped while the trunk is frozen, or after."""
    whole = pretrain(PretrainConfig(str(tmp_path / "a"), steps=5, **SMALL))
    config = PretrainConfig(str(tmp_path / "b"), steps=5, **SMALL)
    config.stop_after = stop
    pretrain(config)
    config.stop_after = None
    again = pretrain(config)
    first, second = load_file(whole), load_file(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    config.seed = 1
    with pytest.raises(ConfigError, match="another --output"):
        pretrain(config)
    sam = load_sam("lite", whole)
    assert sam.width == 128


def test_mask_loss_takes_the_best_of_the_alternatives() -> None:
    truth = torch.zeros(1, 1, 8, 8)
    truth[..., :4] = 1
    good, bad = (truth * 2 - 1) * 20, (1 - truth * 2) * 20
    logits = torch.cat([good, bad, good, bad], dim=1)
    perfect = mask_loss(logits, torch.tensor([[1.0, 0, 1, 0]]), truth)
    assert perfect.item() < 1e-3
    assert mask_loss(logits, torch.zeros(1, 4), truth).item() == pytest.approx(0.5, abs=1e-3)
    worst = torch.cat([bad, good, good, good], dim=1)
    assert mask_loss(worst, torch.tensor([[0.0, 1, 1, 1]]), truth) > 10


def test_the_trunk_learns_in_the_second_phase_only(tmp_path: Path) -> None:
    key = "image_encoder.trunk.conv_stem.weight"
    frozen = {**SMALL, "frozen_steps": 2}
    before = load_file(pretrain(PretrainConfig(str(tmp_path / "a"), steps=1, **frozen)))[key]
    still = load_file(pretrain(PretrainConfig(str(tmp_path / "b"), steps=2, **frozen)))[key]
    after = load_file(pretrain(PretrainConfig(str(tmp_path / "c"), steps=4, **frozen)))
    assert torch.equal(before, still)
    assert not torch.equal(before, after[key])
    assert not any(torch.isnan(value).any() for value in after.values())


def test_scenes_go_on_where_an_earlier_part_ends() -> None:
    whole, rest = Scenes(4, 0, 64), Scenes(2, 0, 64, first=2)
    for i in range(2):
        assert torch.equal(whole[2 + i][0], rest[i][0])
        assert torch.equal(whole[2 + i][1], rest[i][1])


def test_objects_belong_to_their_scenes() -> None:
    instances = np.zeros((2, 32, 32), np.uint8)
    instances[0, 2:8, 2:8] = 1
    instances[1, 20:30, 20:30] = 1
    masks, owners = choose_objects(instances, 2, np.random.default_rng(0))
    assert owners.tolist() == [0, 0, 1, 1]
    assert masks.sum((1, 2)).tolist() == [36, 36, 100, 100]
    assert masks[2:, 20:30, 20:30].all()
