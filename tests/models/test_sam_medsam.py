"""Parity of `medsam` with the published inference, written out with segment_anything's modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import build_reference_tiny, build_tiny
from PIL import Image
from segment_anything import sam_model_registry
from torch import Tensor

from autosam.data.sample import make_sample
from autosam.models.sam import SAMS, load_sam
from autosam.models.sam.vit import from_meta
from autosam.types import Batch, InputSpec

SIZE = 64
MEDSAM = SAMS["medsam"]
SPEC = replace(MEDSAM, name="tiny_medsam", image_size=SIZE, build=build_tiny)


@pytest.fixture
def sam(tiny_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SAMS, SPEC.name, SPEC)
    return load_sam(SPEC.name, tiny_file)


@torch.no_grad()
def published(weights: Path, square: np.ndarray, box: np.ndarray) -> tuple[Tensor, Tensor]:
    """Ma et al. 2024: one box (in pixels of the square) -> image embedding, logits."""
    network = build_reference_tiny()
    network.load_state_dict(torch.load(weights, weights_only=True))
    stretched = (square - square.min()) / np.clip(
        square.max().astype(float) - square.min(), a_min=1e-8, a_max=None
    )
    pixels = torch.tensor(stretched).float().permute(2, 0, 1)[None]
    embedding = network.image_encoder(pixels)
    sparse, dense = network.prompt_encoder(
        points=None, boxes=torch.as_tensor(box, dtype=torch.float)[None, None], masks=None
    )
    logits, _ = network.mask_decoder(
        image_embeddings=embedding,
        image_pe=network.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return embedding, logits


@pytest.mark.parametrize("shape", [(50, 97), (300, 211), (64, 64)])
@pytest.mark.parametrize("grey", [(0, 256), (40, 90), (120, 121)])
@torch.no_grad()
def test_a_box_from_a_raw_image(
    sam, tiny_file: Path, parity: Callable, shape: tuple[int, int], grey: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).integers(*grey, (*shape, 3), dtype=np.uint8)
    input_spec = InputSpec(SIZE, 32, 4 * sam.grid[0], geometry=sam.spec.geometry)
    batch = Batch.collate([make_sample("x", image, input_spec)])
    square = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert torch.equal(batch.sam_input[0], torch.from_numpy(square.copy()).permute(2, 0, 1))

    height, width = shape
    box = np.array([10.0, 5.0, 40.0, 45.0]) / np.array([width, height, width, height]) * SIZE
    expected_embedding, expected = published(tiny_file, square, box)
    embedding = sam.encode_image(batch.sam_input, batch.sam_valid)
    parity("medsam", "image embedding", embedding.features, expected_embedding)
    prompt = sam.encode_prompt(boxes=torch.from_numpy(box)[None].float())
    logits, _ = sam.decode_mask(embedding, prompt)
    parity("medsam", "masks: box", logits, expected)


@torch.no_grad()
def test_images_of_a_batch_are_stretched_one_by_one(sam) -> None:
    seen: list[Tensor] = []
    sam.image_encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.stack([torch.randint(50, 60, (3, SIZE, SIZE)), torch.full((3, SIZE, SIZE), 9)])
    images[0, :, 0, 0], images[0, :, 0, 1] = 50, 60
    sam.encode_image(images.to(torch.uint8), torch.tensor([[SIZE, SIZE]] * 2))
    assert seen[0][0].min() == 0
    assert seen[0][0].max() == 1
    assert torch.allclose(seen[0][0, :, 5, 5], (images[0, :, 5, 5] - 50) / 10)
    assert (seen[0][1] == 0).all()


def test_the_architecture_is_vit_b() -> None:
    with torch.device("meta"):
        ours = MEDSAM.build(MEDSAM).state_dict()
        theirs = from_meta(sam_model_registry["vit_b"]().state_dict())
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
