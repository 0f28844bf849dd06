"""LoRA of Hu et al. (2021, arXiv 2106.09685) in SAM's image encoder, by `peft`.

Adapters start at zero, so a SAM with fresh ones computes what it computed without. Prediction and
export merge them into the weights, where they cost nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from autosam.config import LoraConfig
from autosam.errors import CheckpointError, ConfigError
from autosam.models.sam.base import Sam


def add_lora(sam: Sam, config: LoraConfig) -> None:
    """Put adapters into the image encoder of a SAM.

    Args:
        sam: with its image encoder; `sam.tuned_from` is set to the first block with adapters.
        config: rank, scale, layers and blocks.

    Raises:
        ConfigError: peft is not installed, the image encoder has no blocks, or fewer than
            `--lora.blocks` asks for.
    """
    try:  # optional, and slow to import
        from peft import LoraConfig as Adapters
        from peft import inject_adapter_in_model
    except ImportError:
        raise ConfigError("LoRA needs peft: pip install 'autosam[lora]'") from None
    encoder = sam.block_encoder
    blocks = encoder.each_block()
    count = len(blocks) if config.blocks is None else config.blocks
    if count > len(blocks):
        raise ConfigError(
            f"--lora.blocks {count}: the image encoder of {sam.spec.name} has {len(blocks)}."
        )
    chosen = {
        id(layer)
        for block in blocks[len(blocks) - count :]
        for layer in layers_of(block, config.layers)
    }
    names = [re.escape(name) for name, layer in encoder.named_modules() if id(layer) in chosen]
    adapters = Adapters(
        r=config.rank,
        lora_alpha=alpha_of(config),
        lora_dropout=config.dropout,
        target_modules="|".join(names),  # compared with the whole name
    )
    inject_adapter_in_model(adapters, encoder)
    sam.tuned_from = len(blocks) - count


def alpha_of(config: LoraConfig) -> int:
    """Alpha; by default the rank, so that adapters are added as they are."""
    return config.rank if config.alpha is None else config.alpha


def require_same_scale(saved: LoraConfig, config: LoraConfig, source: Path) -> None:
    """Refuse adapters of another run that would have another effect here.

    Args:
        saved: of the run that the adapters are from, with the same rank.
        config: of this run.
        source: the file of the adapters, for the message.

    Raises:
        CheckpointError: they were scaled otherwise.
    """
    if alpha_of(saved) != alpha_of(config):
        raise CheckpointError(
            f"--init {source}: its adapters were trained with --lora.alpha {alpha_of(saved)}, and "
            f"{alpha_of(config)} would scale them otherwise. Pass --lora.alpha {alpha_of(saved)}."
        )


def layers_of(block: nn.Module, which: str) -> list[nn.Module]:
    """The layers of a block that get adapters.

    Args:
        block: of an image encoder.
        which: `attention`: the linear layers of its attention, or all where it has none (a block
            of convolutions). `all`: linear layers and convolutions of 1 x 1.
    """
    every = {name: layer for name, layer in block.named_modules() if is_linear(layer)}
    names = {"attn", "attention"}
    attention = [layer for name, layer in every.items() if names & {*name.split(".")}]
    return attention if attention and which == "attention" else [*every.values()]


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer maps channels at each place by itself."""
    pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear) or pointwise


def adapters_of(module: nn.Module) -> list[tuple[str, Any]]:
    """Every layer with an adapter, by name."""
    return [(name, one) for name, one in module.named_modules() if hasattr(one, "lora_A")]


def adapter_modules(sam: Sam) -> list[nn.Module]:
    """What learns of the adapters of a SAM."""
    return [
        part
        for _, layer in adapters_of(sam.image_encoder)
        for part in (layer.lora_dropout, layer.lora_A, layer.lora_B)
    ]


def merge_lora(sam: Sam) -> None:
    """Merge the adapters of a SAM into its weights, and remove them."""
    for name, layer in adapters_of(sam.image_encoder):
        layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(sam.image_encoder.get_submodule(parent), last, layer.get_base_layer())
