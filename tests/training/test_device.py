"""Runs on an imaginary GPU, see `pretend_device`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from helpers import draw_folders, liven, make_batch, tiny_config
from pretend_device import PretendedGpus, forget_devices, place
from small_sams import SPECS
from torch import nn

from autosam.comparison.jobs import Job
from autosam.comparison.scores import scores_of
from autosam.comparison.variants import Variant
from autosam.config import RUNS, Config, LossConfig, PromptConfig
from autosam.config.commands import EvaluateConfig, PredictConfig
from autosam.data.sample import Visit, make_sample
from autosam.errors import TrainingError
from autosam.evaluate import evaluate as evaluate_command
from autosam.evaluation.evaluator import calibrate, evaluate
from autosam.inference.predict import one_by_one
from autosam.inference.predictor import Predictor
from autosam.models import checkpoint
from autosam.models.build import build_segmenter
from autosam.models.checkpoint import Loaded
from autosam.models.losses import SegmentationLoss
from autosam.models.paper import build_loss
from autosam.models.sam import SAMS
from autosam.models.segmenter import Segmenter
from autosam.predict import predict
from autosam.train import train
from autosam.training.loop import Optimization, losses_of, train_one_epoch
from autosam.training.mask_classifier import fit_mask_classifier
from autosam.training.optim import build_optimizer, build_schedule
from autosam.types import Batch, Instances
from autosam.utils.device import choose_device
from autosam.utils.distributed import make_accelerator, processes

GPU = torch.device("cuda", 0)


def test_the_pretended_device_catches_what_a_gpu_would() -> None:
    """Planted errors: without this the tests below could not fail."""
    with PretendedGpus() as gpus:
        x = torch.ones(3, device="cuda")
        assert x.device == GPU
        assert x.is_cuda
        assert (x * 2 + torch.tensor(1.0)).device == GPU  # a scalar may lie on the CPU
        assert x[torch.tensor([0, 2])].device == GPU  # and so may an index
        assert x[x > 0].device == torch.zeros_like(x).device == x.new_zeros(2).device == GPU
        for wrong in (
            lambda: x + torch.zeros(3),
            lambda: torch.cat([x, torch.arange(3)]),
            lambda: x + torch.ones(3, device="cuda:1"),
            lambda: torch.ones(3)[torch.tensor([0], device="cuda")],
            lambda: torch.where(x > 0, x, torch.zeros(3)),
            lambda: torch.nn.Linear(3, 3)(x),
            lambda: torch.nn.Linear(3, 3).to("cuda:0")(x.to("cuda:1")),
            lambda: x.add_(torch.zeros(3)),
        ):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                wrong()
        for wrong in (x.numpy, lambda: np.asarray(x), lambda: np.stack([x])):
            with pytest.raises(TypeError, match=r"can't convert cuda:0 .* Use Tensor\.cpu\(\)"):
                wrong()
        before = gpus.reads
        assert x.cpu().numpy().tolist() == [1, 1, 1]
        assert x.sum().item() == 3
        assert bool((x > 0).all())
        assert x.tolist() == [1, 1, 1]
        assert gpus.reads == before + 4
        torch.cuda.set_device(1)
        assert torch.ones(1, device="cuda").device == torch.device("cuda", 1)
    assert x.device == torch.device("cpu")


def test_gradients_lie_where_their_tensors_do() -> None:
    with PretendedGpus():
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.GELU()
        ).to("cuda")
        assert {t.device for t in net.state_dict().values()} == {GPU}
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        out = torch.nn.functional.interpolate(
            net(torch.rand(2, 3, 8, 8).to("cuda")), (9, 9), mode="bilinear"
        )
        out.cpu().square().mean().backward()
        assert {p.grad.device for p in net.parameters() if p.grad is not None} == {GPU}
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        assert {place(p) for p in net.parameters()} == {GPU}


SAM_NAMES = ("lite", "segment_anything", "mobile_sam", "sam2", "sam3")


@pytest.fixture(params=SAM_NAMES)
def sam(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a tiny SAM (ViT, MobileSAM, SAM 2.1, 3) or of `lite`, with random weights at hand."""
    spec = SPECS[request.param]
    monkeypatch.setitem(SAMS, spec.name, spec)
    torch.manual_seed(0)
    network = spec.build(spec)
    assert isinstance(network, nn.Module)
    if spec.name in ("mobile_sam", "lite"):
        liven(network)
    torch.save(network.state_dict(), tmp_path / "sam.pth")
    return spec.name


@pytest.mark.parametrize("run", RUNS)
def test_every_run_learns_scores_and_predicts_on_a_gpu(sam: str, run: str, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "sam.pth", f"--run={run}", "--prompt.grid=2")
    config.sam = sam
    segmenter = build_segmenter(config)
    samples = make_batch(segmenter.input_spec)
    criterion = SegmentationLoss(LossConfig())
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    with PretendedGpus():
        segmenter.to(choose_device())
        assert {t.device for t in segmenter.state_dict().values()} == {GPU}
        batch = samples.to(GPU)
        if RUNS[run].prompter == "grid":
            fit_mask_classifier(segmenter, [batch])
        learning = [p for p in segmenter.parameters() if p.requires_grad]
        if learning:
            optimizer = build_optimizer(segmenter, config.train)
            loss, parts = losses_of(segmenter.train(), batch, criterion, GPU, bf16=False)
            loss.backward()
            assert {p.grad.device for p in learning if p.grad is not None} == {GPU}
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            assert all(np.isfinite(value.item()) for value in parts.values())
        rows = evaluate(segmenter, [batch], True, ("dice",), criterion)
        assert len(rows) == len(batch)
        if not RUNS[run].needs_truth:
            predictor = Predictor(Loaded(segmenter, config, Path("here"), {}))
            assert predictor(image).masks.shape == (1, 40, 56)
            if RUNS[run].learns_prompt:
                predictor.explain(image)
        if segmenter.surrogate is not None:
            calibrate(segmenter.without_sam(), [batch], exclusive=True)


@pytest.mark.parametrize(
    "flags",
    [
        ("--run=autosam",),
        ("--run=hybrid", "--data.num_classes=2"),
        ("--run=decoder",),
        ("--run=head", "--train.accumulate=2"),
        ("--run=decoder-box", "--data.num_classes=2"),
        ("--run=autosam", "--task=instances"),
        ("--run=autosam", "--train.optimizer=adam"),
    ],
)
def test_a_step_waits_for_the_gpu_once_at_most(tiny_file: Path, flags: tuple[str, ...]) -> None:
    """Reads and uploads of an epoch of 32 batches; a batch is one upload for each tensor."""
    config = tiny_config(tiny_file, *flags)
    segmenter = build_segmenter(config)
    if config.task == "instances":
        label = np.zeros((40, 56), np.uint8)
        label[8:20, 10:30] = 1
        objects = Instances(label.astype(np.int32), np.ones(1, np.uint8))
        image = np.repeat(label[..., None] * 90, 3, axis=2)
        sample = make_sample(
            "a",
            image,
            segmenter.input_spec,
            label,
            visit=Visit(),
            prompting=PromptConfig(),
            instances=objects,
        )
        samples = Batch.collate([sample, sample])
    else:
        samples = make_batch(segmenter.input_spec, num_classes=config.data.num_classes)
    tensors = sum(isinstance(value, torch.Tensor) for value in vars(samples).values())
    tensors += 0 if samples.prompts is None else len(samples.prompts.tensors())
    with PretendedGpus() as gpus:
        segmenter.to(choose_device())
        accelerator = make_accelerator(config.train.accumulate)
        optimizer = accelerator.prepare(build_optimizer(segmenter, config.train, GPU))
        optimization = Optimization(optimizer, build_schedule(optimizer, config.train, 32), 1.0)
        batches = (samples.to(GPU) for _ in range(32))
        losses: list[float] = []
        gpus.reads = gpus.uploads = 0
        means = train_one_epoch(
            segmenter,
            batches,
            build_loss(config),
            optimization,
            accelerator,
            on_step=lambda images, loss: losses.append(loss),
        )
        reads, uploads = gpus.reads, gpus.uploads
    assert 2 <= reads <= 32
    assert uploads <= 32 * tensors
    assert losses[31] < losses[15]
    assert means["loss"] > 0


def test_a_bad_batch_on_a_gpu_changes_no_weight(tiny_file: Path) -> None:
    """It is named when the losses are read; neither it nor later ones make a step."""
    config = tiny_config(tiny_file)
    segmenter = build_segmenter(config)
    samples = make_batch(segmenter.input_spec)
    criterion = SegmentationLoss(LossConfig())

    def batches(bad: int, count: int) -> Iterator[Batch]:
        for i in range(count):
            batch = samples.to(GPU)
            assert batch.targets is not None
            targets = batch.targets * float("nan") if i == bad else batch.targets
            yield dataclasses.replace(batch, names=[f"image{i}"], targets=targets)

    def weights(bad: int, count: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        one = copy.deepcopy(segmenter)
        with PretendedGpus():
            one.to(choose_device())
            accelerator = make_accelerator(1)
            optimizer = accelerator.prepare(build_optimizer(one, config.train, GPU))
            optimization = Optimization(optimizer, build_schedule(optimizer, config.train, 9), 1.0)
            named = pytest.raises(TrainingError, match=rf"batch {bad + 1} \(image{bad}\.\.\.\)")
            with named if bad < count else contextlib.nullcontext():
                train_one_epoch(one, batches(bad, count), criterion, optimization, accelerator)
        return {name: value.clone() for name, value in one.named_parameters()}

    stopped, short = weights(bad=3, count=9), weights(bad=99, count=3)
    assert all(torch.equal(value, short[name]) for name, value in stopped.items())
    longer = weights(bad=99, count=4)
    assert not all(torch.equal(value, longer[name]) for name, value in stopped.items())


@pytest.mark.parametrize("part", ["prompter", "sam", "surrogate", "prompter.backbone.net.bn1"])
def test_a_part_that_stays_behind_is_caught(part: str, tiny_file: Path) -> None:
    """Planted in the product: the test above would fail if a part forgot to move."""
    segmenter = build_segmenter(tiny_config(tiny_file, "--run=autosam"))
    batch = make_batch(segmenter.input_spec)
    with PretendedGpus():
        segmenter.to("cuda:1")
        with pytest.raises(RuntimeError, match=r"at least two devices, cuda:0 and cuda:1"):
            segmenter(batch.to("cuda:0"))
        segmenter.get_submodule(part).to("cpu")
        with pytest.raises(RuntimeError, match=r"at least two devices, cpu and cuda:1"):
            segmenter(batch.to("cuda:1"), with_surrogate=True)


def on_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """As process 1 of 2, without the other one: accelerate has given it its device."""
    forget_devices()
    PartialState(cpu=False)
    PartialState._shared_state["device"] = torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "1")


def test_the_commands_work_on_the_second_gpu(
    tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Caching, training, resuming, scoring, predicting, by the process whose GPU is `cuda:1`."""
    data = draw_folders(tmp_path / "data")
    seen: set[torch.device] = set()
    segment = Segmenter.segment

    def watched(self: Segmenter, batch: Batch) -> Any:
        seen.add(batch.generator_input.device)
        seen.update(p.device for p in self.parameters())
        return segment(self, batch)

    monkeypatch.setattr(Segmenter, "segment", watched)
    # What pretends is seen by its own thread alone.
    monkeypatch.setattr("autosam.inference.predict.side_by_side", one_by_one)
    with PretendedGpus():
        on_the_second(monkeypatch)
        assert processes().device == choose_device() == torch.device("cuda", 1)
        flags = (f"--data.root={data}", f"--output={tmp_path / 'run'}", "--cache.copies=2",
                 f"--cache.dir={tmp_path / 'cache'}", "--data.workers=0")  # fmt: skip
        run = train(tiny_config(tiny_file, "--train.epochs=1", *flags)).folder
        # A state that a signal left, from which another call goes on.
        (run / "scores.yaml").unlink()
        train(Config(resume=str(run)))
        evaluate_command(EvaluateConfig(checkpoint=str(run)))
        images, out = data / "test/images", tmp_path / "masks"
        for window in (None, 32):
            masks = predict(PredictConfig(checkpoint=str(run), input=str(images), flips=True,
                                          output=f"{out}{window}", tile=window))  # fmt: skip
            assert len(masks) == 3
        job = Job(Variant("autosam"), 0, checkpoint.load(run).config)
        for ablation in ("blank", "surrogate"):
            assert len(scores_of(job, ablation)) == 3
    assert seen == {torch.device("cuda", 1)}
