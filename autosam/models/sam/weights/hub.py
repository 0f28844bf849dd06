"""Weights files on the Hugging Face hub, by `huggingface_hub`: with its mirror ($HF_ENDPOINT), its
offline mode ($HF_HUB_OFFLINE), its token and its cache."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository of the hub.

    Attributes:
        repository: `owner/name`.
        revision: a branch, a tag or a commit.
        name: of the file, with its folders.
    """

    repository: str
    revision: str
    name: str

    @property
    def address(self) -> str:
        """Where the file is downloaded from: under $HF_ENDPOINT if that is set."""
        return f"{endpoint() or HUB}/{self.repository}/resolve/{self.revision}/{self.name}"


def hub_file(address: str) -> HubFile | None:
    """The file of the hub at an address, None for an address elsewhere."""
    found = re.fullmatch(rf"{re.escape(HUB)}/([^/]+/[^/]+)/resolve/([^/]+)/([^?#]+)", address)
    return HubFile(*found.groups()) if found else None


def endpoint() -> str | None:
    """The current $HF_ENDPOINT; `huggingface_hub` reads it only when it is imported."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def cached_by_hub(file: HubFile) -> Path | None:
    """The file in the cache that `huggingface_hub` shares between programs, or None."""
    from huggingface_hub import constants, try_to_load_from_cache

    try:
        found = try_to_load_from_cache(
            file.repository, file.name, cache_dir=constants.HF_HUB_CACHE, revision=file.revision
        )
    except ValueError:  # not a valid name of a repository
        return None
    return Path(found) if isinstance(found, str) else None


def download_from_hub(file: HubFile, folder: Path) -> Path:
    """Download a file of the hub into a folder, without filling the hub's own cache.

    An interrupted transfer is resumed several times within the call. Whether a later call resumes
    it depends on the version of `huggingface_hub`: 2.4 starts again.

    Args:
        file: what to download.
        folder: used for this file only; the caller deletes it afterwards.

    Returns:
        The file, in `folder`.

    Raises:
        URLError: the transfer failed; its reason is a message for the user.
        OSError: `folder` cannot be written.
    """
    from huggingface_hub import hf_hub_download

    from autosam.utils.hub import probe

    where: dict[str, Any] = {"endpoint": endpoint(), "revision": file.revision}
    own: dict[str, Any] = {"local_dir": folder, "cache_dir": folder / "cache"}
    with probe(file.repository, file.name, **where) as trouble:
        if trouble:
            raise URLError(trouble)
        try:
            return Path(hf_hub_download(file.repository, file.name, **own, **where))
        except Exception as error:  # of several libraries for networks
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            if getattr(getattr(error, "response", None), "status_code", 0) == 404:
                reason = f"HTTP 404: {file.repository} has no file {file.name}"
            raise URLError(reason) from None
