"""Two processes on this machine, through torchrun and gloo, against one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import draw

from autosam.command import parse
from autosam.config import Config
from autosam.predict import PredictConfig, predict
from autosam.tracking import read_scores
from autosam.train import train

# What learns has no BatchNorm, whose statistics each process would take of its own pictures; and
# pictures stay where they are, so that every process weighs as many cells.
COMMON = ("--run=decoder", "--train.epochs=3", "--data.workers=0", "--train.pictures=0",
          "--augment.rotate=0", "--augment.scale=0")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    # Odd numbers, so that the shards of validation and test are padded.
    for start, part, count in ((0, "train", 8), (8, "validation", 5), (13, "test", 3)):
        draw(root / part, count, start)
    return root


def launch(processes: int, module: str, *flags: str, fails: bool = False) -> str:
    """What it said."""
    # After --, torchrun leaves --run to the module.
    torchrun = [
        "torch.distributed.run",
        f"--nproc_per_node={processes}",
        "--standalone",
        "-m",
        "--",
    ]
    words = [*torchrun, module] if processes > 1 else [module]
    done = subprocess.run(
        [sys.executable, "-m", *words, *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode != 0) == fails, done.stderr[-3000:]
    return done.stdout + done.stderr


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one(data: Path, tmp_path: Path) -> None:
    """The same global batch, SAM lite with cached embeddings."""
    folders = {}
    for processes, batch in ((1, 4), (2, 2)):
        folder = folders[processes] = tmp_path / str(processes)
        launch(processes, "autosam.train", f"--data.root={data}", f"--output={folder}",
               f"--train.batch_size={batch}", "--cache.views=2",
               f"--cache.dir={tmp_path / f'cache{processes}'}", *COMMON)  # fmt: skip
    one, two = rows(folders[1]), rows(folders[2])
    for name in ("train/loss", "train/bce", "validation/loss", "validation/dice"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], abs=1e-4)
    scores = [yaml.safe_load((folders[n] / "scores.yaml").read_text()) for n in (1, 2)]
    for part in ("validation", "test"):
        assert scores[1][part] == pytest.approx(scores[0][part], abs=1e-3)
    # A picture that padding the shards repeated counts once.
    assert len(read_scores(folders[2] / "test_scores.csv")) == 3
    # The embeddings that each of the two made a half of are those that one made.
    files = [sorted((tmp_path / f"cache{n}").glob("*/*.bin")) for n in (1, 2)]
    assert [file.parent.name for file in files[0]] == [file.parent.name for file in files[1]]
    assert len(files[0]) == 6
    for ours, theirs in zip(*files, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


def test_two_processes_predict_as_one(data: Path, tmp_path: Path) -> None:
    words = [
        "--run=head",
        f"--data.root={data}",
        f"--output={tmp_path / 'run'}",
        "--train.epochs=1",
    ]
    trained = train(parse(Config, [*words, "--model.backbone_weights=none"])).folder
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    draw(pictures, 5)
    (pictures / "images/img03.png").write_bytes(b"no picture")
    flags = (f"--checkpoint={trained}", f"--input={pictures / 'images'}")
    said = launch(2, "autosam.predict", *flags, f"--output={out}", fails=True)
    assert "1 of 5 could not be read" in said
    names = [f"img{i:02d}.png" for i in (0, 1, 2, 4)]
    journal = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert sorted(line["name"] for line in journal[1:]) == names
    assert sorted(path.name for path in out.glob("*.jsonl")) == ["predictions.jsonl"]
    with open(out / "areas.csv") as file:
        assert [f"{row['file']}.png" for row in csv.DictReader(file)] == names
    alone = predict(PredictConfig(checkpoint=str(trained), input=str(pictures / "images/img04.png"),
                                  output=str(tmp_path / "alone")))  # fmt: skip
    assert alone[0].read_bytes() == (out / "img04.png").read_bytes()
    (pictures / "images/img03.png").unlink()
    assert "4 of 4 are done already" in launch(2, "autosam.predict", *flags, f"--output={out}")
