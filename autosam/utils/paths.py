"""What a text that names a file, a folder or a repository of the hub can be."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from autosam.utils.suggest import suggest

FILES = (".safetensors", ".pt", ".pth", ".pkl", ".bin", ".ckpt", ".onnx", ".yaml", ".yml", ".json",
         ".jsonl", ".csv", ".txt", ".zip", ".tar", ".gz")  # fmt: skip
"""How no name on the hub ends that is meant as one."""


def is_hub_name(text: str, owner: bool = True) -> bool:
    """Whether a text can only be a name on the hub: `owner/name` by its characters, of which no
    beginning is a path here.

    Args:
        text: a setting, which may also be a path.
        owner: whether a name needs its owner; some data sets have none.
    """
    pattern = r"[\w-][\w.-]*/[\w-][\w.-]*" if owner else r"([\w-][\w.-]*/)?[\w-][\w.-]*"
    if not re.fullmatch(pattern, text, re.ASCII) or text.lower().endswith(FILES):
        return False
    return not Path(text.split("/")[0]).exists()


def nearest(path: Path) -> str:
    """ " Did you mean X?" for the nearest one beside a path that is missing, or nothing."""
    with contextlib.suppress(OSError):
        beside = [found for found in path.parent.iterdir() if found.name != path.name]
        return suggest(path.name, {found.name: str(found) for found in beside})
    return ""


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
