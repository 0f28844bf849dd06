"""Requests to the Hugging Face hub that fail fast where it cannot be reached."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
)

TIMEOUT = 5.0
"""Seconds to wait for the first response of the hub."""


@contextlib.contextmanager
def probe(
    name: str,
    file: str,
    kind: str = "model",
    endpoint: str | None = None,
    revision: str | None = None,
    token: Any = None,
) -> Iterator[str]:
    """Send one request for a file to the hub before a library does, because libraries retry for
    minutes without a network. If it fails, the libraries run in offline mode inside the context:
    they use their caches or fail at once.

    Args:
        name: the repository, `owner/name`.
        file: a file in it.
        kind: `model` or `dataset`.
        endpoint: the address of the hub; None: $HF_ENDPOINT or the default.
        revision: a branch, a tag or a commit of the repository.
        token: the access token; None: the one that is logged in or $HF_TOKEN.

    Yields:
        What is wrong, as text; "" if the hub can be used.
    """
    try:
        url = hf_hub_url(name, file, repo_type=kind, revision=revision, endpoint=endpoint)
        get_hf_file_metadata(url, token=token, timeout=TIMEOUT)
        trouble = ""
    except EntryNotFoundError:  # the repository exists
        trouble = ""
    except OfflineModeIsEnabled:
        trouble = "HF_HUB_OFFLINE is set, so the hub is not asked"
    except GatedRepoError as error:
        trouble = (
            f"HTTP {error.response.status_code}: the hub gives {name} only to accounts that "
            "accepted its terms: accept them on its page, then set HF_TOKEN"
        )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        trouble = f"the hub answers HTTP {status}"
        if status in (401, 403, 404):
            trouble = "the hub has no accessible repository of that name"
        if status in (401, 403):
            trouble += f" (HTTP {status}: a private one needs HF_TOKEN)"
    except Exception as error:  # network libraries and invalid names raise many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0][:100]
        trouble = f"the hub cannot be reached: {reason}"
    with _offline() if trouble else contextlib.nullcontext():
        yield trouble


@contextlib.contextmanager
def connection_timeout() -> Iterator[str]:
    """Set a timeout of `TIMEOUT` seconds for connections without one.

    Yields:
        "", as `probe` does for a hub that can be used.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield ""
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Put the libraries of the hub into offline mode."""
    modules: list[Any] = [constants, sys.modules.get("datasets.config")]
    changed = [(m, m.HF_HUB_OFFLINE) for m in modules if hasattr(m, "HF_HUB_OFFLINE")]
    for module, _ in changed:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, before in changed:
            module.HF_HUB_OFFLINE = before
