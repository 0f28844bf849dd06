"""Cores that other processes of this machine leave to a command, at its start."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
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
"""Seconds: a command of this age may only be waiting because it measures the load of others."""
BUSY = 0.1
"""Cores; who uses less waits, for a browser for example."""


@dataclass(frozen=True)
class Demand:
    """Cores that somebody else uses or will use."""

    cores: float
    command: str = ""
    """Name and process of a command of autosam; "": all other processes together."""

    def __str__(self) -> str:
        return self.command or f"other processes ({self.cores:.1f} cores)"


def share_with_others() -> None:
    """Limit this process to its share of the cores, and say so if that is not all of them.

    Nothing is done if the environment sets the number of threads, if a launcher has started several
    processes, or if torch, which takes its number of threads when it is loaded, is loaded. What the
    system does not show of other processes does not count.
    """
    cores = threads.cores()
    if cores == 1 or threads.SET_BY_USER or launched() > 1 or "torch" in sys.modules:
        return
    for seconds in (GLANCE, LOOK):
        try:
            demands = measure(seconds)
        except (psutil.Error, OSError, LookupError, RuntimeError):
            return
        # Of a control group's share of the machine only commands are known to take a part.
        share = min(
            fair_share(len(threads.bound_cores()), [one.cores for one in demands]),
            fair_share(cores, [one.cores for one in demands if one.command]),
        )
        if share >= cores:
            return
    threads.use_cores(share)
    print(
        f"takes {share} of {cores} cores, because others compute: {', '.join(map(str, demands))}. "
        f"OMP_NUM_THREADS={cores} takes all.",
        file=sys.stderr,
    )


def fair_share(cores: int, demands: Iterable[float]) -> int:
    """Divide cores so that each gets the same, but none more than it demands (max-min fairness:
    Bertsekas and Gallager, Data Networks, section 6.5).

    Args:
        cores: to be divided.
        demands: cores that others demand.

    Returns:
        The share of one more, who takes all it gets; at least 1.
    """
    demands = sorted(demands)
    left, takers = float(cores), len(demands) + 1
    for demand in demands:
        if demand >= left / takers:
            break
        left -= demand
        takers -= 1
    return max(1, round(left / takers))


def measure(seconds: float) -> list[Demand]:
    """Measure what others do with the cores of this process.

    Args:
        seconds: how long to look.
    """
    commands = _commands()
    before = {one: _cpu_seconds(one) for _, members in commands.values() for one in members}
    busy, began = _busy_seconds(), time.monotonic()
    time.sleep(seconds)
    rest = (_busy_seconds() - busy) / (time.monotonic() - began)
    demands = []
    for root, (name, members) in commands.items():
        used = total = 0.0
        for one in members:
            (earlier, spent), (now, more) = before[one], _cpu_seconds(one)
            used += max(0.0, (more - spent) / (now - earlier))  # 0: it has ended
            total += more
        overlap = _overlap(root)
        rest -= overlap * used
        age = time.time() - root.create_time()
        # Not all phases of a training use all of its threads: its mean counts, too.
        cores = max(used, total / age) if used > BUSY else 0.0
        if age < YOUNG and name != "app":
            cores = float(os.cpu_count() or 1)
        if part := cores * overlap:
            demands.append(Demand(part, f"autosam {name} (process {root.pid})"))
    return [*demands, Demand(rest)] if rest > BUSY else demands


def _overlap(process: psutil.Process) -> float:
    """The part of the cores of a process that this one may use, too."""
    theirs = threads.bound_cores(process.pid)
    return len(theirs & threads.bound_cores()) / len(theirs)


def _busy_seconds() -> float:
    """Seconds that the cores of this process have computed for others."""
    every, own = psutil.cpu_times(percpu=True), threads.bound_cores()
    part = 1.0
    if max(own) < len(every):
        every = [every[i] for i in own]
    else:  # rows of other cores (some are switched off): no telling which
        part = len(own) / len(every)
    # Windows has no `nice`, which is the time of processes of low priority.
    busy = sum(core.user + getattr(core, "nice", 0.0) + core.system for core in every)
    return part * busy - time.process_time()


def _cpu_seconds(process: psutil.Process) -> tuple[float, float]:
    """The time, and the seconds that a process has computed for itself and for the system."""
    with contextlib.suppress(psutil.Error):
        return time.monotonic(), sum(process.cpu_times()[:2])
    return time.monotonic(), 0.0


def _commands() -> dict[psutil.Process, tuple[str, list[psutil.Process]]]:
    """Find the running commands of autosam but this one: name, and the processes of each."""
    names = {}
    for process in psutil.process_iter(["cmdline"]):
        if name := command_of(process.info["cmdline"] or []):
            names[process] = name
    me = psutil.Process()
    found, own = {}, {me, *_parents(me)}
    for process, name in names.items():
        # Processes that a command forks have its words.
        if process not in own and not any(parent in names for parent in _parents(process)):
            with contextlib.suppress(psutil.Error):
                found[process] = name, [process, *process.children(recursive=True)]
    return found


def _parents(process: psutil.Process) -> list[psutil.Process]:
    """The parent of a process, its parent and so on, as far as the system shows them."""
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        while (parent := (found or [process])[-1].parent()) is not None:
            found.append(parent)
    return found


def command_of(words: list[str]) -> str:
    """Find the command of autosam that Python was called for.

    Args:
        words: the command line of a process.

    Returns:
        Its name, such as "train"; "": another program.
    """
    if not words or not re.search("python|pypy", Path(words[0]).name.lower()):
        return ""
    left = iter(words[1:])
    for word in left:
        if word == "--check-hash-based-pycs":
            next(left, "")
        elif not word.startswith("-"):
            name = next(left, "") if Path(word).name in ("autosam", "autosam.exe") else ""
            return name if name.isalpha() else ""
        elif option := re.fullmatch(r"-[^-cmXW]*([cmXW])(.*)", word):
            value = option[2] or next(left, "")
            if option[1] == "m" and value == "autosam":
                value = f"autosam.{next(left, '')}"
            if option[1] in "cm":
                package, _, name = value.partition(".")
                return name if option[1] == "m" and package == "autosam" and name.isalpha() else ""
    return ""
