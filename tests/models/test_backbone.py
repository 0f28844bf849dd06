"""Backbones: bundled weights, local files, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from helpers import tiny_config

from autosam.errors import CheckpointError, ConfigError
from autosam.models import checkpoint
from autosam.models.backbones.timm import BUNDLED, PACKAGES, Backbone, load_packaged
from autosam.models.build import build_segmenter
from autosam.models.neck import Neck


def batch_norm_agreement(net: torch.nn.Module) -> torch.Tensor:
    """Correlation, over channels, of the log variance that reaches each BatchNorm with the log
    variance it has stored; images are pink noise, whose spectrum is about that of photographs."""
    found: list[torch.Tensor] = []

    def listen(module: torch.nn.BatchNorm2d, args: tuple[torch.Tensor]) -> None:
        own, stored = args[0].var((0, 2, 3)), module.running_var
        alive = (own > 1e-6) & (stored > 1e-6)
        pair = torch.stack([own[alive].log(), stored[alive].log()])
        found.append(torch.corrcoef(pair)[0, 1])

    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(listen)
    torch.manual_seed(0)
    noise = sum(
        torch.nn.functional.interpolate(torch.randn(8, 3, s, s), (224, 224), mode="bilinear")
        for s in (4, 8, 16, 32, 64, 128)
    )
    with torch.no_grad():
        net.eval()(0.35 * noise)
    return torch.stack(found)


@pytest.mark.parametrize("name", PACKAGES)
def test_packaged_tensors_are_in_their_places(name: str) -> None:
    """Numerics, not only shapes: what a layer was trained to meet is what it meets.

    (Checked by hand too: with these weights and mean = std = 0.5 the network calls a photographed
    cat an Egyptian or tiger cat and a cup of coffee an espresso, at 0.94.)
    """
    if name != BUNDLED:
        pytest.importorskip(PACKAGES[name])
    net = timm.create_model(name)
    load_packaged(net, name)
    agreement = batch_norm_agreement(net)[:24]
    assert agreement.median() > 0.6
    # Control: the same tensors, with those of equal shape put in another order.
    state = net.state_dict()
    keys = [k for k in state if "blocks.3" in k or "blocks.4" in k or "blocks.2" in k]
    by_shape: dict[tuple, list[str]] = {}
    for key in keys:
        by_shape.setdefault((*state[key].shape, key.rsplit(".", 1)[-1]), []).append(key)
    swapped = dict(state)
    for same in by_shape.values():
        for key, other in zip(same, same[1:] + same[:1], strict=True):
            swapped[key] = state[other]
    wrong = timm.create_model(name)
    wrong.load_state_dict(swapped)
    control = batch_norm_agreement(wrong)[10:24].median()
    assert control < agreement[10:24].median() - 0.2, control


def test_features_of_the_default() -> None:
    backbone = Backbone(BUNDLED, "auto", 64).eval()
    assert backbone.strides == [4, 8, 16, 32]
    assert backbone.channels == [24, 40, 112, 320]
    views = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    levels = backbone(views, torch.tensor([[64, 64], [40, 64]]))
    assert [tuple(v.shape[1:]) for v in levels] == [
        (24, 16, 16),
        (40, 8, 8),
        (112, 4, 4),
        (320, 2, 2),
    ]


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "hardnet39ds", "test_vit", "swin_tiny_patch4_window7_224"]
)
def test_any_timm_backbone_feeds_the_neck(name: str) -> None:
    backbone = Backbone(name, "none", 64)
    neck = Neck(backbone.channels, backbone.strides, 32)
    views = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    out = neck(backbone(views, torch.full((2, 2), 64)))
    assert out.shape == (2, neck.channels, 64 // neck.stride, 64 // neck.stride)
    out.sum().backward()


@pytest.mark.parametrize("name", ["test_efficientnet", "hardnet39ds"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path: Path, name: str, suffix: str) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(3)
    whole = timm.create_model(name)
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(whole.state_dict(), path)
    backbone = Backbone(name, str(path), 64)
    first = next(iter(whole.state_dict().values()))
    assert torch.equal(next(iter(backbone.net.state_dict().values())), first)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "r.pth")
    with pytest.raises(CheckpointError, match=r"r\.pth: does not fit the backbone"):
        Backbone("test_efficientnet", str(tmp_path / "r.pth"), 64)


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("hardnet85", "resnet26d"):
        with pytest.raises(CheckpointError, match=r"--model\.backbone_weights FILE, or"):
            Backbone(name, "auto", 64)


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"timm has no such model; near: .*hardnet"):
        Backbone("hardnet99", "none", 64)


def test_a_tensor_under_two_names_is_saved(tiny_file: Path, tmp_path: Path) -> None:
    """CoaT shares its position encodings between blocks."""
    config = tiny_config(tiny_file, "--run=head", "--model.backbone=coat_lite_tiny")
    segmenter = build_segmenter(config)
    state = segmenter.trainable_state()
    assert len({value.data_ptr() for value in state.values()}) < len(state)
    checkpoint.save(tmp_path / "best.safetensors", segmenter, config)
    read = checkpoint.read_trained(tmp_path / "best.safetensors")
    assert read.keys() == state.keys()
    assert all(read[key].equal(value) for key, value in state.items())
    checkpoint.restore_trainable(build_segmenter(config), read, "test")
