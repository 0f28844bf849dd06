"""SAM 2.1: parity with transformers' `Sam2Model` and with Meta's `sam2` package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_config
from safetensors.torch import load_file, save_file
from small_sams import GRID, SIZE, TINY_SAM2, WIDTH
from small_sams import liven_sam2 as liven
from torch import Tensor, nn
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from autosam.data.sample import make_sample
from autosam.errors import CheckpointError, ConfigError
from autosam.models.build import build_segmenter
from autosam.models.losses import SegmentationLoss
from autosam.models.sam import SAMS, load_sam
from autosam.models.sam.sam2 import HIERAS, Sam2, build_sam2, from_sam2_file
from autosam.types import Batch, ImageEmbedding, InputSpec, Prompt


@pytest.fixture(autouse=True)
def _tiny_sam2_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMS, "tiny-sam2", TINY_SAM2)


@pytest.fixture(scope="module")
def reference() -> Sam2Model:
    """transformers' model of the tiny SAM 2, from a configuration written out here."""
    torch.manual_seed(0)
    hiera = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 16,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "global_attention_blocks": [3],
    }
    vision = {
        "backbone_config": hiera,
        "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": WIDTH,
    }
    decoder = {"hidden_size": WIDTH, "dynamic_multimask_via_stability": False}
    model = Sam2Model(
        Sam2Config(
            vision_config=vision,
            prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIZE},
            mask_decoder_config=decoder,
        )
    ).eval()
    liven(model)
    # One matrix in two places, as in the published files.
    shared = model.prompt_encoder.shared_embedding.positional_embedding
    model.shared_image_embedding.positional_embedding.copy_(shared)
    return model


@pytest.fixture(scope="module")
def file(reference: Sam2Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.safetensors` as transformers writes it."""
    folder = tmp_path_factory.mktemp("sam2")
    reference.save_pretrained(folder)
    return folder / "model.safetensors"


@pytest.fixture
def sam(file: Path) -> Sam2:
    return load_sam("tiny-sam2", file)  # type: ignore[return-value]


def draw_image(height: int, width: int) -> np.ndarray:
    """Blobs, not noise: what is left of noise after resizing is one grey."""
    coarse = np.random.default_rng(height).integers(0, 256, (height // 9, width // 9, 3))
    return coarse.astype(np.uint8).repeat(9, 0).repeat(9, 1)[:height, :width]


def square(image: np.ndarray) -> tuple[Tensor, Tensor]:
    """uint8 1 x 3 x S x S and int64 1 x 2, through the package's own geometry."""
    batch = Batch.collate([make_sample("x", image, InputSpec(SIZE, 32, 4 * GRID, "square"))])
    assert batch.sam_input is not None
    return batch.sam_input, batch.sam_valid


def processed(pixels: Tensor) -> Tensor:
    """What transformers' image processor makes of uint8 1 x 3 x H x W."""
    processor = Sam2ImageProcessor(size={"height": SIZE, "width": SIZE})
    return processor(list(pixels), return_tensors="pt")["pixel_values"]


POINTS, LABELS = torch.tensor([[[20.0, 31.0], [90.0, 64.5]]]), torch.tensor([[1, 0]])
BOX = torch.tensor([[10.0, 25.0, 70.0, 110.0]])
LOW = torch.randn(1, 1, 4 * GRID, 4 * GRID, generator=torch.Generator().manual_seed(3)) * 5

PROMPTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "points": (
        {"points": (POINTS, LABELS)},
        {"input_points": POINTS[:, None], "input_labels": LABELS[:, None]},
    ),
    "box": ({"boxes": BOX}, {"input_boxes": BOX[:, None]}),
    "box and points": (
        {"points": (POINTS, LABELS), "boxes": BOX},
        {
            "input_points": POINTS[:, None],
            "input_labels": LABELS[:, None],
            "input_boxes": BOX[:, None],
        },
    ),
    "mask": ({"masks": LOW}, {"input_masks": LOW}),
    "mask and points": (
        {"masks": LOW, "points": (POINTS, LABELS)},
        {
            "input_masks": LOW,
            "input_points": POINTS[:, None],
            "input_labels": LABELS[:, None],
        },
    ),
    "no prompt": ({}, {}),
}
"""As `Sam2` and as transformers take them."""


@pytest.mark.parametrize("shape", [(90, 171), (171, 90), (128, 128), (500, 340)])
@torch.no_grad()
def test_image_embedding_from_raw_images(
    sam: Sam2, reference: Sam2Model, parity: Callable[..., None], shape: tuple[int, int]
) -> None:
    image = draw_image(*shape)
    pixels, valid = square(image)
    finest, middle, coarse = reference.get_image_embeddings(processed(pixels))
    ours = sam.encode_image(pixels, valid)
    assert coarse.shape == (1, WIDTH, GRID, GRID)
    assert coarse.std() > 0.3
    parity("sam2.1", "image embedding", ours.features, coarse)
    parity("sam2.1", "high-resolution levels", ours.high_res_features[0], middle)
    parity("sam2.1", "high-resolution levels", ours.high_res_features[1], finest)


@pytest.mark.parametrize("shape", [(90, 171), (171, 90), (500, 340)])
def test_transformers_resizes_as_we_do_up_to_one_level_of_255(
    parity: Callable[..., None], shape: tuple[int, int]
) -> None:
    image = draw_image(*shape)
    ours = processed(square(image)[0])
    theirs = processed(torch.from_numpy(image.transpose(2, 0, 1))[None])
    one = 1 / (255 * 0.224)
    parity("sam2.1", "pixels: resized by transformers", ours, theirs, bound=1.01 * one)


@pytest.mark.parametrize("kind", PROMPTS)
@torch.no_grad()
def test_masks_from_raw_images(
    sam: Sam2, reference: Sam2Model, parity: Callable[..., None], kind: str
) -> None:
    given, theirs = PROMPTS[kind]
    pixels, valid = square(draw_image(90, 171))
    prompt = sam.encode_prompt(**given) if given else sam.no_prompt(1)
    embedding = sam.encode_image(pixels, valid)
    if given and kind != "mask":  # there the reference adds its dummy point further up
        sparse, dense = reference.get_prompt_embeddings(**theirs)
        parity("sam2.1", f"prompt: {kind}", prompt.sparse, sparse[:, 0])
        parity("sam2.1", f"prompt: {kind}", prompt.dense, dense)
    for multimask, count in ((True, 3), (False, 1)):
        expected = reference(pixel_values=processed(pixels), multimask_output=multimask, **theirs)
        logits, iou = sam.decode_mask(embedding, prompt, multimask)
        assert logits.shape == (1, count, 4 * GRID, 4 * GRID)
        assert logits.std() > 1
        assert 0 < iou.min() <= iou.max() < 1
        parity("sam2.1", f"masks: {kind}", logits, expected.pred_masks[:, 0])
        parity("sam2.1", f"IoU: {kind}", iou, expected.iou_scores[:, 0])
    single, _ = sam.decode_mask(embedding, prompt)
    several, _ = sam.decode_mask(embedding, prompt, multimask=True)
    assert not torch.allclose(single[:, 0], several[:, 0], atol=0.1)


def test_no_prompt_is_not_a_point_twice_and_the_no_mask_vector(sam: Sam2) -> None:
    prompt = sam.no_prompt(3)
    encoder: Any = sam.prompt_encoder
    assert torch.equal(prompt.sparse, encoder.not_a_point_embed.weight.expand(3, 2, WIDTH))
    no_mask = encoder.no_mask_embed.weight.view(1, WIDTH, 1, 1)
    assert torch.equal(prompt.dense, no_mask.expand(3, WIDTH, GRID, GRID))
    assert prompt.image_index.tolist() == [0, 1, 2]
    assert not prompt.sparse.requires_grad


@torch.no_grad()
def test_batched_decode_equals_a_loop_over_the_reference(
    sam: Sam2, reference: Sam2Model, parity: Callable[..., None]
) -> None:
    torch.manual_seed(6)
    pixels = torch.cat([square(draw_image(90 + i, 171))[0] for i in range(3)])
    embedding = sam.encode_image(pixels, torch.full((3, 2), SIZE))
    index = torch.tensor([2, 0, 0, 1, 2])
    points = torch.rand(5, 4, 2) * SIZE
    labels = torch.randint(0, 2, (5, 4))
    prompt = sam.encode_prompt(points=(points, labels), image_index=index)
    learned = Prompt(torch.randn(5, 8, WIDTH), torch.randn(5, WIDTH, GRID, GRID), index)
    position = reference.get_image_wide_positional_embeddings()
    for made in (prompt, learned):
        logits, iou = sam.decode_mask(embedding, made, multimask=True)
        for p, image in enumerate(index.tolist()):
            finest, middle, coarse = reference.get_image_embeddings(processed(pixels[[image]]))
            expected, expected_iou, _, _ = reference.mask_decoder(
                image_embeddings=coarse,
                image_positional_embeddings=position,
                sparse_prompt_embeddings=made.sparse[p : p + 1, None],
                dense_prompt_embeddings=made.dense[p : p + 1],
                multimask_output=True,
                high_resolution_features=[finest, middle],
            )
            parity("sam2.1", "a batch against a loop", logits[p], expected[0, 0])
            parity("sam2.1", "a batch against a loop", iou[p], expected_iou[0, 0])
    for p, image in enumerate(index.tolist()):  # and ours alone, to the batch's own precision
        levels = tuple(level[[image]] for level in embedding.high_res_features)
        one = ImageEmbedding(embedding.features[[image]], levels)
        alone = Prompt(learned.sparse[[p]], learned.dense[[p]], torch.tensor([0]))
        assert (sam.decode_mask(one, alone, multimask=True)[0][0] - logits[p]).abs().max() < 1e-5


def test_positions_are_not_rounded_by_autocast(sam: Sam2) -> None:
    exact = sam.encode_prompt(points=(POINTS, LABELS))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sam.encode_prompt(points=(POINTS, LABELS)).sparse, exact.sparse)
        pixels, valid = square(draw_image(90, 171))
        logits, _ = sam.decode_mask(sam.encode_image(pixels, valid), exact)
    full, _ = sam.decode_mask(sam.encode_image(pixels, valid), exact)
    assert (logits - full).abs().mean() < 0.1 * full.abs().mean()


def batch_for(input_spec: InputSpec, classes: int = 1) -> Batch:
    label = np.zeros((90, 171), np.uint8)
    for k in range(classes):
        label[20 + 30 * k : 45 + 30 * k, 30:90] = k + 1
    return Batch.collate([make_sample(str(i), draw_image(90, 171), input_spec, label, classes)
                          for i in range(2)])  # fmt: skip


FROZEN = ("iou_prediction_head", "pred_obj_score_head")


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("run", ["autosam", "decoder"])
def test_gradients_reach_what_learns_and_nothing_else(file: Path, run: str, classes: int) -> None:
    config = tiny_config(file, "--sam=tiny-sam2", f"--run={run}", f"--data.num_classes={classes}")
    segmenter = build_segmenter(config)
    assert segmenter.input_spec.geometry == "square"
    batch = batch_for(segmenter.input_spec, classes)
    criterion = SegmentationLoss(config.loss)
    for logits in segmenter(batch, with_surrogate=True):
        if logits is not None:
            criterion(logits, batch.targets, batch.weights)["loss"].backward()
    part = ("sam.mask_decoder.", "prompter.")
    if run == "autosam":
        part = ("prompter.", "surrogate.")
    for name, parameter in segmenter.named_parameters():
        learns = name.startswith(part) and not any(head in name for head in FROZEN)
        assert parameter.requires_grad == learns, name
        assert (parameter.grad is not None) == learns, name
    saved = segmenter.trainable_state()
    assert all(name.startswith(part) for name in saved)
    assert not any(".conv_s0." in name or ".conv_s1." in name for name in saved)
    if run == "decoder":
        assert "sam.mask_decoder.upscale_conv1.weight" in saved
        assert segmenter.sam.mask_decoder.transformer.layers[0].mlp.proj_in.weight.grad.any()
        # The tokens that tell classes apart join SAM 2's own, and do not take their place.
        assert segmenter.prompter(batch, None, segmenter.sam).sparse.shape[1] == (
            2 if classes == 1 else 3
        )
    else:
        sparse = segmenter.prompter(batch, None, segmenter.sam).sparse
        assert sparse.shape == (2 * classes, 2, WIDTH)


def test_a_saved_network_of_ours_comes_back(sam: Sam2, tmp_path: Path) -> None:
    torch.save(sam.state_dict(), tmp_path / "ours.pth")
    again = load_sam("tiny-sam2", tmp_path / "ours.pth")
    state = sam.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())  # type: ignore[attr-defined]


def test_only_the_video_s_tensors_are_dropped(file: Path, tmp_path: Path) -> None:
    with torch.device("meta"):
        video = Sam2VideoModel(Sam2VideoConfig()).state_dict()
        image = build_sam2(SAMS["sam2.1-tiny"]).state_dict()
    for key in video:
        if key.endswith("positional_embedding"):  # compared by value
            video[key] = torch.zeros(video[key].shape)
    shapes = {key: value.shape for key, value in from_sam2_file(video).items()}
    assert shapes == {key: value.shape for key, value in image.items()}

    state = load_file(file)
    state["mask_decoder.memory_of_mine"] = torch.zeros(1)
    save_file(state, tmp_path / "more.safetensors")
    with pytest.raises(CheckpointError, match=r"1 unexpected: mask_decoder\.memory_of_mine"):
        load_sam("tiny-sam2", tmp_path / "more.safetensors")

    state = load_file(file)
    state["shared_image_embedding.positional_embedding"] += 1
    save_file(state, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match="unexpected: shared_image_embedding"):
        load_sam("tiny-sam2", tmp_path / "two.safetensors")

    state = load_file(file)
    del state["prompt_encoder.shared_embedding.positional_embedding"]
    save_file(state, tmp_path / "one.safetensors")
    load_sam("tiny-sam2", tmp_path / "one.safetensors")


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [
        ("sam2.1-tiny", 308, 31_440_977),
        ("sam2.1-small", 356, 38_538_833),
        ("sam2.1-base-plus", 452, 73_328_657),
        ("sam2.1-large", 740, 216_925_121),
    ],
)
def test_the_four_sizes(name: str, tensors: int, parameters: int) -> None:
    with torch.device("meta"):
        sam = build_sam2(SAMS[name])
    assert (sam.width, sam.grid) == (256, (64, 64))
    state = sam.state_dict()
    assert (len(state), sum(value.numel() for value in state.values())) == (tensors, parameters)


def test_without_transformers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'autosam\[hf\]'"):
        build_sam2(SAMS["sam2.1-tiny"])


@pytest.fixture
def package() -> Any:
    return pytest.importorskip(
        "sam2.build_sam", reason="needs Meta's package: github.com/facebookresearch/sam2"
    )


def meta_model(package: Any, size: str, *overrides: str) -> nn.Module:
    """From the package's own YAML."""
    from hydra import compose
    from hydra.utils import instantiate

    config = compose(f"configs/sam2.1/sam2.1_hiera_{size}.yaml", list(overrides))
    return instantiate(config.model)


@pytest.mark.parametrize(("name", "size"), zip(HIERAS, ("t", "s", "b+", "l"), strict=True))
def test_each_size_is_the_package_s(
    package: Any, monkeypatch: pytest.MonkeyPatch, name: str, size: str
) -> None:
    linspace = torch.linspace  # whose values the package reads while it builds
    monkeypatch.setattr(torch, "linspace", lambda *args: linspace(*args, device="cpu"))
    with torch.device("meta"):
        theirs: Any = meta_model(package, size)
        ours: Any = build_sam2(SAMS[name])
    shapes = {key: value.shape for key, value in from_sam2_file(theirs.state_dict()).items()}
    assert shapes == {key: value.shape for key, value in ours.state_dict().items()}
    # What shapes do not tell: windows, pooling, heads.
    pairs = zip(
        theirs.image_encoder.trunk.blocks, ours.image_encoder.vision.backbone.blocks, strict=True
    )
    for block, own in pairs:
        assert block.window_size == own.window_size
        assert (block.q_stride is None) == (own.query_stride is None)
        assert block.attn.num_heads == own.attn.num_attention_heads


@pytest.fixture
def meta(package: Any) -> Any:
    """Meta's model with the tiny SAM 2's sizes."""
    torch.manual_seed(5)
    model: Any = meta_model(
        package,
        "t",
        f"model.image_size={SIZE}",
        "model.image_encoder.trunk.embed_dim=16",
        "model.image_encoder.trunk.stages=[1,1,2,1]",
        "model.image_encoder.trunk.global_att_blocks=[3]",
        f"model.image_encoder.neck.d_model={WIDTH}",
        "model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    ).eval()
    liven(model)
    with torch.no_grad():  # else the package hides the masks of objects that it thinks absent
        model.sam_mask_decoder.pred_obj_score_head.layers[2].bias.fill_(100)
    return model


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
@torch.no_grad()
def test_meta_s_own_file_gives_the_package_s_masks(
    meta: Any, tmp_path: Path, parity: Callable[..., None]
) -> None:
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    torch.save({"model": meta.state_dict()}, tmp_path / "sam2.1_hiera_tiny.pt")
    sam = load_sam("tiny-sam2", tmp_path / "sam2.1_hiera_tiny.pt")
    pixels, valid = square(draw_image(90, 171))
    predictor = SAM2ImagePredictor(meta)
    predictor._bb_feat_sizes = [(32, 32), (16, 16), (8, 8)]  # written down for 1024 px
    predictor.set_image(pixels[0].permute(1, 2, 0).numpy())
    features, high_res = predictor._features["image_embed"], predictor._features["high_res_feats"]

    embedding = sam.encode_image(pixels, valid)
    parity("sam2.1 (Meta)", "image embedding", embedding.features, features)
    for level, expected in zip(embedding.high_res_features, high_res[::-1], strict=True):
        parity("sam2.1 (Meta)", "high-resolution levels", level, expected)

    for kind, given in (
        ("points", {"point_coords": POINTS, "point_labels": LABELS}),
        ("box", {"boxes": BOX}),
        ("box and points", {"point_coords": POINTS, "point_labels": LABELS, "boxes": BOX}),
        ("mask and points", {"point_coords": POINTS, "point_labels": LABELS, "mask_input": LOW}),
    ):
        _, iou, low = predictor._predict(
            **{"point_coords": None, "point_labels": None, **given}, return_logits=True
        )
        logits, ours = sam.decode_mask(
            embedding, sam.encode_prompt(**PROMPTS[kind][0]), multimask=True
        )
        assert logits.std() > 0.5
        parity("sam2.1 (Meta)", f"masks: {kind}", logits.clamp(-32, 32), low)
        parity("sam2.1 (Meta)", f"IoU: {kind}", ours, iou)

    # Without points the predictor, written for clicks, gives no token at all. The model was
    # trained with the dummy point of `_forward_sam_heads`, and that is what we give.
    for kind, mask in (("mask", LOW), ("no prompt", None)):
        low, *_ = meta._forward_sam_heads(
            features, mask_inputs=mask, high_res_features=high_res, multimask_output=True
        )
        prompt = sam.no_prompt(1) if mask is None else sam.encode_prompt(masks=mask)
        logits, _ = sam.decode_mask(embedding, prompt, multimask=True)
        parity("sam2.1 (Meta)", f"masks: {kind}", logits, low)
    _, _, low = predictor._predict(None, None, return_logits=True)
    assert (low - logits).abs().max() > 0.01
    bare = Prompt(prompt.sparse[:, :0], prompt.dense, prompt.image_index)
    logits, _ = sam.decode_mask(embedding, bare, multimask=True)
    parity("sam2.1 (Meta)", "masks: no token", logits.clamp(-32, 32), low)
