"""Resuming: the states of a run, each in a file whose name holds its hash, and the files that the
run must find unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autosam.config import Config
from autosam.data import image_digests
from autosam.data.pairs import Splits, fingerprint, sizes
from autosam.data.splits import RULE, depends_on_rule
from autosam.errors import CheckpointError, DataError
from autosam.models import checkpoint
from autosam.models.base import SegmentationModel
from autosam.models.sam import sam_hash
from autosam.utils.io import write_atomically

FOLDER = Path("checkpoints")
NAME = re.compile(r"state-\d+-[0-9a-f]{16}\.pt")
KEPT = 3
"""How many states are kept; the newest valid one is used."""


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
    """Delete all states but the newest."""
    for file in files(folder)[1:]:
        file.unlink(missing_ok=True)


def files(folder: Path) -> list[Path]:
    """The states of a run folder, the newest first."""
    found = [path for path in (folder / FOLDER).glob("state-*.pt") if NAME.fullmatch(path.name)]
    return sorted(filter(Path.is_file, found), key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


def load(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest valid state.

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
            f"--resume {folder}: no state in {FOLDER} is valid ({len(warnings)} damaged). Start "
            "again with --overwrite, or a new run from its weights with --init."
        )
    raise CheckpointError(
        f"--resume {folder}: no state in {FOLDER}: not a run folder, or it was stopped before its "
        "first state was written (then start it again with --overwrite)."
    )


def how_to_go_on(folder: Path) -> str:
    """The command for a run that has a state."""
    return f"autosam train --resume {shlex.quote(str(folder))}"


class Inputs:
    """The images, masks and weights of SAM that a run began with.

    Args:
        config: the run.
        splits: its images and masks.
        segmenter: its network.
    """

    def __init__(self, config: Config, splits: Splits, segmenter: SegmentationModel) -> None:
        self.config, self.splits, self.sizes = config, splits, sizes(splits)
        self.facts: dict[str, Any] = {
            "data": fingerprint(splits),
            "sam": sam_hash(config.sam, config.sam_checkpoint) if segmenter.sam else "",
            "split_rule": RULE,
        }

    def note(self, learns: bool) -> dict[str, Any]:
        """What a checkpoint keeps of them, by which `evaluate` knows the images that were seen.

        Args:
            learns: whether anything is fitted to them.
        """
        names = ("train", "validation") if learns else ()
        return {
            "split_rule": RULE,
            "seen": {split: image_digests.digest_images(self.splits[split]) for split in names},
        }

    def require_unchanged(self, folder: Path) -> None:
        """Compare the sizes of the files with those at the start.

        Raises:
            DataError: naming the files that changed.
        """
        now = sizes(self.splits)
        if changed := [name for name, size in self.sizes.items() if now[name] != size]:
            raise DataError(
                f"{', '.join(changed[:3])}: {len(changed)} images or masks changed while the run "
                f"trained. Restore them and go on with --resume {folder}, or train again."
            )

    def require_same(self, facts: dict[str, Any], folder: Path) -> None:
        """Compare them with what an interrupted run began with.

        Args:
            facts: of that run.
            folder: its folder.

        Raises:
            CheckpointError: naming what differs.
        """
        for name, what in (("data", "images and masks"), ("sam", "weights of SAM")):
            if facts[name] != self.facts[name]:
                raise CheckpointError(
                    f"--resume {folder}: the {what} are not those that it was trained with (hash "
                    f"{self.facts[name][:12]}, then {facts[name][:12]}). Restore them, or start a "
                    "new run from its weights with --init."
                )
        by_rule = depends_on_rule(self.splits, self.config.data)
        if by_rule and facts.get("split_rule") != RULE:
            raise CheckpointError(
                f"--resume {folder}: begun by a version of autosam that drew other splits with "
                "groups, strata or folds. Start a new run with the same settings."
            )


def restore_weights(
    saved: dict[str, Any],
    folder: Path,
    segmenter: SegmentationModel,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    steps: int,
) -> None:
    """Load the weights, the optimizer and the schedule of a state.

    Args:
        saved: the state.
        folder: the run folder, for messages.
        segmenter, optimizer, scheduler: loaded into.
        steps: of the schedule; another number than the state's where the number of processes
            changed: the schedule then goes on at the same share of it.
    """
    checkpoint.restore_trainable(segmenter, saved["model"], str(folder))
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    if saved["steps"] != steps:
        scheduler.last_epoch = round(scheduler.last_epoch * steps / saved["steps"]) - 1
        scheduler.step()
