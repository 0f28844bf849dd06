"""The hub is asked once, and only for names that cannot be paths; offline fails at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from autosam.utils import hub
from autosam.utils.paths import is_hub_name

TRY = """
import json, sys, time
from pathlib import Path
from autosam.models import checkpoint
from autosam.config import DataConfig
from autosam.data.layouts import load_pairs
from autosam.errors import AutosamError
from autosam.models.backbones.timm import Backbone

Path("runs/mine").mkdir(parents=True)
found = []
for what in (
    lambda: checkpoint.find("runs/mien"),
    lambda: checkpoint.find("./nobody/mien"),
    lambda: checkpoint.find("nobody/mien.safetensors"),
    lambda: checkpoint.find(Path("nobody/mien")),
    lambda: load_pairs(DataConfig(layout="huggingface", root="runs/elwha")),
    lambda: checkpoint.find("nobody/nothing"),
    lambda: Backbone("resnet26d", "auto", 64),
    lambda: load_pairs(DataConfig(layout="huggingface", root="nobody/elwha")),
    lambda: load_pairs(DataConfig(layout="huggingface", root="elwha")),
):
    started = time.perf_counter()
    try:
        what()
    except AutosamError as error:
        found.append([str(error), time.perf_counter() - started])
print(json.dumps(found))
"""
PATHS, NAMES = 5, 4
"""How many of those are paths, and how many could be names on the hub."""


class Answer(BaseHTTPRequestHandler):
    """Answers every question with one status."""

    status = 404
    asked: list[str]

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    do_GET = do_POST = do_HEAD

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(params=[404, 503])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str], int]]:
    """An address, what was asked of it, and what it answers."""
    asked: list[str] = []
    handler = type("Answering", (Answer,), {"asked": asked, "status": request.param})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}", asked, request.param
        serving.shutdown()


def tried(folder: Path, endpoint: str) -> list[tuple[str, float]]:
    """Errors and seconds of each of `TRY`, with a hub at an address."""
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0",
           "PYTHONPATH": str(Path(hub.__file__).parents[2]), "no_proxy": "*"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", TRY], cwd=folder, env=os.environ | own, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == PATHS + NAMES, found
    return found


def test_the_hub_is_asked_once_for_names_and_never_for_paths(
    server: tuple[str, list[str], int], tmp_path: Path
) -> None:
    address, asked, status = server
    found = tried(tmp_path, address)
    assert "Did you mean runs/mine?" in found[0][0]
    asked = [path for path in asked if not path.startswith("/api/agent")]  # the library's own
    assert len(asked) == NAMES, asked
    assert not any("runs" in path or "mien" in path for path in asked), asked
    words = "no accessible repository of that name" if status == 404 else "the hub answers HTTP 503"
    assert all(words in message for message, _ in found[PATHS:]), found
    print([round(seconds, 2) for _, seconds in found])


def test_without_a_network_every_name_fails_at_once(tmp_path: Path) -> None:
    found = tried(tmp_path, "http://127.0.0.1:9")  # nobody listens there
    assert all("the hub cannot be reached" in message for message, _ in found[PATHS:]), found
    print([round(seconds, 2) for _, seconds in found])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("owner/name", True), ("o-w/n.1_x", True), ("name", False), ("a/b/c", False), ("./a/b", False),
     ("../a", False), ("~/a", False), ("/a/b", False), ("a/", False), ("C:\\a\\b", False),
     ("a\\b", False), ("a/b.safetensors", False), ("a/b.PTH", False), ("ä/b", False),
     (".hidden/a", False), ("here/name", False), ("", False), ("a b/c", False)],
)  # fmt: skip
def test_what_may_be_a_name(
    text: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert is_hub_name(text) is expected
