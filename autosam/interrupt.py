"""SIGTERM and SIGINT as a wish that is met at the next good moment."""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing.sharedctypes import RawValue
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """While entered, notes the first signal instead of dying of it; a second SIGINT acts at once.

    In another thread than the main one it notes nothing: signals only go there.

    Attributes:
        signal: which one came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._done = RawValue("b", 0)

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._done.value = 1
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            self.signal = number
            print("stopping after this step; Ctrl-C (again) leaves at once", file=sys.stderr)

    def outlive(self, worker: int) -> None:
        """In a process that reads for this one: a signal to the whole group does not end it before
        this one, which it serves, is done (or dead: torch's loop notices)."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end_if_done)

    def _end_if_done(self, number: int, frame: FrameType | None) -> None:
        if self._done.value:
            os._exit(0)

    def __getstate__(self) -> dict[str, Any]:
        return {"_done": self._done}  # what a reading process is given
