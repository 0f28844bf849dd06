"""One suite for every SAM backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import draw_folders, make_batch, tiny_config
from instance_cases import cell_folders
from test_segmenter import EXPECTED
from torch import nn

from autosam.config import RUNS, LossConfig
from autosam.models.build import build_segmenter
from autosam.models.losses import SegmentationLoss
from autosam.models.sam import Sam, load_sam
from autosam.train import train
from autosam.types import ImageEmbedding, Prompt, high_res_shapes


def encode(sam: Sam, count: int) -> ImageEmbedding:
    size = sam.spec.image_size
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return sam.encode_image(images, torch.full((count, 2), size))


@torch.no_grad()
def test_the_contract(backend: tuple[str, Path]) -> None:
    sam = load_sam(*backend)
    (height, width), channels = sam.grid, sam.width
    embedding = encode(sam, 2)
    assert embedding.features.shape == (2, channels, height, width)
    assert [tuple(level.shape) for level in embedding.high_res_features] in (
        [],
        [(2, channels // 8, 4 * height, 4 * width)],
        [(2, channels // 4, 2 * height, 2 * width), (2, channels // 8, 4 * height, 4 * width)],
    )
    size = float(sam.spec.image_size)
    index = torch.tensor([1, 0, 1])
    corners = (
        torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.2, 0.1, 0.9, 0.4], [0.0, 0.3, 0.5, 0.9]]) * size
    )
    points = (corners.view(3, 2, 2), torch.tensor([[1, 0], [1, 1], [0, 1]]))
    low = torch.randn(3, 1, 4 * height, 4 * width)
    prompts = {
        "box": sam.encode_prompt(boxes=corners, image_index=index),
        "points": sam.encode_prompt(points=points, image_index=index),
        "mask": sam.encode_prompt(masks=low, image_index=index),
        "all": sam.encode_prompt(points, corners, low, index),
    }
    seen = []
    for kind, prompt in prompts.items():
        assert prompt.dense.shape == (3, channels, height, width), kind
        assert prompt.sparse.shape[0] == 3
        assert prompt.sparse.shape[2] == channels
        assert torch.equal(prompt.image_index, index)
        for multimask, masks in ((False, 1), (True, 3)):
            logits, iou = sam.decode_mask(embedding, prompt, multimask)
            assert logits.shape == (3, masks, 4 * height, 4 * width)
            assert iou.shape == (3, masks)
            seen.append(logits[:, 0])
            for p, image in enumerate(index.tolist()):  # one by one gives the same
                alone = Prompt(prompt.sparse[p : p + 1], prompt.dense[p : p + 1], torch.tensor([0]))
                one = ImageEmbedding(
                    embedding.features[image : image + 1],
                    tuple(level[image : image + 1] for level in embedding.high_res_features),
                )
                expected, _ = sam.decode_mask(one, alone, multimask)
                assert (expected[0] - logits[p]).abs().max() < 1e-5 * max(1, logits.abs().max())
    for i, first in enumerate(seen):  # every kind of prompt and every mask says something else
        for second in seen[i + 1 :]:
            assert not torch.allclose(first, second, atol=1e-4)
    empty = sam.no_prompt(2)
    assert empty.dense.shape == (2, channels, height, width)
    assert empty.image_index.tolist() == [0, 1]


@torch.no_grad()
def test_a_batch_is_its_images_one_by_one(backend: tuple[str, Path]) -> None:
    sam = load_sam(*backend)
    size = sam.spec.image_size
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    valid = torch.tensor([[size, size], [size, size // 2], [size // 4, size]])
    together = sam.encode_image(images, valid)
    alone = ImageEmbedding.cat(
        [sam.encode_image(images[i : i + 1], valid[i : i + 1]) for i in range(3)]
    )
    assert len(alone) == 3
    pairs = zip(
        (together.features, *together.high_res_features),
        (alone.features, *alone.high_res_features),
        strict=True,
    )
    for ours, theirs in pairs:
        assert (ours - theirs).abs().max() < 1e-4


@torch.no_grad()
def test_without_its_encoder_it_decodes_the_same(backend: tuple[str, Path]) -> None:
    whole, part = load_sam(*backend), load_sam(*backend, encoder=False)
    embedding = encode(whole, 2)
    corners = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.2, 0.1, 0.9, 0.4]]) * whole.spec.image_size
    for sam, other in ((whole, part), (part, whole)):
        prompts = [sam.encode_prompt(boxes=corners), sam.no_prompt(2)]
        for prompt in prompts:
            ours, theirs = sam.decode_mask(embedding, prompt), other.decode_mask(embedding, prompt)
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("run", RUNS)
def test_every_run_trains(backend: tuple[str, Path], run: str) -> None:
    """A few steps lower the loss; nothing but the trainable parts changes."""
    name, file = backend
    config = tiny_config(file, f"--run={run}")
    config.sam = name
    segmenter = build_segmenter(config)
    before = {k: v.clone() for k, v in segmenter.state_dict().items()}
    batch = make_batch(segmenter.input_spec)
    criterion = SegmentationLoss(LossConfig())
    assert batch.targets is not None
    assert batch.weights is not None
    learning = [p for p in segmenter.parameters() if p.requires_grad]
    if learning:
        optimizer = torch.optim.AdamW(learning, lr=1e-3)
        losses = []
        for _ in range(12):
            loss = sum(
                criterion(logits, batch.targets, batch.weights)["loss"]
                for logits in segmenter(batch, with_surrogate=True)
                if logits is not None
            )
            optimizer.zero_grad()
            loss.backward()
            assert all(p.grad is not None for p in learning)
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
    parts = EXPECTED.get(run, set())
    changed = {k for k, v in segmenter.state_dict().items() if not torch.equal(v, before[k])}
    assert all(any(k.startswith(p + ".") for p in parts) for k in changed), changed
    assert all("lora_" in k for k in changed if k.startswith("sam.image_encoder.")), changed
    assert bool(changed) == bool(learning)


def high_res_prompt(sam: Sam, count: int, scale: float = 1.0) -> Prompt:
    """A "no prompt" for each image, with random high-resolution maps."""
    maps = tuple(
        scale * torch.randn(count, channels, *size)
        for channels, size in high_res_shapes(sam.width, sam.grid)
    )
    return replace(sam.no_prompt(count), high_res=maps)


@torch.no_grad()
def test_a_high_res_prompt_of_zeros_changes_no_bit(backend: tuple[str, Path]) -> None:
    sam = load_sam(*backend)
    embedding = encode(sam, 2)
    before, _ = sam.decode_mask(embedding, sam.no_prompt(2))
    zeros, _ = sam.decode_mask(embedding, high_res_prompt(sam, 2, 0.0))
    assert torch.equal(before, zeros)


@torch.no_grad()
def test_a_high_res_prompt_is_added_to_what_the_transposed_convolutions_emit(
    backend: tuple[str, Path],
) -> None:
    """Hooks of torch on the decoder's own layers do the same."""
    sam = load_sam(*backend)
    embedding = encode(sam, 2)
    prompt = high_res_prompt(sam, 2)
    ours, _ = sam.decode_mask(embedding, prompt)
    convolutions = [m for m in sam.mask_decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(convolutions) == 2
    for layer, level in zip(convolutions, prompt.high_res, strict=True):
        layer.register_forward_hook(lambda _module, _inputs, output, level=level: output + level)
    hooked, _ = sam.decode_mask(embedding, replace(prompt, high_res=()))
    plain, _ = load_sam(*backend).decode_mask(embedding, replace(prompt, high_res=()))
    assert (ours - hooked).abs().max() < 1e-4
    assert (ours - plain).abs().max() > 0.1


@torch.no_grad()
def test_high_res_prompts_batched_equal_one_by_one(backend: tuple[str, Path]) -> None:
    sam = load_sam(*backend)
    embedding = encode(sam, 2)
    prompt = replace(high_res_prompt(sam, 3), image_index=torch.tensor([1, 0, 1]))
    together, _ = sam.decode_mask(embedding, prompt)
    for i, image in enumerate((1, 0, 1)):
        alone = prompt.map(lambda level, i=i: level[i : i + 1])
        alone = replace(alone, image_index=torch.tensor([0]))
        single, _ = sam.decode_mask(embedding.part(image), alone)
        assert (single[0] - together[i]).abs().max() < 1e-5 * together.abs().max()


def test_gradients_reach_a_high_res_prompt_through_the_frozen_decoder(
    backend: tuple[str, Path],
) -> None:
    sam = load_sam(*backend)
    prompt = high_res_prompt(sam, 1)
    for level in prompt.high_res:
        level.requires_grad_(True)
    logits, _ = sam.decode_mask(encode(sam, 1), prompt)
    logits.square().mean().backward()
    assert all(level.grad.abs().max() > 0 for level in prompt.high_res)
    assert all(p.grad is None for p in sam.parameters())


@torch.no_grad()
def test_gates_of_one_change_no_bit_and_gates_of_zero_are_a_blank_embedding(
    backend: tuple[str, Path],
) -> None:
    sam = load_sam(*backend)
    embedding = encode(sam, 2)
    assert len(embedding.levels) == len(sam.scales)
    prompt = high_res_prompt(sam, 2)

    def gated(value: float) -> torch.Tensor:
        gates = tuple(torch.full_like(level[:, :1], value) for level in embedding.levels)
        return sam.decode_mask(embedding, replace(prompt, gates=gates))[0]

    assert torch.equal(gated(1), sam.decode_mask(embedding, prompt)[0])
    assert torch.equal(gated(0), sam.decode_mask(embedding.map(torch.zeros_like), prompt)[0])
    assert not torch.allclose(gated(0), gated(1))
    half = embedding.map(lambda level: level / 2)
    assert torch.allclose(gated(0.5), sam.decode_mask(half, prompt)[0], atol=1e-4)


def test_a_generator_has_a_gate_for_each_level_nearly_closed_at_the_start(
    backend: tuple[str, Path],
) -> None:
    name, file = backend
    for flags, gated in ((), True), (("--model.gate=false",), False):
        config = tiny_config(file, *flags)
        config.sam = name
        segmenter = build_segmenter(config).eval()
        with torch.no_grad():
            batch = make_batch(segmenter.input_spec)
            prompt = segmenter.prompter(batch, segmenter.encode_image(batch), segmenter.sam)
            levels = segmenter.encode_image(batch).levels
        assert len(prompt.gates) == gated * len(levels)
        for gate, level in zip(prompt.gates, levels, strict=gated):
            assert gate.shape == (2, 1, *level.shape[-2:])
            assert torch.allclose(gate, torch.tensor(0.1192), atol=1e-4)


@pytest.mark.parametrize(("task", "run"), [("semantic", "hybrid"), ("instances", "autosam-lora")])
def test_every_sam_trains_in_bfloat16(
    backend: tuple[str, Path], tmp_path: Path, task: str, run: str
) -> None:
    """From the first step to the scores, see `training/test_precision.py`."""
    data = {"semantic": draw_folders, "instances": cell_folders}[task](tmp_path / "data")
    name, file = backend
    flags = (f"--task={task}", f"--data.instances={task == 'instances'}", f"--run={run}")
    config = tiny_config(
        file, *flags, f"--data.root={data}", f"--output={tmp_path / 'run'}", "--data.workers=0",
        "--train.epochs=1", "--train.precision=bf16",
    )  # fmt: skip
    config.sam = name
    assert train(config).epochs == 1
