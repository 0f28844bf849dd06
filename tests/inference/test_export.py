"""Exported graphs compute what the run computes: any image size, several classes, no SAM."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import TINY, draw, tiny_config
from PIL import Image

import autosam
from autosam.config import DataConfig
from autosam.config.commands import ExportConfig
from autosam.data.geometry import (
    content_size,
    content_sizes,
    pad,
    resize_image,
    resize_matrix,
    restore,
    restore_matrix,
)
from autosam.data.readers.files import image_file
from autosam.errors import CheckpointError, ConfigError, DataError
from autosam.evaluation.predict_batch import predict_label
from autosam.export import export
from autosam.inference.onnx import channels_of, generator_facts
from autosam.inference.onnx_compare import Runner, readable
from autosam.inference.onnx_graph import Graph
from autosam.models.sam import SAMS
from autosam.train import train

SHAPES = [(352, 352), (480, 640), (33, 1000), (77, 61), (255, 256), (2, 2), (3001, 203), (19, 640)]


@pytest.mark.parametrize("geometry", ["longest-pad", "square"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matrices_resize_as_pillow_does_and_back(shape: tuple[int, int], geometry: str) -> None:
    size = 256
    height, width = shape
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = pad(resize_image(image, content_size(*shape, size, geometry)), size)
    sides = [torch.full((), side, dtype=torch.float64) for side in shape]
    rows, columns = content_sizes(sides[0], sides[1], size, geometry)
    assert (int(rows), int(columns)) == content_size(*shape, size, geometry)
    pixels = torch.from_numpy(image).permute(2, 0, 1).double()
    wide = (pixels @ resize_matrix(width, columns, size).T + 0.5).floor()
    found = (resize_matrix(height, rows, size) @ wide + 0.5).floor().permute(1, 2, 0)
    # Rows first or columns first rounds differently; newer Pillows choose for tall images.
    assert np.abs(found.numpy() - expected).max() <= (1 if height > width else 0)
    logits = torch.from_numpy(rng.normal(size=(2, 64, 64)).astype(np.float32))
    up, right = (
        restore_matrix(side, content, size, 64)
        for side, content in ((height, rows), (width, columns))
    )
    assert torch.allclose(up @ logits @ right.T, restore(logits, shape, size, geometry), atol=1e-4)


@pytest.fixture(scope="module")
def _tiny() -> Iterator[None]:
    """The tiny SAM, for what is made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMS, "tiny", TINY)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path, _tiny: None) -> dict[str, Path]:
    """Run folders."""
    root = tmp_path_factory.mktemp("export")
    for start, split, count in ((0, "train", 6), (6, "validation", 3), (9, "test", 3)):
        draw(root / "data" / split, count, start)
        draw(root / "three" / split, count, start)
        for file in (root / "three" / split / "masks").iterdir():
            mask = np.asarray(Image.open(file)) // 255
            mask[:, 30:] *= 2
            Image.fromarray(mask * (1 + mask.shape[0] % 2)).save(file)
    made = {}
    three = f"--data.root={root / 'three'}"
    for name, flags in {
        "autosam": (f"--data.root={root / 'data'}",),
        "decoder": ("--run=decoder", three, "--data.num_classes=2"),
        "head": ("--run=head", three, "--data.num_classes=2", "--data.exclusive=false"),
    }.items():
        config = tiny_config(tiny_file, f"--output={root / name}", *flags)
        made[name] = train(config).folder
    return made


def check(folder: Path, file: Path, fast: bool = False) -> None:
    """The file's masks and logits are the run's, on portrait, landscape and extreme images."""
    session = onnxruntime.InferenceSession(file)
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("image", ["height", "width", 3], "tensor(uint8)")
    ]
    predictor = autosam.load(folder, fast=fast)
    data = predictor.loaded.config.data
    for shape in ((40, 56), (56, 40), (64, 64), (200, 31), (31, 200), (2, 9)):
        image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
        mask, logits = session.run(None, {"image": image})
        expected = predictor(image)
        assert np.allclose(logits, expected.logits, atol=0.05)
        if data.num_classes == 1:
            assert np.mean(mask == 255 * expected.masks[0]) > 0.999
        elif data.exclusive:
            assert np.mean(mask == expected.label) > 0.999
        else:
            assert np.mean(mask == 255 * expected.masks) > 0.999


@pytest.fixture(scope="module")
def model(runs: dict[str, Path], _tiny: None) -> Path:
    """The file of the run autosam."""
    file = runs["autosam"].parent / "made/model.onnx"
    result = export(ExportConfig(checkpoint=str(runs["autosam"]), output=str(file)))
    assert result.images == 3
    assert result.agreement > 0.999
    assert result.difference < 0.05
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
    return file


def test_the_file_does_what_the_run_does(runs: dict[str, Path], model: Path) -> None:
    check(runs["autosam"], model)


@pytest.mark.parametrize("name", ["decoder", "head"])
def test_several_classes(runs: dict[str, Path], tmp_path: Path, name: str) -> None:
    file = tmp_path / "model.onnx"
    assert export(ExportConfig(checkpoint=str(runs[name]), output=str(file))).agreement > 0.999
    check(runs[name], file)


def test_the_fast_path(runs: dict[str, Path], model: Path, tmp_path: Path) -> None:
    fast = tmp_path / "fast.onnx"
    export(ExportConfig(checkpoint=str(runs["autosam"]), output=str(fast), fast=True))
    assert fast.stat().st_size < model.stat().st_size
    check(runs["autosam"], fast, fast=True)


def holds_local_paths(file: Path) -> bool:
    """Whether a file names a folder of this machine: this repository, or the installed packages."""
    folders = [Path(autosam.__file__).parents[1], Path(torch.__file__).parents[1], Path(sys.prefix)]
    content = file.read_bytes()
    return any(str(path).encode() in content for f in folders for path in (f, f.resolve()))


def test_the_file_holds_no_path_of_this_machine(model: Path) -> None:
    assert not holds_local_paths(model)
    graph = onnx.load(model).graph
    assert not any(node.metadata_props or node.doc_string for node in graph.node)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions(
    runs: dict[str, Path], model: Path, tmp_path: Path, precision: Literal["fp16", "int8"]
) -> None:
    file = tmp_path / "model.onnx"
    config = ExportConfig(checkpoint=str(runs["autosam"]), output=str(file), precision=precision)
    assert 0.9 < export(config).agreement <= 1
    assert not holds_local_paths(file)
    for one in (file, model):  # what the docs' code for tiles reads
        facts = onnxruntime.InferenceSession(one).get_modelmeta().custom_metadata_map
        assert float(facts["threshold"]) == autosam.load(runs["autosam"]).threshold
    assert file.stat().st_size < (0.8 if precision == "fp16" else 1) * model.stat().st_size


def test_torch_export(runs: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    export(ExportConfig(checkpoint=str(runs["autosam"]), output=str(file)))
    assert not holds_local_paths(file)
    module = torch.export.load(file).module()
    image = np.random.default_rng(1).integers(0, 256, (31, 70, 3), dtype=np.uint8)
    mask, logits = module(torch.from_numpy(image))
    expected = autosam.load(runs["autosam"])(image)
    assert np.allclose(logits.numpy(), expected.logits, atol=1e-4)
    assert mask.shape == (31, 70)


def test_a_file_that_differs_is_not_kept(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(program: object, path: Path, precision: str, facts: object) -> Runner:
        path.touch()
        return lambda image: (
            np.full(image.shape[:2], 255, np.uint8),
            np.zeros((1, *image.shape[:2]), np.float32),
        )

    monkeypatch.setattr("autosam.inference.onnx.trace", lambda *args: None)
    monkeypatch.setattr("autosam.inference.onnx.write_onnx", wrong)
    with pytest.raises(CheckpointError, match=r"not kept\. On 3 images .* as PyTorch has them"):
        export(
            ExportConfig(checkpoint=str(runs["autosam"]), output=str(tmp_path / "out/model.onnx"))
        )
    assert not list((tmp_path / "out").iterdir())


def test_settings_that_cannot_work(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = str(runs["autosam"])
    (tmp_path / "there.onnx").touch()
    for settings, message in (
        ({"output": "model.tflite"}, r"must end in \.onnx or \.pt2"),
        ({"output": str(tmp_path / "there.onnx")}, "exists"),
        ({"output": "model.pt2", "precision": "fp16"}, r"is for \.onnx"),
        ({"count": 0}, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            export(ExportConfig(checkpoint=folder, **settings))  # type: ignore[arg-type]


def test_the_example_of_the_docs(runs: dict[str, Path], model: Path, tmp_path: Path) -> None:
    """With onnxruntime, numpy and OpenCV alone: nothing of this package is imported."""
    docs = (Path(__file__).parents[2] / "docs/predict.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", docs, re.DOTALL)
    example = next(block for block in blocks if "onnxruntime" in block)
    assert len(example.splitlines()) <= 20
    (tmp_path / "example.py").write_text(example)
    image = runs["autosam"].parent / "data/test/images/img09.png"
    done = subprocess.run(
        [sys.executable, "-I", "example.py", model, image, "mask.png"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{image}: " in done.stdout
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    expected = autosam.load(runs["autosam"])(image).masks[0]
    assert np.mean((mask == 255) == expected) > 0.999


def test_broken_images_are_left_out_before_the_work_begins(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    rng = np.random.default_rng(0)
    for name, side in (("c", 40), ("d", 2), ("e", 40), ("f", 40)):
        Image.fromarray(rng.integers(0, 256, (side, 50, 3), dtype=np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "b.png").write_bytes((tmp_path / "c.png").read_bytes()[:200])
    images = [image_file(path, DataConfig()) for path in sorted(tmp_path.glob("*.png"))]
    kept = readable(images, 2)
    assert [image.path.name for image in kept] == ["c.png", "e.png"]
    warned = capsys.readouterr().err
    assert warned.count("warning: not compared on") == 3
    assert all(f"{name}.png" in warned for name in "abd")

    monkeypatch.setattr("autosam.inference.onnx.trace", lambda *args: pytest.fail("the work began"))
    for name in "cef":
        (tmp_path / f"{name}.png").unlink()
    config = ExportConfig(str(runs["head"]), str(tmp_path / "m.onnx"), images=str(tmp_path))
    with pytest.raises(DataError, match="no image to compare on, of 3"):
        export(config)


@pytest.mark.parametrize("name", ["autosam", "decoder", "head"])
def test_the_smallest_area_is_part_of_the_graph(runs: dict[str, Path], name: str) -> None:
    predictor = autosam.load(runs[name], device="cpu")
    exclusive = predictor.loaded.config.data.exclusive
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    shares = predictor(image).masks.mean((1, 2))
    for area in sorted({0.0, *(float(share) for share in shares), float(shares.max()) + 0.01}):
        graph = Graph(predictor.segmenter, exclusive, predictor.threshold, area)
        mask, logits = graph(torch.from_numpy(image))
        expected = predict_label(logits, exclusive, predictor.threshold, area)
        several = exclusive and len(expected) > 1
        numbers = np.arange(1, len(expected) + 1)[:, None, None]
        drawn = mask.numpy()
        own = drawn[None] == numbers if several else drawn.reshape(expected.shape) > 0
        assert np.array_equal(own, expected)
    assert not own.any()


def test_what_the_channels_of_an_input_are() -> None:
    assert channels_of(DataConfig()) == (3, "RGB")
    assert generator_facts(DataConfig()) == {}
    bands = DataConfig(generator_bands="1-2", generator_window=[(0, 100), (50.5, 3000)])
    count, words = channels_of(bands)
    assert count == 5
    assert "generator_bands" in words
    assert generator_facts(bands) == {
        "generator_bands": "[1, 2]",
        "generator_window": "[[0, 100], [50.5, 3000]]",
    }
    assert channels_of(DataConfig(slices=3))[0] == 6
