"""The progress log of `predict`: a line for each source; and the table and COCO file made of it."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from autosam.errors import DataError
from autosam.inference.sources import Source
from autosam.utils.distributed import broadcast, processes
from autosam.utils.io import write_atomically

LOG_FILE = "predictions.jsonl"
PART = "predictions.{}.jsonl"
TABLE = "areas.csv"
COCO = "coco.json"
COLUMNS = ("file", "class", "value", "pixels", "share", "objects", "score")
"""`value` only where the user named mask values."""


State = Literal["done", "new", "replaced", "unknown"]
"""`replaced`: what was noted under this name was made from other content. `unknown`: the line does
not say from what, as those of earlier versions."""


class ProgressLog:
    """What is done, a line for each source, written with its files; the first line says by what.

    Of several processes each writes lines of its own, which `gather` and the next call put into the
    one log.

    Args:
        folder: the output folder.
        made_by: the checkpoint and the settings that masks depend on.
        needs: what a line must hold to count as done, each with its value (None: any).
        fresh: forget what was done.

    Raises:
        DataError: what is done was made by something else.
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
                self._take(needs)
            self._write()
        self.done = broadcast(self.done)

    def _take(self, needs: dict[str, Any] | None = None) -> None:
        """Everything that is noted in the folder."""
        path = self.folder / LOG_FILE
        if path.exists() and not any("made_by" in entry for entry in self._read(path)):
            raise DataError(
                f"{path}: is no progress log of autosam, or damaged. Choose another --output, or "
                "pass --overwrite true to do everything again."
            )
        for entry in itertools.chain(*map(self._read, [path, *self._parts()])):
            if other := entry.get("made_by"):
                differs = [key for key, value in self.made_by.items() if other.get(key) != value]
                if differs:
                    raise DataError(
                        f"{self.folder}: holds masks made with another {' and '.join(differs)}. "
                        "Choose another --output, or pass --overwrite true to do everything again."
                    )
            elif _is_whole(entry) and all(
                name in entry and (value is None or entry[name] == value)
                for name, value in (needs or {}).items()
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
        """Put what all processes have done into the one log, when all are through."""
        processes().wait_for_everyone()
        if processes().num_processes > 1 and processes().is_main_process:
            self._take()
            self._write()
        self.done = broadcast(self.done)

    @staticmethod
    def _read(path: Path) -> list[dict[str, Any]]:
        found = []
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            with contextlib.suppress(ValueError, RecursionError):  # what a killed call was writing
                found.append(json.loads(line))
        return [entry for entry in found if isinstance(entry, dict)]

    def add(self, entry: dict[str, Any]) -> None:
        """Note that a source is done."""
        self.done[entry["name"]] = entry
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def forget(self, source: Source) -> None:
        """Note that a source is not done any more."""
        if self.done.pop(source.key, None) is not None:
            self._write()

    def state_of(self, source: Source) -> State:
        """Whether a source is done, and if not, why."""
        noted = self.done.get(source.key, {}).get("source", "" if source.key in self.done else None)
        if noted is None:
            return "new"
        if not isinstance(noted, dict) or "stamp" not in noted or "sha256" not in noted:
            return "unknown"
        try:
            same = noted["stamp"] == source.stamp() or noted["sha256"] == source.digest()
        except OSError:  # said when it is read
            return "new"
        return "done" if same else "replaced"

    def table(self) -> None:
        """Write the areas of everything that is done."""

        def write(path: Path) -> None:
            with open(path, "w", newline="", encoding="utf-8") as file:
                rows = [row for _, entry in sorted(self.done.items()) for row in entry["rows"]]
                valued = any("value" in row for row in rows)
                columns = [name for name in COLUMNS if valued or name != "value"]
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self.folder / TABLE, write)

    def coco(self, classes: Sequence[dict[str, Any]]) -> None:
        """Write the objects of every image that is done as one COCO file.

        Args:
            classes: `class`, the name, of each, and `value` where the user named mask values.
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


def _is_whole(entry: dict[str, Any]) -> bool:
    """Whether a line says what is done, and its areas."""
    rows = entry.get("rows")
    whole = isinstance(entry.get("name"), str) and isinstance(rows, list)
    return whole and all(isinstance(row, dict) and row.keys() <= set(COLUMNS) for row in rows or [])
