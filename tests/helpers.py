"""A tiny random SAM, a tiny folder of images, and settings for them: enough to run everything in
seconds."""

from __future__ import annotations

import os
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

from autosam.config import Config, PromptConfig
from autosam.config.cli import parse
from autosam.data.geometry import content_size
from autosam.data.sample import Visit, make_sample
from autosam.errors import Stopped
from autosam.models.sam.base import IMAGENET_MEAN, IMAGENET_STD, SamSpec
from autosam.models.sam.meta import SegmentAnything
from autosam.models.sam.vit import Vit, VitEncoder, from_meta
from autosam.train import train
from autosam.types import Batch, InputSpec


def build_tiny(spec: SamSpec) -> SegmentAnything:
    """SAM's anatomy at 64 px, grid 8 x 8, width 32."""
    vit = Vit(32, depth=2, heads=2, global_blocks=(1,), window=4, patch=8, out=32, mlp_ratio=2)
    encoder = VitEncoder(64, vit)
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


MALFORMED: dict[str, tuple[int, str, str]] = {}
"""How malformed inputs ended, by cause: how many, the error's class, the last message."""


ENDED: dict[str, tuple[int, float, set[int]]] = {}
"""How processes ended, by what was sent to what: how often, most seconds, exit codes."""


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


def draw_folders(root: Path) -> Path:
    """root/{train,validation,test}/{images,masks} with 6, 3 and 3 images."""
    for start, split, count in ((0, "train", 6), (6, "validation", 3), (9, "test", 3)):
        draw(root / split, count, start)
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
            "--model.input_size=64",
            "--model.width=32",
            "--train.batch_size=2",
            "--train.epochs=2",
            "--train.sheet_images=2",
            "--train.precision=no",  # the same on every processor
            *flags,
        ],
    )


def make_batch(input_spec: InputSpec, count: int = 2, num_classes: int = 1) -> Batch:
    samples = []
    for i in range(count):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 90, (40, 56, 3), dtype=np.uint8)
        label = np.zeros((40, 56), np.uint8)
        for k in range(num_classes):
            y, x = rng.integers(0, 20, 2)
            label[y : y + 16, x : x + 16] = k + 1
        image[label > 0] += 60 * label[label > 0][:, None]
        samples.append(
            make_sample(
                str(i), image, input_spec, label, num_classes, Visit(seed=(i,)), PromptConfig()
            )
        )
    return Batch.collate(samples)


def train_until_stopped(config: Config, target: Any, name: str, replacement: Any) -> Stopped:
    """Train with something in the place of `target.name` that stops it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, replacement)
        with pytest.raises(Stopped) as stopped:
            train(config)
    return stopped.value


def raw_prompt(
    kind: str, shape: tuple[int, int], size: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A prompt of an image, for the predictors of the reference libraries and for `encode_prompt`.

    Args:
        kind: `points`, `box`, `mask` or `none`.
        shape: H, W of the image.
        size: S of the SAM, whose longest side the image's becomes.

    Returns:
        Arguments of `SamPredictor.predict`, in pixels of the image; and of `Sam.encode_prompt`.
    """
    points, labels = np.array([[20.0, 10.0], [60.0, 40.0]]), np.array([1, 0])
    box = np.array([10.0, 5.0, 70.0, 45.0])
    low = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(4))
    height, width = content_size(*shape, size, "longest-pad")
    scale = np.array([width / shape[1], height / shape[0]])
    coords = torch.from_numpy(points * scale)[None].float()
    corners = torch.from_numpy(box * np.tile(scale, 2))[None].float()
    both: dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]] = {
        "points": (
            {"point_coords": points, "point_labels": labels},
            {"points": (coords, torch.from_numpy(labels)[None])},
        ),
        "box": ({"box": box}, {"boxes": corners}),
        "mask": ({"mask_input": low.numpy()}, {"masks": low[None]}),
        "none": ({}, {}),
    }
    return both[kind]
