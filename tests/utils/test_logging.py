"""Warnings that are ignored in one thread."""

from __future__ import annotations

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from autosam.utils.logging import without_warnings


def test_threads_ignore_warnings_in_turns() -> None:
    """Python's filters belong to all threads: who leaves first would restore those of the other."""
    inside, most = [0], []
    both = threading.Barrier(2)

    def warn(seconds: float) -> None:
        both.wait(60)
        with without_warnings(UserWarning):
            inside[0] += 1
            most.append(inside[0])
            time.sleep(seconds)
            warnings.warn("not seen", stacklevel=1)
            inside[0] -= 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = [*warnings.filters]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(warn, [0.1, 0.2]))
        assert most == [1, 1]
        assert warnings.filters == before
        with without_warnings(UserWarning), pytest.raises(DeprecationWarning):
            warnings.warn("another kind", DeprecationWarning, stacklevel=1)
