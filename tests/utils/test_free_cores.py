"""The share of the cores that a command takes beside other processes."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from autosam.utils import free_cores, threads
from autosam.utils.free_cores import Load, fair_share, measure


@pytest.mark.parametrize(
    ("cores", "commands", "rest", "share"),
    [
        (2, 0, 0.0, 2),
        (2, 0, 0.3, 2),  # a browser
        (2, 0, 1.0, 1),
        (2, 0, 2.0, 1),
        (2, 1, 0.0, 1),
        (2, 5, 0.0, 1),
        (8, 1, 0.0, 4),
        (8, 3, 0.0, 2),
        (8, 0, 3.0, 5),
        (8, 0, 16.0, 4),  # one program of 16 threads
        (8, 1, 2.0, 3),
        (9, 1, 9.0, 3),
        (64, 0, 0.4, 64),
    ],
)
def test_each_gets_the_same_but_no_more_than_it_asks_for(
    cores: int, commands: int, rest: float, share: int
) -> None:
    assert fair_share(cores, Load(dict.fromkeys(range(commands), "train"), rest)) == share


def test_shares_add_up_to_all_cores() -> None:
    """What defines a max-min fair share: all is given away, or everybody has what it asks for."""
    rng = random.Random(0)
    for _ in range(500):
        cores, commands, rest = rng.randint(1, 64), rng.randint(0, 6), rng.uniform(0, 80)
        share = fair_share(cores, Load(dict.fromkeys(range(commands), "train"), rest))
        # Rounding gives each half a core too much or too little.
        taken = share * (commands + 1) + min(rest, share)
        assert abs(taken - cores) <= 0.5 * (commands + 2) or share == 1


@dataclass(eq=False)
class Process:
    """A process as psutil describes it, which has used `cores` of so many since it began."""

    pid: int
    ppid: int
    words: str
    cores: float = 0.0
    age: float = 1000.0
    bound: tuple[int, ...] = (0, 1, 2, 3)
    new: bool = False  # it begins while the others are measured
    hidden: bool = False  # the system shows nothing of another user's
    info: dict[str, Any] = field(default_factory=dict)

    def cpu_affinity(self) -> list[int]:
        return [*self.bound]


def load(monkeypatch: pytest.MonkeyPatch, *processes: Process) -> Load:
    """What `measure` finds among these processes, and its own, which has 4 cores."""
    clock = [1000.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def listed(_: list[str]) -> Iterator[Process]:
        own = Process(os.getpid(), 1, "python -m autosam.train", 1.0, 0.0)
        for one in (own, *processes):
            if one.new and clock[0] == 1000.0:
                continue
            used = clock[0] - 1000.0 if one.new else clock[0]
            one.info = {
                "ppid": one.ppid,
                "cmdline": one.words.split(),
                "create_time": time.time() - one.age,
                "cpu_times": (one.cores * used / 2, one.cores * used / 2, 500.0, 500.0),
            }
            if one.hidden:
                one.info = dict.fromkeys(one.info)
            yield one

    monkeypatch.setattr(psutil, "process_iter", listed)
    monkeypatch.setattr(psutil, "Process", lambda: Process(os.getpid(), 1, ""))
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    found = measure(0.2)
    return Load(found.commands, round(found.rest, 6))


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("python -m autosam.train --sam lite", "train"),
        ("python3.12 -X dev -m autosam.train", "train"),
        ("/opt/env/bin/python -m autosam predict --input x", "predict"),
        ("/opt/env/bin/python3 /opt/env/bin/autosam compare", "compare"),
        ("python.exe autosam.exe train", "train"),
        ("python /opt/env/bin/torchrun --nproc_per_node 2 -m autosam.train", "train"),
    ],
)
def test_commands_are_known_by_their_words(
    words: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(monkeypatch, Process(7, 1, words, 0.5)) == Load({7: name}, 0.0)


@pytest.mark.parametrize(
    "words",
    [
        "vim autosam train",
        "python train.py",
        "python -m pytest autosam.py",
        "grep -m autosam.x",
        "",
    ],
)
def test_other_programs_count_with_what_they_use(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(monkeypatch, Process(7, 1, words, 0.5), Process(8, 1, words, 0.25)) == Load(
        {}, 0.75
    )


def test_a_command_that_waits_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """`autosam app` that nobody uses; but not one that has just been started."""
    waits = Process(7, 1, "python -m autosam.app", 0.01)
    assert load(monkeypatch, waits) == Load({}, 0.0)
    waits.age = 1.0
    assert load(monkeypatch, waits) == Load({7: "app"}, 0.0)


def test_processes_of_a_command_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it forks have its words; of others that it starts, with other words, too."""
    command = "python -m autosam.compare --jobs 2"
    found = load(
        monkeypatch,
        Process(7, 1, command),
        Process(8, 7, command, 1.0),
        Process(9, 7, "python -c from multiprocessing.spawn import spawn_main", 2.0),
        Process(10, 9, "python -c from multiprocessing.spawn import spawn_main", 2.0),
    )
    assert found == Load({7: "compare"}, 0.0)


def test_the_number_of_a_parent_that_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows keeps the number of a parent that has ended: here it is a younger process's."""
    found = load(
        monkeypatch,
        Process(7, 9, "python -m autosam.train", 1.0, age=50.0),
        Process(9, 7, "notepad.exe", 1.0, age=1000.0),
        Process(11, 12, "notepad.exe", 0.5, age=1000.0),
        Process(12, 1, "python -m autosam.check", 1.0, age=50.0),
    )
    assert found == Load({7: "train", 12: "check"}, 1.5)


def test_only_shared_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of a batch system are bound to cores of their own."""
    found = load(
        monkeypatch,
        Process(7, 1, "python -m autosam.train", 4.0, bound=(4, 5, 6, 7)),
        Process(8, 1, "make", 4.0, bound=(4, 5, 6, 7)),
        Process(9, 1, "make", 4.0, bound=tuple(range(16))),
    )
    assert found == Load({}, 1.0)


def test_processes_that_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that was started after the first look; another user's process on macOS."""
    found = load(
        monkeypatch,
        Process(7, 1, "cc1", 1.0, new=True),
        Process(8, 1, "python -m autosam.train", 1.0, hidden=True),
    )
    assert found == Load({}, 1.0)


TORCH = (
    "from autosam.utils.free_cores import share_with_others; share_with_others(); "
    "from autosam.utils.threads import cores; import torch; "
    "print(cores(), torch.get_num_threads())"
)
WITHOUT = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
several_cores = pytest.mark.skipif(threads.cores() < 2, reason="there is one core to share")


@pytest.fixture
def busy() -> Iterator[None]:
    """Another process computes in one thread."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield
        process.kill()


def run(*words: str, **said: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=WITHOUT | said, capture_output=True, text=True
    )


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
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "WORLD_SIZE"])
def test_what_the_user_or_a_launcher_has_chosen(name: str) -> None:
    cores = threads.cores()
    done = run("-c", TORCH, **{name: str(cores)})
    assert (done.stdout.split(), done.stderr) == ([str(cores)] * 2, "")


@several_cores
@pytest.mark.usefixtures("busy")
def test_a_command_takes_its_share(tmp_path: Path) -> None:
    assert run("-m", "autosam.rough", "--images", str(tmp_path)).stderr.startswith("takes ")


@several_cores
def test_commands_that_start_together_see_each_other(tmp_path: Path) -> None:
    """Each only waits while it looks at the others."""
    script = tmp_path / "autosam"
    script.write_text(
        "from autosam.utils.free_cores import share_with_others; share_with_others(); input()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, str(script), "train"],
            env=WITHOUT,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    lines = [one.stderr.readline() for one in started if one.stderr]
    for one in started:
        one.communicate("\n")
    for i, line in enumerate(lines):
        for other in started[:i] + started[i + 1 :]:
            assert f"autosam train (process {other.pid})" in line
        taken = re.match(r"takes (\d+) of (\d+) cores", line)
        assert taken is not None
        assert int(taken[1]) <= max(1, round(int(taken[2]) / 3))


def test_a_moment_of_load_does_not_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loads = [Load({}, 4.0), Load({}, 0.1)]
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setattr(threads, "SET_BY_USER", False)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(free_cores, "measure", lambda seconds: loads.pop(0))
    monkeypatch.setattr(threads, "use_cores", pytest.fail)
    free_cores.share_with_others()
    assert (loads, capsys.readouterr().err) == ([], "")
