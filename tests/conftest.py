"""A tiny random SAM and a tiny folder of images: enough to run everything in seconds."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

# Every test, and every process that one starts, has one core: `pytest -n` shares out the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from segment_anything.modeling import Sam as ReferenceSam
from torch import nn

from autosam.config import Config
from autosam.config.cli import parse
from autosam.models.sam import SAMS
from autosam.models.sam.base import IMAGENET_MEAN, IMAGENET_STD, SamSpec
from autosam.models.sam.meta import SegmentAnything
from autosam.models.sam.vit import VitEncoder, from_meta

torch.set_num_threads(1)


def build_tiny(spec: SamSpec) -> SegmentAnything:
    """SAM's anatomy at 64 px, grid 8 x 8, width 32."""
    encoder = VitEncoder(
        64, 32, depth=2, heads=2, wide=(1,), window=4, patch=8, out=32, mlp_ratio=2
    )
    sam = SegmentAnything(spec, encoder, *tiny_prompt_parts())
    liven(sam)
    return sam


def tiny_prompt_parts() -> tuple[PromptEncoder, MaskDecoder]:
    return (
        PromptEncoder(
            embed_dim=32, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=4
        ),
        MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=2),
            transformer_dim=32,
            iou_head_depth=3,
            iou_head_hidden_dim=32,
        ),
    )


def build_reference_tiny() -> ReferenceSam:
    """The same network in `segment_anything`'s own classes, with lively random weights."""
    encoder = ImageEncoderViT(
        img_size=64,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        mlp_ratio=2,
        out_chans=32,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=4,
        global_attn_indexes=(1,),
    )
    sam = ReferenceSam(encoder, *tiny_prompt_parts(), IMAGENET_MEAN, IMAGENET_STD)
    liven(sam)
    with torch.no_grad():  # zero as they are made
        for name, value in sam.image_encoder.named_parameters():
            if "_pos" in name or name == "pos_embed":
                value.normal_()
    return sam.eval()


def liven(sam: nn.Module) -> None:
    """A trained SAM's logits span tens, a random one's hundredths: without this no prompt at all
    could draw a mask."""
    with torch.no_grad():
        for mlp in sam.mask_decoder.output_hypernetworks_mlps:
            last = mlp.proj_out if hasattr(mlp, "proj_out") else mlp.layers[-1]
            last.weight *= 60


TINY = SamSpec("tiny", build_tiny, image_size=64, convert=from_meta)

PARITY: dict[tuple[str, str], float] = {}
"""Largest difference from the reference implementation, by backend and what was compared."""
MALFORMED: dict[str, tuple[int, str, str]] = {}
"""How malformed inputs ended, by cause: how many, the error's class, the last message."""
ENDED: dict[str, tuple[int, float, set[int]]] = {}
"""How processes ended, by what was sent to what: how often, most seconds, exit codes."""


@pytest.fixture
def parity() -> Callable[..., None]:
    """`parity("mobile_sam", "masks: box", ours, reference)`: the two agree to 1e-4 in fp32. The
    largest difference of each row is printed as a table at the end of the test run."""

    def compare(
        backend: str, what: str, ours: torch.Tensor, reference: torch.Tensor, bound: float = 1e-4
    ) -> None:
        assert ours.shape == reference.shape
        error = (ours - reference).abs().max().item() if ours.numel() else 0.0
        PARITY[backend, what] = max(error, PARITY.get((backend, what), 0.0))
        assert error < bound, f"{backend}, {what}: {error:.1e}"

    return compare


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of `pytest -n` hands its errors to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["parity"] = [[*key, error] for key, error in PARITY.items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for backend, what, error in node.workeroutput.get("parity", []):
        PARITY[backend, what] = max(error, PARITY.get((backend, what), 0.0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables of parity errors, of malformed inputs, and of processes that were ended."""
    if PARITY:
        terminalreporter.section("largest difference from the reference implementation")
        for (backend, what), error in sorted(PARITY.items()):
            terminalreporter.write_line(f"{backend:<20} {what:<36} {error:.1e}")
    if ENDED:
        total = sum(times for times, *_ in ENDED.values())
        terminalreporter.section(f"{total} processes ended: times, most seconds, exit codes")
        for name, (times, seconds, codes) in sorted(ENDED.items()):
            line = f"{name:<64} {times:>3} {seconds:>5.1f} s  {', '.join(map(str, sorted(codes)))}"
            terminalreporter.write_line(line)
    if MALFORMED:
        lines = [
            f"{name:<60} {count:>3}  {kind:<16} {message}"
            for name, (count, kind, message) in MALFORMED.items()
        ]
        total = sum(count for count, *_ in MALFORMED.values())
        terminalreporter.section(f"{total} malformed inputs of {len(MALFORMED)} causes")
        for line in lines:
            terminalreporter.write_line(line[:180])
        if file := os.environ.get("AUTOSAM_MALFORMED"):
            Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the tiny SAM, as Meta's files are written: torch.save of the state dict of
    `segment_anything`'s own network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sam") / "sam_tiny.pth"
    torch.save(build_reference_tiny().state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are sought in an empty folder and downloaded from a closed port of this machine."""
    monkeypatch.setenv("AUTOSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AUTOSAM_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(autouse=True)
def _log_anew() -> Iterator[None]:
    """What writes the log holds on to the standard output of one test."""
    yield
    logging.getLogger("autosam").handlers.clear()


@pytest.fixture(autouse=True)
def _tiny_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMS, "tiny", TINY)


def draw(folder: Path, count: int, start: int = 0, size: tuple[int, int] = (40, 56)) -> None:
    """`count` noisy images with one bright square, and their masks of 0 and 255."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 90, (*size, 3), dtype=np.uint8)
        mask = np.zeros(size, np.uint8)
        y, x = rng.integers(0, 20, 2)
        mask[y : y + 18, x : x + 22] = 255
        image[mask > 0] += 140
        Image.fromarray(image).save(folder / "images" / f"img{i:02d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"img{i:02d}.png")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return draw_folders(tmp_path / "data")


def draw_folders(root: Path) -> Path:
    """root/{train,validation,test}/{images,masks} with 6, 3 and 3 images."""
    for start, part, count in ((0, "train", 6), (6, "validation", 3), (9, "test", 3)):
        draw(root / part, count, start)
    return root


def tiny_config(tiny_file: Path, *flags: str) -> Config:
    """Settings for the tiny SAM and a tiny backbone."""
    return parse(
        Config,
        [
            "--sam=tiny",
            f"--sam_checkpoint={tiny_file}",
            "--model.backbone=test_efficientnet",
            "--model.backbone_weights=none",
            "--model.view_size=64",
            "--model.width=32",
            "--train.batch_size=2",
            "--train.epochs=2",
            "--train.pictures=2",
            *flags,
        ],
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> Path:
    """The folder of a run of autosam; its data are beside it, in data/."""
    root = tmp_path_factory.mktemp("trained")
    for start, part, count in ((0, "train", 6), (6, "validation", 3), (9, "test", 3)):
        draw(root / "data" / part, count, start)
    from autosam.train import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMS, "tiny", TINY)
        flags = (f"--data.root={root / 'data'}", f"--output={root / 'run'}", "--train.epochs=6")
        return train(tiny_config(tiny_file, *flags)).folder


@pytest.fixture
def real_data() -> Path:
    """The folder of real photographs."""
    if not os.environ.get("AUTOSAM_DATA"):
        pytest.skip("AUTOSAM_DATA is not set: no real photographs to test on")
    return Path(os.environ["AUTOSAM_DATA"])
