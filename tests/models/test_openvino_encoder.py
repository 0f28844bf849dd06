"""Image encoders in OpenVINO against the same ones in PyTorch."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, liven
from PIL import Image

import autosam
import autosam.benchmark.bench
from autosam.bench import bench
from autosam.config import Config
from autosam.config.commands import BenchConfig, EvaluateConfig, PredictConfig
from autosam.errors import AutosamError, ConfigError
from autosam.evaluation.evaluate import evaluate
from autosam.inference.predict import predict
from autosam.models import checkpoint
from autosam.models.build import build_sam
from autosam.models.sam import SAMS, Sam, load_sam, sam_hash
from autosam.models.sam.encode import encode_frozen
from autosam.models.sam.openvino_encoder import (
    OpenVinoEncoder,
    import_openvino,
    installed,
    use_openvino,
)
from autosam.models.state_dict import file_hash
from autosam.train import train
from autosam.utils.device import gains_from_bf16

if not installed():
    pytest.skip("needs pip install 'autosam[openvino]'", allow_module_level=True)
openvino = import_openvino()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOSAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/openvino"


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


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
    assert not torch.equal(found.features, expected.features)  # it was not PyTorch
    assert len(found.levels) == len(expected.levels)
    for mine, theirs in zip(found.levels, expected.levels, strict=True):
        assert mine.dtype == torch.float32
        parity(name, "OpenVINO", mine / theirs.abs().max(), theirs / theirs.abs().max())
        cosine = torch.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0)
        assert cosine > 0.9999


@pytest.mark.parametrize("name", ["tiny", "lite", "mobile_sam"])
def test_bfloat16_is_as_near_to_float32_as_pytorchs(name: str, cache: Path) -> None:
    """On processors without its instructions PyTorch computes."""
    sam = load_sam(name) if name == "lite" else tiny(name)
    given = images(sam, 2)
    exact = encode_frozen(sam, *given)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = encode_frozen(sam, *given)
        use_openvino(sam, "0" * 64)
        ours = encode_frozen(sam, *given)
    if not gains_from_bf16(torch.device("cpu")):
        assert torch.equal(ours.features, theirs.features)
        pytest.skip("a processor without bf16 instructions")
    assert [folder.name[-5:] for folder in folders(cache)] == ["-bf16"]
    assert sam.backend is not None
    assert not torch.equal(ours.features, theirs.features)
    single = encode_frozen(sam, *given)  # the same SAM in float32
    assert not torch.equal(ours.features, single.features)
    assert len(list(folders(cache))) == 2
    for level, other, best, plain in zip(
        ours.levels, theirs.levels, exact.levels, single.levels, strict=True
    ):
        assert level.dtype == torch.float32
        error, pytorchs = ((one - best).norm() / best.norm() for one in (level, other.float()))
        assert error < 1.5 * pytorchs
        assert (plain - best).norm() / best.norm() < 1e-4


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError


def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each conversion."""
    convert, count = openvino.convert_model, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        count.append(1)
        return convert(*args, **kwargs)

    monkeypatch.setattr(openvino, "convert_model", counted)
    return count


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def test_nothing_is_reported_to_the_makers() -> None:
    """openvino.convert_model sends statistics, from processes of its own."""
    code = (
        "import sys; from autosam.models.sam.openvino_encoder import import_openvino;"
        "import_openvino(); from openvino.tools.ovc import telemetry_utils;"
        "print(telemetry_utils.tm.__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip().endswith("telemetry_stub")


def test_a_converted_encoder_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count, sam = converted(monkeypatch), tiny("tiny")
    given = images(sam, 2)

    def again(weights: str = "a") -> torch.Tensor:
        use_openvino(sam, weights * 64)
        return encode_frozen(sam, *given).features

    first = again()
    (folder,) = folders(cache)
    assert re.fullmatch(r"tiny-a{16}-[0-9a-f]{8}-20[0-9.]+", folder.name)
    assert {path.name for path in folder.iterdir()} == {"encoder.xml", "encoder.bin", "sha256"}
    assert torch.equal(again(), first)
    assert len(count) == 1
    again("b")  # other weights
    assert len(count) == 2
    (folder / "encoder.xml").write_text("as it was written, and nothing that OpenVINO reads")
    hashes = (file_hash(folder / f"encoder.{end}") for end in ("xml", "bin"))
    (folder / "sha256").write_text(" ".join(hashes))
    assert torch.equal(again(), first)
    assert len(count) == 3
    for name in ("encoder.bin", "encoder.xml", "sha256"):
        for harm in (flip_a_bit, cut, Path.unlink):
            harm(folder / name)
            before = len(count)
            assert torch.equal(again(), first)
            assert len(count) == before + 1
            again()
            assert len(count) == before + 1
    assert capsys.readouterr().err == ""


def test_other_code_is_another_encoder(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The values of an encoder depend on more than its weights."""
    code = "import torch\nclass Own(torch.nn.Module):\n def forward(self, x): return {} * x\n"
    found = []
    for factor in (1, 2):
        path = tmp_path / f"own{factor}.py"
        path.write_text(code.format(factor))
        spec = importlib.util.spec_from_file_location(f"own{factor}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        encoder = OpenVinoEncoder(module.Own(), "own", "a" * 64)
        found.append(encoder(torch.ones(1, 3, 4, 4)).mean().item())
    assert found == [1, 2]
    assert len(folders(cache)) == 2
    in_notebook = type("Own", (torch.nn.Identity,), {"__module__": "nowhere"})()
    encoder = OpenVinoEncoder(in_notebook, "own", "a" * 64)
    assert encoder(torch.full((1, 3, 4, 4), 7.0)).mean() == 7
    assert capsys.readouterr().err == ""
    assert len(folders(cache)) == 2


def test_a_used_encoder_can_be_copied_and_pickled() -> None:
    sam = tiny("tiny")
    given = images(sam, 1)
    use_openvino(sam, None)
    expected = encode_frozen(sam, *given).features
    for other in (copy.deepcopy(sam.backend), pickle.loads(pickle.dumps(sam.backend))):
        sam.backend = other
        assert torch.equal(encode_frozen(sam, *given).features, expected)


def test_bench_leaves_out_what_openvino_does_not_compute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_rule(monkeypatch)
    monkeypatch.setattr(autosam.benchmark.bench, "in_own_process", lambda f, *args: f(*args))
    with pytest.raises(AutosamError, match="1 of 1 cases were not measured"):
        bench(BenchConfig("lite", cases=["autosam, fp32, OpenVINO"]))
    words = (
        "OpenVINO does not compute the image encoder of lite in float32 (No conversion rule found)"
    )
    assert f"autosam, fp32, OpenVINO: not measured, {words}" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_costs_time_alone(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sam = tiny("tiny")
    given = images(sam, 2)
    expected = encode_frozen(sam, *given).features
    cache.parent.mkdir()
    cache.write_text("not a folder")
    for _ in range(2):
        use_openvino(sam, "a" * 64)
        found = encode_frozen(sam, *given).features
        assert not torch.equal(found, expected)
        assert torch.allclose(found, expected, atol=1e-4)
        assert "not kept" in capsys.readouterr().err


def wrong_values(monkeypatch: pytest.MonkeyPatch) -> None:
    other = tiny("tiny")
    for value in other.image_encoder.parameters():
        value.mul_(1.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(other.image_encoder, torch.zeros(1, 3, 64, 64))
    wrong = openvino.convert_model(traced)
    monkeypatch.setattr(openvino, "convert_model", lambda *args, **kwargs: wrong)


def no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("No conversion rule found\nfor operations: a\nand many more lines")

    monkeypatch.setattr(openvino, "convert_model", fails)


def source_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenVINO begins its errors."""

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Exception from src/core.cpp:84:\nCheck 'x' failed\nno such operation\n")

    monkeypatch.setattr(openvino, "convert_model", fails)


def old_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(openvino, "Core")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (
            wrong_values,
            "its (values differ by 0.[0-9]+ of the largest|error is [0-9.]+ times.*)",
        ),
        (no_rule, "No conversion rule found"),
        (source_lines, "no such operation"),
        (old_version, "has no attribute 'Core'"),
    ],
)
def test_pytorch_computes_what_openvino_does_not(
    cause: Callable,
    words: str,
    half: bool,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sam = tiny("tiny")
    given = images(sam, 2)
    cause(monkeypatch)
    module = "autosam.models.sam.openvino_encoder"
    monkeypatch.setattr(f"{module}.gains_from_bf16", lambda device: True)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        expected = encode_frozen(sam, *given).features
        use_openvino(sam, "0" * 64)
        for _ in range(2):
            assert torch.equal(encode_frozen(sam, *given).features, expected)
    (line,) = capsys.readouterr().err.splitlines()
    precision = "bfloat16" if half else "float32"
    assert re.fullmatch(
        rf"OpenVINO does not compute the image encoder of tiny in {precision} "
        rf"\(.*{words}.*\)\. PyTorch does, more slowly\. Upgrade or uninstall openvino\.",
        line,
    )
    assert not list(cache.glob("*/sha256"))


def test_a_folder_of_that_name_is_not_openvino(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    for name in [name for name in sys.modules if name.split(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    assert not installed()


def test_graphs_are_computed_by_pytorch() -> None:
    sam = tiny("tiny")
    sam.backend = never  # type: ignore[assignment]
    given = images(sam, 1)

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
    assert list(cache.glob("tiny-*/sha256"))
    monkeypatch.setattr("autosam.models.sam.openvino_encoder.find_spec", lambda name: None)
    exact = autosam.load(trained)(paths)
    assert any(not np.array_equal(a.logits, b.logits) for a, b in zip(found, exact, strict=True))
    for a, b in zip(found, exact, strict=True):
        assert np.abs(a.probabilities - b.probabilities).max() < 1e-3


def test_the_benchmark_measures_it_and_keeps_nothing(cache: Path) -> None:
    row = bench(sam="lite", cases=["autosam, fp32", "autosam, fp32, OpenVINO"], repeats=1)
    assert row["autosam, fp32, OpenVINO"]["cosine"] > 0.9999
    assert not cache.exists()


@pytest.mark.parametrize("cause", [wrong_values, no_rule, old_version])
def test_openvino_that_must_and_does_not_is_an_error(
    cause: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam = tiny("tiny")
    given = images(sam, 1)
    expected = encode_frozen(sam, *given).features
    with monkeypatch.context() as patch:
        cause(patch)
        use_openvino(sam, "0" * 64, "openvino")
        for _ in range(2):
            with pytest.raises(
                ConfigError, match=r"encoder of tiny in float.*encoder_backend auto"
            ):
                encode_frozen(sam, *given)
    use_openvino(sam, "0" * 64, "openvino")
    with torch.autocast("cpu", torch.bfloat16), monkeypatch.context() as patch:
        patch.setattr("autosam.models.sam.openvino_encoder.gains_from_bf16", lambda device: False)
        asked = encode_frozen(sam, *given).features  # in float32
    assert torch.allclose(asked, expected, atol=1e-4)
    found = encode_frozen(sam, *given).features
    assert not torch.equal(found, expected)
    assert torch.allclose(found, expected, atol=1e-4)


def test_openvino_that_must_and_is_missing_is_an_error(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autosam.models.sam.openvino_encoder.find_spec", lambda name: None)
    photos = trained.parent / "data/test/images"
    settings = {"checkpoint": str(trained), "encoder_backend": "openvino"}
    for call in (
        lambda: autosam.load(trained, encoder_backend="openvino"),
        lambda: predict(PredictConfig(**settings, input=str(photos), output=str(tmp_path / "m"))),
        lambda: evaluate(EvaluateConfig(**settings)),
        lambda: evaluate(EvaluateConfig(zero_shot=True, encoder_backend="openvino")),
        lambda: build_sam(Config(encoder_backend="openvino")),
        lambda: train(Config(encoder_backend="openvino", output=str(tmp_path / "m"))),
    ):
        with pytest.raises(AutosamError, match=r"OpenVINO is not installed.*pip install"):
            call()
    assert not (tmp_path / "m").exists()


def test_predict_and_evaluate_choose_for_themselves(
    trained: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another backend than in training, and other values only at the edges of float32."""
    photos = str(trained.parent / "data/test/images")
    scores = {}
    for backend in ("torch", "openvino"):
        assert not cache.exists()
        settings = {"checkpoint": str(trained), "encoder_backend": backend}
        predict(PredictConfig(**settings, input=photos, output=str(tmp_path / backend)))
        scores[backend] = evaluate(EvaluateConfig(**settings))
    assert list(cache.glob("tiny-*/sha256"))
    assert scores["torch"] == pytest.approx(scores["openvino"], abs=0.02)
    made = [*(tmp_path / "torch").glob("*.png")]
    assert len(made) == len([*Path(photos).iterdir()])
    for path in made:
        masks = [np.asarray(Image.open(tmp_path / b / path.name)) for b in ("torch", "openvino")]
        assert (masks[0] != masks[1]).mean() < 0.01
    no_rule(monkeypatch)
    monkeypatch.setenv("AUTOSAM_CACHE", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="No conversion rule found"):  # not: skipped
        predict(PredictConfig(**settings, input=photos, output=str(tmp_path / "again")))


def test_a_refusal_in_one_precision_leaves_the_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sam = tiny("tiny")
    given = images(sam, 1)
    exact = encode_frozen(sam, *given).features
    module = "autosam.models.sam.openvino_encoder"
    monkeypatch.setattr(f"{module}.gains_from_bf16", lambda device: True)
    monkeypatch.setattr(f"{module}.SHARE", 0.0)
    use_openvino(sam, None)
    with torch.autocast("cpu", torch.bfloat16):
        encode_frozen(sam, *given)
    assert "in bfloat16 (its error is" in capsys.readouterr().err
    for one in (sam.backend, pickle.loads(pickle.dumps(sam.backend))):
        sam.backend = one
        with torch.autocast("cpu", torch.bfloat16):
            encode_frozen(sam, *given)
        assert not torch.equal(encode_frozen(sam, *given).features, exact)
        assert capsys.readouterr().err == ""


def test_the_first_image_does_not_decide(cache: Path) -> None:
    """Conversions of a blank image and of another one are the same, and both are kept."""
    sam = tiny("tiny")
    found = []
    for count, given in enumerate(
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), images(sam, 1)[0])
    ):
        use_openvino(sam, f"{count}" * 64)
        encode_frozen(sam, given, torch.tensor([[64, 64]]))
        found += [file.read_bytes() for file in cache.glob(f"tiny-{count}*/encoder.bin")]
    assert len(found) == 2
    assert found[0] == found[1]


def test_what_was_not_used_for_long_is_deleted(cache: Path) -> None:
    sam = tiny("tiny")
    given = images(sam, 1)

    def age(which: str, days: float) -> None:
        then = time.time() - days * 86400
        (used,) = cache.glob(f"tiny-{which * 16}-*/sha256")
        os.utime(used, (then, then))

    def kept() -> str:
        return "".join(sorted(folder.name[5] for folder in folders(cache)))

    def use(which: str) -> None:
        use_openvino(sam, which * 64)
        encode_frozen(sam, *given)

    use("a")
    use("b")
    age("a", 59)
    age("b", 61)
    use("c")
    assert kept() == "ac"
    age("a", 61)
    use("a")  # kept, and so used
    use("d")
    assert kept() == "acd"
    (cache / "tiny-x").mkdir()  # of a process that was killed
    [left] = (path.name for path in folders(cache) if path.name.startswith("tiny-cc"))
    (cache / f"{left}.4711.partial").mkdir()  # of another one that was
    (cache / "tiny-y").mkdir()
    os.utime(cache / "tiny-x", (1, 1))
    use("e")
    assert kept() == "accdey"
    (cache / left / "sha256").unlink()
    use("c")
    assert kept() == "acdey"
    age("a", 61)
    (folder,) = (path for path in folders(cache) if path.name.startswith("tiny-aa"))
    (folder / "encoder.bin").write_bytes(b"")
    os.utime(folder, (1, 1))
    use("a")  # damaged and old: written once more
    assert list(cache.glob("tiny-aa*/sha256"))


CONVERT = """
import sys, time
from pathlib import Path
import torch
from autosam.models.sam import openvino_encoder
from autosam.models.sam.openvino_encoder import OpenVinoEncoder

convert = OpenVinoEncoder._convert

def counted(*args):
    Path(sys.argv[1], f"converted{time.monotonic_ns()}").touch()
    time.sleep(0.5)
    return convert(*args)

OpenVinoEncoder._convert = counted
openvino_encoder.import_openvino()
Path(sys.argv[1], f"ready{time.monotonic_ns()}").touch()
while len([*Path(sys.argv[1]).glob("ready*")]) < 3:
    time.sleep(0.01)
torch.manual_seed(0)
encoder = OpenVinoEncoder(torch.nn.Conv2d(3, 4, 3), "own", "a" * 64)
print(encoder(torch.ones(1, 3, 9, 9)).sum().item())
"""


def test_of_several_processes_one_converts(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "convert.py").write_text(CONVERT)
    path = os.pathsep.join(filter(None, sys.path))
    words = [sys.executable, str(tmp_path / "convert.py"), str(tmp_path)]
    processes = [
        subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        for _ in range(3)
    ]  # fmt: skip
    said = [process.communicate(timeout=100) for process in processes]
    assert len({out for out, _ in said}) == 1
    waited = "waiting for another process that converts the image encoder of own\n"
    assert sorted(errors for _, errors in said) == ["", waited, waited]
    assert len(list(tmp_path.glob("converted*"))) == 1
    (kept,) = folders(cache)
    assert {path.name for path in kept.iterdir()} == {"encoder.xml", "encoder.bin", "sha256"}


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to another process")
def test_ctrl_c_in_a_conversion_is_not_an_error_of_openvino(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OpenVINO calls Python, and turns what is raised there into errors of its own."""
    sam, convert = tiny("tiny"), openvino.convert_model
    given = images(sam, 1)
    main = threading.main_thread().ident
    assert main is not None

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        try:
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.2)
        except BaseException:
            raise RuntimeError("FrontEnd API failed") from None
        return convert(*args, **kwargs)

    monkeypatch.setattr(openvino, "convert_model", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        use_openvino(sam, None)
        with pytest.raises(KeyboardInterrupt):
            encode_frozen(sam, *given)
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setattr(openvino, "convert_model", convert)
    assert encode_frozen(sam, *given).features.isfinite().all()
    assert sam.backend is not None
    assert sam.backend._compiled[False] is not None
    assert capsys.readouterr().err == ""


def test_memory_that_runs_out_is_not_openvinos_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(openvino, "convert_model", too_large)
    sam = tiny("tiny")
    given = images(sam, 1)
    use_openvino(sam, None, "openvino")
    with pytest.raises(MemoryError):
        encode_frozen(sam, *given)
    use_openvino(sam, None)
    encode_frozen(sam, *given)
    said = capsys.readouterr().err
    assert "9 GiB" in said
    assert "Upgrade" not in said


def test_a_run_that_was_trained_with_openvino_is_used_without(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = autosam.load(trained).loaded
    config = dataclasses.replace(loaded.config, encoder_backend="openvino")
    (tmp_path / "published").mkdir()
    checkpoint.publish(dataclasses.replace(loaded, config=config), tmp_path / "published")
    header = checkpoint.read_header(tmp_path / "published/model.safetensors")
    assert header["config"]["encoder_backend"] == "openvino"
    monkeypatch.setattr("autosam.models.sam.openvino_encoder.find_spec", lambda name: None)
    autosam.load(tmp_path / "published", sam_checkpoint=str(loaded.config.sam_checkpoint))


@pytest.mark.parametrize("setting", [{"run": "lora"}, {"model.sam_features": "blocks"}])
def test_what_it_cannot_compute_is_refused_at_once(setting: dict[str, str], tmp_path: Path) -> None:
    settings = {"output": str(tmp_path / "run"), "encoder_backend": "openvino", **setting}
    with pytest.raises(ConfigError, match="OpenVINO does not compute image encoders with LoRA"):
        autosam.train(**settings)
    assert not list(tmp_path.iterdir())


def test_lite_has_the_hash_of_its_file() -> None:
    """Of each SAM and file another conversion."""
    for backend, expected in (("auto", sam_hash("lite")), ("torch", None)):
        config = Config(encoder_backend=backend)
        assert getattr(build_sam(config).backend, "weights", None) == expected
    lora = Config(run="autosam-lora")
    assert build_sam(lora).backend is None
