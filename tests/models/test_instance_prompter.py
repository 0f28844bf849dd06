"""Prompts of single objects: the same one by one and in batches, and what learns of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from helpers import tiny_config
from instance_cases import odd_cells, of_ids
from scipy import ndimage
from torchvision.ops import sigmoid_focal_loss

from autosam.config import LossConfig, PromptConfig
from autosam.config.schema import ObjectPrompt
from autosam.data.instances import label_of
from autosam.data.sample import Visit, make_sample
from autosam.errors import CheckpointError
from autosam.models import find_objects as finding
from autosam.models import prompters
from autosam.models.build import build_segmenter
from autosam.models.find_objects import crop_masks, draws_objects, find_objects
from autosam.models.instance_loss import InstanceLoss
from autosam.models.instance_prompter import center_probabilities
from autosam.models.instance_segmenter import InstanceSegmenter, ObjectLogits
from autosam.models.losses import SegmentationLoss
from autosam.training.loop import losses_of
from autosam.types import Batch, InputSpec, ObjectPrompts

TASK = "--task=instances"


def build(tiny_file: Path, *flags: str) -> InstanceSegmenter:
    torch.manual_seed(0)
    segmenter = build_segmenter(tiny_config(tiny_file, TASK, *flags))
    assert isinstance(segmenter, InstanceSegmenter)
    return segmenter


def batch_of(spec: InputSpec, *seeds: int | None, classes: int = 1) -> Batch:
    """An image for each seed; without objects for None."""
    samples = []
    for seed in seeds:
        rng = np.random.default_rng(seed or 0)
        ids = odd_cells(seed or 0) * (seed is not None)
        instances = of_ids(ids, rng, classes)
        image = rng.integers(0, 99, (*ids.shape, 3), dtype=np.uint8) + 60 * (ids > 0)[..., None]
        samples.append(
            make_sample(
                str(seed),
                image.astype(np.uint8),
                spec,
                label_of(instances),
                classes,
                Visit(seed=(seed or 0,)),
                PromptConfig(objects=5),
                instances=instances,
            )
        )
    return Batch.collate(samples)


@pytest.mark.parametrize("kind", get_args(ObjectPrompt))
@torch.no_grad()
def test_prompts_of_a_batch_are_those_of_each_object_alone(tiny_file: Path, kind: str) -> None:
    segmenter = build(tiny_file, f"--model.object_prompt={kind}", "--model.prompt=both").eval()
    batch = batch_of(segmenter.input_spec, 1, None, 2)
    together, _ = segmenter(batch)
    objects = together.objects
    assert len(objects) == 10
    assert objects.points is not None
    for i in range(len(batch)):
        alone = batch_of(segmenter.input_spec, [1, None, 2][i])
        embedding = segmenter.encode_image(alone)
        maps = segmenter.prompter.maps(alone, embedding, segmenter.sam)
        assert torch.allclose(maps.centers[0], together.centers[i], atol=1e-5)
        for j in torch.nonzero(objects.images == i)[:, 0]:
            image, point = torch.zeros(1, dtype=torch.int64), objects.points[j]
            prompt, box = segmenter.prompter.prompt(maps, image, point, segmenter.sam)
            mask, _ = segmenter.sam.decode_mask(embedding, prompt)
            assert torch.allclose(mask[0], together.masks[j], atol=1e-5 * mask.abs().max().item())
            assert torch.allclose(box[0], together.boxes[j], atol=1e-4)
            assert box[0, 0] < point[0, 0] < box[0, 2]
            assert box[0, 1] < point[0, 1] < box[0, 3]


@torch.no_grad()
def test_tokens_are_read_at_the_place_of_the_object(tiny_file: Path) -> None:
    """At the centre of a cell of the map they are those of that cell; between, of a mean."""
    segmenter = build(tiny_file).eval()
    batch = batch_of(segmenter.input_spec, 1)
    prompter, sam = segmenter.prompter, segmenter.sam
    maps = prompter.maps(batch, segmenter.encode_image(batch), sam)
    side = maps.features.shape[-1]
    step = 64 / side
    cells = torch.tensor([[0, 0], [3, 2], [side - 1, 1]])
    points = (cells + 0.5) * step - 0.5
    expected, _ = prompter.objects(maps.features[0, :, cells[:, 1], cells[:, 0]].T, points)
    prompt, _ = prompter.prompt(maps, torch.zeros(3, dtype=torch.int64), points, sam)
    assert torch.allclose(prompt.sparse[:, -4:], expected, atol=1e-5)


RUNS_OF_OBJECTS = {
    "autosam": {"prompter"},
    "hybrid": {"prompter", "sam.mask_decoder"},
    "autosam-lora": {"prompter", "sam.image_encoder"},  # there the adapters alone
}
FLAGS = [
    *[f"--run={name}" for name in RUNS_OF_OBJECTS],
    *[f"--model.object_prompt={kind}" for kind in get_args(ObjectPrompt)],
    "--model.prompt=dense", "--model.prompt=dense+sparse+high_res", "--model.gate=false",
    "--embedding=blank", "--model.sam_features=blocks",
]  # fmt: skip


@pytest.mark.parametrize("seeds", [(1, None), (None, None)])
@pytest.mark.parametrize("flag", FLAGS)
def test_every_trainable_parameter_gets_a_gradient_and_no_other(
    tiny_file: Path, flag: str, seeds: tuple[int | None, ...]
) -> None:
    config = tiny_config(tiny_file, TASK, flag)
    segmenter = build_segmenter(config).train()
    parts = RUNS_OF_OBJECTS.get(flag.partition("--run=")[2], {"prompter"})
    batch = batch_of(segmenter.input_spec, *seeds)
    total, terms = losses_of(
        segmenter, batch, InstanceLoss(config.loss), torch.device("cpu"), False
    )
    assert terms.keys() == {"bce", "dice", "centers", "boxes", "loss"}
    total.backward()
    learns = 0
    for name, parameter in segmenter.named_parameters():
        trains = any(name.startswith(f"{part}.") for part in parts)
        trains &= not name.startswith("sam.image_encoder") or ".lora_" in name
        trains &= "iou_prediction_head" not in name
        assert parameter.requires_grad == trains, name
        assert (parameter.grad is not None) == trains, name
        learns += parameter.grad is not None and bool(parameter.grad.any())
    assert learns
    if seeds == (None, None):  # the map of centres alone learns
        assert total.item() == pytest.approx(terms["centers"].item())
        for name, parameter in segmenter.named_parameters():
            if name.startswith(("prompter.objects", "sam.")) and parameter.grad is not None:
                assert not parameter.grad.any(), name


def test_the_loss_by_hand() -> None:
    """Two cells of centres, one object of two cells whose box covers a half of the true one."""
    objects = ObjectPrompts(
        images=torch.tensor([0]),
        classes=torch.tensor([0]),
        boxes=torch.tensor([[0.0, 0.0, 4.0, 2.0]]),
        masks=torch.tensor([[[1.0, 0.0]]]),
    )
    output = ObjectLogits(
        centers=torch.tensor([[[[0.0, math.log(3)]]]]),
        masks=torch.tensor([[[[0.0, math.log(3)]]]]),
        boxes=torch.tensor([[0.0, 0.0, 2.0, 2.0]]),
        objects=objects,
    )
    batch = Batch([], torch.zeros(0), torch.zeros(0), None, torch.zeros(0), [])
    batch.weights, batch.centers = torch.ones(1, 1, 1, 2), torch.tensor([[[[1.0, 0.5]]]])
    found = InstanceLoss(LossConfig(bce=1, dice=0)).of(output, batch)
    bce = (math.log(2) + math.log(4)) / 2
    # |p - t|^2 times the cross entropy with t, over the sum of t.
    first = 0.5**2 * math.log(2)
    second = 0.25**2 * (0.5 * math.log(4 / 3) + 0.5 * math.log(4))
    centers = (first + second) / 1.5
    assert found["bce"].item() == pytest.approx(bce, abs=1e-6)
    assert found["centers"].item() == pytest.approx(centers, abs=1e-6)
    assert found["boxes"].item() == pytest.approx(0.5, abs=1e-6)
    assert found["loss"].item() == pytest.approx(bce + centers + 0.5, abs=1e-6)
    # Where targets are 0 or 1 the loss of centres is the focal loss.
    batch.centers = torch.tensor([[[[1.0, 0.0]]]])
    focal = sigmoid_focal_loss(output.centers, batch.centers, alpha=-1, gamma=2).sum()
    found = InstanceLoss(LossConfig(bce=1, dice=0)).of(output, batch)
    assert found["centers"].item() == pytest.approx(focal.item(), abs=1e-6)
    # Padding does not count.
    batch.weights = torch.tensor([[[[1.0, 0.0]]]])
    found = InstanceLoss(LossConfig(bce=1, dice=0)).of(output, batch)
    assert found["centers"].item() == pytest.approx(first, abs=1e-6)
    assert found["bce"].item() == pytest.approx(math.log(2), abs=1e-6)


def test_centers_on_padding_have_no_probability() -> None:
    batch = Batch([], torch.zeros(0), torch.zeros(0), None, torch.tensor([[64, 33], [20, 64]]), [])
    found = center_probabilities(torch.zeros(2, 3, 32, 32), batch, 64)
    assert (found[0, :, :, :17] == 0.5).all()
    assert not found[0, :, :, 17:].any()
    assert (found[1, :, :10] == 0.5).all()
    assert not found[1, :, 10:].any()


@torch.no_grad()
def test_objects_found_at_peaks_are_those_decoded_one_by_one(
    tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number that is decoded at a time; by falling score, centre times IoU."""
    segmenter = build(tiny_file, "--data.num_classes=2").eval()
    estimate = segmenter.sam.mask_decoder.iou_prediction_head.layers[-1]
    estimate.weight *= 0.3
    estimate.bias.fill_(0.7)
    segmenter.prompter.center.project.weight.normal_(std=15)  # an untrained map is almost flat
    batch = batch_of(segmenter.input_spec, 1, None, 2, classes=2)
    least = 0.5
    found = find_objects(segmenter, batch, least)
    assert found is not None
    monkeypatch.setattr(prompters, "CELLS", {"cpu": 3 * 64})
    again = find_objects(segmenter, batch, least)
    assert again is not None
    maps = segmenter.prompter.maps(batch, embedding := segmenter.encode_image(batch), segmenter.sam)
    for i, (one, other) in enumerate(zip(found, again, strict=True)):
        assert len(one.scores) > 3
        assert np.allclose(one.scores, other.scores, atol=1e-5)
        assert (np.diff(one.scores) <= 0).all()
        assert (one.scores >= least).all()
        expected = []
        centers = center_probabilities(maps.centers, batch, 64)[i]
        cells, classes, values = finding.find_peaks(centers, least)
        for cell, k, value in zip(cells, classes, values, strict=True):
            point = cell[None] * 2 + 0.5
            prompt, _ = segmenter.prompter.prompt(maps, torch.tensor([i]), point, segmenter.sam)
            mask, iou = segmenter.sam.decode_mask(embedding, prompt)
            score = value.item() * min(1, max(0, iou.item()))
            if score >= least:
                rows, columns = (-(-batch.sam_valid[i] * 32 // 64)).tolist()
                parts, _ = ndimage.label(mask[0, 0, :rows, :columns] > 0)
                largest = max(np.bincount(parts.ravel())[1:], default=0)
                expected.append((score, k.item() + 1, int(largest)))
        expected.sort(key=lambda entry: -entry[0])
        assert one.scores == pytest.approx([score for score, _, _ in expected], abs=1e-5)
        assert one.classes.tolist() == [k for _, k, _ in expected]
        rows, columns = (-(-batch.sam_valid[i] * 32 // 64)).tolist()
        areas = [int((m[: rows - y, : columns - x] > 0).sum()) for y, x, m in one.masks]
        assert areas == pytest.approx([area for *_, area in expected], abs=2)


def test_masks_are_cut_with_a_margin_of_a_cell() -> None:
    """Of several parts (scipy's) the largest; others change their sign."""
    several = 0
    for seed in range(10):
        rng = torch.Generator().manual_seed(seed)
        logits = torch.randn(6, 9, 9, generator=rng) - 2.2
        logits[0], logits[1, 0, 0], logits[2, 8, 8] = -1, 3, 3
        for (top, left, mask), whole in zip(crop_masks(logits), logits.numpy(), strict=True):
            again = np.full((9, 9), -1.0, np.float32)
            again[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            parts, count = ndimage.label(whole > 0)
            several += count > 1
            if count == 0:
                assert mask.size == 0
                continue
            sizes = [0, *np.bincount(parts.ravel())[1:]]
            kept = parts == np.argmax(sizes)
            assert (again > 0).sum() == max(sizes)
            if sizes.count(max(sizes)) > 1:  # any of the largest
                continue
            assert np.array_equal(again > 0, kept)
            rows, columns = np.nonzero(kept)
            assert (top, left) == (max(0, rows.min() - 1), max(0, columns.min() - 1))
            assert top + mask.shape[0] == min(9, rows.max() + 2)
            assert left + mask.shape[1] == min(9, columns.max() + 2)
            expected = np.where(kept | (whole <= 0), whole, -whole)
            assert np.array_equal(
                mask, expected[top : top + mask.shape[0], left : left + mask.shape[1]]
            )
    assert several > 10


@torch.no_grad()
def test_a_larger_part_on_padding_is_not_the_object(tiny_file: Path) -> None:
    """The loss does not look at padding, where masks may be anything."""
    segmenter = build(tiny_file).eval()
    cells = torch.full((1, 1, 32, 32), -5.0)
    cells[..., 2:7, 3:8] = 5  # 25 cells on the image, whose last cell is 12
    cells[..., 13:30, 2:20] = 5  # and more on padding, of which the last pixels see the first row
    segmenter.sam.decode_mask = lambda *args, **kwargs: (cells, torch.ones(1, 1))
    segmenter.prompter.center.project.weight.zero_()
    segmenter.prompter.center.project.bias[:] = 5
    batch = batch_of(segmenter.input_spec, 1)
    batch.sam_valid = torch.tensor([[25, 64]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "find_peaks", lambda *args: (
            torch.zeros(1, 2).long(), torch.zeros(1).long(), torch.ones(1)))  # fmt: skip
        [found] = find_objects(segmenter, batch, 0.1)
    [(top, left, mask)] = found.masks
    assert (top, left, mask.shape) == (1, 2, (7, 7))
    assert (mask > 0).sum() == 25


@pytest.mark.parametrize(
    ("run", "by_object"),
    [("autosam", True), ("hybrid", True), ("autosam-lora", True), ("sam-box", True),
     ("decoder-points", True), ("sam-rough", True), ("sam-auto", True), ("decoder", False),
     ("lora", False), ("head", False), ("probe", False)],
)  # fmt: skip
def test_which_runs_draw_objects(tiny_file: Path, run: str, by_object: bool) -> None:
    config = tiny_config(tiny_file, TASK, f"--run={run}")
    segmenter = build_segmenter(config)
    assert draws_objects(segmenter) == by_object
    learned = isinstance(segmenter, InstanceSegmenter)
    assert learned == (run in RUNS_OF_OBJECTS) == config.finds_objects
    assert segmenter.input_spec.prompts == (
        "objects" if learned else {"sam-box": "box", "decoder-points": "points",
                                   "sam-rough": "box"}.get(run)
    )  # fmt: skip


def test_objects_have_no_surrogate_decoder(tiny_file: Path) -> None:
    config = tiny_config(tiny_file, TASK)
    assert build_segmenter(config).surrogate is None
    with pytest.raises(CheckpointError, match="--fast asks for the surrogate"):
        build_segmenter(config, fast=True)


def test_masks_of_objects_count_alike(tiny_file: Path) -> None:
    """The mask terms are the mean over the objects of the batch, each alone."""
    segmenter = build(tiny_file).eval()
    batch = batch_of(segmenter.input_spec, 1, 2)
    with torch.no_grad():
        output, _ = segmenter(batch)
    found = InstanceLoss(LossConfig()).of(output, batch)
    assert batch.weights is not None
    masks, weights = output.objects.masks, batch.weights[output.objects.images]
    assert masks is not None
    alone = SegmentationLoss(LossConfig())
    each = [
        alone(output.masks[i : i + 1], masks[i : i + 1, None], weights[i : i + 1])["dice"].item()
        for i in range(len(masks))
    ]
    assert found["dice"].item() == pytest.approx(np.mean(each), abs=1e-5)
