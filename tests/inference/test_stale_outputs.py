"""Outputs of removed or replaced files are removed, and no output replaces another."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import autosam
import autosam.inference.predict
from autosam.config.commands import PredictConfig
from autosam.errors import ConfigError, DataError
from autosam.inference.sources import frames_of
from autosam.predict import predict
from autosam.utils.io import ignores_case, lock

ROOT = Path(__file__).parents[2]


def run(trained: Path, source: Path, output: Path, **settings: Any) -> list[Path]:
    return predict(PredictConfig(str(trained), str(source), str(output), **settings))


def names_in(table: Path) -> list[str]:
    with open(table, newline="", encoding="utf-8") as file:
        return [row["file"] for row in csv.DictReader(file)]


def image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)
    Image.fromarray(values).save(path)
    return path


def video(path: Path, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), code, 10, (56, 40))
    for seed in range(count):
        writer.write(np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8))
    writer.release()
    return path


def test_a_sidecar_is_a_part_of_its_image(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says which pixels have no data; statistics that a viewer adds change nothing."""
    source, output = image(tmp_path / "images/a.tif").parent, tmp_path / "out"
    again, done = "1 were made from other files", "1 of 1 are done already"
    nodata, statistics = "<NoDataValue>177</NoDataValue>", "<Metadata><MDI>4</MDI></Metadata>"
    run(trained, source, output)
    for text, expected in ((statistics, done), (nodata + statistics, again), (nodata, done)):
        (source / "a.tif.aux.xml").write_text(f"<PAMDataset>{text}</PAMDataset>")
        capsys.readouterr()
        run(trained, source, output)
        assert expected in capsys.readouterr().out
    (source / "a.tif.aux.xml").unlink()
    run(trained, source, output)
    assert again in capsys.readouterr().out


def test_an_output_folder_is_written_by_one_process(trained: Path, tmp_path: Path) -> None:
    source, output = image(tmp_path / "images/a.png").parent, tmp_path / "out"
    output.mkdir()
    with lock(output), pytest.raises(ConfigError, match="out: another process writes into it"):
        run(trained, source, output)
    run(trained, source, output)
    assert not (output / "run.lock").exists()


def test_an_image_replaced_by_a_damaged_one(trained: Path, tmp_path: Path) -> None:
    """Its old mask, areas and objects are those of content that is gone."""
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(3):
        image(source / f"{i}.png", i)
    asked = {"overlay": True, "geojson": True, "coco": "rle"}
    run(trained, source, out, **asked)
    (source / "1.png").write_bytes(b"half of an image")
    for _ in range(2):
        with pytest.raises(DataError, match="1 of 3 were skipped"):
            run(trained, source, out, **asked)
        assert names_in(out / "areas.csv") == ["0", "2"]
        listed = json.loads((out / "coco.json").read_text())["images"]
        assert [entry["file_name"] for entry in listed] == ["0.png", "2.png"]
        assert sorted(path.name for path in out.iterdir() if path.name.startswith("1")) == []
    image(source / "1.png", 7)
    run(trained, source, out, **asked)
    assert names_in(out / "areas.csv") == ["0", "1", "2"]
    assert (out / "1_overlay.png").is_file()


def test_a_video_replaced_by_a_shorter_one(trained: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in/clip.avi", tmp_path / "out"
    for count, settings in ((6, {}), (3, {}), (5, {}), (2, {"overwrite": True})):
        run(trained, video(source, count), out, **settings)
        masks = [path.name for path in sorted((out / "clip").iterdir())]
        assert masks == [f"{i:06d}.png" for i in range(count)]
        assert len(names_in(out / "areas.csv")) == count


def test_a_video_beside_its_frames(trained: Path, tmp_path: Path) -> None:
    """clip.avi and clip/000001.png would write the same mask."""
    source = tmp_path / "in"
    video(source / "clip.avi", 2)
    image(source / "clip/000001.png")
    with pytest.raises(DataError, match=r"clip\.avi and 000001\.png would both write .* in .*clip"):
        run(trained, source, tmp_path / "out", recursive=True)
    assert not (tmp_path / "out").exists()
    (source / "clip/000001.png").rename(source / "clip/still.png")
    run(trained, source, tmp_path / "out", recursive=True)
    assert len(list((tmp_path / "out/clip").iterdir())) == 3


def test_a_video_that_ends_early(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = video(tmp_path / "clip.avi", 40)
    with caplog.at_level(logging.WARNING, logger="autosam"):
        assert len(list(frames_of(path))) == 40
        assert not caplog.messages
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        count = len(list(frames_of(path)))
    assert 0 < count < 30
    (said,) = caplog.messages
    assert f"clip.avi: {count} of about 40 frames could be decoded" in said


def test_names_that_differ_in_case_alone(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of Windows or macOS has one file for both."""
    source = tmp_path / "in"
    image(source / "A.png")
    image(source / "a.jpg", 1)
    folds = ignores_case(tmp_path)
    assert folds == (tmp_path / source.name.upper()).exists()
    if not folds:
        assert len(run(trained, source, tmp_path / "out")) == 2
    monkeypatch.setattr(autosam.inference.predict, "ignores_case", lambda folder: True)
    with pytest.raises(DataError, match=r"A\.png and a\.jpg would both write a\.png; rename one"):
        run(trained, source, tmp_path / "other")


def test_killed_and_an_image_replaced_meanwhile(trained: Path, tmp_path: Path) -> None:
    """What is done stays done, what was replaced is done again, and every mask is its image's."""
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(40):
        image(source / f"{i:02d}.png", i)
    command = [sys.executable, "-m", "autosam.predict", "--checkpoint", str(trained),
               "--input", str(source), "--output", str(out)]  # fmt: skip
    code = ("import sys, conftest as c, autosam.predict as p; c.SAMS['tiny'] = c.TINY; "
            "sys.argv = sys.argv[1:]; p.main()")  # fmt: skip
    command[1:3] = ["-c", code, "predict"]
    log = out / "predictions.jsonl"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (log.is_file() and log.read_text().count("\n") > 3):
        assert process.poll() is None, "ended by itself"
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    done = [json.loads(line)["name"] for line in log.read_text().splitlines()[1:]
            if line.endswith("}")]  # fmt: skip
    assert "00.png" in done
    shutil.copy(source / "39.png", source / "00.png")
    run(trained, source, out)
    predictor = autosam.load(trained)
    for i in range(40):
        mask = np.asarray(Image.open(out / f"{i:02d}.png"))
        assert np.array_equal(mask > 0, predictor(source / f"{i:02d}.png").masks[0]), i
    assert names_in(out / "areas.csv") == [f"{i:02d}" for i in range(40)]
    assert not list(out.glob("*.partial"))


def test_killed_while_a_very_large_image_is_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two of its files: the next call gives those of an unbroken one, and leaves nothing
    else."""
    rasterio, geopandas = pytest.importorskip("rasterio"), pytest.importorskip("geopandas")
    source = tmp_path / "a.tif"
    values = np.random.default_rng(0).integers(1, 90, (3, 90, 130), dtype=np.uint8)
    values[:, 20:50, 30:100] += 140
    place = rasterio.Affine(0.2, 0, 500_000, 0, -0.2, 5_400_000)
    settings = {"driver": "GTiff", "height": 90, "width": 130, "count": 3, "dtype": "uint8"}
    with rasterio.open(source, "w", crs="EPSG:25832", transform=place, **settings) as file:
        file.write(values)
    asked = {"geotiff": True, "geopackage": True, "geojson": True, "tile": 60}
    code = (
        "import os, conftest as c, autosam.predict as p, autosam.inference.writers as w; "
        "from autosam.config.commands import PredictConfig; c.SAMS['tiny'] = c.TINY; "
        "w.MAX_LOGITS, move = 10, os.replace; "
        "os.replace = lambda a, b: os._exit(9) if str(b).endswith('.gpkg') else move(a, b); "
        f"p.predict(PredictConfig({str(trained)!r}, {str(source)!r}, {str(tmp_path / 'out')!r}, "
        f"**{asked}))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert killed.returncode == 9
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"a.gpkg.partial", ".autosam-a.png"} <= left
    monkeypatch.setattr("autosam.inference.writers.MAX_LOGITS", 10)
    for folder in ("out", "whole"):
        run(trained, source, tmp_path / folder, **asked)
    files = sorted((tmp_path / "whole").iterdir())
    assert [path.name for path in files] == sorted(p.name for p in (tmp_path / "out").iterdir())
    for path in files:
        again = tmp_path / "out" / path.name
        if path.suffix == ".gpkg":  # holds the time at which it was written
            assert len(geopandas.read_file(path)) > 0
            assert geopandas.read_file(path).equals(geopandas.read_file(again))
        else:
            assert path.read_bytes() == again.read_bytes(), path.name
