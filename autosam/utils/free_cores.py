"""Cores that other processes of this machine leave to a command, at its start."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from autosam.utils import threads
from autosam.utils.launcher import launched

GLANCE, LOOK = 0.2, 1.0
"""Seconds over which the load of other processes is measured: at first, and again if that found
any, so that a moment's load does not count."""
YOUNG = 10.0
"""Seconds: a command of this age may only be waiting because it measures the others' load."""
BUSY = 0.1
"""Cores that a command uses at least, if it is not only waiting, for example for a browser."""


@dataclass(frozen=True)
class Load:
    """What other processes do with the cores."""

    commands: dict[int, str]
    """Commands of autosam that compute, or have just been started, by their process number. Each
    is assumed to use as many cores as it gets."""
    rest: float
    """Cores that all other processes use, together."""


def share_with_others() -> None:
    """Limit this process to its share of the cores, and say so if that is not all of them.

    Nothing is done if the user has set `OMP_NUM_THREADS`, if a launcher has started several
    processes, or if torch, which takes its number of threads when it is loaded, is loaded.
    """
    cores = threads.cores()
    if cores == 1 or threads.SET_BY_USER or launched() > 1 or "torch" in sys.modules:
        return
    for seconds in (GLANCE, LOOK):
        load = measure(seconds)
        share = fair_share(cores, load)
        if share == cores:
            return
    threads.use_cores(share)
    who = [f"autosam {name} (process {number})" for number, name in load.commands.items()]
    if load.rest >= BUSY:
        who.append(f"other processes ({load.rest:.1f} cores)")
    print(
        f"takes {share} of {cores} cores, because others compute: {', '.join(who)}. "
        f"OMP_NUM_THREADS={cores} takes all.",
        file=sys.stderr,
    )


def fair_share(cores: int, load: Load) -> int:
    """Divide the cores so that each gets the same, but none more than it asks for (max-min
    fairness: Bertsekas and Gallager, Data Networks, section 6.5).

    Args:
        cores: to be divided.
        load: of others. Everything that is no command of autosam counts as one.

    Returns:
        The cores of one more command, at least 1.
    """
    equal = cores / (len(load.commands) + 2)
    share = equal if load.rest > equal else (cores - load.rest) / (len(load.commands) + 1)
    return max(1, round(share))


def measure(seconds: float) -> Load:
    """Measure what other processes do with the cores that this one may use.

    Args:
        seconds: how long to look.
    """
    before, began = {one: _cpu_seconds(one) for one in _processes()}, time.monotonic()
    time.sleep(seconds)
    passed, found = time.monotonic() - began, {one.pid: one for one in _processes()}
    me, used = psutil.Process(), defaultdict[int, float](float)
    own = _root(me.pid, found)
    for number, process in found.items():
        root = _root(number, found)
        if number != me.pid and (root == 0 or root != own) and (part := _overlap(process, me)):
            # One that was not there before has used everything since then.
            used[root] += part * (_cpu_seconds(process) - before.get(process, 0.0)) / passed
    rest = used.pop(0, 0.0)
    commands = {
        root: _command(found[root].info["cmdline"])
        for root, cores in used.items()
        if cores > BUSY or time.time() - _started(found[root]) < YOUNG
    }
    return Load(commands, rest)


def _processes() -> Iterable[psutil.Process]:
    wanted = ["ppid", "cmdline", "create_time", "cpu_times"]
    return psutil.process_iter(wanted)  # of others' processes some systems show nothing: None


def _cpu_seconds(process: psutil.Process) -> float:
    return sum((process.info["cpu_times"] or (0.0,))[:2])  # of the user and of the system


def _started(process: psutil.Process) -> float:
    return process.info["create_time"] or 0.0


def _root(number: int, processes: dict[int, psutil.Process]) -> int:
    """Find the process of a command of autosam that a process belongs to: the outermost one, such
    as its launcher's. 0: none."""
    root, before = 0, math.inf
    # Numbers are used again: a parent is not younger than its child.
    while number and number in processes and _started(processes[number]) <= before:
        process = processes[number]
        root = number if _command(process.info["cmdline"]) else root
        number, before = process.info["ppid"], _started(process)
    return root


def _command(words: list[str] | None) -> str:
    """Find the command of autosam that Python was called for; "": another program."""
    if not words or "python" not in Path(words[0]).name.lower():
        return ""
    for word, following in itertools.pairwise(words):
        if word == "-m" and following.startswith("autosam."):
            return following.removeprefix("autosam.")
        if Path(word).name in ("autosam", "autosam.exe"):
            return following
    return ""


def _overlap(process: psutil.Process, own: psutil.Process) -> float:
    """The part of the cores of a process that `own` may use, too."""
    with contextlib.suppress(psutil.Error, AttributeError):  # macOS binds no process to cores
        theirs = process.cpu_affinity()
        return len({*theirs} & {*own.cpu_affinity()}) / len(theirs)
    return 1.0
