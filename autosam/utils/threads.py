"""How many cores this process may use."""

from __future__ import annotations

import contextlib
import os

from autosam.utils.control_groups import group_folders

SET_BY_USER = any(os.environ.get(one, "").strip() for one in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
"""Whether the environment set the number of torch's threads when autosam was imported."""
_most: int | None = None
"""See `use_cores`."""


def cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than its control group (a
    container's `--cpus`) pays for, nor than `use_cores` says. At least 1."""
    count = len(bound_cores())
    for quota in _quotas():
        count = min(count, max(1, int(quota)))
    return count if _most is None else min(count, _most)


def bound_cores(process: int = 0) -> set[int]:
    """The cores that a process is bound to: all, where the system binds none (few but Linux tell).

    Args:
        process: its number; 0: this one.
    """
    bound = getattr(os, "sched_getaffinity", None)
    with contextlib.suppress(OSError):  # it has ended
        if bound:
            return bound(process)
    return {*range(os.cpu_count() or 1)}


def use_cores(most: int) -> None:
    """Leave cores to others: `cores` returns no more than this, and libraries that are loaded later
    use no more threads."""
    global _most
    _most = most
    if not SET_BY_USER:
        os.environ["OMP_NUM_THREADS"] = str(most)


def limit_threads() -> None:
    """Make libraries that are loaded later use no more threads than `cores`, unless the user has
    set `OMP_NUM_THREADS`: OpenMP itself knows nothing of control groups."""
    if cores() < (os.cpu_count() or 1) and not os.environ.get("OMP_NUM_THREADS", "").strip():
        os.environ["OMP_NUM_THREADS"] = str(cores())


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
