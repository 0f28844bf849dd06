"""How many cores this process may use."""

from __future__ import annotations

import contextlib
import os

from autosam.utils.control_groups import group_folders

_processes = 1
"""Processes that share the cores, see `share_cores`."""


def cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than its control group (a
    container's `--cpus`) pays for, divided by the processes that share them. At least 1."""
    bound = getattr(os, "sched_getaffinity", None)  # Linux alone
    count = len(bound(0)) if bound else os.cpu_count() or 1
    for quota in _quotas():
        count = min(count, max(1, int(quota)))
    return max(1, count // _processes)


def share_cores(processes: int) -> None:
    """Let `cores` return this process's share, if so many processes compute at a time."""
    global _processes
    _processes = processes


def limit_threads() -> None:
    """Make libraries that are loaded later use no more threads than `cores`, unless the user has
    set `OMP_NUM_THREADS`: OpenMP itself knows nothing of control groups."""
    if cores() < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))


def _quotas() -> list[float]:
    """Cores that the control groups allow: version 2, version 1; nothing where there is no limit
    or another system."""
    found = []
    for folder in group_folders("cpu"):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
            found.append(int(quota) / int(period))  # "max" is no number
        with contextlib.suppress(OSError, ValueError):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((folder / name).read_text(encoding="utf-8") for name in names)
            if int(quota) > 0:  # -1: no limit
                found.append(int(quota) / int(period))
    return found
