"""The benchmark: cases, statistics of the timings, and printed tables."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

import autosam.benchmark.bench
from autosam.bench import bench
from autosam.benchmark.advice import advise, plans_of
from autosam.benchmark.bench import cosine, ratios
from autosam.benchmark.cases import PARTS, Case, build_sam, cases_of, measure
from autosam.benchmark.profiler import Stopwatch, in_own_process
from autosam.config.commands import BenchConfig
from autosam.errors import AutosamError, ConfigError, StorageError
from autosam.models.sam import SAMS
from autosam.utils.memory import peak_gib

TINY = Case("x", "training", sam="tiny", backbone="test_efficientnet", input_size=64, repeats=2)


def test_the_cases_of_a_sam() -> None:
    names = [case.name for case in cases_of(BenchConfig("vit_b"))]
    assert names[0] == "segment_anything, fp32"
    assert {"floor", "cached", "not cached", "published", "published generator, cached"} < {*names}
    published = next(c for c in cases_of(BenchConfig("vit_b")) if c.name == "published")
    assert (published.backbone, published.input_size, published.batch_size) == ("hardnet85", 512, 3)
    assert published.reference
    assert not published.half
    assert "segment_anything, fp32" not in [c.name for c in cases_of(BenchConfig("lite"))]


@pytest.mark.parametrize("embeddings", ["memory", "cache", "encoder"])
def test_a_training_step_is_split_into_its_parts(embeddings: str) -> None:
    figures = measure(replace(TINY, embeddings=embeddings, batch_size=2))  # type: ignore[arg-type]
    assert len(figures["seconds"]) == 2
    assert figures["batch size"] == 2
    assert all(figures["parts"][part] > 0 for part in PARTS if part not in ("data", "encoder"))
    assert sum(figures["parts"].values()) < 1.5 * max(figures["seconds"])
    assert 0.1 < figures["memory"] < 24


def test_encoding_and_prediction_are_measured() -> None:
    one = measure(replace(TINY, kind="encoder"))
    assert len(one["seconds"]) == 2
    assert one["features"].shape == (1, 32, 8, 8)
    assert len(measure(replace(TINY, kind="prediction"))["seconds"]) == 2


@pytest.mark.parametrize("name", ["tiny", "lite"])
def test_the_levels_are_those_of_the_encoder(name: str) -> None:
    sam = build_sam(name, reference=False, encoder=True)
    size = SAMS[name].image_size
    image = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    levels = sam.encode_image(image, torch.tensor([[size, size]])).levels
    assert sam.shapes == tuple(tuple(level.shape[1:]) for level in levels)


def test_ratios_and_cosines_by_hand() -> None:
    figures = {
        "floor": {"seconds": [0.1, 0.3, 0.2]},
        "cached": {"seconds": [0.25, 0.24, 0.26]},
        "published": {"seconds": [10.0]},
    }
    assert ratios(figures) == [
        "a cached step takes 1.25 times as long as the floor (all data in memory)",
        "the published loop takes 40 times as long per image",
    ]
    one = np.array([[1.0], [0.0]])
    assert cosine(one, one) == 1.0
    assert cosine(one, np.array([[1.0], [1.0]])) == pytest.approx(2**-0.5)


def test_the_advice_by_hand() -> None:
    """1000 images of 2 MB a record: encoding takes 4 s, a step 5 s or, cached, 0.3 s."""
    figures = {
        "autosam, fp32": {"seconds": [10.0]},
        "autosam, bf16": {"seconds": [4.0, 3.0, 5.0]},
        "cached": {"seconds": [0.3], "batch size": 8},
        "cached, batch of 1": {"seconds": [0.5], "batch size": 1},
        "not cached": {"seconds": [5.0], "batch size": 8},
        "one image": {"seconds": [4.5]},
    }
    plans = plans_of(figures, 1000, 50, 2_000_000)
    assert [(plan.copies, plan.disk) for plan in plans] == [(0, 0), (1, 2e9), (4, 8e9)]
    assert [plan.seconds for plan in plans] == pytest.approx([250_000, 19_000, 31_000])
    assert advise(figures) == [
        "--train.precision auto: bf16, the default here, encodes 2.50 times as fast",
        "--train.batch_size 8: no other is clearly faster (ms per image of 1: 500, 8: 300)",
        "--cache.copies 4 pays above 3.4 epochs, --cache.copies 1 above 0.9",
        "prediction: 800 images an hour, one after the other",
    ]
    figures["cached"]["seconds"] = [6.0]
    assert "--cache.copies 4 never pays: --cache.copies 0" in advise(figures)
    figures["autosam, bf16, OpenVINO"] = {"seconds": [2.0]}
    line = "--encoder_backend auto: OpenVINO, its default, encodes 2.00 times as fast as PyTorch"
    assert line in advise(figures)
    del figures["autosam, bf16"]
    assert not any("OpenVINO" in line for line in advise(figures))  # not bf16 beside fp32
    figures["autosam, fp32, OpenVINO"] = {"seconds": [2.0]}
    assert line.replace("2.00", "5.00") in advise(figures)
    figures["cached"]["seconds"] = [0.3]
    assert plans_of(figures, 1000, 50, 1)[1].seconds == pytest.approx(1000 * (2 + 50 * 0.3))
    # What is slower is not advised, but the estimates are of what runs take by default.
    figures["autosam, bf16"] = {"seconds": [12.0]}
    figures["autosam, bf16, OpenVINO"] = {"seconds": [20.0]}
    figures["cached, batch of 1"]["seconds"] = [0.29]
    assert advise(figures)[:1] + advise(figures)[2:4] == [
        "--train.precision no --cache.dtype fp32: bf16, the default here, encodes 0.83 times as "
        "fast",
        "--encoder_backend torch: OpenVINO, its default, encodes 0.60 times as fast as PyTorch",
        "--train.batch_size 8: no other is clearly faster (ms per image of 1: 290, 8: 300)",
    ]
    assert plans_of(figures, 1000, 50, 1)[1].seconds == pytest.approx(1000 * (20 + 50 * 0.3))
    figures["cached, batch of 1"]["seconds"] = [0.2]
    found = "--train.batch_size 1: the fastest (ms per image of 1: 200, 8: 300)"
    assert found in advise(figures)
    assert advise({}) == plans_of({"floor": figures["cached"]}, 1, 1, 1) == []


def test_the_tables_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(
        autosam.benchmark.bench, "in_own_process", lambda function, *args: function(*args)
    )
    path = tmp_path / "bench.json"
    config = BenchConfig("tiny", "test_efficientnet", 64, 2, 1, json=str(path))
    config.cases = ["autosam, fp32", "floor", "cached", "one image"]
    figures = bench(config)
    out, progress = capsys.readouterr()
    for name, row in figures.items():  # while the others are measured
        assert f"{name}: {1000 * median(row['seconds']):.0f} ms\n" in progress
    for words in ("image encoder of tiny", "optimiser", "one image", "as long as the floor",
                  "1000 images, 50 epochs with tiny", "images an hour"):  # fmt: skip
        assert words in out
    written = json.loads(path.read_text())
    assert list(written["cases"]) == config.cases
    assert written["cases"]["cached"]["seconds"] == figures["cached"]["seconds"]
    assert written["settings"]["batch_size"] == 2
    with pytest.raises(ConfigError, match="--cases nothing: not one of autosam, fp32"):
        bench(BenchConfig("tiny", cases=["nothing"]))


def test_encoders_are_compared_with_pytorch_in_float32(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """And with nothing where it was not measured: a case is not compared with itself."""

    def encode(function: Any, case: Case) -> dict[str, Any]:
        values = np.array([1.0, 1.0 if case.half else 0.0])
        return {"seconds": [1.0 if case.half else 2.0], "first": 1.0, "features": values}

    monkeypatch.setattr(autosam.benchmark.bench, "in_own_process", encode)
    monkeypatch.setattr("autosam.benchmark.cases.faster_in_half", lambda *_: True)
    figures = bench(BenchConfig("mobile_sam", cases=["autosam, bf16", "autosam, fp32"]))
    assert "cosine" not in figures["autosam, bf16"]  # before what it would be compared with
    figures = bench(BenchConfig("mobile_sam", cases=["autosam, fp32", "autosam, bf16"]))
    assert figures["autosam, bf16"]["cosine"] == pytest.approx(2**-0.5)
    capsys.readouterr()
    bench(BenchConfig("mobile_sam", cases=["autosam, bf16"]))
    [row] = [line for line in capsys.readouterr().out.splitlines() if "bf16" in line]
    assert re.findall(r"[\d.]+", row.split("bf16")[1]) == ["1000", "1000", "1000", "1"]


def test_steps_that_are_compared_have_one_batch_size() -> None:
    cases = {case.name: case for case in cases_of(BenchConfig("vit_b", batch_size=6))}
    assert {cases[n].batch_size for n in ("floor", "cached", "not cached")} == {6}


def killed(case: Case) -> dict[str, Any]:
    if case.name == "cached":
        os.kill(os.getpid(), signal.SIGKILL)
    if case.name == "published":
        raise ValueError("Expected more than 1 value per channel when training")
    return {"seconds": [0.5], "first": 1.0, "features": np.ones(2)}


def test_a_case_that_fails_costs_its_own_figures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As when the system kills a process that takes too much memory."""
    monkeypatch.setattr(autosam.benchmark.bench, "measure", killed)
    path = tmp_path / "bench.json"
    config = BenchConfig("lite", json=str(path), cases=["cached", "published", "autosam, fp32"])
    with pytest.raises(AutosamError, match="2 of 3 cases were not measured"):
        bench(config)
    out, progress = capsys.readouterr()
    assert "cached: not measured, its process ended: probably memory ran out" in progress
    assert "published: not measured, BatchNorm cannot learn from a batch of one" in progress
    assert "image encoder of lite" in out
    assert json.loads(path.read_text())["cases"]["autosam, fp32"]["cosine"] == pytest.approx(1)


def test_a_file_that_cannot_be_written_is_said_before_the_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autosam.benchmark.bench, "in_own_process", pytest.fail)
    (tmp_path / "a.json.partial").mkdir()
    with pytest.raises(StorageError, match=r"a\.json"):
        bench(BenchConfig("lite", json=str(tmp_path / "a.json")))


def test_one_batch_size_is_measured_once() -> None:
    for size, expected in ((1, {1, 2}), (8, {1, 8, 16})):
        cases = cases_of(BenchConfig("lite", batch_size=size))
        sizes = [case.batch_size for case in cases
                 if case.name == "cached" or case.name.startswith("cached, batch")]  # fmt: skip
        assert sorted(sizes) == sorted(expected)


def test_a_stopwatch_adds_up_and_changes_nothing() -> None:
    class Thing:
        def work(self, seconds: float) -> float:
            time.sleep(seconds)
            return seconds

    thing, watch = Thing(), Stopwatch(torch.device("cpu"))
    watch.watch(thing, "work", "working")
    assert [thing.work(0.02), thing.work(0.03)] == [0.02, 0.03]
    assert 0.05 <= watch.seconds["working"] < 5


def test_a_case_has_a_process_of_its_own() -> None:
    assert in_own_process(os.getpid) != os.getpid()
    assert peak_gib()["memory"] > 0.1
