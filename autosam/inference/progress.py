"""The progress log of `predict`, and the table and COCO file made from it."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from autosam.config.commands import PredictConfig
from autosam.config.setting import names_of
from autosam.errors import DataError
from autosam.inference.measurements import OBJECT_COLUMNS
from autosam.inference.sources import Source
from autosam.utils.distributed import broadcast, processes
from autosam.utils.io import not_written, write_atomically

LOG_FILE = "predictions.jsonl"
PART = "predictions.{}.jsonl"
TABLE = "areas.csv"
OBJECTS = "objects.csv"
COCO = "coco.json"
OF_IMAGES = ("measured", "simplified")
"""Keys that only the entries of images have."""
COLUMNS = ("file", "class", "value", "pixels", "share", "objects", "score")
"""Columns of the table; `value` only if the settings name mask values."""


State = Literal["done", "new", "replaced", "unknown"]
"""`replaced`: the masks were made from a file of the same name with other content. `unknown`: the
entry does not record the file, as those of earlier versions."""


class ProgressLog:
    """The sources that are done, as JSON lines: first a header with checkpoint and settings, then
    one entry for each source, added after its files are written.

    Each of several processes writes a file of its own. `gather`, or the next call, merges them.

    Args:
        folder: the output folder.
        made_by: the checkpoint and the settings that masks depend on.
        needs: keys and values that an entry must have to count as done; None stands for any value.
        fresh: delete an existing log.

    Raises:
        DataError: the log is damaged, or has another checkpoint or other settings.
    """

    def __init__(
        self, folder: Path, made_by: dict[str, Any], needs: dict[str, Any], fresh: bool
    ) -> None:
        self.folder, self.made_by = folder, made_by
        self.done: dict[str, dict[str, Any]] = {}
        several = processes().num_processes > 1
        name = PART.format(processes().process_index) if several else LOG_FILE
        self.file = folder / name
        if processes().is_main_process:
            if fresh:
                for path in self._parts():
                    path.unlink()
            else:
                self._load(needs)
            self._write()
        self.done = broadcast(self.done)

    def _load(self, needs: dict[str, Any] | None = None) -> None:
        """Read the log, and the files of several processes."""
        path = self.folder / LOG_FILE
        if path.exists() and not any("made_by" in entry for entry in self._read(path)):
            raise DataError(
                f"{path}: not a progress log of autosam, or damaged. Choose another --output, or "
                "pass --overwrite true to do everything again."
            )
        for entry in itertools.chain(*map(self._read, [path, *self._parts()])):
            entry.setdefault("simplified", 0.0)  # of entries older than the setting
            if other := entry.get("made_by"):
                differs = [key for key, value in self.made_by.items() if other.get(key) != value]
                if differs:
                    current = [names_of(PredictConfig).get(key, key) for key in differs]
                    raise DataError(
                        f"{self.folder}: holds masks made with another {' and '.join(current)}. "
                        "Choose another --output, or pass --overwrite true to do everything again."
                    )
            elif _is_complete(entry) and all(
                name in entry and (value is None or entry[name] == value)
                for name, value in (needs or {}).items()
                if name not in OF_IMAGES or "size" in entry
            ):
                self.done[entry["name"]] = entry

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(PART.format("*")))

    def _write(self) -> None:
        lines = [{"made_by": self.made_by}, *self.done.values()]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(self.folder / LOG_FILE, lambda to: to.write_text(text, encoding="utf-8"))
        for path in self._parts():
            path.unlink()

    def gather(self) -> None:
        """Wait for all processes and merge their files."""
        processes().wait_for_everyone()
        if processes().num_processes > 1 and processes().is_main_process:
            self._load()
            self._write()
        self.done = broadcast(self.done)

    @staticmethod
    def _read(path: Path) -> list[dict[str, Any]]:
        found = []
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            with contextlib.suppress(ValueError, RecursionError):  # cut off when a call was killed
                found.append(json.loads(line))
        return [entry for entry in found if isinstance(entry, dict)]

    def add(self, entry: dict[str, Any]) -> None:
        """Add the entry of a source that is done.

        Args:
            entry: name, source, rows, and for an image size, objects and measured objects.

        Raises:
            StorageError: the log cannot be written.
        """
        self.done[entry["name"]] = entry
        try:
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise not_written(self.file, error) from None

    def forget(self, source: Source) -> None:
        """Remove the entry of a source.

        Args:
            source: an image, a volume or a video.
        """
        if self.done.pop(source.key, None) is not None:
            self._write()

    def state_of(self, source: Source) -> State:
        """Compare a source with its entry.

        Args:
            source: an image, a volume or a video.

        Returns:
            "done", or why it is not.
        """
        if source.key not in self.done:
            return "new"
        recorded = self.done[source.key].get("source", "")
        if recorded is None:
            return "new"
        if not isinstance(recorded, dict) or "stamp" not in recorded or "sha256" not in recorded:
            return "unknown"
        try:
            same = recorded["stamp"] == source.stamp() or recorded["sha256"] == source.digest()
        except OSError:  # reported when the source is read
            return "new"
        return "done" if same else "replaced"

    def table(self) -> None:
        """Write the areas of all sources that are done to areas.csv, and the measured objects of
        all images to objects.csv if there are instances."""
        entries = [entry for _, entry in sorted(self.done.items())]
        rows = [row for entry in entries for row in entry["rows"]]
        self._table(TABLE, COLUMNS, rows)
        measured = [entry["measured"] for entry in entries if "measured" in entry]
        if measured:
            self._table(OBJECTS, OBJECT_COLUMNS, [row for image in measured for row in image])

    def _table(self, name: str, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
        """Write rows as CSV, the column `value` only if a row has one."""

        def write(path: Path) -> None:
            with open(path, "w", newline="", encoding="utf-8") as file:
                valued = any("value" in row for row in rows)
                names = [column for column in columns if valued or column != "value"]
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self.folder / name, write)

    def coco(self, classes: Sequence[dict[str, Any]]) -> None:
        """Write the objects of all images that are done to coco.json.

        Args:
            classes: see `named_classes`.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, (_, entry) in enumerate(sorted(self.done.items()), 1):
            if "size" not in entry:  # a volume or a video
                continue
            images.append({"id": number, "file_name": entry["name"], **entry["size"]})
            for found in entry["objects"]:
                annotations.append({"id": len(annotations) + 1, "image_id": number, **found})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": k, "name": named["class"]} | {n: v for n, v in named.items() if n == "value"}
                for k, named in enumerate(classes, 1)
            ],
        }
        write_atomically(
            self.folder / COCO, lambda to: to.write_text(json.dumps(content), encoding="utf-8")
        )


def _is_complete(entry: dict[str, Any]) -> bool:
    """Whether an entry has a name, rows of areas, and no other rows than the tables have."""
    tables = [(entry.get("rows"), COLUMNS), (entry.get("measured", []), OBJECT_COLUMNS)]
    return isinstance(entry.get("name"), str) and all(
        isinstance(rows, list)
        and all(isinstance(row, dict) and row.keys() <= set(columns) for row in rows)
        for rows, columns in tables
    )
