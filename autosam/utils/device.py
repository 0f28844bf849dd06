"""The device that computes, and where bfloat16 is used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from autosam.errors import ConfigError
from autosam.utils.launcher import forbids_gpu, local_rank

MATRICES = "amx_bf16"
"""Instructions for products of matrices in bfloat16, as torch names the capabilities of x86
processors. Whole training steps are faster with them, and slower with `avx512_bf16` alone."""
FAST = ("avx512_bf16", MATRICES)
"""Instructions for bfloat16."""


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
        return _has(MATRICES) if device.type == "cpu" else gains_from_bf16(device)
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
    return any(_has(name) for name in FAST)


def _has(instructions: str) -> bool:
    """Whether the processor has instructions, by torch's name of them."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get(instructions, False))


@contextlib.contextmanager
def half_precision(device: torch.device, enabled: bool) -> Iterator[None]:
    """Autocast to bfloat16, or nothing. On a CPU depthwise convolutions that get gradients stay in
    float32."""
    on_cpu = enabled and device.type == "cpu" and torch.is_grad_enabled()
    depthwise = DepthwiseInFloat32() if on_cpu else contextlib.nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled), depthwise:
        yield


class DepthwiseInFloat32(TorchFunctionMode):
    """Within an autocast on a CPU, compute depthwise convolutions that get gradients in float32:
    their gradients take up to four times as long in bfloat16 (torch 2.14)."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.conv2d or not _trains_in_groups(args, kwargs):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_full, args), **{name: _full(v) for name, v in kwargs.items()})


def _trains_in_groups(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a convolution with these arguments has groups and gets gradients in an autocast."""
    groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
    if groups == 1 or not (torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()):
        return False
    values = (*args, *kwargs.values())
    return any(isinstance(value, Tensor) and value.requires_grad for value in values)


def _full(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def is_traced() -> bool:
    """Whether a graph is made of what is computed, to compile or export it."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def wait(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
