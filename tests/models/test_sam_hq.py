"""Parity of `sam_hq_*` with the authors' package and with transformers' SamHQModel on the same
random weights, at 64 px (128 px for TinyViT)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import raw_prompt
from test_sam_huggingface import SIZES, ask
from test_sam_mobile import SIZES as TINY_VIT
from test_sam_mobile import randomise
from torch import Tensor, nn
from transformers import SamHQConfig, SamHQModel, SamHQVisionConfig

from autosam.data.geometry import restore
from autosam.data.sample import make_sample
from autosam.errors import CheckpointError
from autosam.models.sam import SAMS, SamSpec, load_sam
from autosam.models.sam.hq import HqEncoder, HqSam, add_mask_layers, from_hq_sam, tiny_hq
from autosam.models.sam.huggingface import POSITION
from autosam.models.sam.meta import prompt_parts
from autosam.models.sam.mobile import CLASSIFIER, tiny_vit
from autosam.models.sam.vit import Vit, VitEncoder
from autosam.models.sam.weights.identify import guess
from autosam.types import Batch, ImageEmbedding, InputSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports timm's parts by old addresses
    # and registers its TinyViTs under timm's own names, which would replace timm's for good.
    with patch("timm.models.registry.register_model", lambda function: function):
        import segment_anything_hq
        from segment_anything_hq.modeling import (
            ImageEncoderViT,
            MaskDecoderHQ,
            PromptEncoder,
            Sam,
            TinyViT,
            TwoWayTransformer,
        )

VIT = Vit(32, depth=3, heads=2, global_blocks=(1, 2), window=4, patch=8, out=32, mlp_ratio=2)
"""The features come from the second of three blocks."""


def build_small(spec: SamSpec, tiny: bool) -> HqSam:
    """HQ-SAM of width 32 with a ViT at 64 px; or of width 256 with TinyViT at 128 px."""
    if tiny:
        width, encoder = 256, tiny_hq(tiny_vit(**TINY_VIT), 256)
    else:
        width, encoder = 32, HqEncoder(VitEncoder(64, VIT), 1, VIT.width, 32)
    parts = prompt_parts(spec, width, 16 if tiny else 8, mlp_dim=64, num_heads=2)
    return HqSam(spec, encoder, parts[0], add_mask_layers(parts[1], width))


HQ = {
    "vit": SamSpec("hq-vit", partial(build_small, tiny=False), 64, convert=from_hq_sam),
    "tiny": SamSpec("hq-tiny", partial(build_small, tiny=True), 128, convert=from_hq_sam),
}


class TinyReference(TinyViT):
    """The reference at another size than 1024 px: there its grid is written as 64 x 64."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        tokens = self.layers[1](self.layers[0](self.patch_embed(pixels)))
        early = tokens.unflatten(1, (8, 8))
        for layer in self.layers[2:]:
            tokens = layer(tokens)
        return self.neck(tokens.transpose(1, 2).unflatten(2, (8, 8))), [early]


def build_reference(kind: str) -> segment_anything_hq.SamPredictor:
    """The authors' predictor around their own classes, with random weights."""
    if kind == "tiny":
        size, grid, width, early = 128, (8, 8), 256, TINY_VIT["dims"][2]
        encoder: nn.Module = TinyReference(
            img_size=size,
            embed_dims=list(TINY_VIT["dims"]),
            depths=list(TINY_VIT["depths"]),
            num_heads=list(TINY_VIT["heads"]),
            window_sizes=[7, 7, 14, 7],
            drop_path_rate=0.0,
        )
    else:
        size, grid, width, early = 64, (8, 8), 32, 32
        encoder = ImageEncoderViT(
            img_size=size,
            patch_size=8,
            embed_dim=32,
            depth=3,
            num_heads=2,
            mlp_ratio=2,
            out_chans=32,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=4,
            global_attn_indexes=(1, 2),
        )
    network = Sam(
        encoder,
        PromptEncoder(
            embed_dim=width,
            image_embedding_size=grid,
            input_image_size=(size, size),
            mask_in_chans=16,
        ),
        MaskDecoderHQ(
            transformer=TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=64, num_heads=2),
            transformer_dim=width,
            iou_head_hidden_dim=width,
            vit_dim=early,
        ),
    )
    randomise(network)
    return segment_anything_hq.SamPredictor(network.eval())


@pytest.fixture(scope="module", params=HQ)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """HQ-SAM as it is loaded from a file of the authors' network, and their predictor."""
    predictor, spec = build_reference(request.param), HQ[request.param]
    file = tmp_path_factory.mktemp("hq") / "sam_hq.pth"
    torch.save(predictor.model.state_dict(), file)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(SAMS, spec.name, spec)
        return load_sam(spec.name, file), predictor


def draw_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(sam, image: np.ndarray) -> ImageEmbedding:
    batch = Batch.collate([make_sample("x", image, InputSpec(sam.spec.image_size, 32, 32))])
    return sam.encode_image(batch.sam_input, batch.sam_valid)


@pytest.mark.parametrize("shape", [(50, 97), (300, 211)])
@torch.no_grad()
def test_image_embedding_from_raw_images(pair, parity: Callable, shape: tuple[int, int]) -> None:
    sam, predictor = pair
    image = draw_image(*shape)
    predictor.set_image(image)
    decoder, early = predictor.model.mask_decoder, predictor.interm_features[0]
    added = decoder.embedding_encoder(predictor.features)
    fine = added + decoder.compress_vit_feat(early.permute(0, 3, 1, 2))
    assert predictor.features.std() > 0.1
    assert (fine - added).std() > 0.01
    ours = encode(sam, image)
    parity(sam.spec.name, "image embedding", ours.features, predictor.features)
    parity(sam.spec.name, "features of the added mask", ours.high_res_features[0], fine)
    assert sam.shapes == tuple(tuple(level.shape[1:]) for level in ours.levels)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kind", ["points", "box", "mask", "none"])
@torch.no_grad()
def test_masks_from_raw_images(pair, parity: Callable, kind: str, multimask: bool) -> None:
    sam, predictor = pair
    shape = (50, 97)
    image, size = draw_image(*shape), sam.spec.image_size
    predictor.set_image(image)
    given, ours = raw_prompt(kind, shape, size)
    expected, iou, expected_low = predictor.predict(
        **given, multimask_output=multimask, return_logits=True
    )
    prompt = sam.encode_prompt(**ours) if ours else sam.no_prompt(1)
    logits, ours_iou = sam.decode_mask(encode(sam, image), prompt, multimask)
    # Of several masks the reference returns the one with the best estimate.
    best = ours_iou[0].argmax(0, keepdim=True)
    logits, ours_iou = logits[0, best], ours_iou[0, best]
    assert expected_low.std() > 0.1
    name = sam.spec.name
    parity(name, f"masks: {kind}", logits, torch.from_numpy(expected_low))
    parity(name, f"iou: {kind}", ours_iou, torch.from_numpy(iou))
    full = restore(logits, shape, size)
    parity(name, f"masks at the image's size: {kind}", full, torch.from_numpy(expected))


@torch.no_grad()
def test_every_split_of_the_blocks_gives_the_embedding(pair) -> None:
    """Behind the block that the features come from, in front of it, and none or all."""
    sam, _ = pair
    image = draw_image(40, 60)
    whole = encode(sam, image)
    try:
        for first in range(len(sam.block_encoder.each_block()) + 1):
            sam.tuned_from = first
            for a, b in zip(encode(sam, image).levels, whole.levels, strict=True):
                assert torch.equal(a, b)
    finally:
        sam.tuned_from = None


def upscale_what_the_transformer_returns(decoder: nn.Module) -> None:
    """transformers 5.24 drops the image that the decoder's transformer returns, and upscales the
    one that goes in. The authors' code, which the weights were trained with, does not."""
    seen: list[Tensor] = []
    decoder.transformer.register_forward_hook(lambda _, __, output: seen.append(output[1]))
    decoder.upscale_conv1.register_forward_pre_hook(
        lambda _, given: (seen.pop().transpose(2, 3).reshape(given[0].shape),)
    )


@torch.no_grad()
def test_masks_of_transformers(tmp_path: Path, parity: Callable, monkeypatch) -> None:
    decoder = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "vit_dim": 32}
    theirs = SamHQModel(
        SamHQConfig(
            vision_config={
                "hidden_size": 32,
                "output_channels": 32,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": 64,
                "patch_size": 8,
                "mlp_dim": 64,
                "window_size": 4,
                "global_attn_indexes": [1, 2],
                "num_pos_feats": 16,
            },
            prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 8},
            # SAM's own eps; transformers' would be 1e-6.
            mask_decoder_config=decoder | {"iou_head_hidden_dim": 32, "layer_norm_eps": 1e-5},
        )
    ).eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    upscale_what_the_transformer_returns(theirs.mask_decoder)
    monkeypatch.setitem(SAMS, "hq-vit", HQ["vit"])
    sam = load_sam("hq-vit", tmp_path / "model.safetensors")
    assert SIZES["size"]["longest_edge"] == sam.spec.image_size
    image = draw_image(50, 97)
    for kind in ("points", "box", "mask", "none"):
        ours, given = ask(kind, image)
        prompt = sam.encode_prompt(**ours) if ours else sam.no_prompt(1)
        for multimask in (True, False):
            expected = theirs(**given, multimask_output=multimask)
            logits, iou = sam.decode_mask(encode(sam, image), prompt, multimask)
            order = iou[0].argsort(descending=True)  # as theirs are
            assert expected.pred_masks.std() > 0.1
            what = "transformers, masks: " + kind
            parity("hq-vit", what, logits[:, order], expected.pred_masks[:, 0])
            parity("hq-vit", "transformers, iou", iou[:, order], expected.iou_scores[:, 0])


@pytest.mark.parametrize("variant", ["vit_b", "vit_l", "vit_h", "vit_tiny"])
def test_full_sizes_take_every_tensor_of_the_file(variant: str) -> None:
    spec = SAMS[f"sam_hq_{variant}"]
    with torch.device("meta"):
        sam = spec.build(spec)
    ours = {key: value.shape for key, value in sam.state_dict().items()}
    tiny = variant == "vit_tiny"  # the reference computes values while it is built
    with torch.device("cpu" if tiny else "meta"):
        files = [segment_anything_hq.sam_model_registry[variant]().state_dict()]
        if not tiny:
            vit, early = sam.image_encoder.trunk, sam.image_encoder.early
            everywhere = list(range(early, len(vit.blocks), early + 1))
            config = SamHQConfig(
                vision_config=SamHQVisionConfig(
                    hidden_size=vit.embed_dim,
                    num_hidden_layers=len(vit.blocks),
                    num_attention_heads=vit.blocks[0].attn.num_heads,
                    global_attn_indexes=everywhere,
                ).to_dict(),
                mask_decoder_config={"vit_dim": vit.embed_dim},
            )
            files.append(SamHQModel(config).state_dict())
            del files[-1][POSITION[1]]  # the same tensor as the first, and not in the file
    for file, owner in zip(files, ("", "Hugging Face's "), strict=False):
        converted = {key: value.shape for key, value in from_hq_sam(file).items()}
        assert converted == ours
        assert len(ours) == len(file) - (len(CLASSIFIER) if tiny else 0)
        size = spec.architecture.removeprefix("HQ ").removesuffix("-5M")
        assert guess(file).startswith(f"This looks like {owner}HQ-SAM {size}")
        assert spec.name in guess(file)
    assert sam.grid == (64, 64)
    assert sam.shapes == ((256, 64, 64), (32, 256, 256))


def test_a_file_of_sam_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMS, "hq-vit", HQ["vit"])
    state = build_reference("vit").model.state_dict()
    added = ("hf_", "compress_", "embedding_")
    plain = {
        k: v
        for k, v in state.items()
        if not k.startswith(tuple(f"mask_decoder.{a}" for a in added))
    }
    torch.save(plain, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match=r"25 missing: .*compress_vit_feat"):
        load_sam("hq-vit", tmp_path / "sam.pth")
