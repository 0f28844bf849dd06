"""Signals at random moments, killed processes, a small /dev/shm: seconds until the end.

A few in the ordinary suite; the long form: AUTOSAM_KILLS=50 python -m pytest -s tests/faults
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from conftest import TINY, draw_folders

from autosam.command import run_command
from autosam.config import Config
from autosam.data import loaders
from autosam.losses import SegmentationLoss
from autosam.models.sam import SAMS
from autosam.train import train

MOMENTS = int(os.environ.get("AUTOSAM_KILLS", "2"))
"""Of each signal."""
LONGEST = 10.0
PROCESSES = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
PROCESSES.set_forkserver_preload(["autosam.train", "segment_anything"])
SIGNALS = [name for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


def command(words: list[str]) -> None:
    if hasattr(os, "fork"):  # readers as a command has them, not by way of another server of forks
        multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    SAMS["tiny"] = TINY
    run_command(Config, train, words)


def stuck(words: list[str]) -> None:
    """A training that takes no notice of anything, and makes a file when that begins."""
    marker = Path(words[-1].partition("=")[2]).parent / "stuck"

    def forever(*args: object) -> None:
        marker.touch()
        while True:
            try:  # noqa: SIM105
                time.sleep(1)
            except BaseException:
                pass

    SegmentationLoss.forward = forever  # type: ignore[assignment, method-assign]
    command(words)


@pytest.fixture
def words(tiny_file: Path, tmp_path: Path) -> list[str]:
    return [
        "--sam=tiny", f"--sam_checkpoint={tiny_file}", "--model.backbone=test_efficientnet",
        "--model.backbone_weights=none", "--model.view_size=64", "--model.width=32",
        "--train.batch_size=2", "--train.epochs=400", "--train.patience=400", "--cache.views=2",
        f"--data.root={draw_folders(tmp_path / 'data')}", "--data.workers=1",
        f"--output={tmp_path / 'run'}", "--overwrite=true", f"--cache.dir={tmp_path / 'cache'}",
    ]  # fmt: skip


def start(work: Callable[[list[str]], None], words: list[str]) -> tuple[psutil.Process, object]:
    process = PROCESSES.Process(target=work, args=(words,))
    process.start()
    assert process.pid is not None
    return psutil.Process(process.pid), process


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def wait_for(condition: Callable[[], object], seconds: float = 120) -> float:
    """How long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_at_any_moment(name: str, words: list[str]) -> None:
    number, chance = getattr(signal, name), random.Random(name)
    for _ in range(MOMENTS):
        process, handle = start(command, words)
        moment = chance.uniform(0.3, 6)
        time.sleep(moment)
        members = family(process)
        process.send_signal(number)
        handle.join(30)  # type: ignore[attr-defined]
        seconds = wait_for(lambda: not any(map(alive, members)), 30)  # noqa: B023
        print(f"{name} after {moment:.1f} s: {len(members) - 1} children")
        assert seconds < LONGEST
        # Before the command has begun the system ends it.
        assert handle.exitcode in (128 + number, -number)  # type: ignore[attr-defined]


def test_a_training_that_takes_no_notice_is_ended(words: list[str], tmp_path: Path) -> None:
    process, handle = start(stuck, words)
    wait_for((tmp_path / "stuck").exists)
    assert len(family(process)) > 1
    members = family(process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    handle.join(60)  # type: ignore[attr-defined]
    wait_for(lambda: not any(map(alive, members)))
    seconds = time.monotonic() - began
    print(f"stuck, SIGTERM: {seconds:.1f} s")
    assert seconds < LONGEST
    assert handle.exitcode == 128 + signal.SIGTERM  # type: ignore[attr-defined]


@pytest.mark.parametrize("which", ["parent", "reader"])
def test_a_process_that_is_killed_leaves_none_behind(which: str, words: list[str]) -> None:
    process, handle = start(command, words)
    wait_for(lambda: len(family(process)) > 1)
    members = family(process)
    began = time.monotonic()
    members[0 if which == "parent" else 1].kill()
    handle.join(60)  # type: ignore[attr-defined]
    wait_for(lambda: not any(map(alive, members)))
    seconds = time.monotonic() - began
    print(f"{which} killed: {seconds:.1f} s")
    assert seconds < LONGEST
    assert handle.exitcode == (-signal.SIGKILL if which == "parent" else 2)  # type: ignore[attr-defined]


SMALL = """
import torch
from torch.utils.data import DataLoader
from autosam.data.loaders import collate_tensors
rows = [(torch.zeros(1 << 20),)] * 8
try:
    for batch in DataLoader(rows, 2, num_workers=1, collate_fn=collate_tensors):
        print(len(batch))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_full_dev_shm_is_said(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(SMALL)
    line = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", line, "sh", sys.executable, str(tmp_path / "small.py")],
        capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(Path(loaders.__file__).parents[2])},
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no /dev/shm of its own can be had here: {done.stderr.strip()}")
    assert done.stdout.startswith("TrainingError /dev/shm: no room for the batches"), done.stdout
    assert "--data.workers 0" in done.stdout


def test_reading_processes_fit_into_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """(workers, batches ahead) by hand: 80 % of what is free; two batches are in use."""
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(loaders, "SHARED", Path(__file__).parent)
    for size, expected in ((1, (4, 2)), (8, (4, 2)), (10, (3, 2)), (20, (1, 2)), (25, (1, 1))):
        assert loaders.fit_workers(4, size)[:2] == expected
    count, ahead, text = loaders.fit_workers(4, 30)
    assert (count, ahead) == (0, None)
    assert "--shm-size" in text
    assert loaders.fit_workers(4, 8, processes=2)[:2] == (1, 2)
    assert loaders.fit_workers(0, 10**9) == (0, None, "")
