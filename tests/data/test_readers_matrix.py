"""Every combination of format, depth, channels, colours, planes, orientation, compression, opacity
and nodata that the writers allow: read by autosam as a whole, by windows, as bands and as a mask,
and by a library that autosam does not use for that format. What comes out is equal, or an error
that says why not."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matrix_empty
import matrix_others
import matrix_tiffs
import numpy as np
import pytest
from matrix_cases import CMYK, GREY, PALETTE, RGB, WHITE_0, Case

from autosam.data.images import ImageFile, read_mask_file
from autosam.errors import DataError
from autosam.inference.tiling import open_pixels

WRITERS = (
    matrix_tiffs.tiffs,
    matrix_tiffs.small_bits,
    matrix_tiffs.inks_and_light,
    matrix_empty.empty_values,
    matrix_empty.turned_and_empty,
    matrix_others.pngs,
    matrix_others.photos,
    matrix_others.of_pillow,
    matrix_others.of_imagemagick,
)
COUNTS: Counter[str] = Counter()
TURN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.flipud(np.rot90(a, 1)),
    6: lambda a: np.rot90(a, 3),
    7: lambda a: np.fliplr(np.rot90(a, 1)),
    8: lambda a: np.rot90(a, 1),
}
"""What each orientation asks for, after the TIFF 6.0 specification."""


def light(case: Case) -> np.ndarray:
    """Stored numbers -> H x W x 1 or 3 that grow with the light."""
    raw, top = case.raw, 2**case.bits - 1
    colors = raw[..., : raw.shape[2] - case.extra]
    if case.kind == PALETTE:
        assert case.palette is not None
        return case.palette[raw[..., 0]]
    if case.kind == WHITE_0:
        if raw.dtype.kind == "f":
            return -raw
        return (
            (-1 - raw)
            if raw.dtype.kind == "i"
            else (np.uint64(top) - raw.astype(np.uint64)).astype(raw.dtype)
        )
    if case.kind == CMYK:
        full = np.iinfo(raw.dtype).max
        ink = colors.astype(np.float64) / full
        return np.rint((1 - ink[..., :3]) * (1 - ink[..., 3:4]) * full).astype(raw.dtype)
    if case.alpha == "multiplied":
        alpha = raw[..., -1:].astype(np.float64)
        full = colors * np.divide(top, alpha, out=np.zeros_like(alpha), where=alpha > 0)
        return np.clip(np.rint(full), 0, top).astype(raw.dtype)
    return colors


def stretched(
    values: np.ndarray, bits: int, known: np.ndarray, limits: tuple[float, float] | None = None
) -> np.ndarray:
    """8 bits as they are; fewer over the range of 8; more from their own percentiles."""
    if values.dtype == np.uint8 and bits == 8:
        return values
    if bits < 8 and values.dtype.kind in "bu":
        return np.rint(values * (255.0 / (2**bits - 1))).astype(np.uint8)
    low, high = limits or np.percentile(values[known], (0.1, 99.9))
    safe = np.where(known, values, low).astype(np.float64)
    return np.clip((safe - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)


def known_values(case: Case, values: np.ndarray) -> np.ndarray:
    """Of numbers as stored: bool H x W x C."""
    known = np.ones(values.shape, bool)
    if values.dtype.kind == "f":
        known &= ~np.isnan(values)
    for value in (case.nodata, case.asked):
        if value is not None and not np.isnan(value):
            known &= values != np.array(value, values.dtype)
    if case.valid is not None:
        known &= case.valid[..., None]
    return known


def expected(
    case: Case, limits: tuple[float, float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8, and bool H x W: where there are data."""
    values = light(case)
    stored = values if case.kind in (PALETTE, CMYK) else case.raw[..., : values.shape[2]]
    known = known_values(case, stored)
    rgb = stretched(values, 8 if case.kind == PALETTE else case.bits, known, limits)
    valid = known.any(2)
    rgb = np.where(valid[..., None], np.broadcast_to(rgb, (*rgb.shape[:2], 3)), 0)
    return TURN[case.orientation](rgb), TURN[case.orientation](valid)


def count(case: Case, how: str, equal: bool) -> None:
    COUNTS["equal" if equal else "wrong"] += 1
    if not equal:
        print(f"WRONG {how}: {case.name}")


def same(one: np.ndarray, other: np.ndarray, close: float) -> bool:
    if one.shape != other.shape:
        return False
    if not close:
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    apart = np.abs(one.astype(np.float64) - other)
    return bool(np.percentile(apart, 99) <= close)


def by_windows(file: ImageFile) -> tuple[np.ndarray, np.ndarray]:
    pixels = open_pixels(file)
    height, width = pixels.shape
    rgb, valid = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool)
    for y in range(0, height, 20):
        for x in range(0, width, 30):
            high, wide = min(20, height - y), min(30, width - x)
            part, there = pixels.part(y, x, high, wide)
            rgb[y : y + high, x : x + wide] = part
            valid[y : y + high, x : x + wide] = True if there is None else there
    pixels.close()
    return rgb, valid


def refused(case: Case, how: str, read: Callable[[], object], message: str) -> None:
    try:
        read()
    except DataError as error:
        COUNTS["refused"] += 1
        if not re.search(message, str(error)) or str(case.path) not in str(error):
            COUNTS["wrong"] += 1
            print(f"WRONG refusal {how}: {case.name}: {error}")
    else:
        count(case, how, False)


def check_image(case: Case) -> None:
    file = ImageFile(case.path)
    if case.refused:
        refused(case, "whole", file.read, case.refused)
        refused(case, "windows", lambda: by_windows(file), case.refused)
        return
    rgb, valid = expected(case)
    found, there = file.read_valid()
    there = np.ones(found.shape[:2], bool) if there is None else there
    count(case, "whole", same(found, rgb, case.close) and np.array_equal(there, valid))
    pieces = by_windows(file)
    count(case, "windows", np.array_equal(pieces[0], found) and np.array_equal(pieces[1], there))


def check_bands(case: Case) -> None:
    if not case.bands:
        return
    values = case.raw if case.kind in (GREY, RGB, CMYK) else light(case)
    total = values.shape[2]
    bands = (total, 1, min(2, total))
    file = ImageFile(case.path, bands=bands)
    picked = [band - 1 for band in bands]
    chosen = values[..., picked]
    known = known_values(case, case.raw[..., picked] if case.kind == WHITE_0 else chosen)
    rgb = stretched(chosen, 8 if case.kind == PALETTE else case.bits, known)
    rgb = TURN[case.orientation](np.where(known.any(2)[..., None], rgb, 0))
    found = file.read()
    count(case, "bands", same(found, rgb, case.close))
    count(case, "bands by windows", np.array_equal(by_windows(file)[0], found))
    beyond = ImageFile(case.path, bands=(total + 1, 1, 1))
    refused(case, "bands", beyond.read, f"has {total} bands")


def check_mask(case: Case) -> None:
    """Values, palette and opacity as stored."""
    if case.refused or case.kind == CMYK or case.no_mask:
        refused(case, "mask", lambda: read_mask_file(case.path), "not a mask|are not a mask")
        return
    stored = read_mask_file(case.path)
    values = case.raw if case.kind == PALETTE else light(case)
    if case.alpha == "multiplied":
        values = case.raw[..., :3]
    if case.bits == 1 and case.kind != PALETTE:
        values = values.astype(np.uint8) * 255
    if values.shape[2] == 1:
        values = values[..., 0]
    equal = same(stored.values, TURN[case.orientation](values), case.close)
    if case.alpha:
        equal &= stored.alpha is not None
        if stored.alpha is not None:
            equal &= np.array_equal(stored.alpha, TURN[case.orientation](case.raw[..., -1]))
    if case.palette is not None:
        used = int(case.raw.max()) + 1
        equal &= stored.palette is not None
        if stored.palette is not None:
            equal &= np.array_equal(stored.palette[:used], case.palette[:used])
    first = case.raw[..., : case.raw.shape[2] - case.extra]
    nothing = replace(case, nodata=case.nodata or None)  # in a mask, 0 is the background
    hidden = TURN[case.orientation](~known_values(nothing, first).any(2))
    equal &= np.array_equal(hidden, hidden & False if stored.missing is None else stored.missing)
    count(case, "mask", bool(equal))


def check_settings(case: Case) -> None:
    """Of every third file: a value without data and a window that the settings name."""
    plain = case.kind in (GREY, WHITE_0, RGB) and case.alpha != "multiplied" and not case.close
    if case.refused or not plain or COUNTS["files"] % 3:
        return
    asked = replace(case, asked=float(case.raw[9, 9, 0]))
    deep = case.bits > 8 or light(case).dtype not in (np.uint8, bool)
    limits = None
    if deep:
        known = known_values(asked, case.raw[..., : light(case).shape[2]])
        low, high = np.percentile(light(case)[known], (10, 90))
        limits = (float(low), float(high))
    rgb, valid = expected(asked, limits)
    file = ImageFile(case.path, window=limits, nodata=asked.asked)
    found, there = file.read_valid()
    there = np.ones(found.shape[:2], bool) if there is None else there
    count(case, "settings", same(found, rgb, 0) and np.array_equal(there, valid))
    pieces = by_windows(file)
    count(case, "settings, windows", all(map(np.array_equal, pieces, (found, there))))


def check_second(case: Case) -> None:
    """The other library must agree on what was written, or the truth would be one's own alone."""
    if case.second is None:
        return
    try:
        other = case.second(case.path)
    except Exception:  # of other libraries, many kinds
        COUNTS["second readings refused"] += 1
        return
    raw = TURN[case.orientation](case.raw) if case.upright else case.raw
    if raw.dtype == bool:
        other = other > 0
    COUNTS["second readings"] += 1
    if not same(other, raw, case.close):
        COUNTS["second readings that differ"] += 1
        print("SECOND", case.name, other.shape, raw.shape)


@pytest.mark.filterwarnings("ignore")
def test_every_combination(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    COUNTS.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for writer in WRITERS:
            folder = tmp_path / writer.__name__
            folder.mkdir()
            for case in writer(folder):
                COUNTS["files"] += 1
                COUNTS[writer.__name__] += 1
                for check in (
                    check_second,
                    check_image,
                    check_bands,
                    check_mask,
                    check_settings,
                ):
                    try:
                        check(case)
                    except Exception as error:
                        COUNTS["wrong"] += 1
                        print(f"WRONG {check.__name__} {case.name}: {error!r:.300}")
    tried = COUNTS["equal"] + COUNTS["refused"] + COUNTS["wrong"]
    with capsys.disabled():
        print(f"\nreadings tried {tried}: equal {COUNTS['equal']}, refused {COUNTS['refused']}, "
              f"wrong {COUNTS['wrong']}; of {COUNTS['files']} files; "
              f"second readings {COUNTS['second readings']} equal, "
              f"{COUNTS['second readings refused']} refused there")  # fmt: skip
    assert COUNTS["files"] > 500
    assert COUNTS["wrong"] == COUNTS["second readings that differ"] == 0, COUNTS
