"""Output that is piped into a program which reads only its beginning."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def ending_with_the_reader() -> Iterator[None]:
    """End quietly where a closed pipe (`... | head`) ends what is printed, with the exit code of a
    Unix tool. `rich` and `argparse` do so by themselves, with exit codes of their own."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest
        raise SystemExit(141) from None
