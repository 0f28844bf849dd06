"""Processes that were launched together, by accelerate or torchrun."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from autosam.precision import choose_device

T = TypeVar("T")


def processes() -> PartialState:
    """Which of how many this one is; a single one where none were launched together."""
    # Without being told so, accelerate takes several processes on CPUs for so many single ones.
    return PartialState(cpu=choose_device().type == "cpu")


def same_for_all(value: T) -> T:
    """The main process's value, in every process."""
    return cast(T, broadcast_object_list([value])[0])


def of_all(values: list[Any]) -> list[Any]:
    """The values of all processes, one list after the other."""
    return values if processes().num_processes == 1 else gather_object(values)
