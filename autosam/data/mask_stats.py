"""Statistics of a mask file, from which `autosam.data.infer_encoding` infers its encoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from autosam.config import MOST_OVERLAPPING, DataConfig
from autosam.data.labels import class_masks, known
from autosam.data.pairs import Layers, Pixels
from autosam.data.stored_masks import (
    StoredMask,
    binary_of_palette,
    load_stored_mask,
    single_channel,
)

WHITE_SHARE, FOREGROUND_SHARE, NOISE_SHARE = 0.93, 0.5, 0.15
"""Thresholds as shares of white. Greys above the first count as white (JPEG), above the second as
foreground; a file with no value above the third holds only noise."""
FLAT_SHARE = 0.5
"""If a larger share of the grey pixels lies in flat areas, greys are numbers and not edges."""
Kind = Literal["empty", "binary", "grayscale", "noise", "numbers", "bitmask"]


@dataclass(frozen=True)
class MaskStats:
    """Statistics of one mask file."""

    values: tuple[int, ...]
    """Distinct values without the ignored one. For a bitmask: the classes present."""
    kind: Kind = "binary"
    """binary: one value besides 0. grayscale: dark and light values with edges between. noise: no
    value above `NOISE_SHARE`. numbers: class or object numbers. bitmask: int32, a bit per class."""
    lossy: bool = False
    """Whether the file has lossy compression (JPEG)."""
    white: int = 255
    """Largest value of the bit depth: 255 or 65535 (2^32 - 1 for numbers above that)."""
    source: str = ""
    """Origin of the values: "alpha", "palette", or "" for the stored numbers."""
    level: int | None = None
    """Opacity of a file whose colour and alpha channel are both constant."""
    colors: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Palette files: (index, RGB) of each index that occurs."""
    border: float = 0.0
    """Share of the image's border pixels that are foreground, 0 to 1."""
    missing: float | None = None
    """The file's nodata value, if it occurs; NaN if pixels are marked by other means."""
    inverted: bool = False
    """Whether the file is stored with white as zero (MinIsWhite)."""


def compute_mask_stats(mask: Pixels, config: DataConfig) -> tuple[list[MaskStats], np.ndarray]:
    """Decode a mask and compute its statistics.

    Args:
        mask: the mask; with `Layers`, a file per class.
        config: the data settings.

    Returns:
        The statistics of each layer, and bool H x W: where the class is known.

    Raises:
        DataError: the file is unreadable, or no encoding fits it.
    """
    if isinstance(mask, Layers):
        found = [compute_mask_stats(layer, single_class(config)) for layer in mask.files]
        mask.require_one_size([is_known.shape for _, is_known in found])
        return (
            [stats for [stats], _ in found],
            np.logical_and.reduce([is_known for _, is_known in found]),
        )
    stored = load_stored_mask(mask)
    if stored.values.dtype == np.int32:
        present = class_masks(stored.values, MOST_OVERLAPPING).any((1, 2))
        classes = tuple((np.flatnonzero(present) + 1).tolist())
        return [MaskStats(classes, "bitmask")], known(stored.values)
    values, source, level = mask_values(stored, mask, config)
    distinct = distinct_values(values, stored, config.ignore)
    white = int(np.iinfo(values.dtype).max)
    kind = classify_values(values, distinct, white, stored.lossy, config.ignore)
    colors: tuple[tuple[int, tuple[int, ...]], ...] = ()
    if stored.palette is not None and source != "palette":
        colors = tuple((i, tuple(map(int, stored.palette[i]))) for i in distinct)
    threshold = white // 2 if kind == "grayscale" else 0
    light = values > threshold
    border = np.concatenate([light[0], light[-1], light[1:-1, 0], light[1:-1, -1]]).mean()
    valid = np.ones(values.shape, bool) if stored.missing is None else ~stored.missing
    stats = MaskStats(
        values=tuple(distinct),
        kind=kind,
        lossy=stored.lossy,
        white=white,
        source=source,
        level=level,
        colors=colors,
        border=float(border),
        missing=None if valid.all() else stored.nodata,
        inverted=stored.min_is_white,
    )
    return [stats], valid if config.ignore is None else valid & (values != config.ignore)


def distinct_values(values: np.ndarray, stored: StoredMask, ignore: int | None) -> list[int]:
    """Sorted distinct values, without the ignored one and without pixels that hold no data."""
    kept = values if stored.missing is None else values[~stored.missing]
    found = np.unique(kept) if kept.dtype == np.uint32 else present_values(kept)
    return [value for value in found.tolist() if value != ignore]


def present_values(values: np.ndarray) -> np.ndarray:
    """Sorted distinct values of a uint8 or uint16 array."""
    if not values.size:
        return np.zeros(0, int)
    most = 256 if values.dtype == np.uint8 else 2**16
    flat = np.ascontiguousarray(values).reshape(1, -1)
    return np.flatnonzero(cv2.calcHist([flat], [0], None, [most], [0, most]))


def single_class(config: DataConfig) -> DataConfig:
    """The settings for one layer of a mask that has a file per class."""
    return dataclasses.replace(config, classes=None, num_classes=1)


def infers_encoding(config: DataConfig) -> bool:
    """Whether each file's encoding is inferred from its content: one class and no setting that
    lists values."""
    listed = config.values is not None or any(entry.values for entry in config.classes or [])
    return config.num_classes == 1 and not config.instances and not listed


def mask_values(
    stored: StoredMask, mask: Pixels, config: DataConfig
) -> tuple[np.ndarray, str, int | None]:
    """The values of a mask, see `single_channel`; their source and the constant opacity, see
    `MaskStats.source` and `MaskStats.level`."""
    inferred = infers_encoding(config)
    values, source, level = single_channel(stored, str(mask), inferred, config.instances)
    if stored.palette is not None and source == "" and inferred:
        return *binary_of_palette(values, stored.palette, config.ignore, str(mask)), level
    return values, source, level


def classify_values(
    values: np.ndarray, distinct: list[int], white: int, lossy: bool, ignore: int | None
) -> Kind:
    """The kind of a mask, see `MaskStats.kind`.

    Args:
        values: uint8, uint16 or uint32 H x W.
        distinct: its distinct values, see `distinct_values`.
        white: largest value of the dtype.
        lossy: whether the file has lossy compression.
        ignore: the ignored value.
    """
    above = [value for value in distinct if value > 0]
    if not above:
        return "empty"
    if len(above) == 1 and not lossy:
        return "binary"
    top = above[-1]
    if top <= NOISE_SHARE * white:
        return "noise" if lossy or _flat_share(values, white, ignore) < FLAT_SHARE else "numbers"
    if lossy:
        return "grayscale" if top > FOREGROUND_SHARE * white else "numbers"
    near_white = any(WHITE_SHARE * white < value < white for value in above)
    if top <= WHITE_SHARE * white or not (near_white or len(above) >= 16):
        return "numbers"
    return "grayscale" if _flat_share(values, white, ignore) < FLAT_SHARE else "numbers"


def _flat_share(values: np.ndarray, white: int, ignore: int | None) -> float:
    """Share of the grey pixels (neither black nor white) that equal their right and lower
    neighbours. 1 if most pixels that are not dark are not white either, as in a photograph."""
    grey = (values > 0) & (values <= WHITE_SHARE * white)
    if ignore is not None:
        grey &= values != ignore
    middle = (values > NOISE_SHARE * white) & grey
    if middle.sum() > 0.6 * max(1, (values > NOISE_SHARE * white).sum()):
        return 1.0
    flat = (values[:-1, :-1] == values[1:, :-1]) & (values[:-1, :-1] == values[:-1, 1:])
    return float((flat & grey[:-1, :-1]).sum() / max(1, grey.sum()))


def alpha_problem(stats: MaskStats, uses_alpha: bool) -> str:
    """Why a mask of constant colour and constant opacity is ambiguous; "" if it is not.

    Args:
        stats: of the mask.
        uses_alpha: whether other masks of the data set store their shape in the alpha channel.
    """
    if stats.level is None or not stats.values:
        return ""
    light = stats.values[0] > 0
    if stats.level == 0 and light and not uses_alpha:
        return "fully transparent, but its colour is not 0: it may be empty or all foreground."
    if stats.level > 0 and not light and uses_alpha:
        return (
            "black and fully opaque, while other masks store their shape in the alpha channel: it "
            "may be empty or all foreground."
        )
    return ""


def first_ten(values: Sequence[int]) -> str:
    """The first ten values, separated by commas."""
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
