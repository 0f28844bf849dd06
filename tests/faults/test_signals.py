"""Signals at random moments, killed processes, a small /dev/shm: seconds until the end.

A few in the ordinary suite; the long form: AUTOSAM_KILLS=50 python -m pytest -s tests/faults
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from helpers import TINY, draw, draw_folders
from processes_ended import end, family, note, start, wait_for

from autosam.config import Config
from autosam.config.cli import run_command
from autosam.data import loaders
from autosam.models.losses import SegmentationLoss
from autosam.models.sam import SAMS
from autosam.train import train
from autosam.utils.signals import AtOnce, Interrupt, ending_in_time

MOMENTS = int(os.environ.get("AUTOSAM_KILLS", "2"))
"""Of each signal."""
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
        "--model.backbone_weights=none", "--model.input_size=64", "--model.width=32",
        "--train.batch_size=2", "--train.epochs=400", "--train.patience=400", "--cache.copies=2",
        f"--data.root={draw_folders(tmp_path / 'data')}", "--data.workers=1",
        f"--output={tmp_path / 'run'}", "--overwrite=true", f"--cache.dir={tmp_path / 'cache'}",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_at_any_moment(name: str, words: list[str]) -> None:
    number, chance = getattr(signal, name), random.Random(name)
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{name} is ignored here, as under nohup, and so by what is started here")
    for _ in range(MOMENTS):
        process, handle = start(command, words)
        time.sleep(chance.uniform(0.3, 6))
        code = end(f"{name} to train at any moment", process, handle,
                   lambda: process.send_signal(number))  # noqa: B023  # fmt: skip
        # Before the command has begun the system ends it.
        assert code in (128 + number, -number)


def test_a_training_that_takes_no_notice_is_ended(words: list[str], tmp_path: Path) -> None:
    process, handle = start(stuck, words)
    wait_for((tmp_path / "stuck").exists)
    assert len(family(process)) > 1
    code = end("SIGTERM to train, which takes no notice", process, handle, process.terminate)
    assert code == 128 + signal.SIGTERM


@pytest.mark.parametrize("which", ["parent", "reader"])
def test_a_process_that_is_killed_leaves_none_behind(which: str, words: list[str]) -> None:
    process, handle = start(command, words)
    wait_for(lambda: len(family(process)) > 1)
    victim = family(process)[0 if which == "parent" else 1]
    code = end(f"SIGKILL to train's {which}", process, handle, victim.kill)
    assert code == (-signal.SIGKILL if which == "parent" else 2)


def verb(name: str, words: list[str]) -> None:
    """A command as it is called, its output in a file."""
    SAMS["tiny"] = TINY
    out = os.open("out.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = [name, *words]
    importlib.import_module(f"autosam.{name}").main()


@pytest.fixture
def calls(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The words of every other command, for work that takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    draw(tmp_path / "many", 12, size=(1500, 2000))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    many = ["--data.images=many/images", "--data.masks=many/masks"]
    return {
        "predict": [f"--checkpoint={trained}", "--input=many/images", "--output=masks",
                    "--overwrite=true", "--tile=256"],
        "evaluate": [f"--checkpoint={trained}", *many],
        "export": [f"--checkpoint={trained}", "--output=model.onnx", "--overwrite=true"],
        "check": many,
        "rough": [*many, "--output=rough.png"],
        "pretrain": ["--scenes=2000", "--workers=1", "--output=pretrained"],
        "app": [f"--checkpoint={trained}", f"--port={port}"],
        "compare": ["--jobs=2", "--quick", "--train.epochs=400", "--data.workers=1",
                    "--runs=head,decoder"],
    }  # fmt: skip


OTHERS = ("predict", "evaluate", "export", "check", "rough", "pretrain", "app", "compare")


@pytest.mark.parametrize("name", OTHERS)
def test_a_signal_to_every_other_command(
    name: str, calls: dict[str, list[str]], tmp_path: Path
) -> None:
    chance = random.Random(name)
    for moment in range(MOMENTS):
        number = getattr(signal, SIGNALS[moment % 2])
        longest = 12 if name == "compare" else 4  # its processes import for themselves
        (tmp_path / "rough.png").unlink(missing_ok=True)  # of one that was through before
        process, handle = start(verb, name, calls[name])
        handle.join(chance.uniform(0.3, longest))
        if handle.exitcode is not None:  # it was through already
            assert handle.exitcode in (0, 1), (tmp_path / "out.txt").read_text()
            continue
        code = end(f"{SIGNALS[moment % 2]} to {name} at any moment", process, handle,
                   lambda: process.send_signal(number))  # noqa: B023  # fmt: skip
        said = (tmp_path / "out.txt").read_text()
        if code == 0:  # the system was already removing the process, its work done
            assert not any(word in said for word in ("stopped by", "interrupted")), said
            continue
        assert code in (128 + number, -number), said
        assert "Traceback" not in said
        assert "did not end" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to another process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "words", ["autosam.train", "autosam predict --checkpoint . --input . --output masks"]
)
def test_a_signal_while_modules_are_imported(
    number: signal.Signals, words: str, tmp_path: Path
) -> None:
    """The torch of this test is one that takes long."""
    (tmp_path / "torch.py").write_text("open('begun', 'w')\nimport time\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), str(Path(loaders.__file__).parents[2])])
    process = subprocess.Popen(
        [sys.executable, "-m", *words.split()], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for((tmp_path / "begun").exists)
    began = time.monotonic()
    process.send_signal(number)
    said = process.communicate(timeout=30)[0]
    note(f"{number.name} to {words.split()[0]} that imports", time.monotonic() - began,
         process.returncode)  # fmt: skip
    assert said in ("", "interrupted\n", "stopped by SIGTERM\n")
    assert process.returncode in (-number, 128 + number)  # for a shell the same


STOPPING = "stopping; Ctrl-C (again) leaves at once"
STOPPED = "stopped; resume with: the same command and --overwrite true"
DROPPED = """
import contextlib, logging, os, signal, sys, time, weakref
from autosam.config.cli import one_message
from autosam.utils.signals import Interrupt

class Held:
    def __del__(self):
        send()

def send(*args):
    os.kill(os.getpid(), number)
    time.sleep(0.05)

number = signal.Signals[sys.argv[1]]
with one_message(), contextlib.ExitStack() as stack:
    if sys.argv[3] == "training":
        stack.enter_context(Interrupt()).at_once = True
    if sys.argv[2] == "destructor":
        held = Held()
        del held
    if sys.argv[2] == "weakref":
        reference = weakref.ref(type("Other", (), {})(), send)
    elif sys.argv[2] == "fork":
        os.register_at_fork(before=send)
        os.fork()
    elif sys.argv[2] == "library":  # as torch, where native code called Python
        try:
            send()
        except BaseException:
            logging.exception("failed")
            raise TypeError("cannot unpack") from None
    elif sys.argv[2] == "fallback":
        try:
            send()
        except BaseException:
            pass
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to another process")
@pytest.mark.parametrize("where", ["destructor", "weakref", "fork", "library", "fallback"])
@pytest.mark.parametrize(("name", "work", "lines"), [
    ("SIGTERM", "other", ["stopped by SIGTERM"]),
    ("SIGINT", "other", ["interrupted"]),
    ("SIGTERM", "training", [STOPPING, STOPPED]),
    ("SIGINT", "training", [STOPPING, STOPPED]),
])  # fmt: skip
def test_a_signal_whose_exception_is_lost(
    name: str, work: str, lines: list[str], where: str, tmp_path: Path
) -> None:
    (tmp_path / "dropped.py").write_text(DROPPED)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(tmp_path / "dropped.py"), name, where, work],
        capture_output=True, text=True, timeout=30,
        env={**os.environ, "PYTHONPATH": str(Path(loaders.__file__).parents[2])},
    )  # fmt: skip
    number = getattr(signal, name)
    note(f"{name} in a {where}", time.monotonic() - began, done.returncode)
    assert done.returncode in (-number, 128 + number), done.stderr
    said = done.stderr.splitlines()
    if work == "training" and where == "library":  # what libraries log is kept
        said = [line for line in said if line in lines]
    assert said == lines


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers of the system")
def test_a_timer_of_the_caller_goes_on() -> None:
    """As that of pytest-timeout, or of a notebook that watches a training."""
    came: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: came.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(AtOnce):
                interrupt.at_once = True
        time.sleep(0.5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert came == [signal.SIGALRM]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
@pytest.mark.parametrize("context", [Interrupt, ending_in_time])
def test_a_signal_to_a_fork_that_has_just_begun(
    context: Callable[[], AbstractContextManager], capfd: pytest.CaptureFixture[str]
) -> None:
    """A worker process, before it sets handlers of its own, is silent and does not run on."""
    with context() as entered:
        if isinstance(entered, Interrupt):
            entered.at_once = True
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM
    assert capfd.readouterr() == ("", "")


LEAVE = """
import rich
from autosam.utils.signals import leave_now
rich.get_console().show_cursor(False)
input()
leave_now(143)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("terminal", [True, False])
def test_the_cursor_comes_back(terminal: bool) -> None:
    import pty

    reader, writer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    environment["PYTHONPATH"] = str(Path(loaders.__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVE], stdin=subprocess.PIPE, stdout=writer, env=environment
    )
    assert os.read(reader, 100) == b"\x1b[?25l"
    if not terminal:
        os.close(reader)  # gone
    process.communicate(b"go\n", timeout=60)
    assert process.returncode == 143
    if terminal:
        assert os.read(reader, 100) == b"\x1b[?25h"
        os.close(reader)
    os.close(writer)


SMALL = """
import torch
from torch.utils.data import DataLoader
from autosam.data.loaders import collate
rows = [(torch.zeros(1 << 20),)] * 8
try:
    for batch in DataLoader(rows, 2, num_workers=1, collate_fn=collate):
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
