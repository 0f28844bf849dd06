"""Output that is piped into a program which reads only its beginning."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

CODE = 141
"""128 + SIGPIPE: what a shell shows for a tool that the signal ended."""


@contextlib.contextmanager
def ending_with_the_reader() -> Iterator[None]:
    """End quietly where a closed pipe (`... | head`) ends what is printed, with the exit code of a
    Unix tool. Other pipes than the output must not break within."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest
        raise SystemExit(CODE) from None
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich has done so
            raise SystemExit(CODE) from None
        raise
