"""What `predict` has done: a line for each source, and the table and COCO file made of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autosam.checkpoint import write_atomically

JOURNAL = "predictions.jsonl"
TABLE = "areas.csv"
COCO = "coco.json"
COLUMNS = ("file", "class", "pixels", "share", "objects", "score")


class Journal:
    """What is done, a line for each source, written when its files are.

    Args:
        folder: the output folder.
        needs: what a line must hold to count as done.
        fresh: forget what was done.
    """

    def __init__(self, folder: Path, needs: Sequence[str], fresh: bool) -> None:
        self.folder, self.done = folder, {} if fresh else self._read(folder / JOURNAL, needs)
        text = "".join(json.dumps(entry) + "\n" for entry in self.done.values())
        write_atomically(folder / JOURNAL, lambda to: to.write_text(text, encoding="utf-8"))

    @staticmethod
    def _read(path: Path, needs: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the line that a killed call was writing
                continue
            if all(name in entry for name in needs):
                found[entry["name"]] = entry
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
            images.append({"id": number, "file_name": entry["file"], **entry["size"]})
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
