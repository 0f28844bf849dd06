"""Training with LoRA: what is stored, resumed, merged and exported."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch
from helpers import tiny_config, train_until_stopped
from torch import Tensor

from autosam.config import Config, LoraConfig
from autosam.config.commands import EvaluateConfig, ExportConfig
from autosam.errors import CheckpointError
from autosam.evaluate import evaluate
from autosam.export import export
from autosam.models import checkpoint
from autosam.models.lora import adapters_of
from autosam.models.losses import SegmentationLoss
from autosam.models.sam import load_sam
from autosam.train import train


@pytest.fixture(params=["lora", "autosam-lora"])
def config(
    request: pytest.FixtureRequest, tiny_file: Path, folders: Path, tmp_path: Path
) -> Config:
    return tiny_config(
        tiny_file, f"--data.root={folders}", f"--run={request.param}", "--train.lr=0.01",
        f"--output={tmp_path / 'run'}", "--train.epochs=3",
    )  # fmt: skip


def test_the_checkpoint_holds_adapters_which_prediction_merges(config: Config) -> None:
    result = train(config)
    state = checkpoint.read_trained(result.folder / checkpoint.BEST)
    encoder = {key: value for key, value in state.items() if "image_encoder" in key}
    assert encoder
    assert all("lora_" in key for key in encoder)
    assert any(value.any() for key, value in encoder.items() if "lora_B" in key)
    segmenter = checkpoint.load(result.folder).segmenter
    assert segmenter.sam is not None
    assert adapters_of(segmenter.sam.image_encoder) == []
    # The whole encoder is SAM's own but for the layers with adapters.
    own = load_sam(config.sam, config.sam_checkpoint).state_dict()
    merged = segmenter.sam.state_dict()
    assert own.keys() == merged.keys()
    changed = {k for k in own if k.startswith("image_enc") and not torch.equal(own[k], merged[k])}
    assert changed == {key.split(".lora_")[0].removeprefix("sam.") + ".weight" for key in encoder}
    # It scores what training scored, and its file holds what it predicts.
    scores = evaluate(EvaluateConfig(checkpoint=str(result.folder)))
    assert scores["dice"] == pytest.approx(result.test["dice"], abs=1e-3)


@pytest.mark.parametrize("stop", [3, 7])
def test_a_stopped_training_goes_on(config: Config, tmp_path: Path, stop: int) -> None:
    """In the middle of the first epoch, and later; dropout draws the same again."""
    config.lora.dropout = 0.2
    whole = train(config)
    config.output = str(tmp_path / "again")
    forward, calls = SegmentationLoss.forward, []

    def counted(self: SegmentationLoss, *args: Tensor) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *args)

    train_until_stopped(config, SegmentationLoss, "forward", counted)
    again = train(Config(resume=config.output))
    assert again.test == whole.test
    ours, theirs = (checkpoint.read_trained(one.folder / checkpoint.BEST) for one in (whole, again))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_warm_start_keeps_what_the_adapters_do(config: Config, tmp_path: Path) -> None:
    config.train.epochs, config.run = 1, "autosam-lora"
    first = train(config)

    def start(**changes: int) -> None:
        lora = LoraConfig(**changes)
        again = dataclasses.replace(config, lora=lora, output=str(tmp_path / "again"))
        train(dataclasses.replace(again, init=str(first.folder), overwrite=True))

    start(alpha=4)  # as by default
    with pytest.raises(
        CheckpointError, match=r"with --lora.alpha 4, and 16 .* Pass --lora.alpha 4"
    ):
        start(alpha=16)
    for other in ({"rank": 2}, {"blocks": 1}):
        with pytest.raises(CheckpointError, match=r"keep its .*--lora.rank, layers and blocks"):
            start(**other)


def test_the_exported_file(config: Config, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    train(config)
    output = tmp_path / "model.onnx"
    found = export(ExportConfig(checkpoint=str(config.output), output=str(output), count=2))
    assert found.least == 1
    assert output.stat().st_size > 0
