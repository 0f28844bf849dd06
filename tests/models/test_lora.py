"""LoRA in the image encoder of every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_batch, tiny_config
from test_backends import encode
from torch import Tensor

from autosam.config import LoraConfig
from autosam.data.embedding_store import Layout
from autosam.errors import ConfigError
from autosam.models.build import build_segmenter
from autosam.models.lora import adapter_modules, adapters_of, add_lora, layers_of, merge_lora
from autosam.models.sam import Sam, load_sam
from autosam.models.sam.encode import encode_frozen, encode_rest
from autosam.models.sam.meta import VITS
from autosam.models.sam.vit import VitEncoder
from autosam.types import ImageEmbedding
from autosam.utils.device import half_precision


def shaken(sam: Sam) -> None:
    """Adapters that say something."""
    generator = torch.Generator().manual_seed(2)
    for _, layer in adapters_of(sam.image_encoder):
        weight = layer.lora_B["default"].weight
        weight.data = torch.randn(weight.shape, generator=generator) * 0.1


def difference(one: ImageEmbedding, other: ImageEmbedding) -> float:
    """Largest difference of any level, relative to its largest value."""
    pairs = zip(one.levels, other.levels, strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


@torch.no_grad()
def test_every_block_can_be_stopped_at(backend: tuple[str, Path]) -> None:
    sam = load_sam(*backend)
    whole, encoder = encode(sam, 2), sam.block_encoder
    count = len(encoder.each_block())
    for first in range(count + 1):
        sam.tuned_from = first
        assert difference(encode(sam, 2), whole) < 1e-6, first


@torch.no_grad()
@pytest.mark.parametrize("layers", ["attention", "all"])
def test_fresh_adapters_change_nothing_and_merged_ones_what_they_did(
    backend: tuple[str, Path],
    layers: str,
) -> None:
    sam = load_sam(*backend)
    before, names = encode(sam, 2), set(sam.state_dict())
    add_lora(sam, LoraConfig(layers=layers))  # type: ignore[arg-type]
    assert difference(encode(sam, 2), before) < 1e-6
    shaken(sam)
    after = encode(sam, 2)
    assert difference(after, before) > 1e-3
    merge_lora(sam)
    assert difference(encode(sam, 2), after) < 1e-5
    assert set(sam.state_dict()) == names


def test_gradients_reach_the_adapters_of_the_last_blocks_alone(
    backend: tuple[str, Path],
) -> None:
    name, file = backend
    config = tiny_config(file, f"--sam={name}", "--run=autosam-lora", "--lora.blocks=2",
                         "--lora.layers=all")  # fmt: skip
    segmenter = build_segmenter(config)
    assert segmenter.sam is not None
    shaken(segmenter.sam)
    logits = segmenter(make_batch(segmenter.input_spec))
    assert isinstance(logits, Tensor)
    logits.square().mean().backward()
    learned = {
        key for key, value in segmenter.sam.named_parameters()
        if value.grad is not None and bool(value.grad.any())
    }  # fmt: skip
    blocks = segmenter.sam.block_encoder.each_block()
    allowed = {id(p) for block in blocks[-2:] for p in block.parameters()}
    own = dict(segmenter.sam.named_parameters())
    assert learned
    assert all("lora_" in key for key in learned)
    assert {id(own[key]) for key in learned} <= allowed
    expected = {id(p) for m in adapter_modules(segmenter.sam) for p in m.parameters()}
    assert {id(p) for p in own.values() if p.requires_grad} == expected
    assert {id(own[key]) for key in learned} == expected


def test_states_in_bfloat16_are_trained_in_float32(
    backend: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large frozen encoders compute in bfloat16, the blocks with adapters do not."""
    monkeypatch.setattr("autosam.models.sam.encode.faster_in_half", lambda *args: True)
    name, file = backend
    segmenter = build_segmenter(tiny_config(file, f"--sam={name}", "--run=lora", "--lora.blocks=1"))
    logits = segmenter(make_batch(segmenter.input_spec))
    assert isinstance(logits, Tensor)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert segmenter.sam is not None
    weight = adapters_of(segmenter.sam.image_encoder)[0][1].lora_B["default"].weight
    assert weight.grad.any()


@torch.no_grad()
def test_kept_states_give_the_embedding(backend: tuple[str, Path]) -> None:
    sam = load_sam(*backend)
    add_lora(sam, LoraConfig(blocks=1))
    shaken(sam)
    size = sam.spec.image_size
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    valid = torch.full((2, 2), size)
    part = encode_frozen(sam, images, valid)
    assert difference(encode_rest(sam, part), sam.encode_image(images, valid)) < 1e-6


@torch.no_grad()
def test_states_in_int8_with_a_channel_of_large_values(backend: tuple[str, Path]) -> None:
    """Trained ViTs have channels that are far larger than the others; each has a scale of its own
    in the cache, so the others keep their values."""
    sam = load_sam(*backend)
    if not sam.block_encoder.channels_last:
        pytest.skip("its blocks take maps")
    for name, value in sam.named_parameters():
        if name.endswith("image_encoder.trunk.pos_embed") or name == "image_encoder.pos_embed":
            value[..., 3] += 100
        if name == "image_encoder.vision.backbone.pos_embed":
            value[:, 3] += 100
    add_lora(sam, LoraConfig(blocks=1))
    size = sam.spec.image_size
    images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    part = encode_frozen(sam, images, torch.full((1, 2), size))
    layout = Layout(tuple(tuple(tensor.shape[1:]) for tensor in part.tensors), "int8")
    stored = layout.unpack(np.frombuffer(layout.pack(part), np.uint8).copy())
    pairs = zip(encode_rest(sam, part).levels, encode_rest(sam, stored).levels, strict=True)
    assert all(float((one - other).norm() / one.norm()) < 5e-3 for one, other in pairs)


def test_more_blocks_than_there_are(backend: tuple[str, Path]) -> None:
    sam = load_sam(*backend)
    with pytest.raises(ConfigError, match=r"--lora.blocks 99: the image encoder of \S+ has \d+"):
        add_lora(sam, LoraConfig(blocks=99))


def test_the_adapters_of_vit_b_are_small() -> None:
    """Of SAMed's layers, 4 x (768 + 3 x 768) + 4 x (768 + 768) values in each of 12 blocks."""
    with torch.device("meta"):
        encoder = VitEncoder(1024, VITS["vit_b"])
    sizes = [
        4 * (layer.in_features + layer.out_features)  # type: ignore[operator]
        for block in encoder.each_block()
        for layer in layers_of(block, "attention")
    ]
    assert len(sizes) == 24
    assert sum(sizes) == 12 * 4 * (4 * 768 + 2 * 768)
    assert 4 * sum(sizes) < 1e6


def test_blocks_computed_again_in_bfloat16_have_the_same_gradients(
    backend: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backward pass is outside of what the forward pass was in."""
    sam = load_sam(*backend)
    add_lora(sam, LoraConfig(layers="all"))
    shaken(sam)
    found = []
    for large in (1, 1 << 30):
        monkeypatch.setattr("autosam.models.sam.blocks.LARGE_STATE", large)
        sam.zero_grad()
        with half_precision(torch.device("cpu"), True):
            size = sam.spec.image_size
            image = torch.arange(3 * size**2).reshape(1, 3, size, size) % 251
            part = encode_frozen(sam, image.to(torch.uint8), torch.tensor([[size, size]]))
            levels = encode_rest(sam, part).levels
        sum(level.float().square().sum() for level in levels).backward()
        gradients = [p.grad for p in sam.parameters() if p.requires_grad]
        assert all(gradient is not None for gradient in gradients)
        found.append(torch.cat([g.flatten() for g in gradients if g is not None]))
    assert found[0].abs().max() > 0
    assert torch.equal(*found)
