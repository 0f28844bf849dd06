"""The run `probe`: a frozen backbone with a plain head."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from helpers import draw_folders, make_batch, tiny_config
from torch import Tensor

from autosam.models import checkpoint
from autosam.models.backbones.timm import Backbone, say_licence
from autosam.models.build import build_segmenter
from autosam.training.fit import train


def image(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)
    return pixels, torch.full((2, 2), size)


@torch.no_grad()
def test_four_blocks_of_a_plain_vit() -> None:
    """Against hooks on timm's whole network."""
    torch.manual_seed(0)
    whole = timm.create_model("test_vit3").eval()  # nine blocks
    backbone = Backbone("test_vit3", "none", 160, blocks=4).eval()
    backbone.net.load_state_dict({f"model.{k}": v for k, v in whole.state_dict().items()
                                  if f"model.{k}" in backbone.net.state_dict()})  # fmt: skip
    seen: list[Tensor] = []
    for number in (1, 3, 6, 8):
        whole.blocks[number].register_forward_hook(lambda _, __, out: seen.append(out))
    pixels, valid = image(160)
    levels = backbone(pixels, valid)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    whole((pixels - mean) / std)
    assert len(levels) == len(seen) == len(backbone.channels)
    for level, tokens in zip(levels, seen, strict=True):
        cells = tokens[:, whole.num_prefix_tokens :]
        assert torch.allclose(level.flatten(2).transpose(1, 2), cells, atol=1e-5)


def test_networks_with_several_strides_are_as_they_were() -> None:
    one, four = (Backbone("test_efficientnet", "none", 64, blocks=n) for n in (1, 4))
    assert (one.kept, one.strides) == (four.kept, four.strides)


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit3"])
def test_the_backbone_stays_as_it_was(tiny_file: Path, tmp_path: Path, backbone: str) -> None:
    """Bit for bit, statistics of BatchNorm included; the checkpoint holds it."""
    size = 160 if backbone == "test_vit3" else 64
    torch.save(timm.create_model(backbone).state_dict(), tmp_path / "weights.pth")
    config = tiny_config(
        tiny_file, "--run=probe", f"--model.backbone={backbone}", f"--model.input_size={size}",
        f"--data.root={draw_folders(tmp_path / 'data')}", f"--output={tmp_path / 'run'}",
        f"--model.backbone_weights={tmp_path / 'weights.pth'}", "--train.lr=0.01",
    )  # fmt: skip
    train(config)
    before = build_segmenter(config).state_dict()
    (tmp_path / "weights.pth").unlink()
    after = checkpoint.load(tmp_path / "run").segmenter.state_dict()
    same = {key for key in after if torch.equal(after[key], before[key])}
    own = {key for key in after if ".backbone." in key}
    assert own
    assert own <= same
    assert {key.split(".")[1] for key in after.keys() - same} == {"neck", "block", "classify"}


def test_gradients(tiny_file: Path) -> None:
    segmenter = build_segmenter(tiny_config(tiny_file, "--run=probe"))
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in segmenter.parameters() if p.requires_grad], 0.1)
    segmenter.train()
    for _ in range(2):
        logits = segmenter(make_batch(segmenter.input_spec))
        assert isinstance(logits, Tensor)
        logits.square().mean().backward()
        optimizer.step()
    changed = {k for k, v in segmenter.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert not any(".backbone." in key for key in changed)
    assert {key.split(".")[1] for key in changed} == {"neck", "block", "classify"}


def test_licences_that_are_not_free_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    say_licence("resnet50", "apache-2.0")
    assert capsys.readouterr().err == ""
    for name in ("vit_small_patch16_dinov3", "vit_base_patch16_224.mae"):
        say_licence(name, timm.get_pretrained_cfg(name).license)
    err = capsys.readouterr().err
    assert "licence dinov3-license" in err
    assert "licence cc-by-nc-4.0" in err
