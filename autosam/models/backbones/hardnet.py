"""HarDNet backbones, registered with timm.

Paper: P. Chao, C.-Y. Kao, Y.-S. Ruan, C.-H. Huang, Y.-L. Lin, "HarDNet: A Low Memory Traffic
Network", ICCV 2019, arXiv:1909.00948.

Importing this module registers ``hardnet39ds``, ``hardnet68``, ``hardnet68ds`` and ``hardnet85``::

    import autosam.models.backbones.hardnet
    net = timm.create_model("hardnet85", features_only=True, out_indices=(1, 2, 3, 4))
    net.feature_info.reduction()  # [4, 8, 16, 32]
    net(images)                   # list of (B, C_i, H / r_i, W / r_i)

The names of parameters are those of the authors' published weight files: one sequence ``base`` of
layers whose last element is the classification head, and ``conv``/``dwconv``/``norm`` inside.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SelectAdaptivePool2d
from timm.models import (
    build_model_with_cfg,
    clean_state_dict,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

from autosam.errors import CheckpointError

__all__ = ["HarDNet"]


class Stage(NamedTuple):
    """A HarDNet block and the 1x1 transition that follows it."""

    growth: int  # k, channels of a layer with a single link
    depth: int  # layers in the block
    out: int  # channels of the transition
    down: bool  # does a stride-2 layer follow


class Spec(NamedTuple):
    """One variant (paper section 3.3, "Detailed Design"; dropout as the authors trained)."""

    stem: tuple[int, int]  # channels of the two stem convolutions
    stages: tuple[Stage, ...]
    m: float  # channel factor for each further link
    drop_rate: float  # dropout before the classifier
    depthwise: bool = False
    last_block_drop: float | None = None  # dropout between the last block and its transition


# fmt: off
_STAGES_39 = (
    Stage(16, 4, 96, True), Stage(20, 16, 320, True), Stage(64, 8, 640, True),
    Stage(160, 4, 1024, False),
)
_STAGES_68 = (
    Stage(14, 8, 128, True), Stage(16, 16, 256, False), Stage(20, 16, 320, True),
    Stage(40, 16, 640, True), Stage(160, 4, 1024, False),
)
_STAGES_85 = (
    Stage(24, 8, 192, True), Stage(24, 16, 256, False), Stage(28, 16, 320, True),
    Stage(36, 16, 480, False), Stage(48, 16, 720, True), Stage(256, 4, 1280, False),
)
# fmt: on
SPECS = {
    "hardnet39ds": Spec((24, 48), _STAGES_39, m=1.6, drop_rate=0.05, depthwise=True),
    "hardnet68": Spec((32, 64), _STAGES_68, m=1.7, drop_rate=0.1),
    "hardnet68ds": Spec((32, 64), _STAGES_68, m=1.7, drop_rate=0.05, depthwise=True),
    # The block dropout has no parameters, but takes the place base.17 and so shifts later names.
    "hardnet85": Spec((48, 96), _STAGES_85, m=1.7, drop_rate=0.2, last_block_drop=0.1),
}


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6: (B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    act = nn.ReLU6(inplace=True)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(c_out), act=act))


def _depthwise(chs: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3, batch norm, no activation: (B, chs, H, W) -> (B, chs, H / s, W / s)."""
    conv = nn.Conv2d(chs, chs, 3, stride, padding=1, groups=chs, bias=False)
    return nn.Sequential(OrderedDict(dwconv=conv, norm=nn.BatchNorm2d(chs)))


def _separable(c_in: int, c_out: int) -> nn.Sequential:
    """Pointwise then depthwise, the block layer of the "ds" variants: c_in -> c_out."""
    return nn.Sequential(OrderedDict(layer1=_conv(c_in, c_out, 1), layer2=_depthwise(c_out)))


def harmonic_links(i: int) -> list[int]:
    """Layers that feed layer ``i`` (paper section 3.1): i - 2^n for every 2^n that divides i."""
    return [i - 2**n for n in range(i.bit_length()) if i % 2**n == 0]


class HarDBlock(nn.Module):
    """Harmonic dense block (paper section 3.1), (B, c_in, H, W) -> (B, out_channels, H, W).

    Layer 0 is the block's input. The output concatenates the odd layers and the last; unlike in
    DenseNet the input is not part of it. A layer with many links is read by many later layers, so
    the paper widens it: growth * m^(links - 1) channels, rounded to an even number.
    """

    def __init__(self, c_in: int, stage: Stage, m: float, depthwise: bool) -> None:
        super().__init__()
        places = range(1, stage.depth + 1)
        self.links = [harmonic_links(i) for i in places]
        self.kept = [i for i in places if i % 2 or i == stage.depth]
        chs = [c_in]
        self.layers = nn.ModuleList()
        for links in self.links:
            fan_in = sum(chs[j] for j in links)
            width = (int(stage.growth * m ** (len(links) - 1)) + 1) // 2 * 2
            self.layers.append(_separable(fan_in, width) if depthwise else _conv(fan_in, width, 3))
            chs.append(width)
        self.out_channels = sum(chs[i] for i in self.kept)

    def forward(self, x: Tensor) -> Tensor:
        outs = [x]
        for layer, links in zip(self.layers, self.links, strict=True):
            # Odd layers have one link: no copy for them.
            outs.append(layer(torch.cat([outs[j] for j in links], 1) if links[1:] else outs[-1]))
        return torch.cat([outs[i] for i in self.kept], 1)


class HarDNet(nn.Module):
    """HarDNet classifier and feature pyramid (paper section 3.3).

    forward: (B, in_chans, H, W) -> (B, num_classes). The feature levels 0 to 4 are the last tensors
    at stride 2, 4, 8, 16 and 32, each just before the next stride-2 layer.
    """

    def __init__(
        self,
        cfg: Spec,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float | None = None,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.drop_rate = cfg.drop_rate if drop_rate is None else drop_rate
        self.feature_info: list[dict[str, Any]] = []
        self.taps: list[int] = []  # place in ``base`` of each feature level

        chs = cfg.stem[1]
        layers: list[nn.Module] = [
            _conv(in_chans, cfg.stem[0], 3, stride=2),
            _conv(cfg.stem[0], chs, 1 if cfg.depthwise else 3),
        ]
        self._tap(layers, chs)
        layers.append(_depthwise(chs, 2) if cfg.depthwise else nn.MaxPool2d(3, 2, padding=1))
        for stage in cfg.stages:
            block = HarDBlock(chs, stage, cfg.m, cfg.depthwise)
            layers.append(block)
            last = stage is cfg.stages[-1]
            if last and cfg.last_block_drop is not None:
                layers.append(nn.Dropout(cfg.last_block_drop))
            chs = stage.out
            layers.append(_conv(block.out_channels, chs, 1))
            if stage.down or last:
                self._tap(layers, chs)
            if stage.down:
                layers.append(_depthwise(chs, 2) if cfg.depthwise else nn.MaxPool2d(2, 2))
        self.num_features = chs
        self.base = nn.Sequential(*layers, nn.Identity())  # the head takes the last place
        self.reset_classifier(num_classes, global_pool)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def _tap(self, layers: list[nn.Module], chs: int) -> None:
        """Make the output of the newest layer a feature level."""
        self.taps.append(len(layers) - 1)
        module, stride = f"base.{self.taps[-1]}", 2 ** len(self.taps)
        self.feature_info.append({"num_chs": chs, "reduction": stride, "module": module})

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(f"base.{len(self.base) - 1}.3")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New random classifier; none for 0, and ``global_pool=""`` keeps the spatial axes."""
        if global_pool is not None:
            self.global_pool = global_pool
        if num_classes and not self.global_pool:
            raise ValueError("global_pool='' gives a feature map, so it needs num_classes=0")
        pool = SelectAdaptivePool2d(pool_type=self.global_pool)
        self.num_classes = num_classes
        self.head_hidden_size = self.num_features * pool.feat_mult()
        fc: nn.Module = nn.Identity()
        if num_classes:
            fc = nn.Linear(self.head_hidden_size, num_classes)
            nn.init.zeros_(fc.bias)
        flatten = nn.Flatten(1) if self.global_pool else nn.Identity()
        head = nn.Sequential(pool, flatten, nn.Dropout(self.drop_rate), fc)
        weight = next(self.base.parameters())
        self.base[-1] = head.to(weight.device, weight.dtype).train(self.training)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_features, H / 32, W / 32)."""
        return self.base[:-1](x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, num_features, h, w) -> (B, num_classes), or the classifier's input."""
        *before, fc = self.base[-1].children()
        for layer in before:
            x = layer(x)
        return x if pre_logits else fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)

    def _levels(self, indices: int | Sequence[int] | None) -> list[int]:
        """Levels by timm's convention: None for all, n for the last n, or a list of indices."""
        every = range(len(self.taps))
        if indices is None or isinstance(indices, int):
            return list(every[-(indices or len(every)) :])
        return [every[i] for i in indices]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """timm's interface: chosen levels, each (B, C_i, H / r_i, W / r_i); ``norm`` has no use."""
        if output_fmt != "NCHW":
            raise ValueError(f"HarDNet features are NCHW, not {output_fmt}")
        wanted = {self.taps[level] for level in self._levels(indices)}
        taken = []
        for i, layer in enumerate(self.base[:-1]):
            x = layer(x)
            if i in wanted:
                taken.append(x)
            if stop_early and i == max(wanted):
                break
        return taken if intermediates_only else (x, taken)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """timm's interface: drop what the chosen levels do not need, so no weight stays unused."""
        wanted = self._levels(indices)
        end = self.taps[max(wanted)] + 1
        pruned = end < len(self.base) - 1
        if pruned:
            self.base = nn.Sequential(*self.base[:end], nn.Identity())
            self.num_features = self.feature_info[max(wanted)]["num_chs"]
        if pruned or prune_head:
            self.reset_classifier(0)
        return wanted


def _check_weights(state_dict: dict[str, Any], model: HarDNet) -> dict[str, Any]:
    """Refuse weights that would leave part of the backbone random.

    timm loads non-strictly whenever the classifier differs (always with ``features_only``), so it
    would silently ignore a file with other keys.
    """
    # timm unwraps local files like this, but not downloaded ones.
    state_dict = clean_state_dict(state_dict.get("state_dict", state_dict))
    backbone = (f"base.{i}.{k}" for i, m in enumerate(model.base[:-1]) for k in m.state_dict())
    # Files from before PyTorch 0.4.1 lack num_batches_tracked, which is not needed.
    needed = [k for k in backbone if not k.endswith("num_batches_tracked")]
    missing = [k for k in needed if k not in state_dict]
    if missing:
        raise CheckpointError(
            f"not a weight file of this HarDNet variant: {len(missing)} of {len(needed)} backbone "
            f"tensors are missing, the first is {missing[0]!r}"
        )
    return state_dict


def _cfg(classifier: str, url: str = "") -> dict[str, Any]:
    return {
        "url": url,
        "pool_size": (7, 7),
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "base.0.conv",
        "classifier": classifier,
        "paper_ids": "arXiv:1909.00948",
        "origin_url": "https://github.com/PingoLH/Pytorch-HarDNet",
    }


_FILES = "https://github.com/PingoLH/Pytorch-HarDNet/raw/refs/heads/master/"
default_cfgs = generate_default_cfgs(
    {
        "hardnet39ds": _cfg("base.14.3", _FILES + "hardnet39ds.pth"),
        "hardnet68": _cfg("base.16.3", _FILES + "hardnet68.pth"),
        "hardnet68ds": _cfg("base.16.3", _FILES + "hardnet68ds.pth"),
        "hardnet85": _cfg("base.19.3"),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Build a variant; with ``features_only`` a timm FeatureGetterNet around the pruned network."""
    if pretrained:
        # timm would only log that there are no weights, or raise an error without a message.
        given = (kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
        cfg = resolve_pretrained_cfg(variant, *given)
        if not (cfg.has_weights or cfg.state_dict):
            raise CheckpointError(
                f"no public file exists for {variant}, so pretrained=True needs a local one: pass "
                "pretrained_cfg_overlay=dict(file='...') or --model.backbone_weights FILE"
            )
        if cfg.file and not Path(cfg.file).exists():
            raise CheckpointError(f"{cfg.file}: no such file. Give the path of a weights file.")
    return build_model_with_cfg(
        HarDNet,
        variant,
        pretrained,
        model_cfg=SPECS[variant],
        feature_cfg={"feature_cls": "getter"},
        pretrained_filter_fn=_check_weights,
        **kwargs,
    )


@register_model
def hardnet39ds(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HarDNet-39DS, depthwise separable, 3.5 M parameters."""
    return _create("hardnet39ds", pretrained, **kwargs)


@register_model
def hardnet68(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HarDNet-68, 17.6 M parameters."""
    return _create("hardnet68", pretrained, **kwargs)


@register_model
def hardnet68ds(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HarDNet-68DS, depthwise separable, 4.2 M parameters."""
    return _create("hardnet68ds", pretrained, **kwargs)


@register_model
def hardnet85(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HarDNet-85, 36.7 M parameters; no public weight file."""
    return _create("hardnet85", pretrained, **kwargs)
