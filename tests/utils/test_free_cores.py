"""The share of the cores that a command takes beside other processes."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from autosam.utils import free_cores, threads
from autosam.utils.free_cores import Demand, command_of, fair_share, measure


@pytest.mark.parametrize(
    ("cores", "demands", "share"),
    [
        (2, [], 2),
        (2, [0.3], 2),  # a browser
        (2, [1.0], 1),
        (2, [2.0], 1),
        (2, [2.0] * 5, 1),
        (8, [8.0], 4),
        (8, [8.0] * 3, 2),
        (8, [3.0], 5),
        (8, [8.0, 2.0], 3),
        (8, [1.0, 1.0, 16.0], 3),
        (9, [9.0, 9.0], 3),
        (64, [1.2], 63),  # a training on a GPU
        (64, [0.4], 64),
    ],
)
def test_each_gets_the_same_but_no_more_than_it_demands(
    cores: int, demands: list[float], share: int
) -> None:
    assert fair_share(cores, demands) == share


def test_all_cores_are_given_away() -> None:
    """What defines a max-min fair share; rounding gives up to half a core more or less."""
    rng = random.Random(0)
    for _ in range(1000):
        cores = rng.randint(1, 64)
        demands = [rng.uniform(0, 80) for _ in range(rng.randint(0, 7))]
        share = fair_share(cores, demands)
        less, more = (x + sum(min(one, x) for one in demands) for x in (share - 0.5, share + 0.5))
        assert less <= cores + 1e-9 or share == 1
        assert more >= cores - 1e-9


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("python -m autosam.train --sam lite", "train"),
        ("python3.12 -X dev -W ignore -m autosam.train", "train"),
        ("python -um autosam.train", "train"),
        ("python -mautosam.train", "train"),
        ("python -Xdev -I -m autosam.predict", "predict"),
        ("/opt/env/bin/python -m autosam predict --input x", "predict"),
        ("/opt/env/bin/python3 -u /opt/env/bin/autosam compare", "compare"),
        ("Python /opt/env/bin/autosam compare", "compare"),
        ("python.exe autosam.exe train", "train"),
        ("vim autosam train", ""),
        ("timeout 9 python -m autosam.train", ""),  # the process that it starts is one
        ("python train.py autosam train", ""),
        ("python bin/jupyter-lab --notebook-dir /home/me/autosam --port 8888", ""),
        ("python bin/conda run -n autosam python sweep.py", ""),
        ("python -m pip install -e /src/autosam wheel", ""),
        ("python -m pytest -k autosam tests", ""),
        ("python -m autosam_extra.train", ""),
        ("python -m autosam.benchmark.bench", ""),
        ("python -c pass -m autosam.train", ""),
        ("python bin/autosam --help", ""),
        ("python -m autosam", ""),
        ("python", ""),
        ("", ""),
    ],
)
def test_commands_are_known_by_their_words(words: str, name: str) -> None:
    assert command_of(words.split()) == name


several_cores = pytest.mark.skipif(threads.cores() < 2, reason="there is one core to share")
WITHOUT = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
SPIN = "while True: pass"
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
FORK = "import os; os.fork(); exec('while True: pass')"
WAIT = "input()"
SHARE = "from autosam.utils.free_cores import share_with_others; share_with_others(); "
TORCH = SHARE + (
    "from autosam.utils.threads import cores; import torch; print(cores(), torch.get_num_threads())"
)


@contextlib.contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A process of Python, in a session of its own, which is ended with all that it has started."""
    process = subprocess.Popen(
        [sys.executable, *words],
        env=WITHOUT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def script(tmp_path: Path) -> Any:
    """`script(code)`: a file that is called as `autosam` is."""

    def write(code: str) -> str:
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        folder.mkdir()
        (folder / "autosam").write_text(code)
        return str(folder / "autosam")

    return write


@pytest.fixture
def busy() -> Iterator[None]:
    """Another process computes in one thread."""
    with started("-c", SPIN):
        yield


def run(*words: str, **said: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=WITHOUT | said, capture_output=True, text=True
    )


def cores_of(process: subprocess.Popen[str], seconds: float = 0.5) -> float | None:
    """The cores that a command demands; None if it is not found to demand any."""
    found = [one for one in measure(seconds) if f"(process {process.pid})" in one.command]
    assert len(found) < 2
    return found[0].cores if found else None


@pytest.mark.parametrize(
    ("code", "most"),
    [(SPIN, 1.5), (CHILD, 1.5), (FORK, 2.5)],
    ids=["a thread", "a process that it starts", "a process that it forks"],
)
def test_a_command_demands_what_it_uses(
    code: str, most: float, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one thread or two; other tests may compute meanwhile."""
    with started(script(code), "train") as process:
        time.sleep(0.5)
        assert cores_of(process) == (os.cpu_count() or 1)  # it is young
        monkeypatch.setattr(free_cores, "YOUNG", 0.0)
        cores = cores_of(process)
        assert cores is not None
        assert 0.1 < cores < most


def test_a_command_that_waits_demands_nothing(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(script(WAIT), "app") as waits, started(script(SPIN), "train") as stopped:
        assert cores_of(waits) is None
        time.sleep(0.3)
        stopped.send_signal(signal.SIGSTOP)  # Ctrl-Z
        monkeypatch.setattr(free_cores, "YOUNG", 0.0)
        assert cores_of(stopped) is None


def test_a_worker_that_ends_meanwhile(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has computed in its life is not taken for somebody's load."""
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    while time.process_time() < 1: pass\n"
        "    os._exit(0)\n"
        "os.wait(); print('ended', flush=True)\n" + SPIN
    )
    monkeypatch.setattr(free_cores, "YOUNG", 0.0)
    with started(script(code), "train") as process:
        time.sleep(0.5)
        found = measure(2.0)
        assert psutil.Process(process.pid).children() == []
    cores = {one.command: one.cores for one in found}
    assert cores.pop(f"autosam train (process {process.pid})") < 2.5
    assert sum(cores.values()) <= (os.cpu_count() or 1) + 0.2


def test_short_processes_count() -> None:
    """As of `make -j2`: none lives as long as the others are looked at."""
    code = (
        "import subprocess, sys, threading\n"
        "def lane():\n"
        "    while True: subprocess.run([sys.executable, '-S', '-c', 'for _ in range(10**6): 1'])\n"
        "for _ in range(2): threading.Thread(target=lane).start()"
    )
    with started("-c", code):
        time.sleep(0.5)
        rest = [one.cores for one in measure(1.0) if not one.command]
    assert sum(rest) > 0.5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux binds processes to cores")
@several_cores
def test_commands_on_other_cores_do_not_count(script: Any) -> None:
    """As jobs of a batch system are bound."""
    first, *_, last = sorted(os.sched_getaffinity(0))
    bind = "import os; os.sched_setaffinity(0, [{}]); "
    look = "from autosam.utils.free_cores import measure; print(*measure(0.2))"
    with started(script(f"{bind.format(last)} exec({SPIN!r})"), "train") as process:
        time.sleep(0.5)
        for core, found in ((first, False), (last, True)):
            said = run("-c", bind.format(core) + look).stdout
            assert (f"(process {process.pid})" in said) == found


@several_cores
@pytest.mark.usefixtures("busy")
def test_torch_has_the_share() -> None:
    cores, done = threads.cores(), run("-c", TORCH)
    found = [int(word) for word in done.stdout.split()]
    assert 1 <= found[0] == found[1] < cores  # other tests may compute meanwhile
    assert f"takes {found[0]} of {cores} cores" in done.stderr
    assert f"OMP_NUM_THREADS={cores}" in done.stderr


@several_cores
@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "WORLD_SIZE"])
def test_what_the_user_or_a_launcher_has_chosen(name: str) -> None:
    cores = threads.cores()
    done = run("-c", TORCH, **{name: str(cores)})
    assert (done.stdout.split(), done.stderr) == ([str(cores)] * 2, "")


@several_cores
@pytest.mark.usefixtures("busy")
def test_a_command_takes_its_share(tmp_path: Path) -> None:
    """An empty variable sets nothing."""
    done = run("-m", "autosam.rough", "--images", str(tmp_path), OMP_NUM_THREADS="")
    assert done.stderr.startswith("takes ")


@several_cores
def test_commands_that_start_together_see_each_other(script: Any) -> None:
    """Each only waits while it looks at the others."""
    code = SHARE + WAIT
    with contextlib.ExitStack() as stack:
        three = [stack.enter_context(started(script(code), "train")) for _ in range(3)]
        lines = [one.stderr.readline() for one in three if one.stderr]
        for i, line in enumerate(lines):
            for other in three[:i] + three[i + 1 :]:
                assert f"autosam train (process {other.pid})" in line
            taken = re.match(r"takes (\d+) of (\d+) cores", line)
            assert taken is not None
            assert int(taken[1]) <= max(1, round(int(taken[2]) / 3))


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process has 4 of 16 cores, by a control group. The list gets what it limits itself to."""
    limits: list[int] = []
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setattr(threads, "bound_cores", lambda process=0: {*range(16)})
    monkeypatch.setattr(threads, "SET_BY_USER", False)
    monkeypatch.setattr(threads, "use_cores", limits.append)
    monkeypatch.delitem(sys.modules, "torch")
    return limits


@pytest.mark.parametrize(
    ("demands", "found"),
    [
        ([[Demand(14.0)], [Demand(0.2)]], []),  # a moment's load
        ([[Demand(9.0)]], []),  # of the machine: enough is left
        ([[Demand(16.0)]], []),
        ([[Demand(14.0)] * 4] * 2, [3]),
        ([[Demand(16.0, "autosam train (process 7)")]] * 2, [2]),  # it shares the control group
    ],
)
def test_share_of_a_control_group(
    demands: list[list[Demand]],
    found: list[int],
    limits: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = iter(demands)
    monkeypatch.setattr(free_cores, "measure", lambda seconds: next(left))
    free_cores.share_with_others()
    assert limits == found


@pytest.mark.parametrize(
    "error", [PermissionError("/proc"), IndexError(), psutil.AccessDenied(1), RuntimeError()]
)
def test_a_system_that_shows_nothing(
    error: Exception,
    limits: list[int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sandbox without /proc: psutil finds no process, or raises."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(psutil, "process_iter", fail)
    free_cores.share_with_others()
    assert (limits, capsys.readouterr()) == ([], ("", ""))


@pytest.mark.parametrize(
    ("bound", "rows", "busy"),
    [
        ({0, 1, 2, 3}, (1.0, 1.0, 0.0, 0.0), 2.0),
        ({2, 3}, (1.0, 1.0, 0.0, 0.0), 0.0),
        ({4, 6}, (1.0, 1.0, 0.0, 0.0), 1.0),  # of the cores 0, 2, 4, 6: those between are off
    ],
)
def test_rows_of_other_cores(
    bound: set[int], rows: tuple[float, ...], busy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux numbers cores that are on, and lists no others; a container may list only its own."""
    passed = [0.0]

    def times(percpu: bool) -> list[SimpleNamespace]:
        passed[0] += 100.0
        return [SimpleNamespace(user=row * passed[0], nice=0.0, system=0.0) for row in rows]

    monkeypatch.setattr(threads, "bound_cores", lambda process=0: bound)
    monkeypatch.setattr(free_cores, "_commands", dict)
    monkeypatch.setattr(psutil, "cpu_times", times)
    clock = iter((0.0, 100.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert sum(one.cores for one in measure(0.0)) == pytest.approx(busy, abs=0.01)


def test_processes_of_others_that_the_system_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil then gives None for what it was asked for (/proc with hidepid=1)."""
    hidden = SimpleNamespace(info={"cmdline": None})
    monkeypatch.setattr(psutil, "process_iter", lambda _: [hidden])
    assert not [one for one in measure(0.1) if one.command]
