"""Download one file over http(s), and resume an interrupted download of the same file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

TIMEOUT = 30.0
"""Seconds without data after which a transfer fails."""
BLOCK = 1 << 16
"""Bytes read at a time."""


def metadata_of(part: Path) -> Path:
    """The JSON file beside a partial download: its address, validator and full length in bytes."""
    return part.with_name(part.name + ".json")


def download(address: str, part: Path, title: str) -> None:
    """Download `address` into `part`, from the end of `part` on if the file is still the same.

    On an error `part` is kept, and the next call resumes it.

    Args:
        address: http or https.
        part: the partial download. Its folder exists, and no other process writes to it.
        title: shown on the progress bar.

    Raises:
        URLError: the transfer failed; see `transfer_error`.
        OSError: `part` cannot be written.
    """
    note = _read_note(part, address)
    start = part.stat().st_size if note else 0
    if start and start == note["length"]:
        return  # complete, but the program ended before it was renamed
    with _open(address, start, note) as response:
        if response.status != 206:
            start = 0
            note = {
                "address": address,
                "validator": _validator(response.headers),
                "length": response.length,
            }
        elif not start:
            raise URLError("HTTP 206 (partial content) to a request for the whole file")
        elif not _continues(response.headers, start, note):
            metadata_of(part).unlink()
            response.close()
            return download(address, part, title)
        total = note["length"] or (start + response.length if response.length else None)
        bar = Progress(
            "{task.description}",
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        with open(part, "ab" if start else "wb") as file, bar:
            # After the file was truncated: the note must not describe the content of another file.
            metadata_of(part).write_text(json.dumps(note), encoding="utf-8")
            task = bar.add_task(title, total=total, completed=start)
            for block in _blocks(response):
                file.write(block)
                bar.advance(task, len(block))
    size = part.stat().st_size
    if total is not None and size != total:
        raise URLError(f"the connection ended after {size} of {total} bytes")


def transfer_error(error: Exception) -> str:
    """The reason why a transfer failed, as text."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(error.reason if isinstance(error, URLError) else error)


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to http and https, but not from https to http."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if newurl.split(":")[0].lower() not in ("https", req.type):
            raise URLError(f"it redirects to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(address: str, start: int, note: dict[str, Any]) -> HTTPResponse:
    """The response to a request for the bytes from `start` on."""
    if urlsplit(address).scheme not in ("http", "https"):
        raise URLError("not an http(s) address")
    headers = {"User-Agent": "autosam"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if note["validator"]:
            headers["If-Range"] = note["validator"]
    try:
        return build_opener(_Redirects).open(Request(address, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and start:  # the file is shorter now, so it is another file
            return _open(address, 0, note)
        raise
    except URLError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise URLError(str(error) or type(error).__name__) from None


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """The body in blocks. Network errors become URLError, to tell them from disk errors."""
    try:
        while block := response.read(BLOCK):
            yield block
    except (OSError, HTTPException) as error:
        raise URLError(str(error) or type(error).__name__) from None


def _validator(headers: HTTPMessage) -> str:
    """The validator of this version of the file: a strong ETag, else Last-Modified, else ""."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _continues(headers: HTTPMessage, start: int, note: dict[str, Any]) -> bool:
    """Whether a 206 response continues the file that `note` describes."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if found is None or int(found[1]) != start:
        return False
    if "*" not in (found[2], str(note["length"] or "*")) and int(found[2]) != note["length"]:
        return False
    validator = _validator(headers)
    return not validator or not note["validator"] or validator == note["validator"]


def _read_note(part: Path, address: str) -> dict[str, Any]:
    """The note of a partial download; {} if it cannot be resumed: it is missing, is from another
    address, or has neither a validator nor a length."""
    try:
        note = json.loads(metadata_of(part).read_text(encoding="utf-8"))
        usable = part.is_file() and note["address"] == address
        return note if usable and (note["validator"] or note["length"]) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
