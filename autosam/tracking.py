"""What a run leaves behind: TensorBoard, metrics.jsonl, per-image scores, the log."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from autosam.command import to_dict
from autosam.config import Config
from autosam.files import write_atomically
from autosam.models.sam import AbsentEncoder

log = logging.getLogger("autosam")


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing but errors is logged inside: what was said once need not be said again."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


class Tracker:
    """Writes into a run folder. Only the main process makes one.

    Args:
        folder: the run folder.
        config: written as config.yaml and as text in TensorBoard.
        first_epoch: what was written from this epoch on by an interrupted run is taken back.
    """

    def __init__(self, folder: Path, config: Config, first_epoch: int = 0) -> None:
        self.folder = folder
        self.config = config
        text = yaml.safe_dump(to_dict(config), sort_keys=False)
        self.metrics = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(folder) if row["epoch"] <= first_epoch]
        rows = "".join(json.dumps(row) + "\n" for row in kept)
        for file, content in ((folder / "config.yaml", text), (self.metrics, rows)):
            write_atomically(file, partial(Path.write_text, data=content, encoding="utf-8"))
        self.writer = SummaryWriter(folder, purge_step=first_epoch + 1 if first_epoch else None)
        self.writer.add_text("config", f"```yaml\n{text}```")
        self.handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self.handler)

    def parameters(self, model: nn.Module) -> None:
        """A table of parameters by part, as text."""
        lines = ["| part | parameters | trainable |", "|---|---|---|"]
        for name, part in model.named_children():
            for child_name, child in [(name, part)] + [
                (f"{name}.{n}", p) for n, p in part.named_children()
            ]:
                total, trainable = count_parameters(child)
                lines.append(f"| {child_name} | {total:,} | {trainable:,} |")
        self.writer.add_text("parameters", "\n".join(lines))

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Scalars of one finished epoch (1 is the first), as `group/name`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **values}) + "\n")
        self.writer.flush()

    def pictures(self, epoch: int, sheet: np.ndarray) -> None:
        """A contact sheet, uint8 H x W x 3."""
        self.writer.add_image("validation", sheet, epoch, dataformats="HWC")

    def hyperparameters(self, final: dict[str, float]) -> None:
        """Hyper-parameters with the final scores."""
        flat = {
            key: value
            for key, value in flatten(to_dict(self.config)).items()
            if isinstance(value, bool | int | float | str)
        }
        self.writer.add_hparams(flat, final, run_name=".")
        log.info("final %s", json.dumps(final))

    def close(self) -> None:
        self.writer.close()
        log.removeHandler(self.handler)
        self.handler.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, none if there is no such file."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the last line of a run that was cut off while writing
            log.warning("%s: an incomplete line was left out", path)
    return rows


def write_scores(path: Path, scores: dict[str, dict[str, float]]) -> None:
    """Per-image scores as CSV: name and one column per metric."""
    names = list(next(iter(scores.values())))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *names])
        for image, row in sorted(scores.items()):
            writer.writerow([image, *(f"{row[name]:.6g}" for name in names)])


def read_scores(path: Path) -> dict[str, dict[str, float]]:
    """The inverse of `write_scores`."""
    with open(path, newline="", encoding="utf-8") as file:
        return {
            row.pop("image"): {name: float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        }


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """All and trainable parameters; those of an image encoder that was not loaded count too."""
    total = sum(p.numel() for p in module.parameters())
    total += sum(m.left_out for m in module.modules() if isinstance(m, AbsentEncoder))
    return total, sum(p.numel() for p in module.parameters() if p.requires_grad)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
