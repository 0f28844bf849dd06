"""What can happen around a run: no room, no right, another clock, other files, no memory."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY, draw_folders, tiny_config, train_until_stopped
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autosam.config import Config
from autosam.config.cli import parse, run_command
from autosam.config.commands import PredictConfig
from autosam.data.embedding_store import Store
from autosam.errors import DataError, TrainingError
from autosam.models import checkpoint
from autosam.models.losses import SegmentationLoss
from autosam.models.sam import SAMS
from autosam.predict import predict
from autosam.train import train
from autosam.training import finalize as ending
from autosam.training import resume
from autosam.training.tracker import Tracker, read_metrics
from autosam.training.trainer import Trainer
from autosam.utils import io as files
from autosam.utils import provenance as origin

CLOCK = ("train/images_per_second", "train/data_wait")


def figures(folder: Path) -> tuple[list[dict[str, float]], str]:
    """What does not depend on the clock."""
    rows = [{k: v for k, v in row.items() if k not in CLOCK} for row in read_metrics(folder)]
    return rows, (folder / "test_scores.csv").read_text()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`mount("size=64k")`: a file system in memory at a folder, or the same one changed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def do(options: str) -> Path:
        nonlocal mounted
        again = "remount," if mounted else ""
        words = ["mount", "-t", "tmpfs", "-o", again + options, "none", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted = True
        return folder

    yield do
    if mounted:
        # Lazily: of what failed, a file may still be open until it is collected.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def settings(tiny_file: Path, data: Path, disk: Path) -> Config:
    return tiny_config(
        tiny_file, f"--data.root={data}", f"--output={disk / 'run'}", "--overwrite=true",
        "--cache.copies=2", f"--cache.dir={disk / 'cache'}", "--train.save_minutes=0",
    )  # fmt: skip


def said(function: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a command that failed in a way its user can fix."""
    with pytest.raises(SystemExit) as ended:
        run_command(Config, lambda config: function(), [])
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text, text
    message = text.strip().splitlines()[-1]
    assert message.startswith("error: ")
    return message


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folders(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(tiny_file: Path, folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run that nothing disturbed has its cache and its folder."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMS, "tiny", TINY)
        train(settings(tiny_file, folders, root))
    return root


def fill(disk: Path) -> None:
    with open(disk / "filler", "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


WRITES: list[tuple[Any, str, str]] = [
    (Store, "create", ""),
    (Store, "put", ""),
    (Tracker, "__init__", ""),
    (Tracker, "parameters", ""),
    (origin, "note", ""),
    (Tracker, "epoch", ""),
    (Tracker, "images", ""),
    (resume, "save", ""),
    (checkpoint, "annotate", ""),
    (ending, "write_png", ""),
    (Tracker, "hyperparameters", ""),
    *((files, "write_atomically", name) for name in (
        "config.yaml", "metrics.jsonl", "best.safetensors", "state-000001", "state-000002",
        "state-000003", "test_scores.csv", "scores.yaml")),
]  # fmt: skip
"""Before which call the disk is filled: module or class, function, and start of the file's name."""


@pytest.mark.parametrize(
    ("place", "name", "file"), WRITES, ids=[f"{name}{file}" for _, name, file in WRITES]
)
def test_a_disk_that_is_full_at_each_write(
    place: Any,
    name: str,
    file: str,
    tiny_file: Path,
    folders: Path,
    whole: Path,
    mount: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = mount("size=16m")
    config = settings(tiny_file, folders, disk)
    original = getattr(place, name)

    def instead(*args: Any, **kwargs: Any) -> Any:
        if not file or args[0].name.startswith(file):
            fill(disk)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for module in [place, *(m for n, m in sys.modules.items() if n.startswith("autosam"))]:
            if getattr(module, name, None) is original or module is place:
                patch.setattr(module, name, instead)
        message = said(lambda: train(config), capsys)
    assert (disk / "filler").exists()
    assert str(disk) in message
    assert "No space left on device" in message or "the disk is full" in message
    (disk / "filler").unlink()
    finished = (disk / "run/scores.yaml").exists()
    assert finished == (name == "hyperparameters")
    train(Config(resume=str(disk / "run")) if resume.files(disk / "run") else config)
    (rows, *rest), (expected, *others) = figures(disk / "run"), figures(whole / "run")
    assert rest == others
    for row, values in zip(rows, expected, strict=True):
        assert row == pytest.approx(values, rel=1e-5)  # embeddings in other batches: 1e-7
    assert not list(disk.rglob("*.partial"))
    print(message)


def test_predicting_onto_a_full_disk(
    trained: Path,
    mount: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    disk, room = mount("size=40k"), tmp_path / "room"
    config = PredictConfig(
        checkpoint=str(trained), input=str(trained.parent / "data/test/images"), overlay=True,
        coco="polygon", output=str(room),
    )  # fmt: skip
    predict(config)
    config = dataclasses.replace(config, output=str(disk / "masks"))
    fill(disk)
    message = said(lambda: predict(config), capsys)
    assert str(disk) in message
    (disk / "filler").unlink()
    mount("size=16m")
    predict(config)
    for path in room.iterdir():
        assert (disk / "masks" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_run_folder_that_is_read_only(
    tiny_file: Path,
    folders: Path,
    mount: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    whole: Path,
) -> None:
    disk = mount("size=16m")
    config = settings(tiny_file, folders, disk)
    mount("ro")
    assert str(disk) in (message := said(lambda: train(config), capsys))
    assert "Read-only file system" in message
    mount("rw")
    original = Tracker.epoch

    def protect(*args: Any) -> None:
        original(*args)
        for file in (disk / "run").glob("events*"):  # a file open for writing keeps a disk writable
            assert file.is_file()
        patch.setattr(files, "to_disk", refuse)

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with pytest.MonkeyPatch.context() as patch:  # remounted in the middle, as after a disk's fault
        patch.setattr(Tracker, "epoch", protect)
        assert "Read-only file system" in said(lambda: train(config), capsys)
    train(Config(resume=str(disk / "run")))
    assert figures(disk / "run") == figures(whole / "run")


def stop_in_the_second_epoch(config: Config) -> None:
    """Train until the first step of the second epoch."""
    train_until_stopped(
        config,
        Trainer,
        "_asked_to_stop",
        lambda trainer: trainer.epoch == 1 and trainer.stats.batches == 1,
    )


def test_a_clock_that_is_set_back_and_forth(
    tiny_file: Path, folders: Path, whole: Path, tmp_path: Path
) -> None:
    config = settings(tiny_file, folders, tmp_path)
    true, hours = time.time, iter(range(10**6))

    def jumping() -> float:
        return true() + 3600 * (-1) ** next(hours) * 5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", jumping)
        stop_in_the_second_epoch(config)
    for file in (tmp_path / "run").glob("events*"):  # they lie in the future
        words = file.name.split(".")
        words[3] = str(int(true()) + 7200)
        file.rename(file.with_name(".".join(words)))
    train(Config(resume=str(tmp_path / "run")))
    assert figures(tmp_path / "run") == figures(whole / "run")
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [event.step for event in events.Scalars("validation/dice")] == [1, 2]


def changed_in_the_second_epoch(config: Config, change: Callable[[], object]) -> None:
    original = Trainer._train_epoch

    def instead(trainer: Trainer, *args: Any) -> Any:
        if trainer.epoch == 1:
            change()
        return original(trainer, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", instead)
        train(config)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_image_that_vanishes(workers: int, tiny_file: Path, whole: Path, tmp_path: Path) -> None:
    data = draw_folders(tmp_path / "data")
    config = settings(tiny_file, data, tmp_path)
    config.data.workers = workers
    image = data / "train/images/img03.png"
    content = image.read_bytes()
    # Its pixels are kept in memory, so training goes on; it is missed before anything is scored.
    with pytest.raises(DataError, match=r"^train/img03: 1 images or masks changed while the run"):
        changed_in_the_second_epoch(config, image.unlink)
    assert not (tmp_path / "run/scores.yaml").exists()
    image.write_bytes(content)
    train(Config(resume=str(tmp_path / "run")))
    assert figures(tmp_path / "run") == figures(whole / "run")


def test_a_mask_that_changes(tiny_file: Path, whole: Path, tmp_path: Path) -> None:
    data = draw_folders(tmp_path / "data")
    mask = data / "test/masks/img09.png"
    content = mask.read_bytes()

    def change() -> None:
        Image.fromarray(np.random.default_rng(0).integers(0, 2, (40, 56), np.uint8)).save(mask)

    with pytest.raises(DataError, match=r"test/img09: 1 images or masks changed while the run"):
        changed_in_the_second_epoch(settings(tiny_file, data, tmp_path), change)
    assert not (tmp_path / "run/scores.yaml").exists()
    mask.write_bytes(content)
    train(Config(resume=str(tmp_path / "run")))
    assert figures(tmp_path / "run") == figures(whole / "run")


def limited(most: int, error: Callable[[], BaseException]) -> Any:
    """A loss for which memory runs out above so many images."""
    forward = SegmentationLoss.forward

    def instead(self: SegmentationLoss, logits: torch.Tensor, *args: Any) -> Any:
        if logits.requires_grad and len(logits) > most:
            raise error()
        return forward(self, logits, *args)

    return instead


OUT_OF_MEMORY = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"),
    lambda: MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["gpu", "cpu", "numpy"])
def test_out_of_memory(
    error: Callable[[], BaseException],
    tiny_file: Path,
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(SegmentationLoss, "forward", limited(1, error))
    message = said(lambda: train(settings(tiny_file, folders, tmp_path)), capsys)
    assert "memory ran out on a batch of 2" in message
    assert "--train.batch_size" in message
    assert "--auto-batch" in message


def test_auto_batch_finds_what_fits_and_learns_the_same(
    tiny_file: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (f"--data.root={folders}", "--train.epochs=1")
    plain = tiny_config(tiny_file, *flags, "--train.batch_size=1", "--train.accumulate=4",
                        f"--output={tmp_path / 'plain'}")  # fmt: skip
    found = tiny_config(tiny_file, *flags, "--train.batch_size=4", "--auto_batch=true",
                        f"--output={tmp_path / 'found'}")  # fmt: skip
    train(plain)
    monkeypatch.setattr(SegmentationLoss, "forward", limited(1, OUT_OF_MEMORY[0]))
    train(found)
    assert figures(tmp_path / "found") == figures(tmp_path / "plain")
    written = yaml.safe_load((tmp_path / "found/config.yaml").read_text())["train"]
    assert (written["batch_size"], written["accumulate"]) == (1, 4)
    monkeypatch.setattr(SegmentationLoss, "forward", limited(0, OUT_OF_MEMORY[0]))
    with pytest.raises(TrainingError, match="one image does not fit"):
        train(dataclasses.replace(found, output=str(tmp_path / "none")))


def test_auto_batch_leaves_a_run_that_fits_as_it_is(
    tiny_file: Path, folders: Path, tmp_path: Path, whole: Path
) -> None:
    config = settings(tiny_file, folders, tmp_path)
    train(dataclasses.replace(config, auto_batch=True))
    assert figures(tmp_path / "run") == figures(whole / "run")


def test_everything_moves(
    tiny_file: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run folder, data, cache and SAM, which all had relative paths; other worker processes."""
    before, after = tmp_path / "before", tmp_path / "after"
    draw_folders(before / "data")
    shutil.copy(tiny_file, before / "sam.pth")
    monkeypatch.chdir(before)
    config = settings(Path("sam.pth"), Path("data"), Path())
    stop_in_the_second_epoch(config)
    shutil.rmtree("cache")
    monkeypatch.chdir("/")
    before.rename(after)
    train(
        parse(Config, [
            f"--resume={after / 'run'}", f"--data.root={after / 'data'}", "--data.workers=1",
            f"--cache.dir={tmp_path / 'embeddings'}", f"--sam_checkpoint={after / 'sam.pth'}",
        ])
    )  # fmt: skip
    assert figures(after / "run") == figures(whole / "run")
    assert len(list((tmp_path / "embeddings").glob("*/records.bin"))) == 3
