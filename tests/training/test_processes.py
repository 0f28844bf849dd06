"""Two processes on this machine, through torchrun and gloo, against one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from helpers import draw

from autosam.config import Config
from autosam.config.cli import parse
from autosam.config.commands import PredictConfig
from autosam.evaluation.scores import read_scores
from autosam.predict import predict
from autosam.train import train
from autosam.training import resume

# What learns has no BatchNorm, whose statistics each process would take of its own images; and
# images stay where they are, so that every process weighs as many cells.
COMMON = ("--run=decoder", "--train.epochs=3", "--data.workers=0", "--train.sheet_images=0",
          "--augment.rotate=0", "--augment.scale=0", "--train.precision=no")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    # Odd numbers, so that the shards of validation and test are padded.
    for start, split, count in ((0, "train", 8), (8, "validation", 5), (13, "test", 3)):
        draw(root / split, count, start)
    return root


def launched(processes: int, module: str, *flags: str) -> subprocess.Popen[str]:
    # After --, torchrun leaves --run to the module.
    torchrun = [
        "torch.distributed.run",
        f"--nproc_per_node={processes}",
        "--standalone",
        "-m",
        "--",
    ]
    words = [*torchrun, module] if processes > 1 else [module]
    return subprocess.Popen(
        [sys.executable, "-m", *words, *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def launch(processes: int, module: str, *flags: str, fails: bool = False) -> str:
    """What it said."""
    with launched(processes, module, *flags) as process:
        said = process.communicate(timeout=300)[0]
    assert (process.returncode != 0) == fails, said[-3000:]
    return said


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one(data: Path, tmp_path: Path) -> None:
    """The same global batch, SAM lite with cached embeddings."""
    folders = {}
    for processes, batch in ((1, 4), (2, 2)):
        folder = folders[processes] = tmp_path / str(processes)
        launch(processes, "autosam.train", f"--data.root={data}", f"--output={folder}",
               f"--train.batch_size={batch}", "--cache.copies=2",
               f"--cache.dir={tmp_path / f'cache{processes}'}", *COMMON)  # fmt: skip
    one, two = rows(folders[1]), rows(folders[2])
    for name in ("train/loss", "train/bce", "validation/loss", "validation/dice"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], abs=1e-4)
    scores = [yaml.safe_load((folders[n] / "scores.yaml").read_text()) for n in (1, 2)]
    for split in ("validation", "test"):
        assert scores[1][split] == pytest.approx(scores[0][split], abs=1e-3)
    # An image that padding the shards repeated counts once.
    assert len(read_scores(folders[2] / "test_scores.csv")) == 3
    # The embeddings that each of the two made a half of are those that one made.
    files = [sorted((tmp_path / f"cache{n}").glob("*/*.bin")) for n in (1, 2)]
    assert [file.parent.name for file in files[0]] == [file.parent.name for file in files[1]]
    assert len(files[0]) == 6
    for ours, theirs in zip(*files, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_process_that_dies_ends_the_run_and_another_number_goes_on(
    data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    begin = [f"--data.root={data}", f"--output={folder}", "--train.batch_size=2",
             "--train.save_minutes=0", "--run=head", "--model.backbone_weights=none",
             "--model.backbone=test_efficientnet", "--train.epochs=40", "--train.patience=40",
             *COMMON[2:]]  # fmt: skip
    seen = 0
    for flags, rank in ((begin, "0"), ([f"--resume={folder}"], "1")):
        with launched(2, "autosam.train", *flags) as process:
            while not resume.files(folder) or resume.load(folder)[0]["epoch"] <= seen:
                assert process.poll() is None
                time.sleep(0.05)
            ranks = psutil.Process(process.pid).children(recursive=True)
            next(r for r in ranks if rank_of(r) == rank).kill()
            said = process.communicate(timeout=300)[0]
        assert process.returncode != 0
        assert "another process of this run died" in said or "stopped; resume with" in said
        assert "--resume" in said
        seen = resume.load(folder)[0]["epoch"]
        assert 0 < seen < 40
    launch(1, "autosam.train", f"--resume={folder}")
    assert [row["epoch"] for row in rows(folder)] == list(range(1, 41))
    assert (folder / "scores.yaml").is_file()


def rank_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RANK")
    except psutil.Error:
        return None


def test_two_processes_predict_as_one(data: Path, tmp_path: Path) -> None:
    words = [
        "--run=head",
        f"--data.root={data}",
        f"--output={tmp_path / 'run'}",
        "--train.epochs=1",
    ]
    trained = train(parse(Config, [*words, "--model.backbone_weights=none"])).folder
    images, out = tmp_path / "images", tmp_path / "out"
    draw(images, 5)
    (images / "images/img03.png").write_bytes(b"no image")
    flags = (f"--checkpoint={trained}", f"--input={images / 'images'}")
    said = launch(2, "autosam.predict", *flags, f"--output={out}", fails=True)
    assert "1 of 5 were skipped" in said
    names = [f"img{i:02d}.png" for i in (0, 1, 2, 4)]
    log = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert sorted(line["name"] for line in log[1:]) == names
    assert sorted(path.name for path in out.glob("*.jsonl")) == ["predictions.jsonl"]
    with open(out / "areas.csv") as file:
        assert [f"{row['file']}.png" for row in csv.DictReader(file)] == names
    alone = predict(PredictConfig(checkpoint=str(trained), input=str(images / "images/img04.png"),
                                  output=str(tmp_path / "alone")))  # fmt: skip
    assert alone[0].read_bytes() == (out / "img04.png").read_bytes()
    (images / "images/img03.png").unlink()
    assert "4 of 4 are done already" in launch(2, "autosam.predict", *flags, f"--output={out}")
