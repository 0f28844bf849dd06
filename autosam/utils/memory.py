"""Measuring: named stretches of time, peak memory, and a process of its own for each case."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import wraps
from multiprocessing import get_context
from typing import Any, TypeVar

import psutil
import torch

from autosam.utils.signals import die_with_parent

T = TypeVar("T")


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Stopwatch:
    """Seconds by name; the methods that it watches keep doing what they did."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Add the time that each call of `owner.method` takes to `name`."""
        original = getattr(owner, method)

        @wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            wait(self.device)
            started = time.perf_counter()
            result = original(*args, **kwargs)
            wait(self.device)
            self.seconds[name] += time.perf_counter() - started
            return result

        setattr(owner, method, timed)


def peak_gib() -> dict[str, float]:
    """Most memory that this process held at a time, GiB: of the machine, and of the GPU if used."""
    peaks = {}
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peaks["memory"] = peak / (2**30 if sys.platform == "darwin" else 2**20)
    if torch.cuda.is_available():
        peaks["gpu memory"] = torch.cuda.max_memory_allocated() / 2**30
    return peaks


class PeakMemory:
    """Most memory that this process holds while the context is open, read ten times a second; of
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


def in_own_process(function: Callable[..., T], *args: Any) -> T:
    """`function(*args)` in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn"), die_with_parent) as pool:
        return pool.submit(function, *args).result()
