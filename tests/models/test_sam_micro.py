"""Parity of micro-sam's checkpoints (`vit_*_lm`, `vit_*_em_organelles`) with the published
inference: `segment_anything`'s or MobileSAM's predictor on an image with stretched channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import build_reference_tiny, build_tiny, tiny_config
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam as Reference
from test_sam_mobile import SPEC as MOBILE
from test_sam_mobile import mobile_sam
from test_sam_mobile import predictor as mobile_predictor  # noqa: F401, a fixture

from autosam.data.dataset import PairDataset
from autosam.data.geometry import content_size, restore
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.pairs import Pair
from autosam.data.readers.stretch import stretch_channels
from autosam.data.sample import make_sample
from autosam.inference.onnx_graph import Graph, _stretch
from autosam.models.build import build_segmenter
from autosam.models.sam import SAMS, load_sam
from autosam.models.sam.mobile import from_mobile_sam
from autosam.models.sam.vit import from_meta
from autosam.types import Batch, InputSpec

NAMES = [f"vit_{size}_{kind}" for size in "blt" for kind in ("lm", "em_organelles")]


def draw_image(height: int, width: int) -> np.ndarray:
    """Channels with ranges of their own, as in fluorescence images; the last holds one value."""
    rng = np.random.default_rng(height)
    ranges = ((0, 40), (90, 256), (7, 8))
    return np.stack([rng.integers(*r, (height, width), dtype=np.uint8) for r in ranges], axis=2)


def stretched(image: np.ndarray) -> np.ndarray:
    """As micro-sam prepares an image: in float32, cut off instead of rounded."""
    result = np.zeros_like(image)
    for channel in range(3):
        values = image[..., channel].astype(np.float32)
        values -= values.min()
        values /= values.max() + np.float32(1e-7)
        result[..., channel] = (values * np.float32(255)).astype(np.uint8)
    return result


@pytest.mark.parametrize(("low", "high"), [(0, 256), (40, 90), (120, 122), (9, 10)])
def test_channels_are_stretched_each_to_its_own_range(low: int, high: int) -> None:
    image = np.random.default_rng(2).integers(low, high, (9, 14, 3), dtype=np.uint8)
    image[..., 2] //= 3
    ours = stretch_channels(image)
    assert np.array_equal(ours, stretched(image))
    graph = _stretch(torch.from_numpy(image).permute(2, 0, 1).double())
    assert np.array_equal(graph.permute(1, 2, 0).numpy(), ours)


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A SAM of random weights that was loaded from a file of micro-sam, and its predictor."""
    if request.param == "vit_t":
        theirs = request.getfixturevalue("mobile_predictor")
        spec = replace(SAMS["vit_t_lm"], image_size=MOBILE.image_size, build=MOBILE.build)
    else:
        torch.manual_seed(0)
        theirs = SamPredictor(build_reference_tiny())
        spec = replace(SAMS["vit_b_lm"], image_size=64, build=build_tiny)
    monkeypatch.setitem(SAMS, spec.name, spec)
    file = tmp_path / "vit.pt"
    torch.save(theirs.model.state_dict(), file)
    return load_sam(spec.name, file), theirs


@pytest.mark.parametrize("pair", ["vit_b", "vit_t"], indirect=True)
@pytest.mark.parametrize("shape", [(50, 97), (300, 211)])
@torch.no_grad()
def test_masks_from_raw_images(pair, parity: Callable, shape: tuple[int, int]) -> None:
    sam, predictor = pair
    size, image = sam.spec.image_size, draw_image(*shape)
    predictor.set_image(stretched(image))
    box = np.array([10.0, 5.0, 40.0, 45.0])
    expected, _, expected_low = predictor.predict(
        box=box, multimask_output=True, return_logits=True
    )
    # As large as the SAM input: still no input of the other.
    for generator_size in (32, size):
        input_spec = InputSpec(size, generator_size, 4 * sam.grid[0], stretch=sam.spec.stretch)
        batch = Batch.collate([make_sample("x", image, input_spec)])
        embedding = sam.encode_image(batch.sam_input, batch.sam_valid)
        parity(sam.spec.name, "image embedding", embedding.features, predictor.features)
    height, width = content_size(*shape, size, "longest-pad")
    scale = np.tile([width / shape[1], height / shape[0]], 2)
    prompt = sam.encode_prompt(boxes=torch.from_numpy(box * scale)[None].float())
    logits, _ = sam.decode_mask(embedding, prompt, multimask=True)
    assert expected_low.std() > 0.1
    parity(sam.spec.name, "masks: box", logits[0], torch.from_numpy(expected_low))
    ours = restore(logits[0], shape, size)
    parity(sam.spec.name, "masks at the image's size", ours, torch.from_numpy(expected))


@pytest.mark.parametrize("name", NAMES)
def test_the_architecture_takes_every_tensor_of_the_file(name: str) -> None:
    spec, tiny = SAMS[name], name.startswith("vit_t")
    registry = mobile_sam.sam_model_registry if tiny else sam_model_registry
    with torch.device("meta"):
        ours = spec.build(spec).state_dict()
    with torch.device("cpu" if tiny else "meta"):  # MobileSAM's computes values while it is built
        theirs = registry[name[:5]]().state_dict()
    rename = from_mobile_sam if tiny else from_meta
    assert spec.convert is rename
    assert spec.stretch
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in rename(theirs).items()}


def test_a_training_checkpoint_of_micro_sam(tmp_path: Path, monkeypatch) -> None:
    """torch_em's format: a wrapped SAM, beside the optimizer, the data set and the settings."""
    network = build_reference_tiny()
    assert isinstance(network, Reference)
    wrapped = torch.nn.ModuleDict({"sam": network})
    file = tmp_path / "best.pt"
    torch.save(
        {
            "model_state": wrapped.state_dict(),
            "optimizer_state": torch.optim.AdamW(wrapped.parameters()).state_dict(),
            "decoder_state": {"out_conv.weight": torch.zeros(3)},
            "init": {"train_dataset": Pair("x", tmp_path, tmp_path), "device": "cuda"},
            "best_metric": np.float64(0.1),
        },
        file,
    )
    spec = replace(SAMS["vit_b_lm"], image_size=64, build=build_tiny)
    monkeypatch.setitem(SAMS, "vit_b_lm", spec)
    sam = load_sam("vit_b_lm", file)
    for key, value in from_meta(network.state_dict()).items():
        if key in sam.state_dict():
            assert torch.equal(sam.state_dict()[key], value), key


def test_cached_embeddings_are_of_stretched_images() -> None:
    image = draw_image(40, 56)
    read = SimpleNamespace(read=lambda: image)
    data = PairDataset(
        [Pair("x", read, read)],  # type: ignore[arg-type]
        InputSpec(64, 32, 16, stretch=True),
        MaskEncoding(127),
    )
    seen, _ = data.sam_input_of(0, 0)
    sample = make_sample("x", image, data.input_spec)
    assert sample.sam_input is not None
    assert torch.equal(seen, sample.sam_input)
    assert not torch.equal(seen, make_sample("x", image, InputSpec(64, 32, 16)).sam_input)


@torch.no_grad()
def test_an_exported_graph_stretches_images(tiny_file: Path, monkeypatch) -> None:
    spec = replace(SAMS["vit_b_lm"], image_size=64, build=build_tiny)
    monkeypatch.setitem(SAMS, "vit_b_lm", spec)
    config = tiny_config(tiny_file, "--run=decoder")
    config.sam = "vit_b_lm"
    segmenter = build_segmenter(config).eval()
    image = draw_image(40, 56)
    _, logits = Graph(segmenter, exclusive=True)(torch.from_numpy(image))
    low = segmenter(Batch.collate([make_sample("x", image, segmenter.input_spec)]))[0]
    assert (restore(low, (40, 56), 64) - logits).abs().max() < 1e-3
