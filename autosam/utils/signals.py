"""Signals: a run saves its state before it stops, and every command ends within seconds."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.sharedctypes import RawValue
from types import FrameType
from typing import Any, NoReturn

import psutil  # not later: a process forked in the middle of an import would wait for it

from autosam.errors import Stopped

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
)
"""Signals that ask a process to end, as far as the system has them."""
GRACE = 6.0
"""Seconds that a command has to end by itself after a signal; then it is killed."""
REMINDER = 0.3
"""Seconds after which `Interrupt` raises its exception again, where the work can stop at once."""
AGAIN = 1.5
"""Seconds after which a command raises its exception again, until it has ended."""


class AtOnce(BaseException):
    """A signal arrived where the work can stop at once without loss."""


class Repeater:
    """Sends a signal to the main thread again: Python drops exceptions that are raised in a
    destructor, in a callback of a weak reference or around a fork, and libraries catch them or turn
    them into others."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._sent: int | None = None
        self._lock = threading.RLock()  # a handler may interrupt the main thread that holds it

    def after(self, seconds: float, number: int) -> None:
        """Send signal `number` after a while, instead of what was to be sent before."""
        timer = threading.Timer(seconds, self._send, (number,))
        timer.daemon = True
        with self._lock:
            self._timer = timer
        timer.start()

    def cancel(self) -> None:
        """Send nothing any more."""
        with self._lock:
            self._timer = None

    def sent(self, number: int) -> bool:
        """Whether the signal that is handled now came from here."""
        if self._sent != number:
            return False
        self._sent = None
        return True

    def _send(self, number: int) -> None:
        with self._lock:
            if self._timer is not threading.current_thread():
                return  # cancelled, or another one is to be sent
            self._sent = number
            if hasattr(signal, "pthread_kill"):  # it also ends a call to the system
                ident = threading.main_thread().ident
                assert ident is not None
                signal.pthread_kill(ident, number)
            else:
                signal.raise_signal(number)


class Interrupt:
    """Records the first signal instead of ending the process.

    While `at_once` is set, a signal raises `AtOnce` (outside the context: `Stopped`); otherwise the
    training checks `signal` between two steps. A second SIGINT raises KeyboardInterrupt. Only the
    main thread receives signals; in other threads the context has no effect.

    Attributes:
        signal: the number of the first signal, or None.
        remedy: the command that continues the run, for the message.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.remedy = "the same command and --overwrite true"
        self._at_once = False
        self._process = os.getpid()
        self._repeater = Repeater()
        self._before: dict[int, Any] = {}
        self._done = RawValue("b", 1)

    def __enter__(self) -> Interrupt:
        self._done.value, self._process = 0, os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._note) for number in handled_signals()
            }
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, *_: object) -> None:
        caused = self.caused(error)
        self._done.value, self._at_once = 1, False
        self._repeater.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if caused:
            raise self.stopped() from None

    def caused(self, error: BaseException | None) -> bool:
        """Whether an error comes of a signal: it is `AtOnce`, or what a library made of it."""
        turned = self._at_once and self.signal is not None and isinstance(error, Exception)
        return isinstance(error, AtOnce) or (turned and not isinstance(error, Stopped))

    def stopped(self) -> Stopped:
        """The exception that ends the run."""
        stopped = Stopped(f"stopped; resume with: {self.remedy}")
        stopped.signal = self.signal or Stopped.signal
        return stopped

    @property
    def at_once(self) -> bool:
        """Whether a signal raises an exception at once."""
        return self._at_once

    @at_once.setter
    def at_once(self, value: bool) -> None:
        self._at_once = value
        if self.signal is not None:
            if value:
                self._raise()
            else:
                self._repeater.cancel()

    def _note(self, number: int, frame: FrameType | None) -> None:
        _leave_if_forked(self._process, number)
        again = self._repeater.sent(number)
        if self.signal is None:
            self.signal = number
            _say("stopping; Ctrl-C (again) leaves at once")
        elif number == signal.SIGINT and not again:
            raise KeyboardInterrupt
        if self._at_once:
            self._raise()

    def _raise(self) -> None:
        """Raise the exception, now and again later."""
        if self._before and self.signal is not None:
            self._repeater.after(REMINDER, self.signal)
        if not _forking:
            raise AtOnce

    def worker_init(self, worker: int) -> None:
        """Initialise a worker process of a loader: a signal to the process group does not end it
        before its parent is done, and it ends with its parent."""
        for number in SIGNALS:
            signal.signal(number, self._end_if_done if number == signal.SIGTERM else signal.SIG_IGN)
        die_with_parent()

    def _end_if_done(self, number: int, frame: FrameType | None) -> None:
        if self._done.value:
            os._exit(0)

    def __getstate__(self) -> dict[str, Any]:
        return {"_done": self._done}  # what a worker process receives


def handled_signals() -> list[int]:
    """The signals to handle: all that were not ignored at the start, as by nohup, and Ctrl-C; none
    whose handler is not Python's, which could not be set again."""
    now = {number: signal.getsignal(number) for number in SIGNALS}
    return [
        number
        for number, handler in now.items()
        if handler is not None and (number == signal.SIGINT or handler != signal.SIG_IGN)
    ]


def _leave_if_forked(process: int, number: int) -> None:
    """End a process that was forked from `process` and has not set its own handlers yet."""
    if os.getpid() != process:
        os._exit(128 + number)


def _say(text: str) -> None:
    """Write to stderr within a signal handler, where `print` may already be running."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


def die_with_parent() -> None:
    """End this process, a child by multiprocessing, as soon as its parent has ended."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            kill_children()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def kill_children() -> None:
    """Kill the child processes of this process and their children, before it ends itself. Resource
    trackers of multiprocessing are kept, because they clean up."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report each
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if not any("resource_tracker" in word for word in child.cmdline()):
                child.kill()


@contextlib.contextmanager
def ending_in_time() -> Iterator[None]:
    """Run a command so that a signal ends it, with the exit code 128 plus the signal's number.

    Unless the command handles signals itself (`Interrupt`), a signal raises SystemExit, or
    KeyboardInterrupt for Ctrl-C, and again (`Repeater`); what is raised or logged after it is not
    reported. If the process is still running `GRACE` seconds later, it is killed with its children.
    Only the main thread receives signals; in other threads the context has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    repeater, process = Repeater(), os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        _leave_if_forked(process, number)
        if not came and number != signal.SIGINT:
            _say(f"stopped by {signal.Signals(number).name}")
        came.append(number)
        logging.disable()
        kill_children()
        repeater.after(AGAIN, came[0])
        end()

    def end() -> NoReturn:
        if came[0] == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + came[0])

    report_dropped, logged = sys.unraisablehook, logging.root.manager.disable

    def dropped(unraisable: sys.UnraisableHookArgs) -> None:
        if not came and not isinstance(unraisable.exc_value, AtOnce):
            report_dropped(unraisable)

    sys.unraisablehook = dropped

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # The interpreter writes the number there at once, even where Python code has to wait.
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, leave) for number in handled_signals()}
    threading.Thread(target=_end_after, args=(reader,), daemon=True).start()
    try:
        yield
        if came:  # the exception was caught
            end()
    except Stopped:
        kill_children()  # without waiting for the workers
        raise
    except Exception:
        if came:  # in place of the one for the signal
            end()
        raise
    finally:
        repeater.cancel()
        logging.disable(logged)
        sys.unraisablehook = report_dropped
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        writer.shutdown(socket.SHUT_RDWR)  # and so ends the thread, unless a signal came
        writer.close()


def leave_now(code: int) -> NoReturn:
    """End the process without cleanup, which takes seconds on a busy machine."""
    _show_cursor()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _show_cursor() -> None:
    """A bar that was not ended has hidden it."""
    if os.environ.get("TERM", "dumb") == "dumb":
        return
    with contextlib.suppress(OSError):  # the terminal may be gone
        if os.isatty(1):
            os.write(1, b"\x1b[?25h")


def _end_after(reader: socket.socket) -> None:
    """Wait for a signal, and then for `GRACE` seconds."""
    with reader:
        number = 0
        while number not in SIGNALS:
            read = reader.recv(1)
            if not read:
                return
            number = read[0]
        time.sleep(GRACE)  # with the reader open, as further signals are written to it
    _say(
        f"did not end {GRACE:g} s after {signal.Signals(number).name}, so it was killed; files "
        "saved before are complete"
    )
    kill_children()
    _show_cursor()
    os._exit(128 + number)


_forking = False


def _fork(begins: bool) -> None:
    global _forking
    _forking = begins


def _forget_parents_signals() -> None:
    _fork(False)
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _fork(True),
        after_in_parent=lambda: _fork(False),
        after_in_child=_forget_parents_signals,  # a signal to a child is not meant for its parent
    )
