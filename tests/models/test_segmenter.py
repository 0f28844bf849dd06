"""The network of every run: trainable parts, frozen parts and outputs."""

from __future__ import annotations

import re
import typing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import make_batch, tiny_config

from autosam.config import RUNS, LearnedPrompt, LossConfig
from autosam.errors import ConfigError
from autosam.evaluation.evaluator import evaluate, gate_means
from autosam.evaluation.explain import explain
from autosam.models.build import build_segmenter
from autosam.models.losses import SegmentationLoss
from autosam.models.prompt_generator import HighResHead
from autosam.training.optim import build_optimizer, warmup_cosine
from autosam.types import Batch

EXPECTED = {
    "autosam": {"prompter", "surrogate"},
    "decoder": {"sam.mask_decoder", "prompter"},
    "hybrid": {"prompter", "surrogate", "sam.mask_decoder"},
    "lora": {"sam.mask_decoder", "prompter", "sam.image_encoder"},  # there the adapters alone
    "autosam-lora": {"prompter", "surrogate", "sam.image_encoder"},
    "head": {"head"},
    "probe": {"head.neck", "head.block", "head.classify"},
    "decoder-box": {"sam.mask_decoder"},
    "decoder-points": {"sam.mask_decoder"},
    "decoder-rough": {"sam.mask_decoder"},
}
LEARNING = [name for name, run in RUNS.items() if run.trainable]


def test_zero_shot_runs_hold_nothing_that_learns(tiny_file: Path) -> None:
    for run in set(RUNS) - set(LEARNING):
        segmenter = build_segmenter(tiny_config(tiny_file, f"--run={run}")).train()
        assert not any(p.requires_grad for p in segmenter.parameters())
        assert not any(m.training for m in segmenter.modules())
        assert all(
            key.startswith("prompter.mask_classifier.") for key in segmenter.trainable_state()
        )


@pytest.mark.parametrize("run", LEARNING)
def test_only_the_trainable_parts_learn(tiny_file: Path, run: str) -> None:
    """No other parameter, buffer or mode changes in a step; every trainable one gets a gradient."""
    segmenter = build_segmenter(tiny_config(tiny_file, f"--run={run}"))
    parts = EXPECTED[run]

    def trains(name: str) -> bool:
        if name.startswith("sam.image_encoder") and not re.search(r"\.lora_(A|B|dropout)\b", name):
            return False
        return any(name == p or name.startswith(p + ".") for p in parts)

    before = {k: v.clone() for k, v in segmenter.state_dict().items()}
    batch = make_batch(segmenter.input_spec)
    optimizer = torch.optim.SGD([p for p in segmenter.parameters() if p.requires_grad], lr=0.1)
    criterion = SegmentationLoss(LossConfig())
    for _ in range(2):
        segmenter.train()
        loss = sum(
            criterion(logits, batch.targets, batch.weights)["loss"]
            for logits in segmenter(batch, with_surrogate=True)
            if logits is not None
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for name, parameter in segmenter.named_parameters():
        # No loss reaches the IoU estimate, so it is left out (DDP would wait for its gradient).
        learns = trains(name) and "iou_prediction_head" not in name
        assert parameter.requires_grad == learns, name
        assert (parameter.grad is not None) == learns, name
    got = {n for n, p in segmenter.named_parameters() if p.grad is not None and p.grad.any()}
    assert got, "no gradient at all"
    if RUNS[run].learns_prompt:
        assert any(n.startswith("prompter.backbone") for n in got)
        assert any(n.startswith("prompter.dense") for n in got)
    changed = {k for k, v in segmenter.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(trains(name) for name in changed)
    for name, module in segmenter.named_modules():
        if name != "head":  # holds the parts that are trained
            assert module.training == trains(name), name
    segmenter.eval()
    assert not any(m.training for m in segmenter.modules())
    # A probe's checkpoint holds its frozen backbone, too.
    stored = {k for k in before if trains(k) or run == "probe"}
    assert set(segmenter.trainable_state()) == stored


def test_the_surrogate_leaves_the_generator_alone(tiny_file: Path) -> None:
    """What it learns reaches no other gradient, and its own is clipped apart."""
    segmenter = build_segmenter(tiny_config(tiny_file, "--run=autosam"))
    batch, criterion = make_batch(segmenter.input_spec), SegmentationLoss(LossConfig())
    logits, alone_logits = segmenter(batch, with_surrogate=True)
    assert alone_logits.shape == logits.shape
    assert torch.equal(segmenter(batch), logits)
    criterion(alone_logits, batch.targets, batch.weights)["loss"].backward()
    with_gradient = {n.split(".")[0] for n, p in segmenter.named_parameters() if p.grad is not None}
    assert with_gradient == {"surrogate"}
    rest, beside = segmenter.param_groups()
    assert {id(p) for p in beside} == {id(p) for p in segmenter.surrogate.parameters()}
    assert {id(p) for p in rest} == {id(p) for p in segmenter.prompter.parameters()}


def test_fast_masks_come_from_the_surrogate_without_sam(tiny_file: Path) -> None:
    segmenter = build_segmenter(tiny_config(tiny_file, "--run=autosam")).eval()
    batch = make_batch(segmenter.input_spec)
    with torch.no_grad():
        _, alone_logits = segmenter(batch, with_surrogate=True)
        fast = segmenter.without_sam().eval()
        assert not fast.input_spec.needs_image
        alone = make_batch(fast.input_spec)
        assert alone.sam_input is None
        assert torch.equal(fast(alone), alone_logits)


def test_a_blank_embedding_says_nothing_of_the_image(tiny_file: Path) -> None:
    segmenter = build_segmenter(tiny_config(tiny_file, "--run=decoder", "--embedding=blank")).eval()
    with torch.no_grad():
        first, second = segmenter(make_batch(segmenter.input_spec))
    assert torch.allclose(first, second, atol=1e-5)
    with pytest.raises(ConfigError, match="--embedding blank: the run head has no SAM"):
        build_segmenter(tiny_config(tiny_file, "--run=head", "--embedding=blank"))


def test_a_rough_mask_has_one_class(tiny_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"--run sam-rough: a rough mask has one class"):
        build_segmenter(tiny_config(tiny_file, "--run=sam-rough", "--data.num_classes=3"))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("prompt", typing.get_args(LearnedPrompt))
@pytest.mark.parametrize("classes", [1, 3])
def test_shapes(tiny_file: Path, run: str, prompt: str, classes: int) -> None:
    if RUNS[run].prompter == "rough" and classes > 1:
        return  # refused, see test_a_rough_mask_has_one_class
    if RUNS[run].prompter != "learned" and prompt != "dense":
        return  # the setting has no say
    config = tiny_config(
        tiny_file, f"--run={run}", f"--model.prompt={prompt}", f"--data.num_classes={classes}"
    )
    segmenter = build_segmenter(config).eval()
    batch = make_batch(segmenter.input_spec, 2, classes)
    with torch.no_grad():
        logits = segmenter(batch)
    assert logits.shape == (2, classes, 32, 32) == batch.targets.shape
    if classes > 1 and RUNS[run].prompter != "grid":  # told apart, without a prompt too
        assert not torch.allclose(logits[:, 0], logits[:, 1])
    if RUNS[run].prompter == "learned":
        made = segmenter.prompter(batch, segmenter.encode_image(batch), segmenter.sam)
        assert made.dense.shape == (2 * classes, 32, 8, 8)
        has_tokens = "sparse" in prompt or prompt == "both"
        assert made.sparse.shape == (2 * classes, 8 if has_tokens else 0, 32)
        sizes = [tuple(level.shape) for level in made.high_res]
        fine = [(2 * classes, 8, 16, 16), (2 * classes, 4, 32, 32)]
        assert sizes == (fine if "high_res" in prompt else [])
        no_mask = segmenter.sam.no_prompt(2 * classes).dense
        assert torch.equal(made.dense, no_mask) == ("dense" not in prompt and prompt != "both")
        assert made.image_index.tolist() == [i for i in (0, 1) for _ in range(classes)]


def test_an_image_s_logits_do_not_depend_on_its_batch(tiny_file: Path) -> None:
    segmenter = build_segmenter(tiny_config(tiny_file, "--data.num_classes=2")).eval()
    batch = make_batch(segmenter.input_spec, 3, 2)
    with torch.no_grad():
        together = segmenter(batch)
        for i in range(3):
            single = make_batch(segmenter.input_spec, 3, 2)
            single = Batch(
                [single.names[i]],
                single.generator_input[i : i + 1],
                single.generator_valid[i : i + 1],
                single.sam_input[i : i + 1],
                single.sam_valid[i : i + 1],
                [single.sizes[i]],
            )
            assert (segmenter(single)[0] - together[i]).abs().max() < 1e-5


@pytest.mark.parametrize("run", LEARNING)
def test_two_images_can_be_overfitted(tiny_file: Path, run: str) -> None:
    torch.manual_seed(0)
    segmenter = build_segmenter(tiny_config(tiny_file, f"--run={run}"))
    batch = make_batch(segmenter.input_spec)
    optimizer = torch.optim.AdamW([p for p in segmenter.parameters() if p.requires_grad], lr=3e-3)
    criterion = SegmentationLoss(LossConfig())
    schedule = warmup_cosine(optimizer, 5, 200)
    for _ in range(200):
        loss = criterion(segmenter(batch), batch.targets, batch.weights)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        # Padding is nobody's business, and a cell half covered may go either way.
        clear = (batch.weights > 0) & ((batch.targets == 0) | (batch.targets == 1))
        predicted, truth = (segmenter(batch) > 0) & clear, (batch.targets > 0.5) & clear
    overlap = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    assert overlap > 0.95, (run, overlap.item(), loss.item())


def test_view_size_must_suit_the_backbone(tiny_file: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 32, such as 96"):
        build_segmenter(tiny_config(tiny_file, "--model.input_size=100"))


def test_view_and_image_may_differ_in_size(tiny_file: Path) -> None:
    for size in (32, 96):
        segmenter = build_segmenter(tiny_config(tiny_file, f"--model.input_size={size}")).eval()
        batch = make_batch(segmenter.input_spec)
        assert batch.generator_input.shape[-1] == size
        assert batch.sam_input.shape[-1] == 64
        with torch.no_grad():
            assert segmenter(batch).shape == (2, 1, 32, 32)


def test_trust_is_the_mean_over_the_cells_of_the_image(tiny_file: Path) -> None:
    """40 x 56 in a square of 64: 46 of 64 rows hold image, of 8 rows of cells 6."""
    segmenter = build_segmenter(tiny_config(tiny_file, "--data.num_classes=2"))
    batch = make_batch(segmenter.input_spec, 2, 2)
    prompt = segmenter.prompter(batch, segmenter.encode_image(batch), segmenter.sam)
    assert len(prompt.gates) == 1  # this SAM has no finer levels
    gate = torch.zeros(4, 1, 8, 8)
    gate[:, :, 6:] = 1  # padding
    gate[0, :, :3] = 1  # half of the cells, of the first class of the first image
    gate[2:, :, :6] = 0.5
    found = gate_means(replace(prompt, gates=(gate,)), batch, segmenter.input_spec.image_size)
    assert found == [{"trust": pytest.approx(0.25)}, {"trust": pytest.approx(0.5)}]
    assert gate_means(replace(prompt, gates=()), batch, 64) == [{}, {}]


def test_a_look_without_sam_is_what_the_surrogate_decoder_says(tiny_file: Path) -> None:
    segmenter = build_segmenter(tiny_config(tiny_file), fast=True).eval()
    batch = make_batch(segmenter.input_spec, 1)
    seen = explain(segmenter, batch)
    assert list(seen.heatmaps) == ["8 x 8", "16 x 16", "32 x 32"]
    assert seen.surrogate is not None
    assert torch.equal(seen.logits, seen.surrogate)
    assert seen.logits.shape == (1, 40, 56)


def test_no_trust_in_a_sam_that_saw_nothing(tiny_file: Path) -> None:
    """The surrogate decoder uses no SAM, and a blank embedding shows nothing of the image."""
    segmenter = build_segmenter(tiny_config(tiny_file))
    blank = build_segmenter(tiny_config(tiny_file, "--embedding=blank"))
    batch = make_batch(segmenter.input_spec)
    for model, sees in ((segmenter, True), (segmenter.without_sam(), False), (blank, False)):
        rows = evaluate(model, [batch], exclusive=True)
        assert all(("trust" in row) == sees for row in rows.values())


@pytest.mark.parametrize("run", ["autosam", "head", "decoder", "hybrid"])
def test_what_starts_at_random_learns_faster(tiny_file: Path, run: str) -> None:
    """(`decoder` learns a token for each of several classes, which starts at random.)"""
    config = tiny_config(tiny_file, f"--run={run}", "--data.num_classes=2")
    segmenter = build_segmenter(config)
    rate_of = {
        id(parameter): group["lr"]
        for group in build_optimizer(segmenter, config.train).param_groups
        for parameter in group["params"]
    }
    trained = {n: rate_of[id(p)] for n, p in segmenter.named_parameters() if p.requires_grad}
    assert len(trained) == len(rate_of)
    old = ("sam.", "prompter.backbone.", "head.backbone.")
    assert trained == {n: 1e-3 if n.startswith(old) else 4e-3 for n in trained}
    assert set(trained.values()) == {1e-3, 4e-3}
    config.train.lr = 1e-4
    groups = build_optimizer(segmenter, config.train).param_groups
    assert [group["lr"] for group in groups] == [1e-4, 1e-4]


def test_high_res_maps_start_without_stripes() -> None:
    """Each cell of the neck's map is split into equal ones, which training then tells apart."""
    torch.manual_seed(0)
    features = torch.randn(1, 8, 4, 4)
    for size, finer in ((4, 1), (8, 2), (16, 4)):
        head = HighResHead(8, 4, 3, 5, (size, size)).eval()
        made = head(features)
        assert made.shape == (3, 5, size, size)
        first = made[:, :, ::finer, ::finer]
        again = first.repeat_interleave(finer, 2).repeat_interleave(finer, 3)
        assert torch.equal(made, again)
        assert first.std() > 0.01
        assert not torch.allclose(made[0], made[1])
