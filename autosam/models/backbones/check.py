"""Check that a backbone works at an input size."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from autosam.errors import ConfigError

SIZES = (224, 256, 384, 448, 512)
"""Input sizes to try if the requested one does not work, pixels."""

SLACK = 0.3
"""Tolerated difference of the side of a feature map from size / stride, relative."""


def require_fit(
    name: str, net: nn.Module, size: int, again: Callable[[int], nn.Module], channels: int = 3
) -> None:
    """Refuse a network that does not return the feature maps it declares.

    Args:
        name: of the timm model.
        net: a `features_only` network; it is not changed.
        size: G.
        again: builds the same network for another size, to find one that works.
        channels: of the input.

    Raises:
        ConfigError: it does not; the message names an input size or a backbone that works.
    """
    if (trouble := fault(net, size, channels)) is None:
        return
    remedy = "Take another backbone, such as tf_efficientnet_lite0 or resnet50."
    for other in sorted(SIZES, key=lambda other: abs(other - size)):
        try:
            works = other != size and fault(again(other), other, channels) is None
        except Exception:  # timm raises many kinds
            works = False
        if works:
            remedy = f"It works at --model.input_size {other}; or take another backbone."
            break
    raise ConfigError(
        f"--model.backbone {name}: does not work at --model.input_size {size} ({trouble}). {remedy}"
    )


def fault(net: nn.Module, size: int, channels: int = 3) -> str | None:
    """What is wrong with the feature maps of an image of size x size, or None."""
    try:
        levels = _forward(net, (1, channels, size, size), "meta")
    except Exception:  # not every network runs on the meta device
        try:
            levels = _forward(net, (1, channels, size, size), None)
        except Exception as error:  # timm raises many kinds
            return f"{type(error).__name__}: {error}".strip(": ").splitlines()[0][:150]
    info = cast(Any, net).feature_info
    strides, counts = info.reduction(), info.channels()
    if not any(4 <= stride <= 32 for stride in strides):
        return f"its feature maps have strides {strides}, none from 4 to 32"
    last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
    for level, stride, count in zip(levels, strides, counts, strict=True):
        shape = tuple(level.permute(0, 3, 1, 2).shape if last else level.shape)
        # Without padding (as in Inception) a map ends up a few cells smaller.
        alike = len(shape) == 4 and all(
            abs(side * stride / size - 1) <= SLACK for side in shape[2:]
        )
        if 4 <= stride <= 32 and not (alike and shape[:2] == (1, count)):
            return f"a feature map is {shape}, but {count} channels of stride {stride} are declared"
    return None


@torch.no_grad()
def _forward(net: nn.Module, shape: tuple[int, int, int, int], device: str | None) -> list[Tensor]:
    """The feature maps of one blank image.

    Computed on a copy that shares the tensors, or holds meta tensors, because some networks cache
    values that depend on weights loaded later.

    Args:
        net: a `features_only` network; it is not changed.
        shape: 1, C, G, G.
        device: `meta`, or None for the device of the network.
    """
    tensors = chain(net.parameters(), net.buffers())
    shared: dict[int, Any] = {id(t): t if device is None else t.to(device) for t in tensors}
    replica = copy.deepcopy(net, shared).eval()
    return replica(torch.zeros(shape, device=device))
