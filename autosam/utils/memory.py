"""Peak memory of a process, and free memory."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading

import psutil
import torch

from autosam.utils.control_groups import group_folders

LIMITS = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Files of a control group: the limit, and what is used; versions 2 and 1."""
PARTS = "memory.stat"
"""The file of what that consists of."""
CACHED = "inactive_file "
"""In the last: bytes of files that were read, which make room when memory is needed."""


def peak_gib() -> dict[str, float]:
    """Peak memory of this process so far, GiB: of the machine, and of the GPU if used."""
    peaks = {}
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peaks["memory"] = peak / (2**30 if sys.platform == "darwin" else 2**20)
    if torch.cuda.is_available():
        peaks["gpu memory"] = torch.cuda.max_memory_allocated() / 2**30
    return peaks


def free_bytes() -> int:
    """Memory that is free for this process: of the machine, or of its control groups (container,
    job of a batch system)."""
    free = psutil.virtual_memory().available
    for folder, names in itertools.product(group_folders("memory"), LIMITS):
        with contextlib.suppress(OSError, ValueError):  # other system, or "max": no limit
            most, now = (int((folder / name).read_text(encoding="utf-8")) for name in names)
            lines = (folder / PARTS).read_text(encoding="utf-8").splitlines()
            cached = sum(int(line.split()[1]) for line in lines if line.startswith(CACHED))
            free = min(free, most - now + cached)
    return max(0, free)


class PeakMemory:
    """Peak memory of this process while the context is open, read ten times a second; of
    the GPU's, exactly.

    Attributes:
        gib: of the GPU where there is one, else of the machine, GiB; set at the end.
    """

    def __init__(self) -> None:
        self.gib = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if torch.cuda.is_available():
            self.gib = torch.cuda.max_memory_allocated() / 2**30

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.gib = max(self.gib, process.memory_info().rss / 2**30)
            if self._done.wait(0.1):
                return
