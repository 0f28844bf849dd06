"""Parity of `mobile_sam` with the MobileSAM package on the same random weights, at 128 px."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import raw_prompt
from torch import Tensor, nn

from autosam.data.geometry import restore
from autosam.data.sample import make_sample
from autosam.errors import CheckpointError
from autosam.models.sam import SAMS, load_sam
from autosam.models.sam.mobile import CLASSIFIER, build_mobile, from_mobile_sam
from autosam.types import Batch, ImageEmbedding, InputSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # it imports timm's parts by old addresses
    # and registers its TinyViTs under timm's own names, which would replace timm's for good.
    with patch("timm.models.registry.register_model", lambda function: function):
        import mobile_sam
        from mobile_sam.modeling import MaskDecoder, PromptEncoder, Sam, TinyViT, TwoWayTransformer

SIZE = 128
# The reference skips the last halving only where that stage has 320 channels (or 448, or 576).
SIZES = {"dims": (8, 16, 16, 320), "depths": (1, 2, 1, 1), "heads": (1, 2, 4, 10)}
SPEC = replace(
    SAMS["mobile_sam"], name="tiny_mobile", image_size=SIZE, build=partial(build_mobile, **SIZES)
)


class TinyReference(TinyViT):
    """The reference at another size than 1024 px: there its grid is written as 64 x 64."""

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patch_embed(pixels)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.neck(tokens.transpose(1, 2).unflatten(2, (SIZE // 16, SIZE // 16)))


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    """Fresh networks hold zero biases and norms that do nothing: no test of where they belong."""
    generator = torch.Generator().manual_seed(3)
    for name, value in network.state_dict().items():
        if not value.is_floating_point() or "pe_layer" in name:
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.copy_(1 + noise.abs())
        elif value.dim() == 1:  # biases around 0, scales of norms around 1
            value.copy_(0.2 * noise + float(name.endswith("weight")))
        elif name.endswith("attention_biases"):
            value.copy_(noise)
        else:
            value.copy_(noise / value[0].numel() ** 0.5)


@pytest.fixture(scope="module")
def predictor() -> mobile_sam.SamPredictor:
    """MobileSAM's own predictor around its own classes."""
    network = Sam(
        TinyReference(
            img_size=SIZE,
            embed_dims=list(SIZES["dims"]),
            depths=list(SIZES["depths"]),
            num_heads=list(SIZES["heads"]),
            window_sizes=[7, 7, 14, 7],
            drop_path_rate=0.0,
        ),
        PromptEncoder(
            embed_dim=256,
            image_embedding_size=(SIZE // 16, SIZE // 16),
            input_image_size=(SIZE, SIZE),
            mask_in_chans=16,
        ),
        MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )
    randomise(network)
    return mobile_sam.SamPredictor(network.eval())


@pytest.fixture(scope="module")
def file(predictor: mobile_sam.SamPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights, as MobileSAM's file is written: torch.save of the state dict."""
    path = tmp_path_factory.mktemp("mobile") / "mobile_sam.pt"
    torch.save(predictor.model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def sam(file: Path):
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(SAMS, SPEC.name, SPEC)
        return load_sam(SPEC.name, file)


def draw_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(sam, image: np.ndarray) -> ImageEmbedding:
    batch = Batch.collate([make_sample("x", image, InputSpec(SIZE, 32, 4 * sam.grid[0]))])
    return sam.encode_image(batch.sam_input, batch.sam_valid)


@pytest.mark.parametrize("shape", [(50, 97), (300, 211), (128, 128)])
@torch.no_grad()
def test_image_embedding_from_raw_images(sam, predictor, parity: Callable, shape) -> None:
    image = draw_image(*shape)
    predictor.set_image(image)
    assert predictor.features.std() > 0.1
    parity("mobile_sam", "image embedding", encode(sam, image).features, predictor.features)


@pytest.mark.parametrize("kind", ["points", "box", "mask", "none"])
@torch.no_grad()
def test_masks_from_raw_images(sam, predictor, parity: Callable, kind: str) -> None:
    shape = (50, 97)
    image = draw_image(*shape)
    predictor.set_image(image)
    given, ours = raw_prompt(kind, shape, SIZE)
    expected, iou, expected_low = predictor.predict(
        **given, multimask_output=True, return_logits=True
    )
    prompt = sam.encode_prompt(**ours) if ours else sam.no_prompt(1)
    nothing = {"points": None, "boxes": None, "masks": None}
    sparse, dense = predictor.model.prompt_encoder(**nothing | ours)
    parity("mobile_sam", f"prompt: {kind}", prompt.sparse, sparse)
    parity("mobile_sam", f"prompt: {kind}", prompt.dense, dense)
    logits, ours_iou = sam.decode_mask(encode(sam, image), prompt, multimask=True)
    assert expected_low.std() > 0.5
    parity("mobile_sam", f"masks: {kind}", logits[0], torch.from_numpy(expected_low))
    parity("mobile_sam", f"iou: {kind}", ours_iou[0], torch.from_numpy(iou))
    parity(
        "mobile_sam",
        f"masks at the image's size: {kind}",
        restore(logits[0], shape, SIZE),
        torch.from_numpy(expected),
    )


def test_the_architecture_takes_every_tensor_of_the_file() -> None:
    theirs = mobile_sam.sam_model_registry["vit_t"]().state_dict()
    assert set(theirs) >= CLASSIFIER
    with torch.device("meta"):
        sam = SAMS["mobile_sam"].build(SAMS["mobile_sam"])
    ours = {key: value.shape for key, value in sam.state_dict().items()}
    converted = {key: value.shape for key, value in from_mobile_sam(theirs).items()}
    assert ours == converted
    assert len(ours) == len(theirs) - len(CLASSIFIER)
    assert sam.grid == (64, 64)


def test_nothing_but_the_classifier_is_dropped(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SAMS, SPEC.name, SPEC)
    state = torch.load(file, weights_only=True)
    state["image_encoder.head.scale"] = torch.zeros(1)
    state["image_encoder.layers.1.blocks.0.attn.extra"] = torch.zeros(1)
    del state["image_encoder.layers.0.downsample.conv1.c.weight"]
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(CheckpointError) as error:
        load_sam(SPEC.name, tmp_path / "other.pt")
    assert "2 unexpected: " in str(error.value)
    assert "image_encoder.head.scale" in str(error.value)
    assert "1 missing: image_encoder.stages.1.downsample.conv1.conv.weight" in str(error.value)


def test_batch_norms_use_their_stored_statistics(sam) -> None:
    before = {key: value.clone() for key, value in sam.state_dict().items()}
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    valid = torch.tensor([[SIZE, SIZE]] * 2)
    with torch.no_grad():
        both = sam.encode_image(images, valid).features
        one = sam.encode_image(images[1:], valid[1:]).features
    assert (both[1:] - one).abs().max() < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in sam.state_dict().items())
