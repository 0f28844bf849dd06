"""Mask values to classes, as decided for a whole data set (see `autosam.data.conventions`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosam.config import DataConfig
from autosam.data.facts import Facts, alpha_problem, distinct_in, kind_of, numbers_of, some
from autosam.data.labels import IGNORED, pack, without
from autosam.data.pairs import Layers, Pixels
from autosam.data.stored import StoredMask, one_channel, stored_of
from autosam.errors import DataError

WHITE = (1, 255, 65535)
"""What foreground is called in plain masks: several of them in one data set mean the same."""


@dataclass(frozen=True)
class MaskReading:
    """How mask values become classes; decided once for a whole data set."""

    num_classes: int = 1
    """K."""
    ignore: int | None = None
    """The value of pixels that nobody labelled."""
    classes: tuple[tuple[int, int], ...] | None = None
    """(value, class); None: one class, each file by what it holds."""
    rest: int | None = None
    """The class of values that `classes` does not list; None: they are an error."""
    plain: tuple[int, ...] = WHITE
    """Of files by what they hold: foreground, where there is one value besides 0."""
    greys: bool = True
    """Whether files of greys are split at half of white."""
    by_alpha: bool = False
    """Whether the shape is in the alpha channel."""
    how: str = ""
    """In words, where masks are not plainly 0 and 255, 0 and 1, or 0 to K."""

    def read(self, mask: Pixels) -> np.ndarray:
        """A label, see `autosam.data.labels`.

        Raises:
            DataError: unreadable, or a value that is no class.
        """
        if isinstance(mask, Layers):
            labels = [self._label(layer) for layer in mask.files]
            mask.require_one_size([label.shape for label in labels])
            packed = pack(np.stack([label == 1 for label in labels]))
            return without(packed, np.all([label != IGNORED for label in labels], axis=0))
        return self._label(mask)

    def _label(self, mask: Pixels) -> np.ndarray:
        stored = stored_of(mask)
        if stored.values.dtype == np.int32:
            return stored.values
        if self.classes is None:
            label, values = self._alone(mask, stored)
        else:
            values, _, _ = one_channel(stored, str(mask), False)
            label = self._by_table(values, str(mask))
        if self.ignore is not None:
            label[values == self.ignore] = IGNORED
        if stored.missing is not None:
            label[stored.missing] = IGNORED
        return label

    def _alone(self, mask: Pixels, stored: StoredMask) -> tuple[np.ndarray, np.ndarray]:
        config = DataConfig(ignore=self.ignore)
        values, source, level = numbers_of(stored, mask, config)
        white = 65535 if values.dtype == np.uint16 else 255
        distinct = distinct_in(values, stored, self.ignore)
        kind = kind_of(values, distinct, white, stored.lossy, self.ignore)
        facts = Facts(tuple(distinct), kind, stored.lossy, white, source, level)
        if problem := self._stranger(facts):
            raise DataError(f"{mask}: {problem}")
        if level == 0:
            return np.zeros(values.shape, np.uint8), values
        threshold = 0 if kind == "plain" else white // 2
        return (values > threshold).astype(np.uint8), values

    def _stranger(self, facts: Facts) -> str:
        """What is wrong with a file that is unlike those that were checked."""
        if problem := alpha_problem(facts, self.by_alpha):
            return problem
        known = {
            "plain": bool(set(facts.values) & set(self.plain)),
            "greys": self.greys,
            "faint": self.greys,
            "numbers": False,
        }
        if known.get(facts.kind, True):
            return ""
        return (
            f"mask values {some(facts.values)} are unlike those of the masks that were checked. "
            "Save all masks in one way, as 0 and 255."
        )

    def _by_table(self, values: np.ndarray, name: str) -> np.ndarray:
        table = dict(self.classes or ())
        found = np.flatnonzero(np.bincount(values.ravel(), minlength=1)).tolist()
        if self.ignore in found:
            found.remove(self.ignore)
        lookup = np.zeros(int(values.max(initial=0)) + 1, np.uint8)
        for value in found:
            k = table.get(value, self.rest)
            if k is None:
                raise DataError(
                    f"{name}: holds the value {value}, which is no class: {sorted(table)} are."
                )
            lookup[value] = k
        return lookup[values]

    def holds(self, facts: Sequence[Facts]) -> set[int]:
        """The classes 1..K of a mask with these facts (one for each layer)."""
        if len(facts) > 1:
            return {k for k, one in enumerate(facts, 1) if self.holds([one])}
        [one] = facts
        if one.kind == "bits":
            return set(one.values)
        if self.classes is not None:
            table = dict(self.classes)
            return {table.get(value, self.rest or 0) for value in one.values} - {0}
        return {1} if one.level != 0 and one.kind in ("plain", "greys") else set()
