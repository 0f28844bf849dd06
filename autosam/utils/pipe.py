"""Output that is piped into a program which reads only its beginning."""

from __future__ import annotations

import signal


def end_with_the_reader() -> None:
    """Let a closed pipe (`... | head`) end this process quietly, as it does for Unix tools. For
    commands that only print."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
