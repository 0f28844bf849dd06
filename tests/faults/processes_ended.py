"""Processes that tests end: started from one that has imported everything, watched, and noted for
the table that is printed after the tests."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
from helpers import ENDED

LONGEST = 10.0
"""Seconds within which everything has ended."""
PROCESSES = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
PROCESSES.set_forkserver_preload(
    [
        "autosam.training.fit",
        "autosam.inference.onnx",
        "autosam.pretraining.lite",
        "segment_anything",
    ]
)


def start(work: Callable[..., None], *args: Any) -> tuple[psutil.Process, Any]:
    begun = PROCESSES.Event()
    process = PROCESSES.Process(target=begin, args=(begun, work, *args))
    process.start()
    assert process.pid is not None
    assert begun.wait(120)  # what came before is the test's own
    return psutil.Process(process.pid), process


def begin(begun: Any, work: Callable[..., None], *args: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as for a command; see autosam/__init__.py
    begun.set()
    work(*args)


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)


def end(what: str, process: psutil.Process, handle: Any, send: Callable[[], object]) -> int:
    """Send, wait until the process and all that it started have ended, and note how long it took;
    the exit code."""
    members = family(process)
    began = time.monotonic()
    send()
    handle.join(30)
    wait_for(lambda: not any(map(alive, members)), 30)
    seconds = time.monotonic() - began
    code = handle.exitcode
    note(what, seconds, code)
    assert seconds < LONGEST, what
    return code


def note(what: str, seconds: float, code: int) -> None:
    times, worst, codes = ENDED.get(what, (0, 0.0, set()))
    ENDED[what] = (times + 1, max(worst, seconds), codes | {code})
