"""Training in bfloat16, which is the default on GPUs and on processors with AMX."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import draw_folders, tiny_config
from instance_cases import cell_folders

from autosam.config import RUNS
from autosam.train import train

LEARNED = [name for name, run in RUNS.items() if run.trainable]
OBJECTS = ("autosam", "hybrid", "autosam-lora", "decoder", "head")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    return {"semantic": draw_folders(root / "squares"), "instances": cell_folders(root / "discs")}


@pytest.mark.parametrize(
    ("task", "name", "flags"),
    [("semantic", name, ()) for name in LEARNED]
    + [("instances", name, ()) for name in OBJECTS]
    + [
        ("instances", "autosam", (f"--model.object_prompt={prompt}", "--train.batch_size=4"))
        for prompt in ("tokens", "point", "box", "tokens+point", "tokens+box")
    ]
    + [
        ("semantic", "autosam", (f"--model.sam_features={kind}", "--model.prompt=sparse+high_res"))
        for kind in ("last", "blocks")
    ],
)
def test_losses_are_those_of_float32(
    tiny_file: Path,
    data: dict[str, Path],
    tmp_path: Path,
    task: str,
    name: str,
    flags: tuple[str, ...],
) -> None:
    found = {}
    for precision in ("no", "bf16"):
        folder = tmp_path / precision
        config = tiny_config(
            tiny_file, f"--task={task}", f"--data.instances={task == 'instances'}",
            f"--data.root={data[task]}", f"--output={folder}", f"--run={name}", "--data.workers=0",
            "--train.epochs=1", f"--train.precision={precision}", *flags,
        )  # fmt: skip
        result = train(config)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found[precision] = rows[0]
        assert result.epochs == 1
    exact, half = found["no"], found["bf16"]
    assert half["train/loss"] == pytest.approx(exact["train/loss"], rel=0.03)
    assert half["validation/loss"] == pytest.approx(exact["validation/loss"], rel=0.1)
    assert half["train/loss"] != exact["train/loss"]
