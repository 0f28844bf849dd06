"""Locate the weights files of the SAMs: shipped, in the cache folder, or downloaded."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote, urlsplit

from autosam.errors import CheckpointError
from autosam.models.sam.base import SamSpec
from autosam.models.sam.registry import SAMS
from autosam.models.sam.weights.download import download, metadata_of, transfer_error
from autosam.models.sam.weights.hub import cached_by_hub, download_from_hub, hub_file
from autosam.models.sam.weights.identify import convert, guess, skeleton
from autosam.models.state_dict import (
    file_hash,
    read_weights,
    require_finite,
    require_fit,
    what_is_wrong,
)
from autosam.utils.assets import asset_folder, cache_folder
from autosam.utils.io import locked
from autosam.utils.paths import no_file
from autosam.utils.suggest import require_choice


def known(name: str) -> SamSpec:
    """The registry entry of a SAM.

    Raises:
        ConfigError: no SAM has that name.
    """
    require_choice("--sam", name, SAMS)
    return SAMS[name]


def address(spec: SamSpec) -> str:
    """The address of a weights file: under $AUTOSAM_MIRROR if that is set; of a file on the
    Hugging Face hub under $HF_ENDPOINT if that is set."""
    if mirror := os.environ.get("AUTOSAM_MIRROR"):
        return f"{mirror.rstrip('/')}/{quote(spec.file)}"
    file = hub_file(spec.source)
    return file.address if file else spec.source


def shipped(name: str) -> bool:
    """Whether the weights file is part of the package."""
    return bool(known(name).file) and (asset_folder("weights") / known(name).file).is_file()


def find(name: str) -> Path | None:
    """The weights file of a SAM, shipped or in the cache folder; None if it is in neither.

    Raises:
        ConfigError: no SAM of that name.
    """
    spec = known(name)
    if shipped(name):
        return asset_folder("weights") / spec.file
    cached = cache_folder() / spec.file
    return cached if spec.file and cached.is_file() else None


def fetch(name: str) -> Path:
    """The weights file of a SAM, downloaded into the cache folder if it is missing.

    Files on the Hugging Face hub are downloaded by `huggingface_hub`, or copied from its cache.
    Other downloads are resumed by the next call if they were interrupted. If several processes
    need the file, one downloads it and the others wait.

    Raises:
        ConfigError: no SAM of that name, or it needs a package that is not installed.
        CheckpointError: the file cannot be obtained.
    """
    spec = known(name)
    if found := find(name):
        return found
    source = address(spec)
    ways = (
        f"get {spec.file or 'them'} elsewhere and pass --sam_checkpoint FILE, or run "
        f"`autosam weights add {name} FILE`, or put the file into {cache_folder()}. (--sam lite "
        "needs no download.)"
    )
    if not spec.file or urlsplit(source).scheme not in ("http", "https"):
        raise CheckpointError(
            f"--sam {name} needs its weights, and there is no http address to download them from "
            f"({source or 'none'}): {ways}"
        )
    skeleton(spec)  # may need a missing package: fail before the download
    file = None if os.environ.get("AUTOSAM_MIRROR") else hub_file(spec.source)
    if file and (copy := cached_by_hub(file)):
        with suppress(CheckpointError):  # damaged there: downloaded again
            return add(name, copy)
    final = cache_folder() / spec.file
    part, folder = sibling(final, ".part"), sibling(final, ".hub")
    with _locked(final):
        if found := find(name):  # another process was faster
            return found
        try:
            if file:
                os.replace(download_from_hub(file, folder), part)
                shutil.rmtree(folder, ignore_errors=True)
            else:
                download(source, part, f"{name}: {spec.file}")
        except URLError as error:
            again = "Run the same again" + ("" if file else " to resume it")
            licence = f" ({spec.licence})" if spec.licence else ""
            raise CheckpointError(
                f"--sam {name} needs its weights file {spec.file}{licence}, and downloading it "
                f"from {source} failed: {transfer_error(error)}. {again}, or {ways}"
            ) from None
        except OSError as error:
            raise _unwritable(error) from None
        try:
            digest = check(name, part, final)
        except CheckpointError as error:
            _forget(part)
            raise CheckpointError(
                f"--sam {name}: the file from {source} is not its weights file and was deleted. "
                f"{error}\nTry another {'HF_ENDPOINT' if file else 'AUTOSAM_MIRROR'}, or {ways}"
            ) from None
        _store(part, final, digest)
    return final


def add(name: str, file: str | Path) -> Path:
    """Check a weights file and copy it into the cache folder under its registry name.

    Raises:
        ConfigError: no SAM of that name.
        CheckpointError: it is not the SAM's file, or cannot be copied.
    """
    spec = known(name)
    if shipped(name) or not spec.file:
        raise CheckpointError(
            f"{name} keeps no file in the cache folder: pass another as --sam_checkpoint {file}."
        )
    digest = check(name, file)
    final = cache_folder() / spec.file
    with _locked(final):
        _forget(sibling(final, ".part"))
        copy = sibling(final, ".copy")
        try:
            shutil.copyfile(file, copy)
        except OSError as error:
            copy.unlink(missing_ok=True)
            raise _unwritable(error) from None
        _store(copy, final, digest)
    return final


def check(name: str, path: str | Path, final: Path | None = None) -> str:
    """Require that a file holds the weights of a SAM: compare its hash, if one is known, and check
    every tensor.

    Args:
        name: of the SAM.
        path: the file.
        final: the path that the file will have, whose hash may be recorded; None: `path`.

    Returns:
        Its SHA-256.

    Raises:
        ConfigError: no SAM of that name, or it needs a package that is not installed.
        CheckpointError: the file is missing, damaged, or of another SAM.
    """
    spec, path = known(name), Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {no_file(path)}")
    digest, record = file_hash(path), sibling(final or path, ".sha256")
    for expected, by in ((spec.sha256, "its source"), (recorded(final or path), str(record))):
        if not digest.startswith(expected):
            raise CheckpointError(
                f"{path}: its SHA-256 is {digest}, but according to {by} that of {name} "
                f"{'is' if len(expected) == 64 else 'starts with'} {expected}: "
                f"{what_is_wrong(path) or 'it is damaged, or another file'}."
            )
    state = read_weights(path)
    title = f"{path}: does not fit SAM {name}."
    require_fit(skeleton(spec), convert(spec, state, str(path)), title, lambda: guess(state))
    require_finite(state, str(path))
    return digest


def recorded(path: Path) -> str:
    """The SHA-256 recorded in FILE.sha256 (in the format of `sha256sum`), or ""."""
    record = sibling(path, ".sha256")
    text = record.read_text(encoding="utf-8", errors="replace") if record.is_file() else ""
    found = re.match(r"[0-9a-fA-F]{64}\b", text)
    return found[0].lower() if found else ""


def sibling(path: Path, ending: str) -> Path:
    """FILE.ending in the same folder."""
    return path.with_name(path.name + ending)


@contextmanager
def _locked(final: Path) -> Iterator[None]:
    """Lock `final` and the files beside it against other processes."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(final, f"downloads {final.name}"))
        except OSError as error:
            raise _unwritable(error) from None
        yield


def _store(temporary: Path, final: Path, digest: str) -> None:
    """Record the hash of a checked file and rename it to `final`."""
    try:
        sibling(final, ".sha256").write_text(f"{digest}  {final.name}\n", encoding="utf-8")
        os.replace(temporary, final)
        _forget(temporary)
    except OSError as error:
        raise _unwritable(error) from None


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    metadata_of(part).unlink(missing_ok=True)


def _unwritable(error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{error.filename or cache_folder()}: cannot be written ({error.strerror or error}). "
        "Make room or fix the rights there, or set AUTOSAM_CACHE to another folder."
    )
