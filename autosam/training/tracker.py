"""What a run leaves behind: TensorBoard, metrics.jsonl, per-image scores, the log."""

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
"""TensorBoard's files."""


HPARAMS = ".hparams"
"""How the name of TensorBoard's file of hyper-parameters ends."""


class Tracker:
    """Writes into a run folder. Only the main process makes one.

    Args:
        folder: the run folder.
        config: written as config.yaml and as text in TensorBoard.
        first_epoch: what was written from this epoch on by an interrupted run is taken back.

    Raises:
        StorageError: by every method: the folder cannot be written to.
    """

    def __init__(self, folder: Path, config: Config, first_epoch: int = 0) -> None:
        self.folder = folder
        self.config = config
        # Whoever trains with this file means another folder, and from the beginning.
        calls = keys_with(Config, "call")
        said = {key: value for key, value in to_dict(config).items() if key not in calls}
        self.text = yaml.safe_dump(said, sort_keys=False)
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
        """The settings, and a table of parameters by part, as text."""
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
            self.writer.flush()  # a call that resumes the run does not write them again

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Scalars of one finished epoch (1 is the first), as `group/name`."""
        with self._writing():
            for name, value in values.items():
                self.writer.add_scalar(name, value, epoch)
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps({"epoch": epoch, **values}) + "\n")
            self.writer.flush()
            # The state that follows says that this epoch is noted, even if the power fails.
            for written in (self.metrics, *self.folder.glob(EVENTS)):
                to_disk(written)

    def images(self, epoch: int, sheet: np.ndarray) -> None:
        """A contact sheet, uint8 H x W x 3."""
        with self._writing():
            self.writer.add_image("validation", sheet, epoch, dataformats="HWC")

    def hyperparameters(self, final: dict[str, float]) -> None:
        """Hyper-parameters with the final scores."""
        flat = {
            key: value
            for key, value in flatten(to_dict(self.config)).items()
            if isinstance(value, bool | int | float | str)
        }
        with self._writing():
            # A file of their own, as `add_hparams` makes it, but one that takes the place of that
            # of an earlier call: a finished run may be resumed.
            for file in self.folder.glob(f"*{HPARAMS}"):
                file.unlink()
            with SummaryWriter(self.folder, filename_suffix=HPARAMS) as writer:
                for part in hparams(flat, final):
                    writer._get_file_writer().add_summary(part)
                for name, value in final.items():
                    writer.add_scalar(name, value)
        log.info("final %s", json.dumps(final))

    def close(self) -> None:
        log.removeHandler(self.handler)
        with self._writing():
            try:
                self.handler.close()
            finally:
                self.writer.close()


def _order_events(folder: Path, now: int) -> None:
    """TensorBoard reads a folder's files in the order of the seconds in their names: those of
    before must stay before, even where the clock was set back since."""
    files = sorted(folder.glob(EVENTS))
    names = [file.name.split(".") for file in files]
    if not any(int(words[3]) >= now for words in names):
        return
    for i, (file, words) in enumerate(zip(files, names, strict=True)):
        words[3] = f"{now - len(files) + i:010d}"
        file.rename(folder / ".".join(words))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, none if there is no such file; a line that is damaged is left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            rows.append(row | {"epoch": int(row["epoch"])})
        except (ValueError, LookupError, TypeError, RecursionError):  # a run that was cut off
            log.warning("%s: an incomplete line was left out", path)
    return rows


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """All and trainable parameters; those of an image encoder that was not loaded count too."""
    total = sum(p.numel() for p in module.parameters())
    total += sum(m.left_out for m in module.modules() if isinstance(m, AbsentEncoder))
    return total, sum(p.numel() for p in module.parameters() if p.requires_grad)
