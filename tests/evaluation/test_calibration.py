"""The choice of threshold and smallest area: by hand, and by resampling validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autosam.evaluation.calibration import MIN_IMAGES, THRESHOLDS, choose, smallest_area
from autosam.evaluation.evaluator import at_thresholds
from autosam.evaluation.metrics import dice
from autosam.evaluation.predict_batch import predict_label

COUNT = len(THRESHOLDS)
MIDDLE = THRESHOLDS.index(0.5)


def images(lost: float, silent: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """36 non-empty images, best at 0.5 and worse by `lost` at 0.85, and 4 that are
    empty, of which `silent` are left empty from 0.85 on: dice, area, empty."""
    rng = np.random.default_rng(0)
    fall = lost / 0.35 * np.abs(np.array(THRESHOLDS) - 0.5)
    full = 0.85 - fall + rng.normal(0, 0.001, (36, COUNT))
    empty = np.zeros((4, COUNT))
    empty[:silent, THRESHOLDS.index(0.85) :] = 1
    area = np.full((40, COUNT), 0.1)
    area[36:] = 0.2 * (empty == 0)  # false alarms larger than objects: no area removes them
    return np.concatenate([full, empty]), area, np.arange(40) >= 36


def test_false_alarms_count_as_much_as_what_they_cost() -> None:
    # All four silent: +0.1 on the mean, -0.9 x 0.0175 elsewhere.
    assert choose(*images(0.0175, 4)) == (0.85, 0.05)
    # One of them: +0.025, and -0.9 x 0.02 elsewhere: less than half a standard error (0.025).
    assert choose(*images(0.02, 1)) == (0.5, 0.05)
    # Four, but what they cost elsewhere is more.
    assert choose(*images(0.12, 4)) == (0.5, 0.05)


def test_a_threshold_is_moved_by_what_most_images_say_and_no_further() -> None:
    best = 1 - np.abs(np.array(THRESHOLDS) - 0.3)
    dice = np.stack([best + 0.1 * i for i in range(MIN_IMAGES)])
    area, empty = np.full(dice.shape, 0.1), np.zeros(MIN_IMAGES, bool)
    assert choose(dice, area, empty) == (0.3, 0.0)
    assert choose(dice[1:], area[1:], empty[1:]) == (0.5, 0.0)  # too few
    # One of them says otherwise: the mean is best at 0.3, by less than its error from 0.45 on.
    dice[0] = 1 - 6 * np.abs(np.array(THRESHOLDS) - 0.6)
    assert 0.3 < choose(dice, area, empty)[0] <= 0.6


def test_the_classes_of_one_image_are_no_further_images() -> None:
    best = 1 - np.abs(np.array(THRESHOLDS) - 0.3)
    dice, empty = np.stack([best] * 24), np.zeros(24, bool)
    area, image = np.full(dice.shape, 0.1), np.arange(24) // 3
    assert choose(dice, area, empty, image) == (0.3, 0.0)
    assert choose(dice[3:], area[3:], empty[3:], image[3:]) == (0.5, 0.0)  # 21 masks of 7 images
    # Copies of each mask change nothing.
    rng = np.random.default_rng(3)
    dice, area = rng.random((2, 20, COUNT))
    empty = np.arange(20) >= 14
    image = np.repeat(np.arange(20), 4)
    copied = choose(*(np.repeat(one, 4, 0) for one in (dice, area, empty)), image)
    assert copied == choose(dice, area, empty)


def test_the_smallest_area_by_hand() -> None:
    """The smallest mask that finds something has 0.08; a smaller one misses."""
    area = np.array([0.08, 0.1, 0.05, 0.2, 0.02, 0.3, 0.0])
    dice = np.array([0.5, 0.9, 0.0, 0.9, 0.0, 0.0, 1.0])
    empty = np.arange(7) >= 4
    assert smallest_area(dice, area, empty) == pytest.approx(0.04)
    assert smallest_area(dice[:4], area[:4], empty[:4]) == 0  # no empty mask: nothing to gain
    assert smallest_area(dice * 0, area, empty) == 0  # nothing is ever found


def draw(
    rng: np.random.Generator, count: int, empty: int, bias: float, alarm: float = -1.5
) -> tuple[np.ndarray, ...]:
    """Masks of a simulated network: disks whose probability falls off softly, with an error of the
    radius; `bias` on the logits; on empty images specks, whose strongest logit is about `alarm`.

    Returns:
        dice, area: float N x T; empty: bool N.
    """
    rows, columns = np.mgrid[:40, :40]
    dice, area = [], []
    levels = np.log(np.array(THRESHOLDS) / (1 - np.array(THRESHOLDS)))[:, None, None]
    for i in range(count):
        distance = np.hypot(rows - rng.uniform(12, 28), columns - rng.uniform(12, 28))
        radius, truth = rng.uniform(3, 12), np.zeros((40, 40), bool)
        if i < empty:
            logits = np.clip((rng.uniform(1, 4) - distance) * 0.8, -6, rng.normal(alarm, 2))
        else:
            truth = distance <= radius
            soft = (radius + rng.normal(0, 1) - distance) * 0.6 + bias
            logits = np.clip(soft, -6, rng.normal(3, 1.5))
        masks = logits + rng.normal(0, 0.3, (40, 40)) > levels
        total = masks.sum((1, 2)) + truth.sum()
        both = 2 * (masks & truth).sum((1, 2))
        dice.append(np.where(total, both / np.maximum(total, 1), 1.0))
        area.append(masks.mean((1, 2)))
    return np.array(dice), np.array(area), np.arange(count) < empty


def test_resampled_validation_gives_a_choice_that_holds_on_test() -> None:
    """Validation sets of 40 images, 5 of them empty, drawn from a pool, and what the choice scores
    on others: by the best mean Dice of validation (as before), and by the rule."""
    rng = np.random.default_rng(0)
    lines = []
    for bias, alarm in ((0.0, -1.5), (0.8, -1.5), (-0.8, -1.5), (0.0, 1.5)):
        pool, test = draw(rng, 1200, 150, bias, alarm), draw(rng, 800, 100, bias, alarm)

        def score(threshold: float, smallest: float, test: tuple = test) -> float:
            at = THRESHOLDS.index(threshold)
            kept = test[1][:, at] >= smallest if smallest else True
            return float(np.where(kept, test[0][:, at], test[2]).mean())

        before, after = [], []
        for _ in range(150):
            some = np.r_[rng.choice(150, 5, False), 150 + rng.choice(1050, 35, False)]
            dice, area, empty = (values[some] for values in pool)
            means = dice.mean(0)
            near = np.flatnonzero(means >= means.max() - 1e-9)
            before.append(score(THRESHOLDS[near[np.abs(near - MIDDLE).argmin()]], 0.0))
            after.append(score(*choose(dice, area, empty)))
        half = score(0.5, 0.0)
        lines.append(
            f"bias {bias:+.1f}, false alarms {alarm:+.1f}: at 0.5 {half:.4f}; best mean "
            f"{np.mean(before):.4f} ± {np.std(before):.4f}, worst {min(before):.4f}; rule "
            f"{np.mean(after):.4f} ± {np.std(after):.4f}, worst {min(after):.4f}"
        )
        print(lines[-1])
        assert np.mean(after) > half - 0.002
        if (bias, alarm) == (0.0, -1.5):  # 0.5 is right: what the choice itself costs
            assert np.std(after) < 0.75 * np.std(before)
            assert np.mean(after) > np.mean(before)
            assert min(after) > min(before)
        else:  # and where 0.5 is wrong, most of what there is to gain is gained
            best = max(score(threshold, 0.0) for threshold in THRESHOLDS)
            assert np.mean(after) - half > 0.7 * (best - half)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 1.0]), st.booleans(), st.booleans())
def test_the_histogram_counts_what_masks_at_each_threshold_do(
    seed: int, share: float, holes: bool, exclusive: bool
) -> None:
    """Against a mask for each threshold, with logits on the thresholds and beside them."""
    rng = np.random.default_rng(seed)
    edges = np.log([t / (1 - t) for t in THRESHOLDS]).astype(np.float32)
    steps = rng.choice(np.array([-np.inf, np.inf, 0], np.float32), (3, 9, 7))
    logits = np.where(rng.random((3, 9, 7)) < 0.5, rng.normal(0, 2, (3, 9, 7)),
                      np.nextafter(rng.choice(edges, (3, 9, 7)), steps))  # fmt: skip
    logits = torch.from_numpy(np.where(steps == 0, rng.choice(edges, (3, 9, 7)), logits)).float()
    truth, seen = rng.random((3, 9, 7)) < share, rng.random((9, 7)) < 0.8
    truth &= seen
    valid = rng.random((9, 7)) < 0.7 if holes else None
    scores, areas = at_thresholds(logits, truth, seen, exclusive, valid)
    for t, threshold in enumerate(THRESHOLDS):
        masks = predict_label(logits, exclusive, threshold, valid=valid)
        assert np.array_equal(areas[:, t], masks.mean((1, 2)))
        assert scores[:, t].tolist() == [
            dice(m & seen, own) for m, own in zip(masks, truth, strict=True)
        ]


def test_exclusive_classes_get_the_threshold_that_is_right() -> None:
    """Two classes beside each other; background is likely to sigmoid(1) = 0.731, and the other
    class is always less likely than the true one."""
    truth = np.zeros((2, 8, 8), bool)
    truth[0, 1:5, 1:4] = truth[1, 1:5, 4:7] = True
    logits = torch.from_numpy(truth * 2.1 + np.array([1.0, 0.9])[:, None, None]).float()
    scores, areas = at_thresholds(logits, truth, np.ones((8, 8), bool), True)
    assert (scores[:, THRESHOLDS.index(0.75) :] == 1).all()
    assert (scores[:, : THRESHOLDS.index(0.7)] < 1).any()
    twelve = [np.concatenate([part] * 12) for part in (scores, areas, np.zeros(2, bool))]
    assert choose(*twelve, np.arange(24) // 2) == (pytest.approx(0.75), 0.0)
    assert np.array_equal(predict_label(logits, True, 0.75), truth)
