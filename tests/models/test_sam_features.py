"""The prompt generator reads what SAM's image encoder saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import make_batch, tiny_config
from test_backends import encode
from torch import Tensor

from autosam.errors import CheckpointError, ConfigError
from autosam.models.build import blocks_of, build_segmenter
from autosam.models.sam import load_sam
from autosam.models.sam.encode import encode_frozen, encode_rest
from autosam.models.sam_features import SamFeatures, blocks_to_read
from autosam.types import ImageEmbedding


def test_every_second_block_or_six() -> None:
    assert blocks_to_read(12) == (1, 3, 5, 7, 9, 11)  # ViT-B
    assert blocks_to_read(24) == (3, 7, 11, 15, 19, 23)
    assert blocks_to_read(32) == (4, 10, 15, 20, 26, 31)
    assert blocks_to_read(4) == (1, 3)
    assert blocks_to_read(1) == (0,)


@torch.no_grad()
def test_block_features_are_what_the_blocks_return(backend: tuple[str, Path]) -> None:
    """Seen by hooks on the modules while the encoder runs as a whole."""
    sam = load_sam(*backend)
    seen: list[Tensor] = []
    blocks = sam.block_encoder.each_block()
    taps, shapes = blocks_of(backend[0])
    for number in taps:
        blocks[number].register_forward_hook(lambda _, __, out: seen.append(out))
    plain = encode(sam, 2)
    hooked = [tensor.detach() for tensor in seen]
    sam.taps = taps
    embedding = encode(sam, 2)
    for a, b in zip(plain.levels, embedding.levels, strict=True):
        assert (a - b).abs().max() <= 1e-6 * a.abs().max()
    assert tuple(tuple(t.shape[1:]) for t in embedding.block_features) == shapes
    for kept, out in zip(embedding.block_features, hooked, strict=True):
        either = [x for x in (out, out.permute(0, 3, 1, 2)) if x.shape == kept.shape]
        assert min((kept - x).abs().max() for x in either) <= 1e-5 * out.abs().max()


@torch.no_grad()
def test_with_kept_states(backend: tuple[str, Path]) -> None:
    """Blocks in front of the adapters and behind them, in their order."""
    sam = load_sam(*backend)
    sam.taps, _ = blocks_of(backend[0])
    whole = encode(sam, 2)
    size = sam.spec.image_size
    for first in range(len(sam.block_encoder.each_block()) + 1):
        sam.tuned_from = first
        again = encode(sam, 2)
        for a, b in zip(whole.tensors, again.tensors, strict=True):
            assert (a - b).abs().max() <= 1e-5 * a.abs().max()
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    valid = torch.full((2, 2), size)
    part = encode_rest(sam, encode_frozen(sam, images, valid))
    for a, b in zip(part.tensors, sam.encode_image(images, valid).tensors, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("features", ["last", "blocks"])
@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "none"])
def test_gradients_and_the_absent_encoder(
    backend: tuple[str, Path], features: str, backbone: str
) -> None:
    name, file = backend
    config = tiny_config(
        file, f"--sam={name}", f"--model.sam_features={features}", f"--model.backbone={backbone}",
        "--model.backbone_weights=none",
    )  # fmt: skip
    segmenter = build_segmenter(config)
    assert segmenter.surrogate is None
    batch = make_batch(segmenter.input_spec)
    logits = segmenter(batch)
    assert isinstance(logits, Tensor)
    logits.square().mean().backward()
    learned = {key for key, value in segmenter.named_parameters() if value.requires_grad}
    moved = {k for k, v in segmenter.named_parameters() if v.grad is not None and v.grad.any()}
    assert all(key.startswith("prompter.") for key in learned)
    reads = {key for key in learned if key.startswith("prompter.sam_features.")}
    assert reads
    assert reads <= moved
    # The same from embeddings, without the image encoder.
    segmenter.eval()
    with torch.no_grad():
        expected = segmenter(batch)
        batch.embedding = segmenter.encode_image(batch)
        absent = build_segmenter(config, encoder=False).eval()
        absent.load_state_dict(segmenter.trainable_state(), strict=False)
        found = absent(batch)
    assert torch.equal(found, expected)


def test_places_of_maps() -> None:
    """SAM's grid of 64 x 64 is the generator's stride 4 at 256 px, and 8 at 512."""
    shapes = [(256, 64, 64), (32, 256, 256)]
    beside = SamFeatures(shapes, 512, (24, 40, 112, 320), (4, 8, 16, 32))
    assert beside.places == [8, 4]
    assert beside.channels == [24 + 32, 40 + 32, 112, 320]
    alone = SamFeatures([(256, 64, 64)], 256)
    assert (alone.strides, alone.channels) == ([4], [128])
    odd = SamFeatures([(256, 64, 64)], 352)
    embedding = ImageEmbedding(torch.randn(2, 256, 64, 64))
    assert odd([], embedding)[0].shape == (2, 128, 88, 88)


def test_what_cannot_work(tiny_file: Path) -> None:
    def build(*flags: str) -> None:
        build_segmenter(tiny_config(tiny_file, *flags))

    with pytest.raises(ConfigError, match=r"backbone none: needs --model.sam_features"):
        build("--model.backbone=none")
    with pytest.raises(ConfigError, match=r"backbone none: the run head"):
        build("--model.backbone=none", "--model.sam_features=last", "--run=head")
    with pytest.raises(ConfigError, match=r"sam_features last: .* Add dense or high_res"):
        build("--model.sam_features=last", "--model.prompt=sparse")
    with pytest.raises(ConfigError, match=r"embedding blank: adapters"):
        build("--run=lora", "--embedding=blank")
    with pytest.raises(CheckpointError, match=r"and without --model.sam_features"):
        build_segmenter(tiny_config(tiny_file, "--model.sam_features=last"), fast=True)
