"""Where a result comes from: the command, the commit, the versions, the machine."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from autosam.utils.io import not_written

FILE = "origin.jsonl"
LIBRARIES = (
    "autosam",
    "torch",
    "torchvision",
    "timm",
    "segment-anything",
    "monai",
    "accelerate",
    "openvino",
    "numpy",
    "opencv-python-headless",
    "safetensors",
)


def note(folder: Path, **facts: Any) -> None:
    """Add a line to origin.jsonl: each start of a run, the first and those that resume it.

    Args:
        folder: the run folder.
        facts: what else belongs there.

    Raises:
        StorageError: it cannot be written.
    """
    row = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command(),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        **facts,
    }
    try:
        with open(folder / FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise not_written(folder / FILE, error) from None


def command() -> str:
    """The command line."""
    words = list(sys.orig_argv)
    words[0] = Path(words[0]).name
    return shlex.join(words)


def commit() -> str | None:
    """Git commit of this package (`-dirty` where files were changed since), if it came by git."""
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        git = [
            "git",
            "-C",
            str(root),
            "describe",
            "--always",
            "--dirty",
            "--abbrev=40",
            "--exclude=*",
        ]
        try:
            return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None  # no git here, or not for this user
    try:
        text = importlib.metadata.distribution("autosam").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    found: str | None = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    return found


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """The processor, the GPU and torch's version."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    cpu = capabilities.get("cpu_name") or platform.processor() or platform.machine()
    where = {"processor": f"{cpu}, {torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        where["gpu"] = torch.cuda.get_device_name()
    return where | {"torch": f"torch {torch.__version__}"}
