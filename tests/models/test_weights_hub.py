"""Weights files of the Hugging Face hub: fetched by `huggingface_hub` from a local server that
behaves like the hub, and every way in which that fails."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import IO, Any

import pytest
from huggingface_hub import constants, hf_hub_download

from autosam.errors import CheckpointError
from autosam.models.sam import SAMS
from autosam.models.sam.weights import locate as files
from autosam.models.sam.weights.hub import hub_file

NAME = "sam_tiny.pth"
SOURCE = "https://huggingface.co/owner/sam/resolve/main/model.pth"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """A hub with one file, which it redirects to on another host, as the real one does."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.digest = hashlib.sha256(content).hexdigest()
        self.status = 302
        self.error = ""
        """The X-Error-Code of a refusal."""
        self.cuts: list[int] = []
        """After how many bytes the next answers break off."""
        self.asked: list[str] = []
        """Method, path and Range of each request."""
        self.tokens: list[tuple[str, str | None]] = []
        """Path and Authorization of each request."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, path, span = self.server, self.path.split("?")[0], self.headers.get("Range", "")
        if path.startswith("/api/agent"):  # the library's own
            self.send_error(404)
            return
        hub.asked.append(f"{self.command} {path} {span}".strip())
        hub.tokens.append((path, self.headers.get("Authorization")))
        if path == "/owner/sam/resolve/main/model.pth":
            self.send_response(hub.status)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Size", str(len(hub.content)))
            self.send_header("X-Linked-ETag", f'"{hub.digest}"')
            self.send_header("ETag", '"of the pointer"')
            if hub.status == 302:
                self.send_header("Location", f"http://localhost:{hub.server_port}/cdn?signature=1")
            if hub.error:
                self.send_header("X-Error-Code", hub.error)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        total = len(hub.content)
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("ETag", f'"{hub.digest}"')
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        end = start + hub.cuts.pop(0) if hub.cuts else total
        if self.command == "GET":
            self.wfile.write(hub.content[start:end])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serves the tiny SAM's file at $HF_ENDPOINT; the hub's own cache is empty."""
    hub = Hub(tiny_file.read_bytes())
    thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.delenv("AUTOSAM_MIRROR")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.address + "/")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    register(monkeypatch)
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


def register(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Say that the tiny SAM lies on the hub."""
    spec = dataclasses.replace(SAMS["tiny"], file=NAME, source=SOURCE, **fields)
    monkeypatch.setitem(SAMS, "tiny", spec)


def left() -> set[str]:
    """Everything in the cache folder but the lock."""
    return {p.name for p in files.cache_folder().iterdir() if p.suffix != ".lock"}


def test_which_files_lie_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOSAM_MIRROR")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    on_hub = {name for name, spec in SAMS.items() if hub_file(spec.source)}
    assert on_hub == {
        name for name in SAMS if name.startswith(("sam-", "sam2", "sam3", "sam_hq"))
    } | {"mobile_sam"}
    address = "https://mirror.example/facebook/sam-vit-base/resolve/main/model.safetensors"
    assert files.address(SAMS["sam-vit-base"]) == address
    assert files.address(SAMS["vit_b"]).startswith("https://dl.fbaipublicfiles.com/")
    monkeypatch.setenv("AUTOSAM_MIRROR", "https://own.example/")
    assert files.address(SAMS["sam-vit-base"]) == "https://own.example/sam-vit-base.safetensors"


def test_it_is_downloaded_once_from_the_endpoint(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, sha256=hub.digest)
    path = files.fetch("tiny")
    assert path == files.cache_folder() / NAME
    assert path.read_bytes() == hub.content
    assert left() == {NAME, f"{NAME}.sha256"}
    assert not (path.parent.parent / "hub").exists()  # not a second copy
    heads = [asked for asked in hub.asked if asked.startswith("HEAD")]
    assert {*heads} == {"HEAD /owner/sam/resolve/main/model.pth"}
    assert [asked for asked in hub.asked if asked not in heads] == ["GET /cdn"]
    before = len(hub.asked)
    assert files.fetch("tiny") == path
    assert len(hub.asked) == before


def test_the_token_goes_to_the_hub_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    files.fetch("tiny")
    assert {*hub.tokens} == {
        ("/owner/sam/resolve/main/model.pth", "Bearer hf_secret"),
        ("/cdn", None),
    }


def test_a_transfer_that_breaks_off_is_continued(hub: Hub, monkeypatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # else 10 MB
    hub.cuts = [100_000, 50_000]
    assert files.fetch("tiny").read_bytes() == hub.content
    gets = [asked for asked in hub.asked if asked.startswith("GET")]
    assert gets == ["GET /cdn", "GET /cdn bytes=100000-", "GET /cdn bytes=150000-"]


def test_what_the_hubs_cache_holds_is_copied(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(hf_hub_download("owner/sam", "model.pth", endpoint=hub.address))
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert files.fetch("tiny").read_bytes() == hub.content
    assert len(hub.asked) == asked
    shutil.rmtree(files.cache_folder())
    copy.resolve().write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        files.fetch("tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert files.fetch("tiny").read_bytes() == hub.content


def test_a_name_that_no_repository_can_have(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SOURCE.replace("owner", "..")
    monkeypatch.setitem(SAMS, "tiny", dataclasses.replace(SAMS["tiny"], source=source))
    expect_failure(f"{hub.address}/../sam", "Repo id")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (401, "RepoNotFound", r"no accessible repository of that name \(HTTP 401: .*HF_TOKEN\)"),
        (403, "GatedRepo", r"HTTP 403: .*gives owner/sam .*accepted its terms.*HF_TOKEN"),
        (404, "RepoNotFound", "the hub has no accessible repository of that name"),
        (404, "EntryNotFound", "HTTP 404: owner/sam has no file model.pth"),
        (503, "", "the hub answers HTTP 503"),
    ],
)
def test_a_refusal_says_what_to_do(hub: Hub, status: int, code: str, reason: str) -> None:
    hub.status, hub.error = status, code
    expect_failure(f"{hub.address}/owner/sam/resolve/main/model.pth", reason)


def test_a_gated_file_names_its_licence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SAMS["sam3"].licence == "SAM License"
    register(monkeypatch, licence="SAM License")
    hub.status, hub.error = 401, "GatedRepo"  # as the hub answers without a token
    expect_failure("SAM License", "accepted its terms: accept them on its page, then set HF_TOKEN")


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    expect_failure("http://127.0.0.1:9/owner/sam", "the hub cannot be reached: .*refused")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    expect_failure("http://127.0.0.1:9/owner/sam", "HF_HUB_OFFLINE is set")
    assert hub.asked == []


def test_a_transfer_that_keeps_breaking_off(hub: Hub) -> None:
    hub.cuts = [1000, *[0] * 20]
    expect_failure(hub.address, "(peer closed connection|Consistency check|incomplete)")
    hub.cuts = []
    assert files.fetch("tiny").read_bytes() == hub.content
    assert left() == {NAME, f"{NAME}.sha256"}


def expect_failure(address: str, reason: str) -> None:
    """Fetching fails, with the file, the address, the reason and every remedy in the message."""
    with pytest.raises(CheckpointError, match=reason) as error:
        files.fetch("tiny")
    parts = (address, f"weights file {NAME}", "Run the same again, or", "--sam_checkpoint FILE",
             "autosam weights add tiny FILE", "--sam lite")  # fmt: skip
    for part in parts:
        assert part in str(error.value)
    assert not (files.cache_folder() / NAME).exists()


def test_another_file_is_refused_and_deleted(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, sha256="f" * 64)
    reason = f"SHA-256 is {hub.digest}, but according to its source that of tiny is {'f' * 64}"
    with pytest.raises(CheckpointError, match=reason) as error:
        files.fetch("tiny")
    assert re.search(r"was deleted\..*Try another HF_ENDPOINT, or", str(error.value), re.DOTALL)
    assert left() == set()


def test_a_full_disk(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(url: str, temp_file: IO[bytes], **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(CheckpointError, match=r"No space left.*AUTOSAM_CACHE"):
        files.fetch("tiny")
    assert not (files.cache_folder() / NAME).exists()


def test_a_folder_that_cannot_be_made(hub: Hub) -> None:
    files.cache_folder().write_text("a file is in the way")
    with pytest.raises(CheckpointError, match=r"cannot be written.*AUTOSAM_CACHE"):
        files.fetch("tiny")
