"""Imaginary GPUs: tensors of the CPU labelled as on `cuda:0` or `cuda:1`.

What lies where is noted on each storage. Every operation, backward included, sees to it that its
tensors lie together, as CUDA does: an index or a scalar of no dimensions may lie on the CPU, a copy
may go anywhere. numpy cannot read what is elsewhere. torch's own code in C++ takes all of
it for CPU tensors; what it makes on the way lies wherever it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, ANYWHERE = torch.device("cpu"), torch.device("meta")
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")
COPIES = ("aten::copy_", "aten::_to_copy", "aten::set_")
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
           "aten::_unsafe_index")  # fmt: skip
NAMES = ("arange", "as_tensor", "empty", "empty_strided", "eye", "from_numpy", "full", "linspace",
         "logspace", "ones", "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor",
         "zeros")  # fmt: skip
FROM_VALUES = {torch.as_tensor, torch.from_numpy, torch.tensor}
MAKERS = {getattr(torch, name) for name in NAMES}
GROUP = torch._C._group_tensors_by_device_and_dtype
Real = torch._C.TensorBase
REAL_DEVICE = Real.device


def place(tensor: Tensor) -> torch.device:
    """Where a tensor is said to be; ANYWHERE for what C++ made by itself."""
    return getattr(tensor.untyped_storage(), "pretended", CPU)


def relabel(tensor: Tensor, device: torch.device) -> Tensor:
    """Let a tensor and its views lie on a device from now on."""
    tensor.untyped_storage().pretended = device
    return tensor


class Move(torch.autograd.Function):
    """A copy on another device; its gradient comes back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, device: torch.device) -> Tensor:
        ctx.back = place(tensor)
        return relabel(Real.to(tensor, copy=True), device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return relabel(Real.to(gradient, copy=True), ctx.back), None


class Placed(TorchDispatchMode):
    """Looks at each operation; see the module."""

    def __init__(self, gpus: PretendedGpus) -> None:
        super().__init__()
        self.gpus = gpus

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        where = self._where(name, given, args)
        if name in READS and where.type == "cuda":
            self.gpus.reads += 1
        asked = kwargs.get("device")
        if asked is not None and torch.device(asked).type == "cuda":
            where = self.gpus.whole(asked)
            kwargs["device"] = CPU
        elif asked is not None and not given:
            where = CPU if self.gpus.making else ANYWHERE
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not hasattr(tensor.untyped_storage(), "pretended"):
                relabel(tensor, where)
        return result

    def _where(self, name: str, given: list[Tensor], args: Any) -> torch.device:
        """The device of an operation.

        Raises:
            RuntimeError: its tensors lie on several.
        """
        if name in COPIES:
            return place(given[0])
        if name in INDEXED:  # the indices may lie on the CPU
            own = [args[0], *[t for t in args[2:3] if isinstance(t, Tensor)]]
            given = own + [t for t in given if all(t is not o for o in own) and place(t) != CPU]
        places = {place(t) for t in given}
        on_gpu = places - {CPU, ANYWHERE}
        if on_gpu:
            places = {place(t) for t in given if t.dim() or place(t) != CPU}
        places.discard(ANYWHERE)
        if len(places) > 1:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{' and '.join(sorted(map(str, places)))}! ({name})"
            )
        if not places:
            return CPU if not given or any(place(t) == CPU for t in given) else ANYWHERE
        here = places.pop()
        for tensor in given:  # what C++ made is where it is used first
            if place(tensor) == ANYWHERE:
                relabel(tensor, here)
        return here


class Called(TorchFunctionMode):
    """Knows whether Python itself makes a tensor, which without a device lies on the CPU."""

    def __init__(self, gpus: PretendedGpus) -> None:
        super().__init__()
        self.gpus = gpus

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, device = dict(kwargs or {}), None
        before, self.gpus.making = self.gpus.making, func in MAKERS
        if func in MAKERS and kwargs.get("device") is not None:
            device = kwargs["device"] = self.gpus.whole(kwargs["device"])
            if device.type == "cuda":  # C++ would look for its driver
                kwargs["device"] = CPU
        try:
            made = func(*args, **kwargs)
            if device is None:
                return made
            uploads = self.gpus.uploads
            moved = self.gpus.move(made, device)
            if func not in FROM_VALUES:
                self.gpus.uploads = uploads
            return moved
        finally:
            self.gpus.making = before


def forget_devices() -> None:
    """Let accelerate look for its device again: it keeps the one that it finds."""
    for kind in (AcceleratorState, GradientState, PartialState):
        kind._reset_state()


class PretendedGpus:
    """A machine with `count` GPUs, while the context is open.

    Args:
        count: how many.
        current: the one that `cuda` without a number means.

    Attributes:
        reads: how often the CPU waited for a value of a GPU: `.item()`, `.cpu()`, `bool(tensor)`.
        uploads: how often values were copied from the CPU to a GPU.
    """

    def __init__(self, count: int = 2, current: int = 0) -> None:
        self.count, self.current, self.reads, self.making = count, current, 0, False
        self.uploads = 0
        self._stack = ExitStack()

    def whole(self, device: Any) -> torch.device:
        """A device with its number."""
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if device.type == "cuda" and device.index is None:
            return torch.device("cuda", self.current)
        assert device.type != "cuda" or device.index < self.count, f"{device}: invalid ordinal"
        return device

    def move(self, tensor: Tensor, device: Any) -> Tensor:
        """What `tensor.to(device)` gives."""
        device, source = self.whole(device), place(tensor)
        if device.type not in ("cpu", "cuda"):
            return Real.to(tensor, device)
        if source == device or (source == ANYWHERE and relabel(tensor, device) is tensor):
            return tensor
        self.reads += source.type == "cuda" and device == CPU
        self.uploads += source == CPU and device.type == "cuda"
        return Move.apply(tensor, device)

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`tensor.to` in its three forms: by another tensor, a type of values, or a device."""
        given = list(args)
        if given and isinstance(given[0], Tensor):
            other = given.pop(0)
            kwargs |= {"device": place(other), "dtype": other.dtype}
        elif given and not isinstance(given[0], torch.dtype):
            kwargs["device"] = given.pop(0)
        kwargs |= dict(zip(("dtype", "non_blocking", "copy"), given, strict=False))
        kwargs.pop("non_blocking", None)
        device = kwargs.pop("device", None)
        moved = tensor if device is None else self.move(tensor, device)
        left = {key: value for key, value in kwargs.items() if value is not None}
        return Real.to(moved, **left) if left else moved

    def _numpy(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def checked(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if place(tensor).type == "cuda":
                raise TypeError(
                    f"can't convert {place(tensor)} device type tensor to numpy. Use Tensor.cpu() "
                    "to copy the tensor to host memory first."
                )
            return read(tensor, *args, **kwargs)

        return checked

    def _tolist(self, tensor: Tensor) -> Any:
        self.reads += place(tensor).type == "cuda"
        with torch._C.DisableTorchFunction():  # which would come back here
            return Real.tolist(tensor)

    def _grouped(self, group: Callable[..., Any]) -> Callable[..., Any]:
        """What torch's optimisers group tensors by: C++ takes the device of all for the CPU."""

        def grouped(lists: list[list[Tensor]], *rest: Any) -> dict[Any, Any]:
            return {
                (place(found[0][0][0]), dtype): found
                for (_, dtype), found in group(lists, *rest).items()
            }

        return grouped

    def __enter__(self) -> PretendedGpus:
        def device(tensor: Tensor) -> torch.device:
            real = REAL_DEVICE.__get__(tensor)
            found = place(tensor)
            return found if found.type == "cuda" else real

        def pin(tensor: Tensor) -> Tensor:
            assert place(tensor).type == "cpu", "only dense CPU tensors can be pinned"
            return tensor

        optimizer = {"_accelerator_graph_capture_health_check": lambda optimizer: None}
        cuda = {
            "is_available": lambda: True,
            "device_count": lambda: self.count,
            "current_device": lambda: self.current,
            "set_device": lambda device: setattr(self, "current", self.whole(device).index),
            "is_bf16_supported": lambda including_emulation=True: True,
            "get_device_name": lambda device=None: "pretended",
            "synchronize": lambda device=None: None,
            "max_memory_allocated": lambda device=None: 0,
            "reset_peak_memory_stats": lambda device=None: None,
            "empty_cache": lambda: None,
            "_lazy_init": lambda: None,
        }
        tensor = {
            "device": property(device),
            "is_cuda": property(lambda tensor: place(tensor).type == "cuda"),
            "is_cpu": property(lambda tensor: device(tensor).type == "cpu"),
            "to": lambda tensor, *args, **kwargs: self._to(tensor, *args, **kwargs),
            "cpu": lambda tensor, *args, **kwargs: self.move(tensor, CPU),
            "cuda": lambda tensor, device=None, **kwargs: self.move(tensor, device or "cuda"),
            "numpy": self._numpy(Real.numpy),
            "__array__": self._numpy(Tensor.__array__),
            "pin_memory": pin,
            "tolist": lambda tensor: self._tolist(tensor),
        }
        for owner, names in (
            (torch.cuda, cuda),
            (Tensor, tensor),
            (torch.optim.Optimizer, optimizer),
            (torch._C, {"_group_tensors_by_device_and_dtype": self._grouped(GROUP)}),
        ):
            for name, value in names.items():
                self._stack.enter_context(patch.object(owner, name, value, create=True))
        self._stack.callback(forget_devices)
        self._stack.enter_context(Placed(self))
        self._stack.enter_context(Called(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
