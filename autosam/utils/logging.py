"""The log of a run: terminal and log.txt."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich import get_console
from rich.logging import RichHandler

from autosam.utils.io import not_written

log = logging.getLogger("autosam")
_FILTERS = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Log errors only inside the context, to avoid repeated messages."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def without_warnings(category: type[Warning] = Warning) -> Iterator[None]:
    """Ignore Python's warnings of a category inside the context, of which one is open at a time:
    the filters belong to all threads."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield


class LogFile(logging.FileHandler):
    """log.txt; a failure to write it raises an error."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise not_written(Path(self.baseFilename), error) from None
        super().handleError(record)


def set_up_log(main: bool) -> None:
    """Messages to the terminal (above the progress bar), or plain lines to a file or pipe."""
    if not log.handlers:
        terminal = get_console().is_terminal
        rich = RichHandler(show_path=False, show_time=False, show_level=False)
        log.addHandler(rich if terminal else logging.StreamHandler(sys.stdout))
        log.setLevel(logging.INFO if main else logging.ERROR)
