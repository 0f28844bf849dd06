"""`autosam.load`: images to masks; saved, published and loaded again."""

from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import tiny_config
from huggingface_hub import HfApi
from PIL import Image

import autosam
from autosam.config import ClassConfig, DataConfig
from autosam.data.images import read_image
from autosam.data.readers.memory import MemoryImage, array_of
from autosam.data.sample import make_sample
from autosam.errors import CheckpointError, ConfigError, DataError
from autosam.evaluation.evaluator import calibrate
from autosam.evaluation.visualize import overlay
from autosam.inference.predictor import Prediction, Predictor
from autosam.models import checkpoint
from autosam.train import train
from autosam.types import Batch, Decision, InputSpec


@pytest.fixture
def image_path(trained: Path) -> Path:
    return trained.parent / "data/test/images/img09.png"


def same(a: Prediction, b: Prediction) -> bool:
    return np.array_equal(a.masks, b.masks) and np.allclose(
        a.probabilities, b.probabilities, atol=1e-5
    )


def test_a_path_an_array_and_a_pil_image_are_one(trained: Path, image_path: Path) -> None:
    predictor = autosam.load(trained)
    image = read_image(image_path)
    found = predictor(image_path)
    assert found.masks.shape == found.probabilities.shape == (1, *image.shape[:2])
    assert found.masks.dtype == bool
    assert found.probabilities.dtype == np.float32
    assert np.allclose(found.masks, found.probabilities > predictor.threshold)
    assert 0 < found.masks.mean() < 1
    for other in (str(image_path), image, Image.open(image_path), MemoryImage(image)):
        assert same(predictor(other), found)
    turned = np.ascontiguousarray(image[:, :30])
    many = predictor([image_path, turned, *[image] * 8])
    assert len(many) == 10
    assert many[1].masks.shape == (1, 40, 30)
    assert same(many[0], found)
    assert same(many[9], found)
    assert same(many[1], predictor(turned))
    assert predictor([]) == []


def test_the_score_and_the_label_of_a_prediction() -> None:
    probabilities = np.array([[[0.9, 0.7, 0.1]], [[0.0, 0.2, 0.8]]], np.float32)
    found = Prediction(probabilities, probabilities > 0.5, probabilities)
    assert found.score == pytest.approx((0.9 + 0.7 + 0.8) / 3)
    assert found.label.tolist() == [[1, 1, 2]]
    assert found.label.dtype == np.uint8
    assert Prediction(probabilities, np.zeros((2, 1, 3), bool), probabilities).score == 0


def test_a_prediction_is_drawn_and_saved(trained: Path, image_path: Path, tmp_path: Path) -> None:
    """Of a file and of an array alike; the mask file is what `autosam predict` writes."""
    predictor = autosam.load(trained)
    image = read_image(image_path)
    for given in (image_path, image):
        found = predictor(given)
        drawn = found.overlay()
        assert np.array_equal(drawn, overlay(image, found.masks))
        assert found.save(tmp_path / "mask.png") == [tmp_path / "mask.png"]
        assert np.array_equal(np.asarray(Image.open(tmp_path / "mask.png")), found.masks[0] * 255)
        assert found.save(tmp_path / "outline.geojson") == [tmp_path / "outline.geojson"]
        assert json.loads((tmp_path / "outline.geojson").read_text())["features"]
        png = found._repr_png_()
        assert png is not None
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), drawn)
        assert repr(found) == f"Prediction(40 x 56: foreground {found.masks.mean():.1%})"
    with pytest.raises(ConfigError, match=r"unknown suffix\. Expected one of \.png"):
        found.save(tmp_path / "a.bmp")
    assert repr(predictor) == "Predictor(autosam, SAM tiny, classes: 1, cpu)"
    alone = Prediction(found.probabilities, found.masks, found.logits)
    assert alone._repr_png_() is None
    with pytest.raises(ConfigError, match="has no image to draw on"):
        alone.overlay()


def test_independent_classes_are_saved_as_a_file_each(tmp_path: Path) -> None:
    masks = np.zeros((2, 3, 4), bool)
    masks[1, 0] = True
    data = DataConfig(num_classes=2, exclusive=False, classes=[ClassConfig("a"), ClassConfig("b")])
    found = Prediction(masks.astype(np.float32), masks, masks.astype(np.float32), data)
    files = found.save(tmp_path / "x.png")
    assert [file.name for file in files] == ["x_1.png", "x_2.png"]
    assert np.array_equal(np.asarray(Image.open(files[1])), masks[1] * 255)
    assert repr(found) == "Prediction(3 x 4: a 0.0%, b 33.3%)"


def test_mirror_images_are_averaged(trained: Path, image_path: Path) -> None:
    """The prediction of the mirror image is then the mirror image of the prediction."""
    image = read_image(image_path)
    plain, averaged = autosam.load(trained), autosam.load(trained, flips=True)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    assert not np.allclose(
        plain(mirrored).probabilities[..., ::-1], plain(image).probabilities, atol=1e-3
    )
    found = averaged(image).probabilities
    assert np.allclose(averaged(mirrored).probabilities[..., ::-1], found, atol=1e-5)
    logits = [plain(image).logits, plain(mirrored).logits[..., ::-1]]
    mean = (logits[0] + logits[1]) / 2
    assert np.allclose(found, 1 / (1 + np.exp(-mean)), atol=1e-5)


def test_the_threshold_decides(trained: Path, image_path: Path, tmp_path: Path) -> None:
    found = autosam.load(trained, threshold=0.7)(image_path)
    assert np.array_equal(found.masks, found.probabilities > 0.7)
    # What the checkpoint says holds if nothing else is said.
    autosam.load(trained).save_pretrained(tmp_path)
    file = checkpoint.find(tmp_path)
    checkpoint.annotate(file, threshold=0.7)
    assert same(autosam.load(tmp_path, str(sam_of(trained)))(image_path), found)
    with pytest.raises(ConfigError, match=r"threshold 1\.5: must .*between 0 and 1"):
        autosam.load(trained, threshold=1.5)


def sam_of(trained: Path) -> Path:
    return Path(str(checkpoint.load(trained).config.sam_checkpoint))


def test_the_checkpoint_holds_threshold_and_smallest_area_of_both_ways(
    trained: Path, image_path: Path, tmp_path: Path
) -> None:
    written = yaml.safe_load((trained / "scores.yaml").read_text())
    header = checkpoint.load(trained).header
    assert (written["threshold"], written["min_area"]) == (header["threshold"], header["min_area"])
    autosam.load(trained).save_pretrained(tmp_path)
    file, sam = checkpoint.find(tmp_path), str(sam_of(trained))
    area = autosam.load(trained)(image_path).masks.mean()
    changes = {"threshold": 0.4, "min_area": 0.25, "fast_threshold": 0.7, "fast_min_area": 0.125}
    checkpoint.annotate(file, **changes)
    for fast in (False, True):
        predictor = autosam.load(tmp_path, sam, fast=fast)
        prefix = "fast_" * fast
        assert predictor.threshold == changes[f"{prefix}threshold"]
        assert predictor.min_area == changes[f"{prefix}min_area"]
    segmenter = autosam.load(tmp_path, sam).segmenter
    assert segmenter.surrogate.decision == Decision(0.7, 0.125)
    # A class that covers less counts as not found; what is said holds against the checkpoint.
    assert 0 < area < 0.9
    assert not autosam.load(trained, min_area=area + 0.01)(image_path).masks.any()
    assert autosam.load(trained, min_area=area - 0.01)(image_path).masks.mean() == area
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"min_area \S+: a share of the image"):
            autosam.load(trained, min_area=wrong)


class Sure:
    """A network that is sure of everything."""

    num_classes, decision = 1, Decision()
    input_spec = InputSpec(8, 8, 8)

    def eval(self) -> None:
        pass

    def segment(self, batch: Batch) -> tuple[torch.Tensor, None]:
        assert batch.targets is not None
        return batch.targets * 40 - 20, None


def batch_of(count: int) -> Batch:
    label = np.zeros((8, 8), np.uint8)
    label[2:5, 2:7] = 1
    image = np.zeros((8, 8, 3), np.uint8)
    return Batch.collate([make_sample(str(i), image, Sure.input_spec, label) for i in range(count)])


def test_thresholds_that_are_as_good_give_the_middle_one() -> None:
    assert calibrate(Sure(), [batch_of(10)], True) == (0.5, 0.0)  # type: ignore[arg-type]


def test_a_threshold_that_all_images_ask_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Background is likely to sigmoid(1) = 0.731, so the first threshold above is the best."""
    monkeypatch.setattr(Sure, "segment", lambda self, batch: (batch.targets * 2.1 + 1, None))
    found, area = calibrate(Sure(), [batch_of(10)], True)  # type: ignore[arg-type]
    assert (found, area) == (pytest.approx(0.75), 0.0)
    # Of few images nobody knows.
    assert calibrate(Sure(), [batch_of(7)], True) == (0.5, 0.0)  # type: ignore[arg-type]


def test_the_backend_of_the_encoder_can_be_chosen(trained: Path, tmp_path: Path) -> None:
    autosam.load(trained).save_pretrained(tmp_path / "saved")
    sam = str(sam_of(trained))
    made = Predictor.from_pretrained(
        tmp_path / "saved", sam_checkpoint=sam, encoder_backend="torch"
    )
    assert made.loaded.config.encoder_backend == "torch"
    assert made.segmenter.sam.backend is None
    with pytest.raises(ConfigError, match="--fast computes no image encoder"):
        autosam.load(trained, encoder_backend="openvino", fast=True)


def test_the_fast_path_loads_no_sam(
    trained: Path, image_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = checkpoint.load(trained)
    loaded = replace(loaded, segmenter=loaded.segmenter.without_sam())
    expected = Predictor(loaded, threshold=0.5)(image_path)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("SAM's file is read")

    monkeypatch.setattr("autosam.models.sam.read_weights", refuse)
    monkeypatch.setattr("autosam.models.sam.sam_weights", refuse)
    assert same(autosam.load(trained, fast=True, threshold=0.5)(image_path), expected)


def test_a_tuned_sam_stays_out_of_the_fast_path(
    trained: Path, tiny_file: Path, image_path: Path, tmp_path: Path
) -> None:
    flags = (f"--data.root={trained.parent / 'data'}", f"--output={tmp_path / 'run'}")
    folder = train(tiny_config(tiny_file, "--run=hybrid", "--train.epochs=1", *flags)).folder
    loaded = checkpoint.load(folder)
    loaded = replace(loaded, segmenter=loaded.segmenter.without_sam())
    expected = Predictor(loaded, threshold=0.5)(image_path)
    assert same(autosam.load(folder, fast=True, threshold=0.5)(image_path), expected)


@pytest.mark.parametrize("run", ["head", "decoder"])
def test_runs_without_a_surrogate_are_never_fast(
    tiny_file: Path, trained: Path, tmp_path: Path, run: str
) -> None:
    flags = (f"--data.root={trained.parent / 'data'}", f"--output={tmp_path / 'run'}")
    folder = train(tiny_config(tiny_file, f"--run={run}", "--train.epochs=1", *flags)).folder
    with pytest.raises(CheckpointError, match=f"Only runs with a learned.*'{run}' has none"):
        autosam.load(folder, fast=True)


def test_an_oracle_cannot_predict(tiny_file: Path, trained: Path, tmp_path: Path) -> None:
    flags = (f"--data.root={trained.parent / 'data'}", f"--output={tmp_path / 'run'}")
    folder = train(tiny_config(tiny_file, "--run=sam-box", *flags)).folder
    with pytest.raises(CheckpointError, match="prompts from true masks"):
        autosam.load(folder)


def test_threads_share_a_predictor(trained: Path) -> None:
    predictor = autosam.load(trained)
    images = sorted((trained.parent / "data/train/images").iterdir()) * 3
    alone = [predictor(image_path) for image_path in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(predictor, images))
    assert all(map(same, alone, together))


def test_saved_and_loaded_again(trained: Path, image_path: Path, tmp_path: Path) -> None:
    found = autosam.load(trained, flips=True, device="cpu")
    found.save_pretrained(tmp_path / "saved")
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    again = Predictor.from_pretrained(tmp_path / "saved", sam_checkpoint=str(sam_of(trained)))
    assert same(again(image_path), autosam.load(trained)(image_path))
    text = "".join((tmp_path / "saved" / name).read_bytes().decode("latin-1") for name in names)
    assert str(trained.parent) not in text
    assert str(sam_of(trained).parent) not in text
    settings = json.loads((tmp_path / "saved/config.json").read_text())
    assert settings["run"] == "autosam"
    assert settings["data"]["root"] == "data"
    assert "flips" not in settings
    assert "device" not in settings


def test_the_card_says_what_it_is(trained: Path, tmp_path: Path) -> None:
    card = autosam.load(trained).generate_model_card()
    assert card.data.library_name == "autosam"
    assert card.data.pipeline_tag == "image-segmentation"
    scores = checkpoint.load(trained).header["test"]
    for line in (
        "# autosam on data",
        "a prompt generator emits SAM's prompt embeddings; trainable parts: prompter.",
        "| images | 6 train, 3 validation, 3 test |",
        f"| test | {scores['dice']:.4f} | {scores['iou']:.4f} |",
        "| SAM | tiny, SHA-256 ",
    ):
        assert line in card.content


def test_pushing_uploads_what_is_saved(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, Any] = {}

    def create(self: HfApi, repo_id: str, **kwargs: Any) -> Any:
        return type("Repo", (), {"repo_id": repo_id})

    def upload(self: HfApi, repo_id: str, folder_path: Path, **kwargs: Any) -> str:
        pushed[repo_id] = sorted(path.name for path in Path(folder_path).iterdir())
        return "commit"

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert autosam.load(trained).push_to_hub("someone/polyps") == "commit"
    assert pushed == {"someone/polyps": ["README.md", "config.json", "model.safetensors"]}


class Hub(BaseHTTPRequestHandler):
    """Enough of the hub to serve the files of one repository."""

    folder: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        start, _, name = self.path.partition("/resolve/main/")
        file = self.folder / name
        if start != "/someone/polyps" or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{len(content):040d}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


def test_a_name_on_the_hub(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # of this machine alone
    autosam.load(trained).save_pretrained(tmp_path / "saved")
    handler = type("Serving", (Hub,), {"folder": tmp_path / "saved"})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = {"endpoint": f"http://127.0.0.1:{server.server_port}", "cache_dir": tmp_path}
        file = checkpoint.find("someone/polyps", **where)
        assert file.read_bytes() == (tmp_path / "saved/model.safetensors").read_bytes()
        with pytest.raises(
            CheckpointError, match=r"no such folder here, and no checkpoint .* on the hub"
        ):
            checkpoint.find("someone/else", **where)
        server.shutdown()
    with pytest.raises(CheckpointError, match=r"no checkpoint there\. Give a run folder"):
        checkpoint.find(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((4, 4, 3), 255.0), r"floats from 255 to 255; expected 0 to 1, or uint8"),
        (np.full((4, 4, 3), np.nan), r"floats from nan to nan; expected 0 to 1"),
        (np.zeros((4, 4, 3), np.int64), r"an array of int64; expected uint8, uint16"),
        (np.zeros((4, 4, 3), bool), r"an array of bool; expected uint8, uint16"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"several images\? Pass a list"),
        (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\); expected H x W or H x W x 3"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
    ],
)
def test_what_is_no_image_is_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        MemoryImage(values).read()


def test_arrays_of_every_kind() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    for values in (grey, grey[..., None], np.stack([grey, grey // 2], 2), rgb,
                   np.dstack([rgb, grey])):  # fmt: skip
        assert np.array_equal(MemoryImage(values).read(), rgb)
    deep = (np.arange(12, dtype=np.uint16) * 300).reshape(3, 4)
    found = MemoryImage(deep, window=(0, 3300)).read()
    assert np.array_equal(found[..., 0], (deep / 3300 * 255).round())
    assert found.shape == (3, 4, 3)
    assert MemoryImage(grey).digest() != MemoryImage(grey + 1).digest()
    with pytest.raises(DataError, match="is in memory, but reading bands needs a TIFF file"):
        _ = MemoryImage(grey).path


def test_floats_and_tensors_are_the_same_image() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    for kind in (np.float16, np.float32, np.float64):
        assert np.array_equal(MemoryImage((rgb / 255).astype(kind)).read(), rgb)
    for same in (tensor, tensor / 255, (tensor / 255).requires_grad_()):
        assert np.array_equal(MemoryImage(array_of(same)).read(), rgb)
    assert np.array_equal(MemoryImage(array_of(tensor[0])).read()[..., 0], rgb[..., 0])
    for shape in ((6, 9, 3), (3, 9, 3), (2, 3, 6, 9), (2, 6, 9), (6,)):
        with pytest.raises(DataError, match="expected H x W or C x H x W"):
            array_of(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("given", "words"),
    [(None, "NoneType: not an image"), (3, "int: not an image"),
     (b"abc", r"PIL.Image.open\(io.BytesIO"),
     (io.BytesIO(b"abc"), r"PIL.Image.open\(file\)"), ({"image": 1}, "dict: not an image"),
     ([None], "NoneType: not an image")],
)  # fmt: skip
def test_what_no_predictor_takes(trained: Path, given: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        autosam.load(trained)(given)
