"""What `--resume` needs: the last states of a run, each in a file whose name holds its hash."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import torch

from autosam.errors import CheckpointError
from autosam.utils.io import write_atomically

FOLDER = Path("checkpoints")
NAME = re.compile(r"state-\d+-[0-9a-f]{16}\.pt")
KEPT = 3
"""Files of which the newest that is whole counts."""


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write a state, and delete those before the last `KEPT`.

    Args:
        folder: the run folder.
        content: tensors and plain values.

    Raises:
        StorageError: it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getbuffer()
    before = files(folder)
    number = _number(before[0]) + 1 if before else 1
    path = folder / FOLDER / f"state-{number:06d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    for file in (folder / FOLDER).glob("state-*.partial"):  # of a process that was killed
        file.unlink(missing_ok=True)
    write_atomically(path, lambda to: to.write_bytes(data))
    for file in before[KEPT - 1 :]:
        file.unlink(missing_ok=True)


def thin_out(folder: Path) -> None:
    """Keep the newest state alone: the run is finished."""
    for file in files(folder)[1:]:
        file.unlink(missing_ok=True)


def files(folder: Path) -> list[Path]:
    """The states of a run folder, the newest first."""
    found = [path for path in (folder / FOLDER).glob("state-*.pt") if NAME.fullmatch(path.name)]
    return sorted(filter(Path.is_file, found), key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


def load(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest state that is whole.

    Returns:
        Its content, and a warning for each newer one that is damaged.

    Raises:
        CheckpointError: there is none.
    """
    warnings: list[str] = []
    for path in files(folder):
        data = path.read_bytes()
        if path.stem.endswith(hashlib.sha256(data).hexdigest()[:16]):
            with contextlib.suppress(Exception):  # no state of ours, whatever its name says
                content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
                if isinstance(content, dict):
                    return content, warnings
        warnings.append(f"{path}: damaged; the state before it is used.")
    if warnings:
        raise CheckpointError(
            f"--resume {folder}: no state in {FOLDER} is whole ({len(warnings)} damaged). Start "
            "again with --overwrite, or a new run from its weights with --init."
        )
    raise CheckpointError(
        f"--resume {folder}: no state in {FOLDER}: not a run folder, or it was stopped before its "
        "first state was written (then start it again with --overwrite)."
    )


def how_to_go_on(folder: Path) -> str:
    """The command for a run that has a state."""
    return f"autosam train --resume {shlex.quote(str(folder))}"


def require_fitting(
    saved: dict[str, Any], facts: dict[str, Any], folder: Path, by_rule: bool
) -> None:
    """See that a run goes on with what it began with.

    Args:
        saved, facts: what it began with, and what there is now: hashes of the data and of SAM, and
            the rule that splits follow.
        folder: the run folder.
        by_rule: whether that rule made any difference to its split.

    Raises:
        CheckpointError: naming what is other than it was.
    """
    for name, what in (("data", "images and masks"), ("sam", "weights of SAM")):
        if saved[name] != facts[name]:
            raise CheckpointError(
                f"--resume {folder}: the {what} are not those that it was trained with (hash "
                f"{facts[name][:12]}, then {saved[name][:12]}). Bring them back, or start a new "
                "run from its weights with --init."
            )
    if by_rule and saved.get("split_rule") != facts["split_rule"]:
        raise CheckpointError(
            f"--resume {folder}: begun by a version of autosam that drew other splits with groups, "
            "strata or folds. Start a new run with the same settings."
        )
