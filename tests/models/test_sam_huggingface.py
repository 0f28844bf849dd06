"""Parity of `sam-vit-*` with transformers' SamModel on the same random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY
from safetensors.torch import save_file
from transformers import (
    SamConfig,
    SamImageProcessor,
    SamImageProcessorPil,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from autosam.data.geometry import content_size
from autosam.data.sample import make_sample
from autosam.errors import CheckpointError
from autosam.models.sam import SAMS, load_sam
from autosam.models.sam.base import IMAGENET_STD
from autosam.models.sam.huggingface import POSITION, from_huggingface
from autosam.models.state_dict import read_weights
from autosam.types import Batch, ImageEmbedding, InputSpec

SPEC = replace(TINY, name="tiny_huggingface", convert=from_huggingface)
SIZES = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}


def build_reference(eps: float) -> SamModel:
    """SamModel with the sizes of the tiny SAM; `eps` of the mask decoder's norms."""
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=32,
            output_channels=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
            mlp_dim=64,
            window_size=4,
            global_attn_indexes=[1],
            num_pos_feats=16,
        ).to_dict(),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=32, image_size=64, patch_size=8, mask_input_channels=4
        ).to_dict(),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=32,
            mlp_dim=64,
            num_attention_heads=2,
            iou_head_hidden_dim=32,
            layer_norm_eps=eps,
        ).to_dict(),
    )
    model = SamModel(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
            if "positional_embedding" not in name:
                value.mul_(0.2).add_(float("norm" in name and name.endswith("weight")))
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.proj_out.weight.mul_(10)
    return model


@pytest.fixture(scope="module")
def reference() -> SamModel:
    return build_reference(eps=1e-5)


@pytest.fixture(scope="module")
def file(reference: SamModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights as transformers writes them."""
    folder = tmp_path_factory.mktemp("huggingface")
    reference.save_pretrained(folder)
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def sam(file: Path):
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(SAMS, SPEC.name, SPEC)
        return load_sam(SPEC.name, file)


def draw_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(sam, image: np.ndarray) -> ImageEmbedding:
    batch = Batch.collate([make_sample("x", image, InputSpec(64, 32, 4 * sam.grid[0]))])
    return sam.encode_image(batch.sam_input, batch.sam_valid)


@pytest.mark.parametrize("shape", [(50, 97), (97, 50), (300, 211)])
def test_image_embedding_from_raw_images(sam, reference, parity: Callable, shape) -> None:
    image = draw_image(*shape)
    pixels = SamImageProcessorPil(**SIZES)(image, return_tensors="pt")["pixel_values"]
    ours, theirs = encode(sam, image).features, reference.get_image_embeddings(pixels)
    assert theirs.std() > 0.5
    parity("huggingface", "image embedding", ours, theirs)


def ask(kind: str, image: np.ndarray) -> tuple[dict, dict]:
    """The same question in both languages, from coordinates in the image's own pixels."""
    shape = image.shape[:2]
    points, labels, box = [[20.0, 10.0], [60.0, 40.0]], [1, 0], [10.0, 5.0, 70.0, 45.0]
    given = {
        "points": {"input_points": [[points]], "input_labels": [[labels]]},
        "box": {"input_boxes": [[box]]},
    }.get(kind, {})
    theirs = dict(SamProcessor(SamImageProcessorPil(**SIZES))(image, return_tensors="pt", **given))
    del theirs["original_sizes"], theirs["reshaped_input_sizes"]
    height, width = content_size(*shape, 64, "longest-pad")
    scale = torch.tensor([width / shape[1], height / shape[0]])
    low = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(6))
    if kind == "points":
        return {"points": (torch.tensor([points]) * scale, torch.tensor([labels]))}, theirs
    if kind == "box":
        return {"boxes": torch.tensor([box]) * scale.repeat(2)}, theirs
    return ({"masks": low}, theirs | {"input_masks": low}) if kind == "mask" else ({}, theirs)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kind", ["points", "box", "mask", "none"])
@torch.no_grad()
def test_masks_from_raw_images(sam, reference, parity: Callable, kind, multimask) -> None:
    image = draw_image(50, 97)
    ours, theirs = ask(kind, image)
    prompt = sam.encode_prompt(**ours) if ours else sam.no_prompt(1)
    sparse, dense = reference.get_prompt_embeddings(
        **{key: value for key, value in theirs.items() if key != "pixel_values"}
    )
    if sparse is None:  # theirs: no token at all
        assert prompt.sparse.shape == (1, 0, 32)
    else:
        parity("huggingface", f"prompt: {kind}", prompt.sparse, sparse[:, 0])
    parity("huggingface", f"prompt: {kind}", prompt.dense, dense)

    expected = reference(**theirs, multimask_output=multimask)
    logits, iou = sam.decode_mask(encode(sam, image), prompt, multimask=multimask)
    assert expected.pred_masks.std() > 0.1
    parity("huggingface", f"masks: {kind}", logits, expected.pred_masks[:, 0])
    parity("huggingface", f"iou: {kind}", iou, expected.iou_scores[:, 0])


@torch.no_grad()
def test_the_norms_of_transformers_add_a_smaller_epsilon(sam, reference, parity: Callable) -> None:
    # SAM's mask decoder normalises with eps 1e-5; transformers with 1e-6, which no file records.
    # The weights were trained with the former, and so do we.
    other = build_reference(SamMaskDecoderConfig().layer_norm_eps)
    assert other.config.mask_decoder_config.layer_norm_eps == 1e-6
    other.load_state_dict(reference.state_dict())
    ours, theirs = ask("box", draw_image(50, 97))
    expected = other(**theirs, multimask_output=True).pred_masks[:, 0]
    embedding = encode(sam, draw_image(50, 97))
    logits, _ = sam.decode_mask(embedding, sam.encode_prompt(**ours), multimask=True)
    parity("huggingface", "masks: box, transformers' eps", logits, expected, bound=1e-3)


@torch.no_grad()
def test_the_torchvision_processor_rounds_by_at_most_one_grey_level(sam) -> None:
    image = draw_image(300, 211)
    pillow = SamImageProcessorPil(**SIZES)(image, return_tensors="pt")["pixel_values"]
    other = SamImageProcessor(**SIZES)(image, return_tensors="pt")["pixel_values"]
    levels = (pillow - other).abs() * torch.tensor(IMAGENET_STD).view(3, 1, 1)
    assert levels.max() < 1.01


def test_full_sizes_take_every_tensor_of_the_file() -> None:
    heads = {"sam-vit-base": (768, 12, 12, (2, 5, 8, 11)), "sam-vit-large": (1024, 24, 16, ()),
             "sam-vit-huge": (1280, 32, 16, ())}  # fmt: skip
    for name, (width, depth, count, everywhere) in heads.items():
        everywhere = everywhere or tuple(range(depth // 4 - 1, depth, depth // 4))
        vision = SamVisionConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=count,
            global_attn_indexes=everywhere,
        )
        with torch.device("meta"):
            theirs = SamModel(SamConfig(vision_config=vision.to_dict())).state_dict()
            ours = SAMS[name].build(SAMS[name]).state_dict()
        del theirs[POSITION[1]]  # the same tensor as the first, and not in the file
        converted = from_huggingface(theirs)
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in converted.items()}
        assert len(converted) == len(theirs)


def test_the_positional_embedding_may_come_once_or_twice_but_not_in_two_versions(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SAMS, SPEC.name, SPEC)
    state = read_weights(file)
    assert [key for key in POSITION if key in state] == [POSITION[0]]
    expected = state[POSITION[0]]

    for keys in (POSITION, POSITION[1:]):
        rest = {key: value for key, value in state.items() if key not in POSITION}
        save_file(rest | {key: expected.clone() for key in keys}, tmp_path / "x.safetensors")
        sam = load_sam(SPEC.name, tmp_path / "x.safetensors")
        matrix = sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        assert torch.equal(matrix, expected)

    save_file(state | {POSITION[1]: expected + 1}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="only one positional embedding"):
        load_sam(SPEC.name, tmp_path / "x.safetensors")


def test_a_file_of_another_layout_is_refused(
    tiny_file: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SAMS, SPEC.name, SPEC)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_sam(SPEC.name, tiny_file)
    with pytest.raises(CheckpointError, match=r"\d+ unexpected"):
        load_sam("tiny", file)
