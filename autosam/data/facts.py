"""What a mask file holds, as far as its reading depends on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autosam.config import MOST_OVERLAPPING, DataConfig
from autosam.data.labels import class_masks, known
from autosam.data.pairs import Layers, Pixels
from autosam.data.stored import StoredMask, binary_of_palette, one_channel, stored_of

BRIGHT, MIDDLE, FAINT = 0.93, 0.5, 0.15
"""Shares of white: greys above the first are white, of a JPEG; above the second foreground; if none
is above the third a file holds nothing but noise."""
FLAT = 0.5
"""Greys of which a larger share lies in even areas are numbers, not edges."""
Kind = Literal["empty", "plain", "greys", "faint", "numbers", "bits"]


@dataclass(frozen=True)
class Facts:
    """What one mask file holds, as far as its reading depends on it."""

    values: tuple[int, ...]
    """Distinct values without the ignored one; of a label of bits the classes that are there."""
    kind: Kind = "plain"
    """plain: one value besides 0. greys: dark and light with edges between. faint: nothing above
    noise. numbers: anything else."""
    lossy: bool = False
    white: int = 255
    """The largest value of its number of bits."""
    source: str = ""
    """Where the values come from, if not from the numbers stored: alpha, or palette."""
    level: int | None = None
    """Opacity of a file with an alpha channel whose colour and opacity are constant."""
    colors: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Of a palette: the colour of each index that occurs."""
    border: float = 0.0
    """Share of the image's border that is light."""
    missing: float | None = None
    """The value that the file itself says is no data, where it is there; NaN for another sign."""
    inverted: bool = False
    """Whether the file says that white is zero."""


def facts_of(mask: Pixels, config: DataConfig) -> tuple[list[Facts], np.ndarray]:
    """Decode a mask.

    Returns:
        Its facts, of each layer where it has several; and bool H x W: where the class is known.

    Raises:
        DataError: unreadable, or not to be understood whatever the other masks are like.
    """
    if isinstance(mask, Layers):
        found = [facts_of(layer, single(config)) for layer in mask.files]
        mask.require_one_size([seen.shape for _, seen in found])
        return [facts for [facts], _ in found], np.logical_and.reduce([seen for _, seen in found])
    stored = stored_of(mask)
    if stored.values.dtype == np.int32:
        there = class_masks(stored.values, MOST_OVERLAPPING).any((1, 2))
        return [Facts(tuple((np.flatnonzero(there) + 1).tolist()), "bits")], known(stored.values)
    values, source, level = numbers_of(stored, mask, config)
    distinct = distinct_in(values, stored, config.ignore)
    white = 65535 if values.dtype == np.uint16 else 255
    kind = kind_of(values, distinct, white, stored.lossy, config.ignore)
    colors: tuple[tuple[int, tuple[int, ...]], ...] = ()
    if stored.palette is not None and source != "palette":
        colors = tuple((i, tuple(map(int, stored.palette[i]))) for i in distinct)
    threshold = white // 2 if kind == "greys" else 0
    light = values > threshold
    border = np.concatenate([light[0], light[-1], light[1:-1, 0], light[1:-1, -1]]).mean()
    seen = np.ones(values.shape, bool) if stored.missing is None else ~stored.missing
    facts = Facts(
        tuple(distinct), kind, stored.lossy, white, source, level, colors, float(border),
        None if seen.all() else stored.nodata, stored.white_0,
    )  # fmt: skip
    return [facts], seen if config.ignore is None else seen & (values != config.ignore)


def distinct_in(values: np.ndarray, stored: StoredMask, ignore: int | None) -> list[int]:
    """The values that occur, in order, but for the ignored one and where the file has no data."""
    kept = values if stored.missing is None else values[~stored.missing]
    found = np.flatnonzero(np.bincount(kept.ravel(), minlength=1)).tolist()
    return [value for value in found if value != ignore]


def single(config: DataConfig) -> DataConfig:
    """The settings of one class out of several that have a file each."""
    return dataclasses.replace(config, classes=None, num_classes=1)


def by_itself(config: DataConfig) -> bool:
    """Whether each file is read by what it holds: one class, and nothing said about values."""
    said = config.values is not None or any(entry.values for entry in config.classes or [])
    return config.num_classes == 1 and not config.instances and not said


def numbers_of(
    stored: StoredMask, mask: Pixels, config: DataConfig
) -> tuple[np.ndarray, str, int | None]:
    """One number for each pixel, where it comes from, and a constant opacity."""
    alone = by_itself(config)
    values, source, level = one_channel(stored, str(mask), alone)
    if stored.palette is not None and source == "" and alone:
        return *binary_of_palette(values, stored.palette, config.ignore, str(mask)), level
    return values, source, level


def kind_of(
    values: np.ndarray, distinct: list[int], white: int, lossy: bool, ignore: int | None
) -> Kind:
    """See `Facts.kind`."""
    above = [value for value in distinct if value > 0]
    if not above:
        return "empty"
    if len(above) == 1 and not lossy:
        return "plain"
    top = above[-1]
    if top <= FAINT * white:
        return "faint" if lossy or _flat_share(values, white, ignore) < FLAT else "numbers"
    if lossy:
        return "greys" if top > MIDDLE * white else "numbers"
    near = any(BRIGHT * white < value < white for value in above)
    if top <= BRIGHT * white or not (near or len(above) >= 16):
        return "numbers"
    return "greys" if _flat_share(values, white, ignore) < FLAT else "numbers"


def _flat_share(values: np.ndarray, white: int, ignore: int | None) -> float:
    """Of the pixels neither black nor white, the share that equals its neighbours to the right and
    below; 1 where most of what is not dark is no white either, as in a photograph."""
    grey = (values > 0) & (values <= BRIGHT * white)
    if ignore is not None:
        grey &= values != ignore
    middle = (values > FAINT * white) & grey
    if middle.sum() > 0.6 * max(1, (values > FAINT * white).sum()):
        return 1.0
    even = (values[:-1, :-1] == values[1:, :-1]) & (values[:-1, :-1] == values[:-1, 1:])
    return float((even & grey[:-1, :-1]).sum() / max(1, grey.sum()))


def alpha_problem(facts: Facts, by_alpha: bool) -> str:
    """What is wrong with a mask of constant colour and opacity, or nothing.

    Args:
        facts: of the mask.
        by_alpha: whether the shape of other masks is in their alpha channel.
    """
    if facts.level is None or not facts.values:
        return ""
    light = facts.values[0] > 0
    if facts.level == 0 and light and not by_alpha:
        return "transparent all over, but its colour is not 0: nobody knows whether it is empty."
    if facts.level > 0 and not light and by_alpha:
        return (
            "black and opaque all over, while other masks have their shape in the alpha channel: "
            "nobody knows whether it is empty."
        )
    return ""


def some(values: Sequence[int]) -> str:
    """The first ten."""
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
