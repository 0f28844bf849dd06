"""Save and load the state of an interrupted run, and check that its inputs are unchanged."""

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
from autosam.data.pairs import Splits, fingerprint, newest, sizes
from autosam.data.splits import RULE, depends_on_rule
from autosam.errors import CheckpointError, DataError
from autosam.models import checkpoint
from autosam.models.base import SegmentationModel
from autosam.models.sam import sam_hash
from autosam.utils.io import write_atomically
from autosam.utils.logging import log

FOLDER = Path("checkpoints")
NAME = re.compile(r"state-\d+-[0-9a-f]{16}\.pt")
"""Names of state files; the digits at the end are a hash of the content."""
KEPT = 3
"""Number of states that are kept; the newest valid one is used."""


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write a state, and delete all but the last `KEPT`.

    Args:
        folder: the run folder.
        content: tensors and plain values.

    Raises:
        StorageError: the state cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getbuffer()
    before = files(folder)
    number = _number(before[0]) + 1 if before else 1
    path = folder / FOLDER / f"state-{number:06d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    for file in (folder / FOLDER).glob("state-*.partial"):  # left by a process that was killed
        file.unlink(missing_ok=True)
    write_atomically(path, lambda to: to.write_bytes(data))
    for file in before[KEPT - 1 :]:
        file.unlink(missing_ok=True)


def thin_out(folder: Path) -> None:
    """Delete all states but the newest.

    Args:
        folder: the run folder.
    """
    for file in files(folder)[1:]:
        file.unlink(missing_ok=True)


def files(folder: Path) -> list[Path]:
    """List the states of a run folder, the newest first.

    Args:
        folder: the run folder.
    """
    found = [path for path in (folder / FOLDER).glob("state-*.pt") if NAME.fullmatch(path.name)]
    return sorted(filter(Path.is_file, found), key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


def load(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Load the newest valid state.

    Args:
        folder: the run folder.

    Returns:
        The content of the state, and a warning for each newer state that is damaged.

    Raises:
        CheckpointError: there is no valid state.
    """
    warnings: list[str] = []
    for path in files(folder):
        data = path.read_bytes()
        if path.stem.endswith(hashlib.sha256(data).hexdigest()[:16]):
            with contextlib.suppress(Exception):  # not written by this package
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


def resume_command(folder: Path) -> str:
    """Format the command that resumes a run.

    Args:
        folder: the run folder.
    """
    return f"autosam train --resume {shlex.quote(str(folder))}"


class Inputs:
    """The images, masks and SAM weights at the start of a run.

    Args:
        config: the run.
        splits: the images and masks of the run.
        segmenter: the network of the run.
    """

    def __init__(self, config: Config, splits: Splits, segmenter: SegmentationModel) -> None:
        self.config, self.splits, self.sizes = config, splits, sizes(splits)
        self.facts: dict[str, Any] = {
            "data": fingerprint(splits),
            "sam": sam_hash(config.sam, config.sam_checkpoint) if segmenter.sam else "",
            "split_rule": RULE,
        }

    def note(self, learns: bool) -> dict[str, Any]:
        """Describe the images for the checkpoint, so that `evaluate` can detect them.

        Args:
            learns: whether anything is fitted to the images.
        """
        names = ("train", "validation") if learns else ()
        return {
            "split_rule": RULE,
            "seen": {split: image_digests.digest_images(self.splits[split]) for split in names},
        }

    def require_unchanged(self, folder: Path) -> None:
        """Check that the files have the same sizes as at the start.

        Args:
            folder: the run folder, for the message.

        Raises:
            DataError: files have changed.
        """
        now = sizes(self.splits)
        if changed := [name for name, size in self.sizes.items() if now[name] != size]:
            raise DataError(
                f"{', '.join(changed[:3])}: {len(changed)} images or masks changed while the run "
                f"trained. Restore them and continue with --resume {folder}, or train again."
            )

    def require_same(self, facts: dict[str, Any], folder: Path) -> None:
        """Check that an interrupted run started from the same inputs.

        Args:
            facts: facts of the interrupted run.
            folder: its run folder, for the message.

        Raises:
            CheckpointError: the images, the masks or the weights of SAM differ.
        """
        for name, what in (("data", "images and masks"), ("sam", "weights of SAM")):
            if facts[name] != self.facts[name]:
                raise CheckpointError(
                    f"--resume {folder}: the {what} are not those that it was trained with (hash "
                    f"{self.facts[name][:12]}, then {facts[name][:12]}). Restore them, or start a "
                    "new run from its weights with --init."
                )
        written, path = newest(self.splits)
        if written > files(folder)[0].stat().st_mtime:
            log.warning(
                "%s was written after the state of the run, and has its name and size from before. "
                "If its content has changed, the run learns from both: start a new one instead",
                path,
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
        segmenter: its trainable weights are loaded.
        optimizer: its state is loaded.
        scheduler: its state is loaded.
        steps: length of the schedule. If it differs from that of the state, because the number of
            processes changed, the schedule continues at the same fraction of its length.
    """
    checkpoint.restore_trainable(segmenter, saved["model"], str(folder))
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    if saved["steps"] != steps:
        scheduler.last_epoch = round(scheduler.last_epoch * steps / saved["steps"]) - 1
        scheduler.step()


def precision_of(saved: dict[str, Any], bf16: bool, on_cpu: bool) -> bool:
    """Read the precision that a run began in, and say so if new runs of this machine differ.

    Args:
        saved: the state.
        bf16: whether steps of new runs are computed in bfloat16.
        on_cpu: whether the run trains on a CPU.

    Returns:
        Whether its steps are computed in bfloat16.
    """
    begun: bool = saved.get("bf16", bf16 and not on_cpu)  # before it was noted, CPUs: float32
    if begun != bf16:
        precision = "bfloat16" if begun else "float32"
        log.info("goes on in %s, as it began; new runs here do not", precision)
    return begun


def threads_of(saved: dict[str, Any], threads: int, on_cpu: bool) -> list[int]:
    """Read the numbers of threads that a run was trained with, and say so if it gets another one.

    Args:
        saved: the state.
        threads: number of threads from now on.
        on_cpu: whether the run trains on a CPU, where it matters.

    Returns:
        The numbers, from the first to that of now.
    """
    before = saved.get("threads", [threads])
    before = [before] if isinstance(before, int) else before  # of earlier versions
    if before[-1] == threads:
        return before
    if on_cpu:
        log.info(
            "threads: %d, before: %d. Sums are rounded differently, so the result differs as that "
            "of another seed may; OMP_NUM_THREADS=%d goes on as before",
            threads,
            before[-1],
            before[-1],
        )
    return [*before, threads]
