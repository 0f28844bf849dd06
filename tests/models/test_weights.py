"""Weights files: downloaded, resumed, refused, listed, verified, added, by local servers."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import multiprocessing
import os
import sys
from collections.abc import Iterator
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import URLError
from urllib.request import Request

import pytest
import torch
from helpers import TINY

from autosam import weights as verb
from autosam.errors import CheckpointError, ConfigError
from autosam.models.sam import SAMS, load_sam, sam_weights
from autosam.models.sam.weights import locate as files
from autosam.models.sam.weights import manage
from autosam.models.sam.weights.download import _Redirects
from autosam.utils.assets import asset_folder
from autosam.weights import weights

NAME = "sam_tiny.pth"


class Server(ThreadingHTTPServer):
    """Serves one file, with every fault that servers have."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.etag: str | None = '"one"'
        self.ranges = True
        """Answers Range requests with 206."""
        self.if_range = True
        """Respects If-Range, as it should."""
        self.cut: int | None = None
        """Closes the connection after so many bytes."""
        self.status = 200
        self.location: str | None = None
        self.asked: list[str | None] = []
        """The Range header of each request."""
        self.sent = 0
        """Bytes of all bodies."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{NAME}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        start, total = 0, len(server.content)
        fresh = server.if_range and self.headers.get("If-Range") not in (None, server.etag)
        if asked and server.ranges and not fresh:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        status = server.status
        if start and start >= total:
            status = 416
        elif start:
            status = 206
        body = server.content[start:] if status in (200, 206) else b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.location:
            self.send_header("Location", server.location)
        self.end_headers()
        body = body[: server.cut]
        self.wfile.write(body)
        server.sent += len(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves the tiny SAM's file. The registry has its address, without a hash."""
    server = Server(tiny_file.read_bytes())
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.delenv("AUTOSAM_MIRROR")
    register(monkeypatch, source=server.address)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def register(monkeypatch: pytest.MonkeyPatch, **fields: str) -> None:
    """Change the registry's entry of the tiny SAM."""
    spec = dataclasses.replace(SAMS["tiny"], file=NAME, **fields)
    monkeypatch.setitem(SAMS, "tiny", spec)


@pytest.fixture
def cached() -> Path:
    """The path of the downloaded file."""
    return files.cache_folder() / NAME


def left(cached: Path) -> set[str]:
    """Everything in the cache folder but the lock."""
    return {p.name for p in cached.parent.iterdir() if p.suffix != ".lock"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_first_use_downloads_and_the_second_does_not(server: Server, cached: Path) -> None:
    load_sam("tiny")
    assert cached.read_bytes() == server.content
    assert left(cached) == {NAME, f"{NAME}.sha256"}
    recorded = (cached.parent / f"{NAME}.sha256").read_text()
    assert recorded == f"{sha256(server.content)}  {NAME}\n"
    assert sam_weights("tiny") == cached
    assert server.asked == [None]


def test_an_interrupted_download_is_resumed(server: Server, cached: Path) -> None:
    whole = len(server.content)
    server.cut = 100_000
    with pytest.raises(CheckpointError, match=f"ended after 100000 of {whole} bytes.*same again"):
        files.fetch("tiny")
    assert left(cached) == {f"{NAME}.part", f"{NAME}.part.json"}
    with pytest.raises(CheckpointError, match=f"ended after 200000 of {whole} bytes"):
        files.fetch("tiny")
    server.cut = None
    assert files.fetch("tiny").read_bytes() == server.content
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]
    assert server.sent == whole
    assert left(cached) == {NAME, f"{NAME}.sha256"}


def test_a_complete_partial_download_is_not_requested_again(server: Server, cached: Path) -> None:
    server.cut = 1000
    with pytest.raises(CheckpointError):
        files.fetch("tiny")
    (cached.parent / f"{NAME}.part").write_bytes(server.content)
    assert files.fetch("tiny").read_bytes() == server.content
    assert server.sent == 1000


@pytest.mark.parametrize("case", ["no ranges", "etag", "if-range ignored", "length", "416"])
def test_a_partial_download_is_not_joined_to_another_file(
    server: Server, cached: Path, case: str
) -> None:
    """The partial download is of an older file, which the server shows in different ways."""
    right = server.content
    server.content = bytes(2 * len(right) if case == "416" else len(right))
    server.cut = cut = len(right) + 1000 if case == "416" else 100_000
    if case in ("length", "416"):
        server.etag = None
    if case == "length":
        server.content += b"1"
    with pytest.raises(CheckpointError, match="ended after"):
        files.fetch("tiny")
    server.content, server.cut = right, None
    server.ranges = case != "no ranges"
    server.if_range = case != "if-range ignored"
    if server.etag:
        server.etag = '"two"'
    assert files.fetch("tiny").read_bytes() == right
    assert server.asked[1] == f"bytes={cut}-"
    assert len(server.asked) == (2 if case in ("no ranges", "etag") else 3)


class Trap:
    """Pickles into a call of os.mkdir."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("html", "it is an HTML page: the download failed"),
        ("html with a stated hash", "its source that of tiny is .*: it is an HTML page"),
        ("flipped byte", "SHA-256 is .* it is damaged, or another file"),
        ("code", r"holds a pickled object \(posix.mkdir\), which could run code and is never"),
        ("another network", "1 unexpected: weight"),
        ("empty", "it is empty"),
    ],
)
def test_what_is_not_the_file_is_refused_and_deleted(
    server: Server,
    cached: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    message: str,
) -> None:
    if case in ("html with a stated hash", "flipped byte"):
        register(monkeypatch, sha256=sha256(server.content))
    flipped = bytearray(server.content)
    flipped[len(flipped) // 2] ^= 1
    server.content = {
        "flipped byte": bytes(flipped),
        "code": saved({"model": Trap(tmp_path / "owned")}),
        "another network": saved({"weight": torch.zeros(3)}),
        "empty": b"",
    }.get(case, b"<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(CheckpointError, match=message) as error:
        sam_weights("tiny")
    assert f"{server.address} is not its weights file and was deleted" in str(error.value)
    assert left(cached) == set()
    assert not (tmp_path / "owned").exists()


def test_the_beginning_of_a_hash_is_enough(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, sha256=sha256(server.content)[:6])
    assert files.fetch("tiny").is_file()


def test_a_hash_that_was_recorded_once_holds_for_later_downloads(
    server: Server, cached: Path, tiny_file: Path
) -> None:
    files.fetch("tiny").unlink()
    state = torch.load(tiny_file, weights_only=True)
    state["mask_decoder.iou_token.weight"] += 1
    server.content = saved(state)
    with pytest.raises(
        CheckpointError, match=r"according to .*sam_tiny\.pth\.sha256 that of tiny is"
    ):
        files.fetch("tiny")
    assert not cached.exists()


@pytest.mark.parametrize("case", ["404", "closed port", "redirect to file:", "redirect to ftp:"])
def test_a_failed_download_says_what_to_do(
    server: Server, cached: Path, monkeypatch: pytest.MonkeyPatch, tiny_file: Path, case: str
) -> None:
    source, reason = server.address, "HTTP 404"
    if case == "404":
        server.status = 404
    elif case == "closed port":
        source, reason = f"http://127.0.0.1:9/{NAME}", "refused"
        register(monkeypatch, source=source)
    else:
        server.status, server.location = 302, case.split()[-1] + f"//{tiny_file}"
        reason = server.location
    with pytest.raises(CheckpointError) as error:
        sam_weights("tiny")
    text = str(error.value)
    advice = ("--sam_checkpoint FILE", "autosam weights add tiny FILE", "--sam lite")
    for part in (NAME, source, reason, str(cached.parent), *advice):
        assert part in text
    assert left(cached) == set()


def test_redirects_go_to_the_web_and_never_down_from_https(server: Server) -> None:
    def redirect(old: str, new: str) -> str:
        request = _Redirects().redirect_request(
            Request(old), io.BytesIO(), 302, "Found", HTTPMessage(), new
        )
        assert request is not None
        return request.full_url

    assert redirect("https://a/x", "https://b/x") == "https://b/x"
    assert redirect("http://a/x", "https://b/x") == "https://b/x"
    assert redirect("http://a/x", "http://b/x") == "http://b/x"
    for old, new in (("https://a/x", "http://a/x"), ("http://a/x", "ftp://a/x")):
        with pytest.raises(URLError, match="not followed"):
            redirect(old, new)
    server.status, server.location = 302, server.address + "?again"
    with pytest.raises(CheckpointError, match="HTTP 302"):  # forever
        files.fetch("tiny")


@pytest.mark.parametrize("source", ["file:///etc/passwd", "ftp://a/b", "shipped", ""])
def test_only_the_web_is_downloaded_from(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.delenv("AUTOSAM_MIRROR")
    register(monkeypatch, source=source)
    with pytest.raises(CheckpointError, match=r"no http address .*--sam_checkpoint FILE"):
        files.fetch("tiny")


def test_a_mirror_stands_in_for_every_source(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, source="https://elsewhere.invalid/dir/model.bin")
    monkeypatch.setenv("AUTOSAM_MIRROR", server.address.removesuffix(NAME))
    assert files.fetch("tiny").read_bytes() == server.content
    assert files.address(SAMS["vit_b"]).endswith(f"{server.server_port}/sam_vit_b_01ec64.pth")


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert files.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("AUTOSAM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder() == tmp_path / "xdg" / "autosam"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, so to be ignored")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / ".cache" / "autosam"


def test_two_processes_download_once(server: Server, cached: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=files.fetch, args=("tiny",)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert cached.read_bytes() == server.content
    assert server.asked == [None]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk(server: Server, cached: Path) -> None:
    cached.parent.mkdir()
    (cached.parent / f"{NAME}.part").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"No space left.*AUTOSAM_CACHE"):
        files.fetch("tiny")
    assert not cached.exists()


def test_a_folder_that_cannot_be_made(server: Server, cached: Path) -> None:
    cached.parent.write_text("a file is in the way")
    with pytest.raises(CheckpointError, match=r"cannot be written.*AUTOSAM_CACHE"):
        files.fetch("tiny")


def test_get_and_list(
    server: Server, cached: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setitem(SAMS, "tiny", dataclasses.replace(SAMS["tiny"], licence="MIT"))
    weights()
    rows = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines()
            if "│" in line}  # fmt: skip
    assert rows.keys() == SAMS.keys()
    assert "shipped" in rows["lite"]
    assert "not downloaded" in rows["tiny"]
    assert [cell.strip() for cell in rows["vit_b"].split("│")[2:-1]] == [
        "ViT-B", "375", "not downloaded", "Apache-2.0",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="vit_x: unknown"):
        weights("get", "tiny", "vit_x")
    assert server.asked == []
    weights("get", "tiny", "lite")
    assert f"tiny: {cached}\nlite: " in capsys.readouterr().out
    weights("list")
    out = capsys.readouterr().out
    assert str(cached) in next(line for line in out.splitlines() if "│ tiny " in line)
    assert str(cached.parent) in out


def test_verify(
    server: Server, cached: Path, tiny_file: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    digest = sha256(server.content)
    weights("verify", tiny_file)
    out = capsys.readouterr().out
    assert f"SHA-256  {digest}" in out
    assert "SAM      tiny\n" in out
    assert "hash     none is stated or recorded" in out
    assert f"tensors  all {len(TINY.build(TINY).state_dict())} fit" in out

    weights("get", "tiny")
    weights("verify", cached)
    assert "hash     as recorded next to the file" in capsys.readouterr().out
    register(monkeypatch, sha256=digest[:6])
    weights("verify", cached, sam="tiny")
    assert f"hash     starts with {digest[:6]} and as recorded" in capsys.readouterr().out
    renamed = tmp_path / "renamed.pt"  # told by its hash alone
    renamed.write_bytes(server.content)
    weights("verify", renamed)
    assert "SAM      tiny\n" in capsys.readouterr().out

    content = bytearray(server.content)
    content[len(content) // 2] ^= 1
    cached.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged, or another file"):
        weights("verify", cached)
    with pytest.raises(CheckpointError, match="that of vit_b starts with 01ec64"):
        weights("verify", tiny_file, sam="vit_b")
    with pytest.raises(CheckpointError, match=r"(?s)renamed.*does not fit SAM mobile_sam|SHA-256"):
        weights("verify", renamed, sam="mobile_sam")
    with pytest.raises(ConfigError, match="vit_x: unknown"):
        weights("verify", tiny_file, sam="vit_x")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"other\.pth: not the .* of a known SAM.*\(under weight\)"
    ):
        weights("verify", tmp_path / "other.pth")
    weights("verify", SAMS["lite"].file and files.find("lite"))
    assert "SAM      lite\n" in capsys.readouterr().out


def test_a_damaged_file_is_not_taken_for_another_sam_of_the_same_shape(monkeypatch) -> None:
    monkeypatch.setitem(SAMS, "medsam", dataclasses.replace(SAMS["medsam"], sha256=""))
    fitting, other = ("vit_b", "medsam"), "f" * 64
    assert manage.candidates(Path("sam_vit_b_01ec64.pth"), other, fitting) == ["vit_b", "medsam"]
    assert manage.candidates(Path("x.pth"), other, fitting) == ["medsam", "vit_b"]
    assert manage.candidates(Path("x.pth"), "01ec64" + other[6:], fitting) == ["vit_b"]


def test_add(server: Server, cached: Path, tiny_file: Path, tmp_path: Path, capsys) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: does not fit SAM tiny"):
        weights("add", "tiny", tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        weights("add", "tiny", tmp_path / "none.pth")
    assert not cached.parent.exists()
    weights("add", "tiny", tiny_file)
    assert capsys.readouterr().out == f"tiny: {cached}\n"
    assert left(cached) == {NAME, f"{NAME}.sha256"}
    assert sam_weights("tiny") == cached
    assert cached.read_bytes() == tiny_file.read_bytes()
    assert server.asked == []
    with pytest.raises(CheckpointError, match="pass another as --sam_checkpoint"):
        weights("add", "lite", tiny_file)


def test_the_command_ends_with_2_and_one_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "x.pth").write_text("<html>404</html>")
    for words, message in (
        (["verify", str(tmp_path / "x.pth")], "error: " + str(tmp_path / "x.pth") + ": not a"),
        (["get", "vit_b"], "error: --sam vit_b needs its weights file sam_vit_b_01ec64.pth"),
        (["get"], "usage: autosam weights get"),
        (["add", "vit_b"], "usage: autosam weights add"),
        (["frobnicate"], "error: autosam weights frobnicate: unknown action. Choose one of"),
        (["lits"], "Choose one of list, get, verify, add. Did you mean list?"),
    ):
        monkeypatch.setattr(sys, "argv", ["autosam weights", *words])
        with pytest.raises(SystemExit) as stop:
            verb.main()
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="Choose one of list, get, verify, add"):
        weights("frobnicate")


def test_the_table_of_weights_is_the_registry() -> None:
    folder = asset_folder("weights")
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if "| `" in line]
    rows = [row for row in rows if len(row) == 7]
    assert [row[0] for row in rows] == [name for name in SAMS if name != "tiny"]
    for name, architecture, file, megabytes, source, digest, licence in rows:
        spec = SAMS[name]
        assert (architecture, file, licence) == (spec.architecture, spec.file, spec.licence)
        assert source.startswith(spec.source)
        if name == "lite":
            content = (folder / file).read_bytes()
            assert (digest, megabytes) == (sha256(content), f"{len(content) / 1e6:.0f}")
        else:
            assert digest.removeprefix("starts `") == (spec.sha256 or "not stated")
            assert megabytes == f"{spec.megabytes:.0f}"
