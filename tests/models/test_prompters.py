"""From masks of prompted objects to classes, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import make_batch, tiny_config

from autosam.models import prompters
from autosam.models.build import build_segmenter
from autosam.models.prompters import ABSENT, choose_mask, merge_objects
from autosam.types import ImageEmbedding, ObjectPrompts, Prompt

LOGITS = torch.tensor([[[[1.0, 1.0]], [[1.0, -1.0]], [[-4.0, -1.0]]]])
"""One prompt, three masks of 1 x 2 cells."""
IOU = torch.tensor([[0.3, 0.2, 0.9]])


def test_which_of_three_masks_counts() -> None:
    truth = torch.tensor([[[1.0, 0.0]]])
    assert choose_mask(LOGITS, IOU, "best").tolist() == [[[-4.0, -1.0]]]
    assert choose_mask(LOGITS, IOU, "true", truth).tolist() == [[[1.0, -1.0]]]
    assert choose_mask(LOGITS, IOU, "true").tolist() == [[[-4.0, -1.0]]]
    assert choose_mask(LOGITS, IOU, "mean")[0, 0].tolist() == pytest.approx([-2 / 3, -1 / 3])


def test_objects_of_a_class_are_united_and_a_class_without_any_is_absent() -> None:
    logits = torch.tensor([[[3.0, -2.0]], [[-1.0, 5.0]], [[7.0, 7.0]]], requires_grad=True)
    prompts = ObjectPrompts(images=torch.tensor([0, 0, 1]), classes=torch.tensor([1, 1, 0]))
    merged = merge_objects(logits, prompts, batch=2, classes=2)
    assert merged[0, 1].tolist() == [[3.0, 5.0]]
    assert merged[1, 0].tolist() == [[7.0, 7.0]]
    assert merged[0, 0].eq(ABSENT).all()
    assert merged[1, 1].eq(ABSENT).all()
    merged.sum().backward()
    assert logits.grad.tolist() == [[[1, 0]], [[0, 1]], [[1, 1]]]


def test_logits_below_those_of_an_absent_class_still_learn() -> None:
    logits = torch.tensor([[[-25.0]]], requires_grad=True)
    one = ObjectPrompts(images=torch.tensor([0]), classes=torch.tensor([0]))
    merged = merge_objects(logits, one, batch=1, classes=1)
    assert merged.item() == -25
    merged.sum().backward()
    assert logits.grad.item() == 1


@pytest.mark.parametrize("run", ["decoder-box", "decoder-points"])
def test_a_batch_without_any_object_trains(tiny_file: Path, run: str) -> None:
    """Every trainable parameter gets a gradient, of zero."""
    segmenter = build_segmenter(tiny_config(tiny_file, f"--run={run}")).train()
    batch = make_batch(segmenter.input_spec)
    batch.prompts = batch.prompts.part(0, 0)
    logits = segmenter(batch)
    assert (logits == ABSENT).all()
    logits.mean().backward()
    for parameter in segmenter.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        assert parameter.grad is None or not parameter.grad.any()


@pytest.mark.parametrize("multimask", ["single", "best", "true", "mean"])
@pytest.mark.parametrize("run", ["decoder-box", "decoder-points"])
def test_the_prompt_decides_where_the_mask_is(tiny_file: Path, run: str, multimask: str) -> None:
    """Another object's prompt gives other logits; one by one gives what a batch gives."""
    config = tiny_config(tiny_file, f"--run={run}", f"--prompt.multimask={multimask}")
    segmenter = build_segmenter(config).eval()
    batch = make_batch(segmenter.input_spec)
    with torch.no_grad():
        both = segmenter(batch)
        embedding = segmenter.encode_image(batch)
        swapped = batch.prompts.part(0, len(batch.prompts))
        swapped.images = 1 - swapped.images
        other = segmenter.decode_mask(batch, embedding, swapped)
    assert both.shape == (2, 1, 32, 32)
    assert not torch.allclose(both, other)
    assert (both > ABSENT).all()


def test_hundreds_of_objects_are_decoded_in_parts(tiny_file: Path) -> None:
    segmenter = build_segmenter(tiny_config(tiny_file, "--run=sam-box")).eval()
    batch = make_batch(segmenter.input_spec, 1)
    many = ObjectPrompts(
        images=torch.zeros(150, dtype=torch.int64),
        classes=torch.zeros(150, dtype=torch.int64),
        boxes=torch.rand(150, 2).repeat(1, 2) * 20 + torch.tensor([0.0, 0, 30, 30]),
    )
    with torch.no_grad():
        embedding = segmenter.encode_image(batch)
        together = segmenter.decode_mask(batch, embedding, many)
        alone = [segmenter.decode_mask(batch, embedding, many.part(i, i + 1)) for i in range(150)]
    assert (together - torch.cat(alone).amax(0, keepdim=True)).abs().max() < 1e-4


@pytest.mark.parametrize("cells", [1, 3 * 8 * 8])
def test_classes_are_decoded_in_parts(
    tiny_file: Path, monkeypatch: pytest.MonkeyPatch, cells: int
) -> None:
    """One prompt and three prompts at a time, of 2 images and 4 classes: values and gradients."""
    segmenter = build_segmenter(tiny_config(tiny_file, "--data.num_classes=4")).eval()
    batch = make_batch(segmenter.input_spec, num_classes=4)
    learning = [p for p in segmenter.parameters() if p.requires_grad]
    decode, calls = segmenter.sam.decode_mask, []

    def counted(embedding: ImageEmbedding, prompt: Prompt) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(prompt.image_index))
        return decode(embedding, prompt)

    monkeypatch.setattr(segmenter.sam, "decode_mask", counted)
    results = []
    for limit in (10**6, cells):
        monkeypatch.setattr(prompters, "CELLS", {"cpu": limit})
        logits, prompt = segmenter.segment(batch)
        gradients = torch.autograd.grad(logits.square().mean(), learning, allow_unused=True)
        results.append([logits.detach(), *(g for g in gradients if g is not None)])
    assert prompt.gates
    assert len(prompt.high_res) == 2
    assert calls[0] == 8
    assert max(calls[1:]) == max(1, cells // 64)
    assert sum(calls[1:]) == 8
    assert len(results[0]) == len(results[1]) > 10
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-3)


def test_without_prompts_the_batch_is_refused(tiny_file: Path) -> None:
    segmenter = build_segmenter(tiny_config(tiny_file, "--run=decoder-box")).eval()
    batch = make_batch(segmenter.input_spec)
    batch.prompts = None
    with pytest.raises(ValueError, match="the batch has none"):
        segmenter(batch)
