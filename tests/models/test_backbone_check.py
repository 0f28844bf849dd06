"""Backbones at an input size, and the messages about those that do not work."""

from __future__ import annotations

import copy
import os
from unittest.mock import patch

import pytest
import timm
import torch
from helpers import make_batch, tiny_config
from timm.data import resolve_data_config
from timm.models import list_modules

from autosam.errors import ConfigError
from autosam.models import checkpoint
from autosam.models.backbones import check
from autosam.models.backbones.check import fault
from autosam.models.backbones.timm import Backbone, _build, _options
from autosam.models.build import build_segmenter

SIZE = 256
CPU = {"device": "cpu"}
FAILING = {
    "crossvit": "its two branches fit together at 240 px alone, which is no multiple of 32",
    "deepseek_vit": "patches of 14 px: 224 or 448",
    "efficientformer": "attention over a grid of 7 x 7: 224",
}
"""Families (modules of timm) whose member that is tried does not work at 256 px, and why."""


def chosen(module: str) -> str:
    """The member of a family that stands for it: a small one, by its name."""
    words = ("test", "atto", "femto", "pico", "nano", "tiny", "xxs", "xs", "mini", "_t", "small",
             "_s", "167m", "0", "1")  # fmt: skip

    def cost(name: str) -> tuple[int, int, str]:
        return next((i for i, w in enumerate(words) if w in name), len(words)), len(name), name

    return min(timm.list_models(module=module), key=cost)


def trouble(name: str, size: int = SIZE) -> str | None:
    """What is wrong with a backbone at a size; None: nothing. No values where timm allows it."""
    exact = torch.linspace
    try:
        with torch.device("meta"), patch("torch.linspace", lambda *a, **k: exact(*a, **k | CPU)):
            if fault(_build(name, _options(name, size)), size) is None:
                return None
        return fault(_build(name, _options(name, size)), size)
    except ConfigError as error:
        return str(error)


def test_every_failing_family_is_one_of_timm() -> None:
    assert set(FAILING) <= set(list_modules())


@pytest.mark.parametrize("module", ["crossvit", "efficientformer", "resnet", "swin_transformer"])
def test_a_handful_of_families(module: str) -> None:
    assert (trouble(chosen(module)) is None) == (module not in FAILING)


@pytest.mark.skipif("AUTOSAM_ALL_BACKBONES" not in os.environ, reason="takes minutes")
def test_all_families() -> None:
    found = {module: trouble(chosen(module)) for module in list_modules()}
    failed = {module: f"{chosen(module)}: {what}" for module, what in found.items() if what}
    print(len(found), "families", failed)
    assert failed.keys() == FAILING.keys(), failed


def test_a_backbone_tied_to_a_size_is_refused_with_a_size_that_works() -> None:
    words = r"backbone efficientformer_l1: does not work at --model.input_size 256 .*It works at "
    with pytest.raises(ConfigError, match=words + r"--model\.input_size 224; or take another"):
        Backbone("efficientformer_l1", "none", 256)
    views = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    levels = Backbone("efficientformer_l1", "none", 224)(views, torch.full((1, 2), 224))
    assert [tuple(v.shape[1:]) for v in levels] == [
        (48, 56, 56), (96, 28, 28), (224, 14, 14), (448, 7, 7)
    ]  # fmt: skip


def test_a_backbone_that_no_size_suits_is_refused_with_another() -> None:
    with pytest.raises(ConfigError, match=r"crossvit_9_240.* Take another backbone, such as"):
        Backbone("crossvit_9_240", "none", 256)


def test_feature_maps_other_than_announced_are_refused() -> None:
    net = timm.create_model("test_efficientnet", features_only=True)
    assert fault(net, 64) is None
    net.feature_info.info[-1]["num_chs"] += 1
    assert "channels of stride 32" in str(fault(net, 64))
    for entry in net.feature_info.info:
        entry["reduction"] = 64
    assert "none from 4 to 32" in str(fault(net, 64))


def test_the_check_changes_nothing() -> None:
    name = "efficientformerv2_s0"
    net = _build(name, _options(name, 64)).train()
    before = copy.deepcopy(net.state_dict())
    assert fault(net, 64) is None
    check._forward(net, (1, 3, 64, 64), None)  # for networks that cannot do without values
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert not any(getattr(module, "attention_bias_cache", None) for module in net.modules())


def test_weights_that_are_put_back_are_those_that_score() -> None:
    """Some backbones keep what they compute from their weights in evaluation; a checkpoint that is
    put back after an evaluation must not meet it."""
    config = tiny_config(None, "--run=head", "--model.backbone=efficientformerv2_s0")
    first, second = build_segmenter(config).eval(), build_segmenter(config).eval()
    batch = make_batch(first.input_spec)
    with torch.no_grad():
        expected, other = second(batch), first(batch)
        assert not torch.allclose(expected, other)
        checkpoint.restore_trainable(first, second.trainable_state(), "here")
        assert torch.equal(first.eval()(batch), expected)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "mobilenetv3_small_050",
                                  "inception_v3", "hardnet39ds", "convnext_atto"])  # fmt: skip
def test_each_backbone_sees_pixels_by_its_own_statistics(name: str) -> None:
    with torch.device("meta"), patch("autosam.models.backbones.timm.require_fit"):
        exact = torch.linspace
        with patch("torch.linspace", lambda *a, **k: exact(*a, **k | CPU)):
            backbone = Backbone(name, "none", 256)
    wanted = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert backbone.mean == pytest.approx([255 * v for v in wanted["mean"]])
    assert backbone.std == pytest.approx([255 * v for v in wanted["std"]])
