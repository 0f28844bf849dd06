"""`predict` on files, folders, patterns and videos: outputs, skipped files, errors."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

import autosam
from autosam.config import ClassConfig, DataConfig
from autosam.config.commands import PredictConfig
from autosam.data.images import read_image
from autosam.errors import ConfigError, DataError, StorageError
from autosam.inference import predictor, writers
from autosam.inference.formats import geojson
from autosam.inference.objects import objects_of, rows_of
from autosam.inference.polygons import rings_of
from autosam.inference.predict import WRITERS, side_by_side
from autosam.inference.predictor import Prediction
from autosam.inference.progress import ProgressLog
from autosam.inference.sources import Source, find_sources, frames_of
from autosam.inference.writers import write_image
from autosam.predict import predict
from autosam.utils.io import not_written


def run(trained: Path, source: Path | str, output: Path, **settings: Any) -> list[Path]:
    return predict(PredictConfig(str(trained), str(source), str(output), **settings))


@pytest.fixture
def images(trained: Path, tmp_path: Path) -> Path:
    """in/{a,b}.png and in/deep/er/c.png, of three sizes."""
    folder = tmp_path / "in"
    (folder / "deep/er").mkdir(parents=True)
    test = sorted((trained.parent / "data/test/images").iterdir())
    names = {"a.png": (40, 56), "b.png": (200, 33), "deep/er/c.png": (17, 400)}
    for path, (name, size) in zip(test, names.items(), strict=True):
        Image.open(path).resize(size[::-1]).save(folder / name)
    return folder


def area(ring: list[list[float]]) -> float:
    """By Gauss's formula."""
    x, y = np.array(ring).T
    return abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())) / 2


def test_everything_that_can_be_written(trained: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = {"overlay": True, "probabilities": True, "geojson": True, "coco": "rle"}
    written = run(trained, images, out, recursive=True, **asked)
    assert written == [out / "a.png", out / "b.png", out / "deep/er/c.png"]
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    ends = (".png", "_overlay.png", "_probability.png", ".geojson")
    assert names == {
        *(f"{stem}{end}" for stem in ("a", "b", "deep/er/c") for end in ends),
        "areas.csv", "coco.json", "predictions.jsonl",
    }  # fmt: skip
    with open(out / "areas.csv") as file:
        table = {row["file"]: row for row in csv.DictReader(file)}
    content = json.loads((out / "coco.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "1"}]
    sizes = {i["file_name"]: (i["height"], i["width"], i["id"]) for i in content["images"]}
    predictor = autosam.load(trained)
    for stem, size in {"a": (40, 56), "b": (200, 33), "deep/er/c": (17, 400)}.items():
        found = predictor(images / f"{stem}.png")
        mask = found.masks[0]
        assert mask.shape == size
        assert np.array_equal(np.asarray(Image.open(out / f"{stem}.png")), mask * 255)
        values = cv2.imread(str(out / f"{stem}_probability.png"), cv2.IMREAD_UNCHANGED)
        assert values.dtype == np.uint16
        assert np.abs(values / 65535 - found.probabilities[0]).max() < 1e-4
        assert Image.open(out / f"{stem}_overlay.png").size == size[::-1]
        row = table[stem]
        assert int(row["pixels"]) == mask.sum()
        assert float(row["share"]) == pytest.approx(mask.mean(), abs=1e-5)
        # Nothing found has no score; what so few steps teach is not the same on every processor.
        drawn_any = bool(mask.any())
        assert (row["score"] != "") == drawn_any
        if drawn_any:
            assert float(row["score"]) == pytest.approx(found.score, abs=1e-3)
        features = json.loads((out / f"{stem}.geojson").read_text())["features"]
        assert len(features) == int(row["objects"])
        assert bool(features) == drawn_any
        height, width, number = sizes[f"{stem}.png"]
        assert (height, width) == size
        own = [a for a in content["annotations"] if a["image_id"] == number]
        drawn = sum((coco.decode(a["segmentation"]).astype(int) for a in own), np.zeros(size, int))
        assert np.array_equal(drawn, mask)
        assert sum(a["area"] for a in own) == mask.sum()
    assert any(int(row["objects"]) for row in table.values())


def prediction(mask: np.ndarray) -> Prediction:
    likely = np.where(mask, 0.75, 0.25).astype(np.float32)[None]
    return Prediction(likely, mask[None], likely)


RING = np.zeros((6, 8), bool)
RING[1:5, 1:6] = True
RING[2:4, 2:5] = False
RING[5, 7] = True


def test_outlines_objects_and_areas_by_hand() -> None:
    found, data = prediction(RING), DataConfig(classes=[ClassConfig("cell")])
    assert rows_of("x", found, data) == [
        {"file": "x", "class": "cell", "pixels": 15, "share": 0.3125, "objects": 2, "score": 0.75}
    ]
    first, second = geojson(found, data)["features"]
    assert first["properties"] == {"class": "cell", "pixels": 14, "score": 0.75}
    outer, hole = first["geometry"]["coordinates"]
    assert sorted(map(tuple, outer[:-1])) == [(1, 1), (1, 5), (6, 1), (6, 5)]
    assert sorted(map(tuple, hole[:-1])) == [(2, 2), (2, 4), (5, 2), (5, 4)]
    assert outer[0] == outer[-1]
    assert sorted(map(tuple, second["geometry"]["coordinates"][0][:-1])) == [
        (7, 5), (7, 6), (8, 5), (8, 6),
    ]  # fmt: skip
    ring, dot = objects_of(found, rle=True)
    assert (ring["bbox"], ring["area"], ring["score"]) == ([1, 1, 5, 4], 14, 0.75)
    assert (dot["bbox"], dot["area"], dot["category_id"]) == ([7, 5, 1, 1], 1, 1)
    outline = objects_of(found, rle=False)[0]["segmentation"]
    assert len(outline) == 1
    assert len(outline[0]) == 8


def test_outlines_enclose_as_many_pixels_as_there_are() -> None:
    rng = np.random.default_rng(0)
    for sigma in (0.4, 1.0, 2.0) * 10:
        mask = cv2.GaussianBlur(rng.random((30, 40)), (0, 0), sigma) > 0.5
        count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
        for number in range(1, count):
            outer, *holes = rings_of(parts == number)
            assert area(outer) - sum(map(area, holes)) == (parts == number).sum()
            steps = np.diff(np.array(outer), axis=0) != 0
            assert (steps.sum(1) == 1).all()  # along edges, never across


def test_what_is_done_is_skipped(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(trained, images, out)
    table = (out / "areas.csv").read_text()
    before = (out / "a.png").stat().st_mtime_ns
    (out / "b.png").unlink()
    assert run(trained, images, out) == [out / "a.png", out / "b.png"]
    assert "1 of 2 are done already" in capsys.readouterr().out
    assert (out / "a.png").stat().st_mtime_ns == before
    assert (out / "b.png").exists()
    assert (out / "areas.csv").read_text() == table
    # What a killed call was writing is done again.
    head, first, second, *_ = (out / "predictions.jsonl").read_text().splitlines()
    (out / "predictions.jsonl").write_text(f"{head}\n{first}\n{second[:-9]}")
    run(trained, images, out)
    assert "1 of 2 are done already" in capsys.readouterr().out
    assert (out / "areas.csv").read_text() == table
    # What was not asked for before is not done yet.
    run(trained, images, out, coco="polygon")
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 2
    with pytest.raises(DataError, match="holds masks made with another flips and threshold"):
        run(trained, images, out, flips=True, threshold=0.6)
    with pytest.raises(DataError, match="holds masks made with another tile"):
        run(trained, images, out, tile=32)
    run(trained, images, out, overwrite=True, flips=True)
    assert (out / "a.png").stat().st_mtime_ns != before


def many(images: Path, count: int) -> list[str]:
    for i in range(count):
        Image.open(images / "a.png").rotate(30 * i).save(images / f"more{i}.png")
    return sorted(path.name for path in images.glob("*.png"))


@pytest.fixture
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a processor with two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_at_once")
def test_a_processor_computes_an_image_per_core(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two networks wait for each other, each with one thread; masks and their order are those of
    one after the other."""
    names, meet = many(images, 4), threading.Barrier(2, timeout=60)
    run(trained, images, tmp_path / "out")
    compute = predictor.predict_batch

    def watched(segmenter: Any, batch: Any) -> Any:
        meet.wait()
        assert torch.get_num_threads() == 1
        return compute(segmenter, batch)

    monkeypatch.setattr(predictor, "predict_batch", watched)
    run(trained, images, tmp_path / "side")
    _, *log = (tmp_path / "side/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in log] == names
    monkeypatch.setattr(predictor, "predict_batch", compute)
    monkeypatch.setattr("autosam.inference.predict.ON_CPU", 1)
    run(trained, images, tmp_path / "single")
    for name in names:
        found, single = (tmp_path / folder / name for folder in ("side", "single"))
        assert found.read_bytes() == single.read_bytes()


def test_a_predictor_in_two_threads_computes_one_image_at_a_time(
    trained: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, compute = threading.Lock(), predictor.predict_batch

    def watched(segmenter: Any, batch: Any) -> Any:
        assert network.acquire(blocking=False)
        time.sleep(0.02)
        found = compute(segmenter, batch)
        network.release()
        return found

    monkeypatch.setattr(predictor, "predict_batch", watched)
    many(images, 4)
    with ThreadPoolExecutor(3) as pool:
        assert len(list(pool.map(predictor.load(str(trained)), images.glob("*.png")))) == 6


@pytest.mark.usefixtures("two_at_once")
def test_no_two_large_images_are_in_memory(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(images, 3)
    running, most, write_image = [0], [], writers.WRITERS["image"]

    def watched(*args: Any) -> dict[str, Any]:
        running[0] += 1
        most.append(running[0])
        entry = write_image(*args)
        running[0] -= 1
        return entry

    monkeypatch.setitem(writers.WRITERS, "image", watched)
    with monkeypatch.context() as here:
        here.setattr("autosam.inference.predict.LARGE", 30 * 30)
        run(trained, images, tmp_path / "out")
    assert most == [1] * 5
    most.clear()  # two images of 40 x 56 pixels at a time, of a class: 28 bytes a pixel
    monkeypatch.setattr("autosam.inference.predict.free_bytes", lambda: 2 * 2 * 28 * 40 * 56 - 4)
    run(trained, images, tmp_path / "short of memory")
    assert most == [1] * 5


def test_one_image_that_takes_long_does_not_hold_up_the_others() -> None:
    finished, first = threading.Semaphore(0), threading.Event()

    def compute(number: int) -> int:
        if number == 0:
            assert first.wait(60)
        finished.release()
        return number

    calls = side_by_side(compute, range(4), count=2)  # type: ignore[type-var,arg-type]

    def wait_for_three() -> None:
        for _ in range(3):
            finished.acquire()
        first.set()

    threading.Thread(target=wait_for_three, daemon=True).start()
    assert [result() for _, result in calls] == [0, 1, 2, 3]


def test_after_an_error_no_image_that_waits_is_begun() -> None:
    begun, go = [], threading.Event()

    def compute(number: int) -> int:
        begun.append(number)
        if number == 0:
            raise ValueError
        assert go.wait(60)
        return number

    with pytest.raises(ValueError), contextlib.closing(side_by_side(compute, range(4), 2)) as calls:  # type: ignore[type-var,arg-type]  # noqa: PT011, PT012
        for _, result in calls:
            result()
    go.set()
    time.sleep(0.2)
    assert 3 not in begun


def test_a_file_that_cannot_be_read_does_not_stop_the_rest(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.jpg").write_bytes(b"no image")
    (images / "broken.mp4").write_bytes(b"no video")
    (images / "notes.txt").write_text("not looked at")
    with pytest.raises(DataError, match=r"2 of 4 were skipped \(see above\)"):
        run(trained, images, tmp_path / "out")
    said = capsys.readouterr().err
    assert "broken.jpg: cannot be read as an image" in said
    assert "broken.mp4: cannot be read as a video" in said
    assert (tmp_path / "out/a.png").is_file()
    assert (tmp_path / "out/b.png").is_file()


def test_a_full_disk_stops_it(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every further image would be computed for nothing. A link to nowhere is skipped."""
    for i in range(8):
        shutil.copy(next(images.glob("*.png")), tmp_path / f"in{i}.png")
    (tmp_path / "in.png").symlink_to(tmp_path / "nowhere.png")
    computed = []

    def full(source: Source, files: list[Path], *args: Any) -> dict[str, Any]:
        computed.append(source.name)
        if len(computed) > 2:
            raise not_written(files[0], OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        return write_image(source, files, *args)

    config = PredictConfig(str(trained), str(tmp_path), str(tmp_path / "out"))
    with monkeypatch.context() as patched:
        patched.setitem(WRITERS, "image", full)
        with pytest.raises(StorageError, match="No space left"):
            predict(config)
    assert len(computed) <= 5
    with pytest.raises(DataError, match="1 of 9 were skipped"):
        predict(config)
    assert len(list((tmp_path / "out").glob("*.png"))) == 8


@pytest.mark.parametrize("name", ["areas.csv", "coco.json"])
def test_tables_of_the_user_stay(trained: Path, images: Path, tmp_path: Path, name: str) -> None:
    """A data set's own coco.json, for example."""
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    config = PredictConfig(str(trained), str(images), str(out), coco="rle")
    with pytest.raises(DataError, match=rf"out/{name}: exists. .*--overwrite"):
        predict(config)
    assert (out / name).read_text() == "mine"
    predict(dataclasses.replace(config, overwrite=True))
    predict(config)
    assert (out / name).read_text() != "mine"


def test_a_log_that_cannot_be_written(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full is a disk without room."""
    made = ProgressLog.__init__

    def init(self: ProgressLog, *args: Any) -> None:
        made(self, *args)
        self.file = Path("/dev/full")

    monkeypatch.setattr(ProgressLog, "__init__", init)
    with pytest.raises(StorageError, match=r"/dev/full: cannot be written .No space left"):
        run(trained, images, tmp_path / "out")


def test_an_input_inside_the_output_is_said(images: Path) -> None:
    with pytest.raises(DataError, match=r"its 2 files lie in --output .*another --output"):
        find_sources(str(images), False, images.parent)


def test_patterns_and_folders(images: Path, tmp_path: Path) -> None:
    def names(where: Path | str, recursive: bool = False) -> list[str]:
        return [source.name for source in find_sources(str(where), recursive, tmp_path / "out")]

    assert names(images) == ["a", "b"]
    assert names(images, recursive=True) == ["a", "b", "deep/er/c"]
    assert names(f"{images}/*.png") == ["a", "b"]
    assert names(f"{images}/**/*.png") == ["a", "b", "deep/er/c"]
    assert names(f"{tmp_path}/*/deep/*/c.*") == ["in/deep/er/c"]
    assert names(images / "a.png") == ["a"]
    out = tmp_path / "out"
    out.mkdir()
    Image.new("L", (8, 8)).save(out / "mask.png")
    assert names(tmp_path, recursive=True) == ["in/a", "in/b", "in/deep/er/c"]
    with pytest.raises(DataError, match=r"holds no image .* --recursive true searches sub-folders"):
        names(images / "deep")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="not an image, a volume or a video by its extension"):
        names(tmp_path / "notes.txt")


@pytest.fixture
def video(trained: Path, tmp_path: Path) -> Path:
    """Ten frames: an image that fades into another."""
    first, last = (
        read_image(path).astype(float)
        for path in sorted((trained.parent / "data/test/images").iterdir())[:2]
    )
    path = tmp_path / "clip.mp4"
    size = (first.shape[1], first.shape[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, size)
    for share in np.linspace(0, 1, 10):
        frame = ((1 - share) * first + share * last).astype(np.uint8)
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def test_a_video_frame_by_frame(trained: Path, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(trained, video, out, overlay=True) == [out / "clip"]
    predictor = autosam.load(trained)
    frames = list(frames_of(video))
    assert len(frames) == 10
    for i, frame in enumerate(frames):
        mask = np.asarray(Image.open(out / f"clip/{i:06d}.png"))
        assert np.array_equal(mask > 0, predictor(frame).masks[0])
    assert len(list(frames_of(out / "clip_overlay.mp4"))) == 10
    with open(out / "areas.csv") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [
            f"clip frame {i}" for i in range(10)
        ]


def test_frames_are_smoothed(trained: Path, video: Path) -> None:
    predictor = autosam.load(trained)
    frames = list(frames_of(video))
    plain = [found.logits for found in predictor.stream(frames)]
    smooth = [found.logits for found in predictor.stream(frames, smooth=0.75)]
    assert np.array_equal(smooth[0], plain[0])
    assert np.allclose(smooth[1], 0.75 * plain[0] + 0.25 * plain[1], atol=1e-5)
    assert np.allclose(smooth[9], 0.75 * smooth[8] + 0.25 * plain[9], atol=1e-5)


def test_what_would_do_harm_is_refused(trained: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    out = tmp_path / "o"
    with pytest.raises(DataError, match=r"would both write a\.png"):
        run(trained, tmp_path, out)
    with pytest.raises(ConfigError, match="masks would replace images"):
        run(trained, tmp_path / "a.png", tmp_path)
    with pytest.raises(ConfigError, match="--input is needed"):
        run(trained, "", out)
    with pytest.raises(DataError, match="no such file or folder"):
        run(trained, tmp_path / "none", out)
    with pytest.raises(ConfigError, match=r"--smooth 1: must be below 1"):
        run(trained, tmp_path / "a.png", out, smooth=1.0)
    out.mkdir()
    (out / "a.png").write_bytes(b"somebody's")
    with pytest.raises(DataError, match=r"a\.png: exists"):
        run(trained, tmp_path / "a.png", out)
    assert (out / "a.png").read_bytes() == b"somebody's"
