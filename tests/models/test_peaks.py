"""Peaks of maps and masks found twice, against scipy and against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from autosam.models import peaks
from autosam.models.peaks import drop_duplicates, find_peaks

Part = tuple[int, int, np.ndarray]


@pytest.mark.parametrize("least", [0.1, 0.6])
@pytest.mark.parametrize("classes", [1, 3])
def test_peaks_are_the_maxima_of_their_neighbours(classes: int, least: float) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        # Few values, so that neighbours are equal; padding at the right.
        centers = rng.integers(0, 12, (classes, 16, 16)).astype(np.float32) / 12
        centers[..., 12:] = 0
        cells, found, values = find_peaks(torch.from_numpy(centers), least)
        best = centers.max(0)
        # A single maximum filter of the best class, not one for each class.
        around = ndimage.maximum_filter(best, 5, mode="constant", cval=-1)
        expected = {(x, y) for y, x in np.argwhere((best == around) & (best >= least))}
        assert len(cells) == len(expected)
        assert {tuple(cell) for cell in cells.tolist()} == expected
        x, y = cells.T.numpy()
        assert np.array_equal(values, best[y, x])
        assert np.array_equal(centers[found, y, x], best[y, x])
        assert (np.diff(values.numpy()) <= 0).all()


def test_peaks_by_hand() -> None:
    centers = torch.zeros(2, 4, 5)
    centers[0, 0, 0], centers[0, 0, 1], centers[1, 3, 4] = 0.5, 0.4, 0.9
    cells, classes, values = find_peaks(centers, 0.1)
    assert cells.tolist() == [[4, 3], [0, 0]]
    assert classes.tolist() == [1, 0]
    assert values.tolist() == pytest.approx([0.9, 0.5])
    assert len(find_peaks(torch.zeros(1, 4, 4), 0.1)[0]) == 0


def test_the_highest_of_too_many_peaks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "MOST", 7)
    centers = torch.zeros(1, 30, 30)
    centers[0, ::3, ::3] = torch.linspace(0.2, 0.9, 100).view(10, 10)
    _, _, values = find_peaks(centers, 0.1)
    assert torch.equal(values, torch.linspace(0.2, 0.9, 100).flip(0)[:7])


def parts_of(rng: np.random.Generator, side: int, count: int) -> list[Part]:
    """Rectangles with holes at random places; some empty, some the same as others."""
    found: list[Part] = []
    for _ in range(count):
        y, x = rng.integers(0, side, 2)
        mask = rng.random(rng.integers(1, 12, 2)) < rng.choice([0.0, 0.5, 0.9, 1.0])
        found.append((int(y), int(x), mask[: side - y, : side - x]))
        if rng.random() < 0.3:
            found.append(found[rng.integers(len(found))])
    return found


def kept_one_by_one(masks: list[Part], side: int, share: float) -> list[int]:
    whole = np.zeros((len(masks), side, side), bool)
    for one, (y, x, mask) in zip(whole, masks, strict=True):
        one[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    kept: list[int] = []
    for i, one in enumerate(whole):
        most = [(one & whole[j]).sum() > share * min(one.sum(), whole[j].sum()) for j in kept]
        if one.any() and not any(most):
            kept.append(i)
    return kept


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_duplicates_against_a_loop(share: float) -> None:
    for seed in range(30):
        masks = parts_of(np.random.default_rng(seed), 24, 30)
        assert drop_duplicates(masks, 24, share) == kept_one_by_one(masks, 24, share)


def test_duplicates_by_hand() -> None:
    def bar(start: int, stop: int) -> Part:
        return 2, start, np.ones((1, stop - start), bool)

    # 0..9; half of 4..6 more than in it; exactly half in it; empty; far away; inside the first.
    masks = [bar(0, 10), bar(8, 11), bar(8, 12), (0, 0, np.zeros((0, 0), bool)), bar(14, 20)]
    assert drop_duplicates([*masks, bar(3, 4)], 20, 0.5) == [0, 2, 4]
    assert drop_duplicates([], 20, 0.5) == []
    assert drop_duplicates(masks[3:4], 20, 0.5) == []
