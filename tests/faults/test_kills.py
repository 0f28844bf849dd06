"""kill -9 at random moments of everything that takes long, and again, until it is through.

A few kills in the ordinary suite; the long form: AUTOSAM_KILLS=200 python -m pytest tests/faults
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import yaml
from helpers import TINY, draw, draw_folders, tiny_config

from autosam.config import Config
from autosam.config.commands import PredictConfig
from autosam.data.embedding_store import META, Store
from autosam.models import checkpoint
from autosam.models.sam import SAMS
from autosam.models.sam.weights import locate as files
from autosam.predict import predict
from autosam.train import train
from autosam.training import resume

KILLS = int(os.environ.get("AUTOSAM_KILLS", "3"))
"""Of each kind of work."""
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["autosam.training.fit", "autosam.inference.predict"])


def work_on_training(tiny_file: Path, data: Path, folder: Path, cache: Path) -> None:
    """Caches of embeddings, epochs, states after every step, scores: what preemptible.sh does."""
    torch.set_num_threads(1)
    SAMS["tiny"] = TINY
    if resume.files(folder):
        train(Config(resume=str(folder)))
        return
    train(
        tiny_config(
            tiny_file, f"--data.root={data}", f"--output={folder}", "--overwrite=true",
            "--train.epochs=3", "--train.batch_size=2", "--train.save_minutes=0",
            "--cache.copies=2", f"--cache.dir={cache}",
        )
    )  # fmt: skip


def work_on_predictions(run: Path, images: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    SAMS["tiny"] = TINY
    predict(PredictConfig(checkpoint=str(run), input=str(images), output=str(folder),
                          overlay=True, coco="polygon"))  # fmt: skip


def work_on_a_download(address: str, cache: Path) -> None:
    os.environ["AUTOSAM_CACHE"] = str(cache)
    os.environ.pop("AUTOSAM_MIRROR", None)
    SAMS["tiny"] = dataclasses.replace(TINY, file="sam_tiny.pth", source=address)
    files.fetch("tiny")


def through(work: Callable[..., None], *args: Any, seconds: float | None = None) -> bool:
    """Whether a process came to the end of `work` before it was killed."""
    process = PROCESSES.Process(target=work, args=args)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    assert process.exitcode == 0, "it failed by itself"
    return True


def kill_again_and_again(
    work: Callable[..., None], places: Callable[[int], tuple[Any, ...]], check: Callable[..., None]
) -> None:
    """`KILLS` kills in all, over as many beginnings as it takes.

    Args:
        work: called with `places(round)`.
        places: arguments, other ones for each round; round 0 is not disturbed.
        check: called with the round's arguments and whether the work is done.
    """
    assert through(int)  # the server of forks has imported everything
    began = time.monotonic()
    assert through(work, *places(0))
    longest = time.monotonic() - began
    chance, kills, number = random.Random(0), 0, 0
    while kills < KILLS:
        number += 1
        args, done = places(number), False
        while not done:
            # Once enough were killed the last one may come to its end.
            limit = chance.uniform(0, longest) if kills < KILLS else None
            done = through(work, *args, seconds=limit)
            kills += not done
            check(args, done)


def test_training(tiny_file: Path, tmp_path: Path) -> None:
    data = draw_folders(tmp_path / "data")

    def places(number: int) -> tuple[Any, ...]:
        return tiny_file, data, tmp_path / f"run{number}", tmp_path / f"cache{number}"

    farthest: dict[Path, int] = {}

    def check(args: tuple[Any, ...], done: bool) -> None:
        _, _, folder, cache = args
        seen = assert_whole(folder)
        assert seen >= farthest.get(folder, 0), "something was lost"
        farthest[folder] = seen
        for meta in cache.glob(f"*/{META}"):
            facts = json.loads(meta.read_text())["facts"]
            count = facts["count"] * facts["views"]
            store = Store.open(meta.parent, facts, count)
            assert store is not None
            for record in set(range(count)) - set(store.missing()):
                store.get(record)
        if not done:
            return
        whole = tmp_path / "run0"
        for name in ("test_scores.csv", "metrics.jsonl"):
            ours, theirs = ((place / name).read_text() for place in (folder, whole))
            assert without_clock(ours) == without_clock(theirs)
        best = [checkpoint.read_trained(place / checkpoint.BEST) for place in (folder, whole)]
        assert best[0].keys() == best[1].keys()
        assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])
        assert not list(folder.rglob("*.partial"))
        shutil.rmtree(folder)
        shutil.rmtree(cache)

    kill_again_and_again(work_on_training, places, check)


def without_clock(text: str) -> list[Any]:
    if not text.startswith("{"):
        return text.splitlines()
    clock = ("train/images_per_second", "train/data_wait")
    return [
        {key: value for key, value in json.loads(line).items() if key not in clock}
        for line in text.splitlines()
    ]


def assert_whole(folder: Path) -> int:
    """No file of a run is damaged; how many images its newest state has seen."""
    if (folder / checkpoint.BEST).exists():
        checkpoint.read_trained(folder / checkpoint.BEST)
    for name in ("config.yaml", "scores.yaml"):
        if (folder / name).exists():
            assert yaml.safe_load((folder / name).read_text())
    for file in resume.files(folder):
        assert file.stem.endswith(hashlib.sha256(file.read_bytes()).hexdigest()[:16])
    if not resume.files(folder):
        return 0
    newest, _ = resume.load(folder)
    return newest["epoch"] * 6 + newest["sums"]["images"]


def test_predicting(tiny_file: Path, tmp_path: Path) -> None:
    data, run = draw_folders(tmp_path / "data"), tmp_path / "run"
    assert through(work_on_training, tiny_file, data, run, tmp_path / "cache")
    draw(tmp_path / "new", 30)

    def places(number: int) -> tuple[Any, ...]:
        return run, tmp_path / "new/images", tmp_path / f"masks{number}"

    def check(args: tuple[Any, ...], done: bool) -> None:
        if not done:
            return
        folder, whole = args[2], tmp_path / "masks0"
        names = sorted(path.name for path in whole.iterdir())
        assert sorted(path.name for path in folder.iterdir()) == names
        assert len(names) == 30 * 2 + 3
        for name in names:
            lines = (sorted((place / name).read_bytes().splitlines()) for place in (folder, whole))
            assert next(lines) == next(lines), name

    kill_again_and_again(work_on_predictions, places, check)


class Slowly(BaseHTTPRequestHandler):
    """Sends a file in small pieces, from wherever it is asked for."""

    content = b""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        total = len(self.content)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(total - start))
        self.send_header("ETag", '"one"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        for at in range(start, total, 1 << 14):
            try:
                self.wfile.write(self.content[at : min(at + (1 << 14), total)])
            except OSError:  # it was killed
                return
            time.sleep(0.02)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def address(tiny_file: Path) -> Iterator[str]:
    Slowly.content = tiny_file.read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slowly)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/sam_tiny.pth"
    server.shutdown()
    server.server_close()
    thread.join()


def test_downloading(address: str, tmp_path: Path) -> None:
    def places(number: int) -> tuple[Any, ...]:
        return address, tmp_path / f"cache{number}"

    def check(args: tuple[Any, ...], done: bool) -> None:
        file = args[1] / "sam_tiny.pth"
        assert file.is_file() >= done
        if file.is_file():  # never half a file under its name
            assert file.read_bytes() == Slowly.content

    kill_again_and_again(work_on_a_download, places, check)
