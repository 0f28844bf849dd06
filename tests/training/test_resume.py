"""Stopped, killed, damaged and moved runs resume to the same result."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import TINY, draw_folders, tiny_config, train_until_stopped
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import autosam.training.fit
import autosam.training.trainer
from autosam.config import Config
from autosam.errors import CheckpointError, ConfigError, Stopped, TrainingError
from autosam.evaluation.evaluator import evaluate
from autosam.models import checkpoint
from autosam.models.losses import SegmentationLoss
from autosam.models.sam import SAMS
from autosam.train import train
from autosam.training import resume
from autosam.training.trainer import Trainer
from autosam.utils.io import lock
from autosam.utils.signals import Interrupt

FLAGS = ("--train.epochs=3", "--train.batch_size=1", "--train.accumulate=2")
"""6 batches an epoch, 3 steps of the optimiser; losses of each: the run's and the surrogate's."""
CLOCK = ("images_per_second", "data_wait")


def config_of(tiny_file: Path, folders: Path, output: Path, *flags: str) -> Config:
    return tiny_config(tiny_file, f"--data.root={folders}", f"--output={output}", *FLAGS, *flags)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folders(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(tiny_file: Path, folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMS, "tiny", TINY)
        return train(config_of(tiny_file, folders, tmp_path_factory.mktemp("whole") / "run")).folder


def assert_equal(found: Path, expected: Path) -> None:
    """Bit for bit: weights, optimiser, every figure that does not depend on the clock."""
    ours, theirs = (resume.load(folder)[0] for folder in (found, expected))
    assert_same({**ours, "seconds": 0}, {**theirs, "seconds": 0})
    assert rows(found) == rows(expected)
    assert scalars(found) == scalars(expected)
    assert shown(found) == shown(expected)
    scores = [(folder / "test_scores.csv").read_text() for folder in (found, expected)]
    assert scores[0] == scores[1]
    best = [checkpoint.read_trained(folder / checkpoint.BEST) for folder in (found, expected)]
    assert_same(*best)


def assert_same(ours: object, theirs: object) -> None:
    if isinstance(ours, dict):
        assert isinstance(theirs, dict)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert isinstance(theirs, list)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def rows(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith(CLOCK)} for line in lines]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.endswith(CLOCK)
    }


def shown(folder: Path) -> dict[str, list[int]]:
    """Steps of the texts and images that TensorBoard has."""
    events = EventAccumulator(str(folder), {"tensors": 0, "images": 0}).Reload()
    texts = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    images = {tag: events.Images(tag) for tag in events.Tags()["images"]}
    return {tag: [event.step for event in found] for tag, found in (texts | images).items()}


def stop_at(loss: int, config: Config) -> Stopped:
    """Train until a signal arrives while that loss, counted from 1, is computed."""
    forward, calls = SegmentationLoss.forward, []

    def counted(self, *args):
        calls.append(1)
        if len(calls) == loss:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *args)

    return train_until_stopped(config, SegmentationLoss, "forward", counted)


@pytest.mark.parametrize("loss", [1, 2, 5, 12, 13, 15, 16, 27, 44])
def test_a_run_that_a_signal_stopped_goes_on_bit_for_bit(
    tiny_file: Path,
    folders: Path,
    tmp_path: Path,
    whole: Path,
    loss: int,
) -> None:
    """At a batch within and at the end of an accumulated step, within an evaluation, and in the
    final scoring."""
    folder = tmp_path / "run"
    stopped = stop_at(loss, config_of(tiny_file, folders, folder))
    assert f"--resume {folder}" in str(stopped)
    assert stopped.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(Config(resume=str(folder)))
    assert_equal(folder, whole)


@pytest.mark.parametrize("begins", [True, False])
def test_a_run_goes_on_in_the_precision_that_it_began_in(
    tiny_file: Path,
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    begins: bool,
) -> None:
    """On another machine, whose default differs."""
    here = begins
    monkeypatch.setattr(autosam.training.trainer, "trains_in_bf16", lambda *_: here)

    def automatic(name: str) -> Config:
        return config_of(tiny_file, folders, tmp_path / name, "--train.precision=auto")

    train(automatic("whole"))
    stop_at(13, automatic("run"))
    here = not begins
    train(Config(resume=str(tmp_path / "run")))
    precision = "bfloat16" if begins else "float32"
    assert f"goes on in {precision}, as it began" in caplog.text
    assert_equal(tmp_path / "run", tmp_path / "whole")
    starts = (tmp_path / "run" / "origin.jsonl").read_text().splitlines()
    assert [json.loads(line)["precision"] for line in starts] == [precision] * 2


def test_another_number_of_threads_is_said(
    tiny_file: Path, folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Sums over several threads are rounded differently."""
    config = config_of(tiny_file, folders, tmp_path / "run")

    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    train_until_stopped(config, Trainer, "_record", stop)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        train(Config(resume=str(tmp_path / "run")))
    finally:
        torch.set_num_threads(threads)
    assert f"threads: {threads + 1}, before: {threads}." in caplog.text
    scores = yaml.safe_load((tmp_path / "run" / "scores.yaml").read_text())
    assert scores["threads"] == [threads, threads + 1]


def test_a_signal_in_the_final_scoring(
    tiny_file: Path, folders: Path, tmp_path: Path, whole: Path
) -> None:
    folder = tmp_path / "run"

    def signalled(*args, **kwargs):
        if args[4] is None:  # no loss: the final one
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **kwargs)

    config = config_of(tiny_file, folders, folder)
    train_until_stopped(config, autosam.training.trainer, "evaluate", signalled)
    assert not (folder / "scores.yaml").exists()
    train(Config(resume=str(folder)))
    assert_equal(folder, whole)


def test_killed_while_the_first_epoch_is_noted(
    tiny_file: Path, folders: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures are written, its best checkpoint and its state are not."""

    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config_of(tiny_file, folders, folder))
    assert len(rows(folder)) == 1
    train(Config(resume=str(folder)))
    assert_equal(folder, whole)


def test_a_finished_run_stays_as_it_is(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    assert train(Config(resume=str(folder))).epochs == 3
    assert_equal(folder, whole)


def test_lines_of_metrics_that_are_damaged_are_left_out(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'5\n\xff\xfe\n{"a": 1}\n{"epoch": "x"}\n' + b"[" * 99999 + b'\n{"epoch": 4')
    train(Config(resume=str(folder)))
    assert caplog.text.count("an incomplete line was left out") == 6
    assert_equal(folder, whole)


@pytest.mark.parametrize("left", [0, 2000])
def test_a_best_checkpoint_that_is_gone_is_missed_at_once(
    tiny_file: Path, folders: Path, tmp_path: Path, left: int
) -> None:
    """And not when the last epoch is done."""
    folder = tmp_path / "run"
    config = config_of(tiny_file, folders, folder)
    train_until_stopped(config, Trainer, "_asked_to_stop", lambda trainer: trainer.epoch == 1)
    best = folder / checkpoint.BEST
    content = best.read_bytes()
    best.unlink() if left == 0 else best.write_bytes(content[:left])
    with pytest.raises(CheckpointError, match=f"{best}: not a checkpoint"):
        train(Config(resume=str(folder)))
    assert len(rows(folder)) == 1
    best.write_bytes(content)
    assert train(Config(resume=str(folder))).epochs == 3


def test_stopped_at_every_step(
    tiny_file: Path, folders: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine steps, nine calls, and each writes a state."""
    folder = tmp_path / "run"
    config, stops = config_of(tiny_file, folders, folder), 0
    with monkeypatch.context() as patch:
        patch.setattr(
            "autosam.training.trainer.Trainer._asked_to_stop",
            lambda trainer: trainer.stats.batches % 6 != 0,
        )
        while True:
            try:
                train(config)
                break
            except Stopped:
                stops += 1
                config = Config(resume=str(folder))
    assert stops == 6
    assert_equal(folder, whole)


def test_states_by_the_clock_and_the_last_ones_kept(
    tiny_file: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, kept, save, folder = [], set(), resume.save, tmp_path / "run"

    def counted(*args) -> None:
        save(*args)
        saved.append(1)
        kept.add(len(resume.files(folder)))

    monkeypatch.setattr(resume, "save", counted)
    train(config_of(tiny_file, folders, folder, "--train.save_minutes=0"))
    assert len(saved) == 3 * (3 + 2)  # each step, before and after each evaluation
    assert kept == {1, 2, 3}
    assert [file.name[:12] for file in resume.files(folder)] == ["state-000015"]  # it is finished


def test_a_damaged_state_gives_way_to_the_one_before(
    tiny_file: Path,
    folders: Path,
    tmp_path: Path,
    whole: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "run"
    train_until_stopped(
        config_of(tiny_file, folders, folder),
        Trainer,
        "_asked_to_stop",
        lambda trainer: (trainer.epoch, trainer.stats.batches) == (2, 4),
    )
    newest, second, _ = resume.files(folder)
    for file in (newest, second):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    train(Config(resume=str(folder)))
    assert f"{second}: damaged; the state before it is used" in capsys.readouterr().err
    assert "was written after" not in caplog.text
    assert_equal(folder, whole)
    for file in resume.files(folder):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"no state in checkpoints is valid \(1 damaged\)"):
        train(Config(resume=str(folder)))


def test_a_run_and_its_data_may_move(
    tiny_file: Path,
    folders: Path,
    tmp_path: Path,
    whole: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(folders, data)
    config = config_of(tiny_file, data, before)
    train_until_stopped(
        config, Trainer, "_asked_to_stop", lambda trainer: trainer.stats.batches == 4
    )
    folder, elsewhere = tmp_path / "deep/down", tmp_path / "other"
    folder.parent.mkdir()
    shutil.move(before, folder)
    shutil.move(data, elsewhere)
    moved = Config(resume=str(folder))
    moved.data = dataclasses.replace(moved.data, root=str(elsewhere))
    # Other images under the same names are other data.
    image = next((elsewhere / "train/images").iterdir())
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError, match="the images and masks are not those that it was"):
        train(moved)
    image.write_bytes(content)
    train(moved)
    assert f"{image} was written after the state of the run" in caplog.text
    assert_equal(folder, whole)
    with pytest.raises(ConfigError, match="takes its settings from the run: leave run out"):
        train(dataclasses.replace(moved, run="head"))
    with pytest.raises(CheckpointError, match="not a run folder"):
        train(Config(resume=str(tmp_path)))


def test_one_process_writes_into_a_run_folder(
    tiny_file: Path, folders: Path, tmp_path: Path, whole: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    with (
        lock(folder),
        pytest.raises(ConfigError, match="another process writes into it"),
    ):
        train(config_of(tiny_file, folders, folder, "--overwrite=true"))
    assert (folder / "scores.yaml").is_file()
    # What a run killed before its first file leaves is no hindrance.
    (tmp_path / "new").mkdir()
    (tmp_path / "new/run.lock").touch()
    assert train(config_of(tiny_file, folders, tmp_path / "new")).epochs == 3


def test_a_gradient_that_is_not_finite_reaches_no_weight(
    tiny_file: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = SegmentationLoss.forward

    def poisoned(self, logits, *args):
        if logits.requires_grad:
            logits.register_hook(lambda gradient: gradient * float("inf"))
        return forward(self, logits, *args)

    monkeypatch.setattr(SegmentationLoss, "forward", poisoned)
    with pytest.raises(TrainingError, match=r"epoch 1: the gradient is not finite at batch 2"):
        train(config_of(tiny_file, folders, tmp_path / "run"))


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_signal_acts_at_once(first: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGINT)  # in the background of a shell it is ignored
    with Interrupt() as interrupt:
        os.kill(os.getpid(), first)
        assert interrupt.signal == first
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_from_outside(folders: Path, tmp_path: Path) -> None:
    """A whole process, with a worker process of its own, that a signal to its group stops."""
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "autosam.train", "--train.epochs=500", "--data.workers=1",
             f"--data.root={folders}", f"--output={folder}", "--run=head",
             "--train.patience=500", "--model.backbone_weights=none"]  # fmt: skip
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 300
        while not resume.files(folder) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert f"stopped; resume with: autosam train --resume {folder}" in said
    assert "Traceback" not in said
    assert not (folder / "run.lock").exists()


def test_a_signal_before_the_first_step_names_the_run_to_resume(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        raise args[-1].stopped()

    monkeypatch.setattr(autosam.training.fit, "_train", stop)
    with pytest.raises(Stopped, match=f"--resume {re.escape(str(trained))}$"):
        train(Config(resume=str(trained)))
