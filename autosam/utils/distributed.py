"""Processes that were launched together, by accelerate or torchrun."""

from __future__ import annotations

import re
from typing import Any, TypeVar, cast

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, is_torch_xla_available

from autosam.errors import ConfigError, TrainingError
from autosam.utils.device import choose_device
from autosam.utils.launcher import check_launcher

T = TypeVar("T")


def processes() -> PartialState:
    """The rank and number of the processes launched together; a single one otherwise.

    Raises:
        ConfigError: they were launched for what this package does not do.
    """
    check_launcher()
    if is_torch_xla_available():
        raise ConfigError(
            "torch_xla is installed, and accelerate would compute with it; autosam uses CPUs and "
            "CUDA alone. Set USE_TORCH_XLA=0, or uninstall torch_xla."
        )
    # Without being told so, accelerate takes several processes on CPUs for so many single ones.
    return PartialState(cpu=choose_device().type == "cpu")


def make_accelerator(accumulate: int = 1) -> Accelerator:
    """Make the accelerator of a training: its device and processes.

    Args:
        accumulate: batches per optimiser step.

    Returns:
        An accelerator that computes in float32 whatever the launcher says: `--train.precision`
        alone decides.

    Raises:
        ConfigError: see `processes`; or this program made an accelerator of another precision.
    """
    on_cpu = processes().device.type == "cpu"
    try:
        accelerator = Accelerator(mixed_precision="no", cpu=on_cpu)
    except ValueError as error:  # accelerate keeps one state for the whole program
        raise ConfigError(f"This program already made an Accelerator of its own: {error}") from None
    # Not as an argument, which a variable of the launcher would override.
    accelerator.gradient_accumulation_steps = accumulate
    return accelerator


def broadcast(value: T) -> T:
    """The main process's value, in every process."""
    return cast(T, broadcast_object_list([value])[0])


def gather(values: list[Any]) -> list[Any]:
    """The values of all processes, one list after the other."""
    return values if processes().num_processes == 1 else gather_object(values)


def peer_error(error: RuntimeError, again: str) -> TrainingError | None:
    """The error for what torch raises when another process is gone, or None for other errors.

    Args:
        error: what an operation that processes share raised.
        again: how to continue, as the beginning of a sentence.
    """
    if processes().num_processes == 1 or not re.search("gloo|nccl|peer", str(error), re.I):
        return None
    return TrainingError(
        f"another process of this run died or cannot be reached ({error}). Its message says why. "
        f"{again}, with as many processes as there are."
    )
