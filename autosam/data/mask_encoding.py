"""The encoding of a data set's masks: how stored values map to classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosam.config import DataConfig
from autosam.data.instances import UNKNOWN, change, from_label, from_numbers, stack
from autosam.data.labels import IGNORED, known, pack, without
from autosam.data.mask_stats import (
    MaskStats,
    alpha_problem,
    classify_values,
    distinct_values,
    first_ten,
    mask_values,
    present_values,
)
from autosam.data.pairs import Layers, Pixels
from autosam.data.stored_masks import StoredMask, load_stored_mask, single_channel
from autosam.errors import DataError
from autosam.types import Instances

WHITE = (1, 255, 65535)
"""Usual foreground values of binary masks. A data set may mix them."""


@dataclass(frozen=True)
class MaskEncoding:
    """How mask values map to classes, the same for all masks of a data set. Made by
    `autosam.data.infer_encoding`."""

    num_classes: int = 1
    """K."""
    ignore: int | None = None
    """Value of unlabelled pixels."""
    classes: tuple[tuple[int, int], ...] | None = None
    """(value, class) pairs. None: one class, each file by its own kind (`MaskStats.kind`)."""
    default_class: int | None = None
    """Class of the values that `classes` does not list. None: such a value is an error."""
    foreground_values: tuple[int, ...] = WHITE
    """With `classes` None: foreground values that binary files may have."""
    allow_grayscale: bool = True
    """With `classes` None: whether grayscale files are accepted, thresholded at half of white."""
    numbered: bool = False
    """Whether values above 0 number the objects of one class (`--data.instances`)."""
    uses_alpha: bool = False
    """Whether the shape is in the alpha channel."""
    description: str = ""
    """The encoding in words; "" where masks are simply 0 and 255, 0 and 1, or 0 to K."""

    def read(self, mask: Pixels) -> np.ndarray:
        """Read a mask as a label.

        Args:
            mask: the mask; with `Layers`, a file per class.

        Returns:
            uint8 or int32 H x W, see `autosam.data.labels`.

        Raises:
            DataError: the file is unreadable, or a value is no class.
        """
        if isinstance(mask, Layers):
            labels = [self._label(layer) for layer in mask.files]
            mask.require_one_size([label.shape for label in labels])
            packed = pack(np.stack([label == 1 for label in labels]))
            return without(packed, np.all([label != IGNORED for label in labels], axis=0))
        return self._label(mask)

    def read_instances(self, mask: Pixels, regions: Pixels | None = None) -> Instances:
        """Read the objects of a mask.

        They are those that the file tells apart, where it does (`tells_apart`): by numbers, or by
        an outline or a file for each. Otherwise they are the connected components of each class, so
        that touching objects are one.

        Args:
            mask: the mask; with `Layers`, a file per class, of which the last lies on top.
            regions: map whose connected components are the objects, see `Pair.regions`.

        Raises:
            DataError: see `read`.
        """
        if isinstance(mask, Layers) and self.numbered:
            layers = [self.read_instances(layer) for layer in mask.files]
            mask.require_one_size([layer.ids.shape for layer in layers])
            for k, layer in enumerate(layers, 1):
                layer.classes[:] = k
            return stack(layers)
        own = getattr(mask, "read_instances", None)
        if own is not None:
            found: Instances = own()
            return found
        if self.numbered:
            stored = load_stored_mask(mask)
            values = single_channel(stored, str(mask), False, True)[0]
            return from_numbers(values, self._unknown(values, stored))
        label = self.read(mask)
        if regions is None:
            return from_label(label)
        parts = from_label(regions.read())
        return change(parts, lambda ids: np.where(known(label), ids * (label == 1), UNKNOWN))

    def tells_apart(self, mask: Pixels) -> bool:
        """Whether touching objects of a mask are told apart."""
        return self.numbered or hasattr(mask, "read_instances")

    def _label(self, mask: Pixels) -> np.ndarray:
        stored = load_stored_mask(mask)
        if stored.values.dtype == np.int32:
            return stored.values
        if self.classes is None:
            label, values = self._binary_label(mask, stored)
        else:
            values, _, _ = single_channel(stored, str(mask), False, self.numbered)
            label = self._map_values(values, str(mask))
        if (unknown := self._unknown(values, stored)) is not None:
            label[unknown] = IGNORED
        return label

    def _unknown(self, values: np.ndarray, stored: StoredMask) -> np.ndarray | None:
        """Where a mask's values are ignored or missing, bool H x W; None: nowhere."""
        if self.ignore is None:
            return stored.missing
        ignored = np.asarray(values == self.ignore)
        return ignored if stored.missing is None else ignored | stored.missing

    def _binary_label(self, mask: Pixels, stored: StoredMask) -> tuple[np.ndarray, np.ndarray]:
        config = DataConfig(ignore=self.ignore)
        values, source, level = mask_values(stored, mask, config)
        white = int(np.iinfo(values.dtype).max)
        distinct = distinct_values(values, stored, self.ignore)
        kind = classify_values(values, distinct, white, stored.lossy, self.ignore)
        stats = MaskStats(tuple(distinct), kind, stored.lossy, white, source, level)
        if problem := self._mismatch(stats):
            raise DataError(f"{mask}: {problem}")
        if level == 0:
            return np.zeros(values.shape, np.uint8), values
        threshold = 0 if kind == "binary" else white // 2
        return (values > threshold).astype(np.uint8), values

    def _mismatch(self, stats: MaskStats) -> str:
        """Why a file does not fit the encoding inferred from the checked files; "" if it does."""
        if problem := alpha_problem(stats, self.uses_alpha):
            return problem
        fits = {
            "binary": bool(set(stats.values) & set(self.foreground_values)),
            "grayscale": self.allow_grayscale,
            "noise": self.allow_grayscale,
            "numbers": False,
        }
        if fits.get(stats.kind, True):
            return ""
        return (
            f"mask values {first_ten(stats.values)} do not fit the encoding of the masks that were "
            "checked. Save all masks in one way, as 0 and 255."
        )

    def _map_values(self, values: np.ndarray, name: str) -> np.ndarray:
        class_of = dict(self.classes or ())
        if values.dtype == np.uint32:  # of `numbered` masks: too large for a table
            return np.asarray(values != 0).astype(np.uint8)
        found = present_values(values).tolist()
        if self.ignore in found:
            found.remove(self.ignore)
        lookup = np.zeros(int(values.max(initial=0)) + 1, np.uint8)
        for value in found:
            k = class_of.get(value, self.default_class)
            if k is None:
                raise DataError(
                    f"{name}: holds the value {value}, which is no class: {sorted(class_of)} are."
                )
            lookup[value] = k
        return lookup[values]

    def classes_in(self, layers: Sequence[MaskStats]) -> set[int]:
        """The classes 1..K that a mask contains.

        Args:
            layers: the mask's statistics, one for each layer.
        """
        if len(layers) > 1:
            return {k for k, layer in enumerate(layers, 1) if self.classes_in([layer])}
        [stats] = layers
        if stats.kind == "bitmask":
            return set(stats.values)
        if self.classes is not None:
            class_of = dict(self.classes)
            default = self.default_class or 0
            return {class_of.get(value, default) for value in stats.values} - {0}
        return {1} if stats.level != 0 and stats.kind in ("binary", "grayscale") else set()
