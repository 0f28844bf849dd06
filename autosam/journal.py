"""What `predict` has done: a line for each source, and the table and COCO file made of them."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autosam.errors import DataError
from autosam.files import write_atomically

JOURNAL = "predictions.jsonl"
TABLE = "areas.csv"
COCO = "coco.json"
COLUMNS = ("file", "class", "pixels", "share", "objects", "score")


class Journal:
    """What is done, a line for each source, written with its files; the first line says by what.

    Args:
        folder: the output folder.
        made_by: the checkpoint and the settings that masks depend on.
        needs: what a line must hold to count as done.
        fresh: forget what was done.

    Raises:
        DataError: what is done was made by something else.
    """

    def __init__(
        self, folder: Path, made_by: dict[str, Any], needs: Sequence[str], fresh: bool
    ) -> None:
        self.folder = folder
        self.done: dict[str, dict[str, Any]] = {}
        for entry in [] if fresh else self._read(folder / JOURNAL):
            if other := entry.get("made_by"):
                differs = [key for key in made_by if other.get(key) != made_by[key]]
                if differs:
                    raise DataError(
                        f"{folder}: holds masks made with another {' and '.join(differs)}. Choose "
                        "another --output, or pass --overwrite true to do everything anew."
                    )
            elif all(name in entry for name in needs):
                self.done[entry["name"]] = entry
        lines = [{"made_by": made_by}, *self.done.values()]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(folder / JOURNAL, lambda to: to.write_text(text, encoding="utf-8"))

    @staticmethod
    def _read(path: Path) -> list[dict[str, Any]]:
        found = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            with contextlib.suppress(json.JSONDecodeError):  # what a killed call was writing
                found.append(json.loads(line))
        return found

    def add(self, entry: dict[str, Any]) -> None:
        """Note that a source is done."""
        self.done[entry["name"]] = entry
        with open(self.folder / JOURNAL, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def table(self) -> None:
        """Write the areas of everything that is done."""

        def write(path: Path) -> None:
            with open(path, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                for _, entry in sorted(self.done.items()):
                    writer.writerows(entry["rows"])

        write_atomically(self.folder / TABLE, write)

    def coco(self, classes: Sequence[str]) -> None:
        """Write the objects of every picture that is done as one COCO file."""
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
            "categories": [{"id": k, "name": name} for k, name in enumerate(classes, 1)],
        }
        write_atomically(
            self.folder / COCO, lambda to: to.write_text(json.dumps(content), encoding="utf-8")
        )
