"""The device that computes, and where bfloat16 is used."""

from __future__ import annotations

from typing import Any

import torch

from autosam.errors import ConfigError
from autosam.utils.launcher import forbids_gpu, local_rank

FAST = ("avx512_bf16", "amx_bf16")
"""Instructions for bfloat16, as torch names the capabilities of x86 processors."""


def choose_device() -> torch.device:
    """The GPU of this process, if there is one. Of several processes each has its own, which
    becomes torch's current one.

    Raises:
        ConfigError: more processes than GPUs on this machine.
    """
    if forbids_gpu() or not torch.cuda.is_available():
        return torch.device("cpu")
    rank, count = local_rank(), torch.cuda.device_count()
    if rank is None:
        return torch.device("cuda")
    if rank >= count:
        raise ConfigError(
            f"Process {rank + 1} of this machine has no GPU of its own: there are {count}. "
            f"Launch {count} processes (--num_processes, --nproc_per_node)."
        )
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def trains_in_bf16(precision: str, device: torch.device) -> bool:
    """Whether the forward passes of a training run in bfloat16.

    Args:
        precision: `--train.precision`: "bf16", "no", or "auto" for where it is faster.
        device: the device of the training.
    """
    if precision == "auto":
        return device.type == "cuda" and gains_from_bf16(device)
    return precision == "bf16"


def gains_from_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices faster in bfloat16 than in float32.

    For a CPU the instruction set decides (known to torch since 2.10), not a measurement, so that
    results do not depend on the load of the machine.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in FAST)


def half_precision(device: torch.device, enabled: bool) -> torch.autocast:
    """Autocast to bfloat16, or nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def is_traced() -> bool:
    """Whether a graph is made of what is computed, to compile or export it."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def wait(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
