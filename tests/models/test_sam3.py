"""SAM 3's tracker: parity with transformers' `Sam3TrackerModel` and `Sam3TrackerProcessor`."""

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
from small_sams import GRID, TINY_SAM3, WIDTH
from small_sams import liven_sam2 as liven
from test_sam2 import batch_for, draw_image
from torch import Tensor
from transformers import (
    Sam3ImageProcessor,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3TrackerProcessor,
    Sam3TrackerVideoConfig,
    Sam3TrackerVideoModel,
    Sam3VideoConfig,
    Sam3VideoModel,
)

from autosam.data.geometry import restore
from autosam.data.sample import make_sample
from autosam.errors import CheckpointError, ConfigError
from autosam.models.build import build_segmenter
from autosam.models.losses import SegmentationLoss
from autosam.models.sam import SAMS, load_sam
from autosam.models.sam.sam2 import Sam2
from autosam.models.sam.sam3 import PerceptionEncoder, build_sam3, from_sam3_file
from autosam.models.sam.weights.identify import guess
from autosam.types import Batch, InputSpec

SIZE = 112


@pytest.fixture(autouse=True)
def _tiny_sam3_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMS, "tiny-sam3", TINY_SAM3)


def written_out(scales: list[float]) -> dict[str, Any]:
    """The configuration of the tiny SAM 3, of these levels of the neck."""
    vit = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "global_attn_indexes": [1],
        "window_size": 4,
        "image_size": SIZE,
        "pretrain_image_size": 56,
    }
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": vit,
        "fpn_hidden_size": WIDTH,
        "scale_factors": scales,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    return {
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": SIZE},
        "mask_decoder_config": {"hidden_size": WIDTH, "dynamic_multimask_via_stability": False},
    }


def prepared(model: Any) -> Any:
    """With lively weights, and one matrix of positions in two places as in published files."""
    liven(model.eval())
    with torch.no_grad():
        for network in model.mask_decoder.output_hypernetworks_mlps:
            network.proj_out.weight *= 12
    shared = model.prompt_encoder.shared_embedding.positional_embedding
    model.shared_image_embedding.positional_embedding.copy_(shared)
    return model


@pytest.fixture(scope="module")
def reference() -> Any:
    torch.manual_seed(0)
    return prepared(Sam3TrackerModel(Sam3TrackerConfig(**written_out([4.0, 2.0, 1.0]))))


@pytest.fixture(scope="module")
def folder(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("sam3")
    reference.save_pretrained(folder)
    return folder


@pytest.fixture
def sam(folder: Path) -> Sam2:
    return load_sam("tiny-sam3", folder)  # type: ignore[return-value]


def draw(shape: tuple[int, int]) -> np.ndarray:
    """uint8 H x W x 3, see `draw_image`, which rounds down to whole blobs."""
    return draw_image(shape[0] + 8, shape[1] + 8)[: shape[0], : shape[1]]


def square(image: np.ndarray) -> tuple[Tensor, Tensor]:
    """uint8 1 x 3 x S x S and int64 1 x 2, through the package's own geometry."""
    batch = Batch.collate([make_sample("x", image, InputSpec(SIZE, 32, 4 * GRID, "square"))])
    assert batch.sam_input is not None
    return batch.sam_input, batch.sam_valid


PROCESSOR = Sam3TrackerProcessor(Sam3ImageProcessor(size={"height": SIZE, "width": SIZE}))


def processed(pixels: Tensor) -> Tensor:
    """What transformers' image processor makes of uint8 1 x 3 x H x W."""
    return PROCESSOR(images=list(pixels), return_tensors="pt")["pixel_values"]


SHAPES = [(SIZE, SIZE), (90, 171), (171, 90), (500, 340)]
POINTS, LABELS, BOX = [[20.0, 31.0], [80.0, 64.5]], [1, 0], [10.0, 25.0, 70.0, 85.0]
KINDS: dict[str, dict[str, Any]] = {
    "points": {"input_points": [[POINTS]], "input_labels": [[LABELS]]},
    "box": {"input_boxes": [[BOX]]},
    "no prompt": {},
}


def prompts(kind: str, shape: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A prompt in pixels of an image: as `Sam2.encode_prompt` takes it, by hand, and as
    transformers' processor makes it."""
    scale = torch.tensor([SIZE / shape[1], SIZE / shape[0]])
    ours: dict[str, dict[str, Any]] = {
        "points": {"points": (torch.tensor([POINTS]) * scale, torch.tensor([LABELS]))},
        "box": {"boxes": torch.tensor([BOX]) * scale.repeat(2)},
        "no prompt": {},
    }
    made = PROCESSOR(original_sizes=[list(shape)], return_tensors="pt", **KINDS[kind])
    return ours[kind], {key: made[key] for key in KINDS[kind]}


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_image_embedding_from_raw_images(
    sam: Sam2, reference: Any, parity: Callable[..., None], shape: tuple[int, int]
) -> None:
    pixels, valid = square(draw(shape))
    finest, middle, coarse = reference.get_image_embeddings(processed(pixels))
    ours = sam.encode_image(pixels, valid)
    assert coarse.shape == (1, WIDTH, GRID, GRID)
    assert coarse.std() > 0.3
    parity("sam3", "image embedding", ours.features, coarse)
    parity("sam3", "high-resolution levels", ours.high_res_features[0], middle)
    parity("sam3", "high-resolution levels", ours.high_res_features[1], finest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_masks_from_raw_images(
    sam: Sam2, reference: Any, parity: Callable[..., None], kind: str, shape: tuple[int, int]
) -> None:
    given, theirs = prompts(kind, shape)
    pixels, valid = square(draw(shape))
    prompt = sam.encode_prompt(**given) if given else sam.no_prompt(1)
    embedding = sam.encode_image(pixels, valid)
    for multimask, count in ((True, 3), (False, 1)):
        expected = reference(pixel_values=processed(pixels), multimask_output=multimask, **theirs)
        logits, iou = sam.decode_mask(embedding, prompt, multimask)
        assert logits.shape == (1, count, 4 * GRID, 4 * GRID)
        assert logits.std() > 0.3
        parity("sam3", f"masks: {kind}", logits, expected.pred_masks[:, 0])
        parity("sam3", f"IoU: {kind}", iou, expected.iou_scores[:, 0])


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_masks_at_the_size_of_the_image(
    sam: Sam2, reference: Any, parity: Callable[..., None], shape: tuple[int, int]
) -> None:
    """With transformers' own resizing, whose pixels differ by one level of 255 from Pillow's."""
    image = draw(shape)
    whole = PROCESSOR(images=image, return_tensors="pt", **KINDS["box"])
    pixels, valid = square(image)
    one = 0.0 if shape == (SIZE, SIZE) else 1 / 127.5
    ours = processed(pixels)
    parity(
        "sam3", "pixels: resized by transformers", ours, whole["pixel_values"], 1.01 * one + 1e-6
    )
    expected = reference(
        pixel_values=whole["pixel_values"], input_boxes=whole["input_boxes"], multimask_output=False
    )
    middle = expected.pred_masks.median().item()  # random weights know no 0
    (masks,) = PROCESSOR.post_process_masks(expected.pred_masks, [list(shape)], middle)
    prompt = sam.encode_prompt(**prompts("box", shape)[0])
    logits, _ = sam.decode_mask(sam.encode_image(pixels, valid), prompt)
    found = restore(logits[0], shape, SIZE, "square") > middle
    assert found.shape == masks[0].shape == (1, *shape)
    assert 0.3 < masks.float().mean() < 0.7
    # Ours are enlarged to S x S on the way, as SAM's and SAM 2's are.
    different = (found != masks[0]).float().mean()
    assert different < 0.02


@torch.no_grad()
def test_the_neck_s_fourth_level_is_dropped(parity: Callable[..., None], tmp_path: Path) -> None:
    """Published files have it. The video model adds "no memory" to the third level, as Meta's
    image predictor does; `Sam3TrackerModel` 5.24 adds it to the fourth, so that it is lost."""
    torch.manual_seed(1)
    four = written_out([4.0, 2.0, 1.0, 0.5])
    video = prepared(Sam3TrackerVideoModel(Sam3TrackerVideoConfig(**four, image_size=SIZE)))
    video.save_pretrained(tmp_path)
    image = prepared(Sam3TrackerModel(Sam3TrackerConfig(**four)))
    image.load_state_dict(video.state_dict(), strict=False)
    pixels, valid = square(draw((90, 171)))
    levels = video.get_image_embeddings(processed(pixels))
    lost = image.get_image_embeddings(processed(pixels))[-1]
    assert torch.equal(levels[-1], lost + video.no_memory_embedding.view(1, -1, 1, 1))
    sam = load_sam("tiny-sam3", tmp_path)
    ours = sam.encode_image(pixels, valid)
    for level, theirs in zip(ours.levels, levels[::-1], strict=True):
        parity("sam3", "image embedding: four levels", level, theirs)
    given, theirs = prompts("box", (90, 171))
    expected = image(image_embeddings=levels, multimask_output=True, **theirs).pred_masks
    logits, _ = sam.decode_mask(ours, sam.encode_prompt(**given), multimask=True)
    parity("sam3", "masks: four levels", logits, expected[:, 0])


def test_the_published_file_fits() -> None:
    """Of a `Sam3VideoModel`, whose detector shares the image encoder."""
    with torch.device("meta"):
        video = Sam3VideoModel(Sam3VideoConfig()).state_dict()
        sam = build_sam3(SAMS["sam3"])
    assert (sam.width, sam.grid) == (256, (72, 72))
    assert sam.shapes == ((256, 72, 72), (64, 144, 144), (32, 288, 288))
    state = sam.state_dict()
    assert (len(state), sum(value.numel() for value in state.values())) == (680, 457_408_145)
    # As `save_pretrained` writes it: the detector's encoder is the only one.
    published = {
        key.replace("tracker_model.vision_encoder.neck.", "tracker_neck."): value
        for key, value in video.items()
    }
    for key in published:
        if key.endswith("positional_embedding"):  # compared by value
            published[key] = torch.zeros(published[key].shape)
    shapes = {key: value.shape for key, value in from_sam3_file(published).items()}
    assert shapes == {key: value.shape for key, value in state.items()}
    assert guess(published) == "This looks like SAM 3: use --sam sam3."
    detector = {key: value for key, value in video.items() if key.startswith("detector_model.")}
    assert guess(detector) == "This looks like SAM 3 without its tracker."


def test_another_tensor_is_refused(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["tracker_model.mask_decoder.mine"] = torch.zeros(1)
    save_file(state, tmp_path / "more.safetensors")
    with pytest.raises(CheckpointError, match=r"1 unexpected: mask_decoder\.mine"):
        load_sam("tiny-sam3", tmp_path / "more.safetensors")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a folder\. Give the weights file itself"):
        load_sam("tiny-sam3", tmp_path)


def test_without_transformers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'autosam\[hf\]'"):
        build_sam3(SAMS["sam3"])


def test_a_step_at_1008_px_reaches_the_prompter_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """72 x 72 cells with masks of 288 x 288, by a small image encoder."""
    spec = SAMS["sam3"]
    small = PerceptionEncoder(32, 48, 2, 2, (1,))
    monkeypatch.setitem(
        SAMS, "tiny-sam3", type(spec)(**{**vars(spec), "build": lambda s: build_sam3(s, small, 32)})
    )
    torch.manual_seed(0)
    network = SAMS["tiny-sam3"].build(SAMS["tiny-sam3"])
    liven(network)
    torch.save(network.state_dict(), tmp_path / "sam.pth")
    config = tiny_config(tmp_path / "sam.pth", "--sam=tiny-sam3", "--run=autosam")
    segmenter = build_segmenter(config)
    batch = batch_for(segmenter.input_spec)
    assert batch.targets is not None
    assert batch.targets.shape == (2, 1, 288, 288)
    # 25 of 90 rows, 60 of 171 columns, whatever the cells.
    assert batch.targets.mean().item() == pytest.approx(25 / 90 * 60 / 171, rel=0.01)
    logits = segmenter(batch)
    assert logits.shape == (2, 1, 288, 288)
    SegmentationLoss(config.loss)(logits, batch.targets, batch.weights)["loss"].backward()
    for name, parameter in segmenter.named_parameters():
        learns = name.startswith("prompter.")
        assert parameter.requires_grad == learns or name.startswith("surrogate."), name
        assert (parameter.grad is not None) == learns, name
