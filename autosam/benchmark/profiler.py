"""A stopwatch for methods, and a separate process for each case."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import wraps
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from autosam.utils.device import wait
from autosam.utils.signals import die_with_parent

T = TypeVar("T")


@dataclass
class Stopwatch:
    """Measures the time spent in methods."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Total time by name, seconds."""

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Wrap a method so that the time of its calls is added to `seconds`.

        Args:
            owner: an object; its method is replaced.
            method: name of the method.
            name: key of `seconds`.
        """
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


def in_own_process(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a new process, so that its peak memory is measured separately.

    Args:
        function: a function that can be pickled.
        args: its arguments.

    Returns:
        Its result.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), die_with_parent) as pool:
        return pool.submit(function, *args).result()
