"""Errors a user can act on. Each message says what was found, what was expected and what to do."""

import re


class AutosamError(Exception):
    """Base of every error raised on purpose; the command line prints it without a traceback."""

    def __init__(self, message: str = "") -> None:
        if message.startswith("Caught "):  # torch hands on what a worker process raised, so wrapped
            message = message.rpartition(f"autosam.errors.{type(self).__name__}: ")[2].strip()
        super().__init__(message)


class ConfigError(AutosamError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class DataError(AutosamError):
    """An image, mask, folder or split cannot be used as it is."""


class CheckpointError(AutosamError):
    """A weights file is missing, unreadable, or belongs to another network."""


class StorageError(AutosamError):
    """A file or folder cannot be written.

    Attributes:
        everywhere: whether no other file can be written either: the disk is full or read-only.
    """

    everywhere = False


class Stopped(AutosamError):
    """A signal asked the command to stop; what was done is saved."""

    signal = 15


class TrainingError(AutosamError):
    """Training cannot continue, for example because the loss is no longer finite."""


NO_MEMORY = re.compile(
    r"out of memory|alloc\w*_failed|can't allocate|cannot allocate memory|not enough memory|"
    r"failed to allocate memory|bad_alloc|insufficient memory|CUDNN_STATUS_NOT_SUPPORTED|"
    r"NOT_INITIALIZED when calling `?cublasCreate|INSUFFICIENT_RESOURCES|"
    r"unable to find an engine to execute|unable to find a valid cuDNN algorithm|"
    r"could not (create|execute) a (primitive|memory)( object)?$",
    re.IGNORECASE,
)
"""What allocators say when nothing is left: torch's (CUDA, HIP, MPS, XPU, CPU), cuBLAS's, cuDNN's,
OpenCV's, the system's. From CUDNN_STATUS_NOT_SUPPORTED on: what libraries without room for their
own say, oneDNN's among them, and torch when all of cuDNN's ways of computing ended so."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or else its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the machine."""
    return isinstance(error, MemoryError) or NO_MEMORY.search(str(error)) is not None
