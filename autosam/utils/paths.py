"""Paths and names of repositories on the hub, given as text by the user."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from autosam.errors import ConfigError
from autosam.utils.suggest import suggest

FILES = (".safetensors", ".pt", ".pth", ".pkl", ".bin", ".ckpt", ".onnx", ".yaml", ".yml", ".json",
         ".jsonl", ".csv", ".txt", ".zip", ".tar", ".gz")  # fmt: skip
"""Endings of file names; a text with one of them is never a name on the hub."""


def is_hub_name(text: str, owner: bool = True) -> bool:
    """Whether a text is a name on the hub: of the form `owner/name`, and its first part is no
    existing file or folder.

    Args:
        text: the value of a setting that may also be a path.
        owner: whether the name must have an owner; some data sets have none.
    """
    pattern = r"[\w-][\w.-]*/[\w-][\w.-]*" if owner else r"([\w-][\w.-]*/)?[\w-][\w.-]*"
    if not re.fullmatch(pattern, text, re.ASCII) or text.lower().endswith(FILES):
        return False
    return not Path(text.split("/")[0]).exists()


def nearest(path: Path) -> str:
    """ " Did you mean X?" with the most similar name beside a missing path, or ""."""
    with contextlib.suppress(OSError):
        beside = [found for found in path.parent.iterdir() if found.name != path.name]
        return suggest(path.name, {found.name: str(found) for found in beside})
    return ""


def no_file(path: Path) -> str:
    """Say what is in the place of a weights file, and what to do."""
    if not path.is_dir():
        return f"no such file. Fix the path.{nearest(path)}"
    inside = sorted(found.name for found in path.iterdir() if found.suffix in FILES[:6])
    found = f" ({', '.join(inside[:3])})" if inside else ""
    return f"is a folder. Give the weights file itself{found}."


def require_path(flag: str, text: str, kind: str, error: type[Exception]) -> None:
    """Refuse a path that is missing, unless it is a pattern or may be a name on the hub.

    Args:
        flag: of the setting, for the message.
        text: its value.
        kind: what is expected, such as `folder`.
        error: what to raise.
    """
    if not text or set(text) & set("*?[") or is_hub_name(text) or os.path.exists(text):
        return
    raise error(f"{flag} {text}: no such {kind}. Fix the path.{nearest(Path(text))}")


def require_new(flag: str, path: str, suffix: str = "") -> None:
    """Refuse to write over a file.

    Args:
        flag: the setting that names it.
        path: the file.
        suffix: how its name must end, if that matters.

    Raises:
        ConfigError: it exists, or its name ends otherwise.
    """
    if Path(path).exists():
        raise ConfigError(f"--{flag} {path}: exists; choose another file.")
    if suffix and Path(path).suffix.lower() != suffix:
        raise ConfigError(f"--{flag} {path}: the name must end in {suffix}.")
