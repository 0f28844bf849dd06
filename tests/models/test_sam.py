"""Parity with segment_anything on the same random weights, from raw image to mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import build_reference_tiny
from segment_anything import SamPredictor, sam_model_registry

from autosam.data.geometry import restore
from autosam.data.sample import make_sample
from autosam.errors import CheckpointError, ConfigError
from autosam.models.sam import SAMS, load_sam
from autosam.models.sam.meta import SegmentAnything
from autosam.models.sam.vit import PiecewiseAttention, Vit, VitEncoder, from_meta
from autosam.types import Batch, ImageEmbedding, InputSpec, Prompt


@pytest.fixture
def predictor(tiny_file: Path) -> SamPredictor:
    """segment_anything's own predictor."""
    reference = build_reference_tiny()
    reference.load_state_dict(torch.load(tiny_file, weights_only=True))
    return SamPredictor(reference.eval())


@pytest.fixture
def sam(tiny_file: Path) -> SegmentAnything:
    return load_sam("tiny", tiny_file)  # type: ignore[return-value]


def draw_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(sam: SegmentAnything, image: np.ndarray) -> ImageEmbedding:
    input_spec = InputSpec(sam.spec.image_size, 32, 4 * sam.grid[0])
    batch = Batch.collate([make_sample("x", image, input_spec)])
    return sam.encode_image(batch.sam_input, batch.sam_valid)


@pytest.mark.parametrize("shape", [(50, 97), (97, 50), (64, 64), (300, 211)])
@torch.no_grad()
def test_image_embedding_from_raw_images(
    sam: SegmentAnything, predictor: SamPredictor, parity: Callable, shape: tuple[int, int]
) -> None:
    image = draw_image(*shape)
    predictor.set_image(image)
    parity("segment_anything", "image embedding", encode(sam, image).features, predictor.features)


@pytest.mark.parametrize("kind", ["points", "box", "mask", "none"])
@torch.no_grad()
def test_masks_from_raw_images(
    sam: SegmentAnything, predictor: SamPredictor, parity: Callable, kind: str
) -> None:
    image = draw_image(50, 97)
    predictor.set_image(image)
    points, labels = np.array([[20.0, 10.0], [60.0, 40.0]]), np.array([1, 0])
    box, low = np.array([10.0, 5.0, 70.0, 45.0]), torch.randn(1, 32, 32)
    given = {
        "points": {"point_coords": points, "point_labels": labels},
        "box": {"box": box},
        "mask": {"mask_input": low.numpy()},
        "none": {},
    }[kind]
    expected, iou, expected_low = predictor.predict(
        **given, multimask_output=True, return_logits=True
    )
    scale = predictor.transform
    if kind == "points":
        coords = torch.from_numpy(scale.apply_coords(points, (50, 97)))[None].float()
        prompt = sam.encode_prompt(points=(coords, torch.from_numpy(labels)[None]))
    elif kind == "box":
        prompt = sam.encode_prompt(
            boxes=torch.from_numpy(scale.apply_boxes(box[None], (50, 97))).float()
        )
    elif kind == "mask":
        prompt = sam.encode_prompt(masks=low[None])
    else:
        prompt = sam.no_prompt(1)
    coords = None
    if kind == "points":
        coords = (torch.from_numpy(scale.apply_coords(points, (50, 97)))[None].float(),
                  torch.from_numpy(labels)[None])  # fmt: skip
    boxes = torch.from_numpy(scale.apply_boxes(box[None], (50, 97))).float()
    sparse, dense = sam.prompt_encoder(
        coords, boxes if kind == "box" else None, low[None] if kind == "mask" else None
    )
    backend = "segment_anything"
    parity(backend, f"prompt: {kind}", prompt.sparse, sparse)
    parity(backend, f"prompt: {kind}", prompt.dense, dense)
    logits, ours_iou = sam.decode_mask(encode(sam, image), prompt, multimask=True)
    parity(backend, f"masks: {kind}", logits[0], torch.from_numpy(expected_low))
    parity(backend, f"IoU: {kind}", ours_iou[0], torch.from_numpy(iou))
    full = restore(logits[0], (50, 97), 64)
    parity(backend, f"masks at full size: {kind}", full, torch.from_numpy(expected))


@torch.no_grad()
def test_batched_decode_equals_a_loop_over_the_reference(sam: SegmentAnything) -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(3, 32, 8, 8, generator=generator)
    index = torch.tensor([2, 0, 0, 1, 2])
    sparse = torch.randn(5, 4, 32, generator=generator)
    dense = torch.randn(5, 32, 8, 8, generator=generator)
    logits, iou = sam.decode_all_masks(ImageEmbedding(features), Prompt(sparse, dense, index))
    position = sam.prompt_encoder.get_dense_pe()
    for p, image in enumerate(index.tolist()):
        expected, expected_iou = sam.mask_decoder.predict_masks(
            features[image : image + 1], position, sparse[p : p + 1], dense[p : p + 1]
        )
        assert (logits[p] - expected[0]).abs().max() < 1e-5
        assert (iou[p] - expected_iou[0]).abs().max() < 1e-5


def test_padding_reaches_the_encoder_as_zero(sam: SegmentAnything) -> None:
    seen = []
    sam.image_encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        encode(sam, draw_image(32, 64))
    assert seen[0].shape == (1, 3, 64, 64)
    assert torch.equal(seen[0][:, :, 32:], torch.zeros(1, 3, 32, 64))
    assert seen[0][:, :, :32].abs().min() >= 0
    assert seen[0][:, :, :32].std() > 0.5


def test_floats_are_refused_because_they_were_normalised_before(sam: SegmentAnything) -> None:
    with pytest.raises(TypeError, match="normalised once"):
        sam.encode_image(torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]]))


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_meta_architecture_has_the_keys_and_shapes_of_the_reference(name: str) -> None:
    with torch.device("meta"):
        ours = SAMS[name].build(SAMS[name]).state_dict()
        theirs = from_meta(sam_model_registry[name]().state_dict())
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@torch.no_grad()
def test_one_block_of_each_kind_of_vit_b_at_full_size(parity: Callable) -> None:
    """1024 px, a grid that windows of 14 do not divide."""
    torch.manual_seed(0)
    theirs = sam_model_registry["vit_b"]().image_encoder.eval()
    theirs.blocks = theirs.blocks[1:3]  # with windows and without
    for block in theirs.blocks:
        block.attn.rel_pos_h.normal_()
        block.attn.rel_pos_w.normal_()
    ours = VitEncoder(1024, Vit(768, depth=2, heads=12, global_blocks=(1,))).eval()
    state = {f"image_encoder.{key}": value for key, value in theirs.state_dict().items()}
    ours.load_state_dict({k[14:]: v for k, v in from_meta(state).items()})
    pixels = torch.randn(1, 3, 1024, 1024)
    parity("vit_b, two blocks", "image embedding", ours(pixels), theirs(pixels))


@torch.no_grad()
def test_attention_piece_by_piece_is_that_of_timm(parity: Callable) -> None:
    """In float32, where only the order of the sums differs; 720 cells are no multiple of `ROWS`."""
    torch.manual_seed(0)
    attention = PiecewiseAttention(48, num_heads=3, use_rel_pos=True, input_size=(30, 24))
    attention.rel_pos_h.normal_()
    attention.rel_pos_w.normal_()
    x = torch.randn(2, 30, 24, 48)
    whole = super(PiecewiseAttention, attention).forward(x)
    parity("vit_b, piecewise attention", "one layer", attention(x), whole)
    graph = torch.jit.trace(attention, x).inlined_graph
    assert "aten::scaled_dot_product_attention" in str(graph)  # exported as a whole


@torch.no_grad()
def test_half_precision_keeps_the_embedding() -> None:
    """Both ways of attention, at 1024 px; cosine similarity to float32 at least 0.999."""
    torch.manual_seed(0)
    encoder = VitEncoder(1024, Vit(96, depth=2, heads=3, global_blocks=(1,))).eval()
    for block in encoder.blocks:
        block.attn.rel_pos_h.normal_(std=0.1)
        block.attn.rel_pos_w.normal_(std=0.1)
        block.attn.qkv.weight.mul_(3)
    pixels = torch.randn(1, 3, 1024, 1024)
    exact = encoder(pixels).flatten()
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(pixels).float().flatten()
    assert torch.cosine_similarity(exact, half, dim=0) > 0.999
    assert not torch.equal(exact, half)


def test_load_is_strict_and_names_what_is_wrong(tmp_path: Path, tiny_file: Path) -> None:
    sam = load_sam("tiny", tiny_file)
    assert not any(p.requires_grad for p in sam.parameters())
    state = torch.load(tiny_file, weights_only=True)
    assert torch.equal(sam.mask_decoder.iou_token.weight, state["mask_decoder.iou_token.weight"])

    state["extra"] = torch.zeros(1)
    del state["mask_decoder.iou_token.weight"]
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 17)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError) as error:
        load_sam("tiny", tmp_path / "bad.pth")
    text = str(error.value)
    assert "1 missing: mask_decoder.iou_token.weight" in text
    assert "1 unexpected: extra" in text
    assert "no_mask_embed.weight (1, 17) instead of (1, 32)" in text
    assert "bad.pth" in text


def test_another_sam_s_file_is_refused(tiny_file: Path) -> None:
    with pytest.raises(CheckpointError, match="another image encoder"):
        load_sam("lite", tiny_file)


class Trap:
    """Pickles into a call of os.mkdir."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"model": Trap(tmp_path / "owned")}, tmp_path / "trap.pth")
    with pytest.raises(CheckpointError, match="never loaded"):
        load_sam("tiny", tmp_path / "trap.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x80\x04garbage"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="not a readable weights file"):
            load_sam("tiny", tmp_path / name)


def test_unknown_name_and_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Choose one of lite"):
        load_sam("vit_x")
    with pytest.raises(CheckpointError, match=r"sam_vit_b_01ec64\.pth.*--sam_checkpoint FILE"):
        load_sam("vit_b")  # not here, and the tests have no network
    with pytest.raises(CheckpointError, match="no such file"):
        load_sam("vit_b", tmp_path / "none.pth")


def test_shipped_lite_loads_and_a_box_prompt_changes_its_mask() -> None:
    sam = load_sam("lite")
    assert sam.grid == (32, 32)
    image = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    with torch.no_grad():
        embedding = sam.encode_image(image, torch.tensor([[256, 256]]))
        low, _ = sam.decode_mask(
            embedding, sam.encode_prompt(boxes=torch.tensor([[20.0, 20, 90, 90]]))
        )
        other, _ = sam.decode_mask(
            embedding, sam.encode_prompt(boxes=torch.tensor([[150.0, 150, 220, 220]]))
        )
    assert low.shape == (1, 1, 128, 128)
    # The logits inside a box are higher when that box is asked for.
    inside = (slice(None), slice(None), slice(12, 43), slice(12, 43))
    assert low[inside].mean() > other[inside].mean()
