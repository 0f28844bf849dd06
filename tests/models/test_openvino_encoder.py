"""Image encoders in OpenVINO against the same ones in PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, liven

import autosam
from autosam.bench import bench
from autosam.errors import StorageError
from autosam.models.sam import SAMS, Sam, load_sam, sam_hash
from autosam.models.sam.encode import encode_frozen
from autosam.models.sam.openvino_encoder import OpenVinoEncoder, use_openvino

openvino = pytest.importorskip("openvino", reason="needs pip install 'autosam[openvino]'")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOSAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/openvino"


def images(sam: Sam, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth noise, the lower third of each image padding."""
    size = sam.spec.image_size
    rng = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 9, 9, generator=rng) * 255
    full = torch.nn.functional.interpolate(small, (size, size), mode="bicubic")
    rows = 2 * size // 3
    full[:, :, rows:] = 0
    return full.clamp(0, 255).byte(), torch.tensor([[rows, size]] * count)


def tiny(name: str) -> Sam:
    spec = {**SAMS, "tiny": TINY}[name]
    torch.manual_seed(0)
    sam = spec.build(spec)
    liven(sam)
    return sam.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["tiny", "lite", "mobile_sam"])
def test_embeddings_are_those_of_pytorch(name: str, parity: Callable) -> None:
    """Other images than the one that the conversion was compared on, in batches."""
    sam = load_sam(name) if name == "lite" else tiny(name)
    given = images(sam, 1 if name == "mobile_sam" else 3)
    expected = encode_frozen(sam, *given)
    use_openvino(sam, "0" * 64)
    encode_frozen(sam, *images(sam, 1, seed=1))
    found = encode_frozen(sam, *given)
    assert isinstance(sam.backend, OpenVinoEncoder)
    assert len(found.levels) == len(expected.levels)
    for mine, theirs in zip(found.levels, expected.levels, strict=True):
        assert mine.dtype == torch.float32
        parity(name, "OpenVINO", mine / theirs.abs().max(), theirs / theirs.abs().max())
        cosine = torch.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0)
        assert cosine > 0.9999


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError


def test_a_converted_encoder_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sam, other = tiny("tiny"), tiny("tiny")
    given = images(sam, 2)
    use_openvino(sam, "a" * 64)
    first = encode_frozen(sam, *given).features
    version = openvino.__version__.split("-")[0]
    (file,) = cache.glob("*.xml")
    assert {path.name for path in cache.iterdir()} == {file.name, f"{file.stem}.bin"}
    assert file.name.startswith("tiny-aaaaaaaaaaaaaaaa-" + ".".join(version.split(".")[:2]))
    with monkeypatch.context() as patch:
        patch.setattr(openvino, "convert_model", never)
        use_openvino(other, "a" * 64)
        assert torch.equal(encode_frozen(other, *given).features, first)
        use_openvino(other, "b" * 64)  # other weights
        with pytest.raises(AssertionError):
            encode_frozen(other, *given)
    cache.rename(cache.with_name("away"))
    cache.write_text("not a folder")
    use_openvino(other, "c" * 64)
    with pytest.raises(StorageError, match="cannot be written"):
        encode_frozen(other, *given)


def test_a_wrong_conversion_is_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sam, other = tiny("tiny"), tiny("tiny")
    for value in other.image_encoder.parameters():
        value.mul_(1.2)
    convert = openvino.convert_model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(other.image_encoder, torch.zeros(1, 3, 64, 64))
    wrong = convert(traced)
    monkeypatch.setattr(openvino, "convert_model", lambda *args, **kwargs: wrong)
    given = images(sam, 2)
    expected = encode_frozen(sam, *given).features
    use_openvino(sam, "0" * 64)
    for _ in range(2):
        assert torch.equal(encode_frozen(sam, *given).features, expected)
    said = capsys.readouterr().err
    assert said.count("OpenVINO's embedding of tiny differs by") == 1
    assert "PyTorch computes it instead" in said
    assert not cache.exists()


def test_graphs_and_bfloat16_are_computed_by_pytorch() -> None:
    sam = tiny("tiny")
    sam.backend = never  # type: ignore[assignment]
    given = images(sam, 1)
    with torch.autocast("cpu", torch.bfloat16):
        encode_frozen(sam, *given)

    class Encode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sam = sam

        def forward(self, image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
            return self.sam.encode_image(image, valid).features

    torch.export.export(Encode().eval(), given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Encode().eval(), given, check_trace=False)


def test_a_trained_run_predicts_the_same(
    trained: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    paths = sorted((trained.parent / "data/test/images").iterdir())
    found = autosam.load(trained)(paths)
    assert list(cache.glob("tiny-*.xml"))
    monkeypatch.setattr("autosam.models.sam.openvino_encoder.find_spec", lambda name: None)
    exact = autosam.load(trained)(paths)
    assert any(not np.array_equal(a.logits, b.logits) for a, b in zip(found, exact, strict=True))
    for a, b in zip(found, exact, strict=True):
        assert np.abs(a.probabilities - b.probabilities).max() < 1e-3


def test_the_benchmark_measures_it_and_keeps_nothing(cache: Path) -> None:
    row = bench(sam="lite", cases=["autosam, fp32", "autosam, OpenVINO"], repeats=1)
    assert row["autosam, OpenVINO"]["cosine"] > 0.9999
    assert not cache.exists()


def test_lite_has_the_hash_of_its_file(cache: Path) -> None:
    """Of each SAM and file another conversion."""
    sam = load_sam("lite")
    use_openvino(sam, sam_hash("lite"))
    assert isinstance(sam.backend, OpenVinoEncoder)
    assert sam.backend.file.parent == cache
    assert sam.backend.file.name.startswith(f"lite-{sam_hash('lite')[:16]}-")
