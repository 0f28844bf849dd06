"""Write the records of a run: TensorBoard, metrics.jsonl, config.yaml and the log."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from autosam.config import Config
from autosam.config.cli import flatten, to_dict
from autosam.config.setting import keys_with
from autosam.models.sam import AbsentEncoder
from autosam.utils.io import not_written, to_disk, write_atomically
from autosam.utils.logging import LogFile, log

EVENTS = "events.out.tfevents.*"
"""Pattern of TensorBoard's files."""


HPARAMS = ".hparams"
"""End of the name of TensorBoard's file of hyper-parameters."""


class Tracker:
    """Writes the records of a run. Only the main process has a tracker.

    Args:
        folder: the run folder.
        config: written to config.yaml and as text to TensorBoard.
        first_epoch: number of finished epochs; records of later ones, written before a run was
            interrupted, are deleted.

    Raises:
        StorageError: by every method, if the folder cannot be written to.
    """

    def __init__(self, folder: Path, config: Config, first_epoch: int = 0) -> None:
        self.folder = folder
        self.config = config
        # Settings of this call, such as the output folder, do not belong into a config file.
        calls = keys_with(Config, "call")
        kept_settings = {key: v for key, v in to_dict(config).items() if key not in calls}
        self.text = yaml.safe_dump(kept_settings, sort_keys=False)
        self.metrics = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(folder) if row["epoch"] <= first_epoch]
        rows = "".join(json.dumps(row) + "\n" for row in kept)
        for file, content in ((folder / "config.yaml", self.text), (self.metrics, rows)):
            write_atomically(file, partial(Path.write_text, data=content, encoding="utf-8"))
        with self._writing():
            _order_events(folder, int(time.time()))
            self.handler = LogFile(folder / "log.txt", encoding="utf-8")
            self.writer = SummaryWriter(folder, purge_step=first_epoch + 1)
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self.handler)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise not_written(self.folder, error) from None

    def parameters(self, model: nn.Module) -> None:
        """Write the settings and a table of parameters as text to TensorBoard.

        Args:
            model: the network.
        """
        lines = ["| part | parameters | trainable |", "|---|---|---|"]
        for name, part in model.named_children():
            for child_name, child in [(name, part)] + [
                (f"{name}.{n}", p) for n, p in part.named_children()
            ]:
                total, trainable = count_parameters(child)
                lines.append(f"| {child_name} | {total:,} | {trainable:,} |")
        with self._writing():
            self.writer.add_text("config", f"```yaml\n{self.text}```")
            self.writer.add_text("parameters", "\n".join(lines))
            self.writer.flush()  # a resumed run does not write them again

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Write the scalars of a finished epoch.

        Args:
            epoch: number of the epoch, from 1.
            values: scalars by `group/name`.
        """
        with self._writing():
            for name, value in values.items():
                self.writer.add_scalar(name, value, epoch)
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps({"epoch": epoch, **values}) + "\n")
            self.writer.flush()
            # The state saved next relies on these records, so they must be on the disk.
            for written in (self.metrics, *self.folder.glob(EVENTS)):
                to_disk(written)

    def images(self, epoch: int, sheet: np.ndarray) -> None:
        """Write a contact sheet to TensorBoard.

        Args:
            epoch: number of the epoch, from 1.
            sheet: uint8 H x W x 3, RGB.
        """
        with self._writing():
            self.writer.add_image("validation", sheet, epoch, dataformats="HWC")

    def hyperparameters(self, final: dict[str, float]) -> None:
        """Write the settings that differ from the defaults and the final scores as the run's row of
        TensorBoard's HParams table.

        TensorBoard takes metrics of that table from scalars, each of which would also be a chart of
        one point; so the scores are columns like the settings. No summary of the experiment is
        written: TensorBoard would show the columns of the first run alone.

        Args:
            final: final scores by title.
        """
        with self._writing():
            # Replaces the file of an earlier call: a finished run may be resumed.
            for file in self.folder.glob(f"*{HPARAMS}"):
                file.unlink()
            with SummaryWriter(self.folder, filename_suffix=HPARAMS) as writer:
                _, *session = hparams(changed_settings(self.config) | final, {})
                for part in session:
                    writer._get_file_writer().add_summary(part)

    def close(self) -> None:
        """Close the files."""
        log.removeHandler(self.handler)
        with self._writing():
            try:
                self.handler.close()
            finally:
                self.writer.close()


def changed_settings(config: Config) -> dict[str, bool | int | float | str]:
    """Settings that differ from the defaults, by key; the run in any case."""
    left_out = keys_with(Config, "call")
    default = flatten(to_dict(Config()))
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in flatten(to_dict(config)).items()
        if key not in left_out and (key == "run" or value != default.get(key))
    }


def _order_events(folder: Path, now: int) -> None:
    """Rename TensorBoard's files so that new ones sort after them.

    TensorBoard reads files in the order of the time in their names, which fails if the clock was
    set back.
    """
    files = sorted(folder.glob(EVENTS))
    names = [file.name.split(".") for file in files]
    if not any(int(words[3]) >= now for words in names):
        return
    for i, (file, words) in enumerate(zip(files, names, strict=True)):
        words[3] = f"{now - len(files) + i:010d}"
        file.rename(folder / ".".join(words))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of metrics.jsonl; damaged lines are left out.

    Args:
        folder: the run folder.

    Returns:
        One dictionary for each epoch; empty if the file is missing.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            rows.append(row | {"epoch": int(row["epoch"])})
        except (
            ValueError,
            LookupError,
            TypeError,
            RecursionError,
        ):  # cut off by a kill
            log.warning("%s: an incomplete line was left out", path)
    return rows


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Count parameters.

    Args:
        module: a network.

    Returns:
        All parameters, including those of an image encoder that is not loaded, and the trainable
        ones.
    """
    total = sum(p.numel() for p in module.parameters())
    total += sum(m.left_out for m in module.modules() if isinstance(m, AbsentEncoder))
    return total, sum(p.numel() for p in module.parameters() if p.requires_grad)
