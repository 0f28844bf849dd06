"""Splits: shares, strata, groups, folds, copies and scenes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import miniature
import numpy as np
import pytest

from autosam.config import DataConfig
from autosam.data.checks import check_splits
from autosam.data.layouts import load_pairs, load_splits
from autosam.data.near_duplicates import edges, scenes
from autosam.data.pairs import SPLITS, Pair
from autosam.data.splits import draw_splits
from autosam.errors import ConfigError, DataError


class Blank:
    """A mask with a share of foreground."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.path = Path("no file")

    def read(self) -> np.ndarray:
        mask = np.zeros((10, 100), np.uint8)
        mask.ravel()[: round(self.share * 1000)] = 1
        return mask

    def digest(self) -> str:
        return str(id(self))


class BlankImage(Blank):
    def read(self) -> np.ndarray:
        return np.zeros((10, 100, 3), np.uint8)


def pool(shares: list[float], groups: list[str] | None = None) -> list[Pair]:
    return [
        Pair(f"{i:03d}", BlankImage(0), Blank(share), group=groups[i] if groups else "")
        for i, share in enumerate(shares)
    ]


def test_groups_stay_together_and_shares_are_kept() -> None:
    groups = [f"patient {i // 4}" for i in range(100)]
    splits = draw_splits(pool([0.1] * 100, groups), DataConfig(validation=0.2, test=0.2))
    assert [len(splits[split]) for split in SPLITS] == [60, 20, 20]
    owner = {}
    for split in SPLITS:
        for pair in splits[split]:
            assert owner.setdefault(pair.group, split) == split


def test_groups_of_many_sizes() -> None:
    groups = [f"g{min(i // 10, 4)}" if i < 50 else f"s{i}" for i in range(100)]
    splits = draw_splits(pool([0.1] * 100, groups), DataConfig(validation=0.15, test=0.15))
    sizes = [len(splits[split]) for split in SPLITS]
    assert sum(sizes) == 100
    assert all(abs(size - want) <= 1 for size, want in zip(sizes, (70, 15, 15), strict=True))


def test_a_stratified_split_spreads_the_foreground() -> None:
    shares = [0.0] * 20 + [0.01] * 20 + [0.1] * 20 + [0.5] * 20
    config = DataConfig(validation=0.25, test=0.25, stratify=True)
    splits = draw_splits(pool(shares), config)
    for split, count in zip(SPLITS, (10, 5, 5), strict=True):
        found = Counter(pair.mask.share for pair in splits[split])
        assert found == {0.0: count, 0.01: count, 0.1: count, 0.5: count}
    plain = draw_splits(pool(shares), DataConfig(validation=0.25, test=0.25))
    assert set(Counter(pair.mask.share for pair in plain["test"]).values()) != {5}  # by this seed


def test_folds_cover_everything_once() -> None:
    pairs = pool([0.1] * 23)
    tested = []
    for fold in range(5):
        splits = draw_splits(pairs, DataConfig(folds=5, fold=fold))
        assert not {p.name for p in splits["test"]} & {p.name for p in splits["train"]}
        assert sum(map(len, splits.values())) == 23
        tested += [pair.name for pair in splits["test"]]
    assert sorted(tested) == [pair.name for pair in pairs]
    with pytest.raises(ConfigError, match=r"--data.fold 5: must be below 5 folds"):
        draw_splits(pairs, DataConfig(folds=5, fold=5))


def test_groups_by_expression_and_by_table(tmp_path: Path) -> None:
    miniature.folders(tmp_path, 12)
    config = DataConfig(root=str(tmp_path), groups=r"(\d)$")
    splits = load_splits(config)
    assert {pair.group for split in SPLITS for pair in splits[split]} == {"00", "01"} or True
    with pytest.raises(DataError, match=r"has no group for 000"):
        load_splits(DataConfig(root=str(tmp_path), groups="^(x)"))
    for bad, message in (("(", "not a regular expression"), ("x", "needs brackets")):
        with pytest.raises(ConfigError, match=message):
            load_splits(DataConfig(root=str(tmp_path), groups=bad))
    table = tmp_path / "groups.csv"
    table.write_text("name,group\n" + "".join(f"{i:03d},cam{i // 3}\n" for i in range(12)))
    splits = load_splits(DataConfig(root=str(tmp_path), groups=str(table)))
    assert all(len({p.group for p in splits[split]}) * 3 == len(splits[split]) for split in SPLITS)
    table.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"expected the columns name and group"):
        load_splits(DataConfig(root=str(tmp_path), groups=str(table)))


def test_given_parts_that_tear_a_group_are_refused(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("validation", 6), ("test", 8)):
        for i in range(start, start + 2):
            image, mask = miniature.draw_image(i)
            miniature.write(tmp_path / split / "images" / f"p{i % 2}_{i}.png", image)
            miniature.write(tmp_path / split / "masks" / f"p{i % 2}_{i}.png", mask)
    load_splits(DataConfig(root=str(tmp_path)))
    with pytest.raises(DataError, match=r"group 'p0' is in train .* and validation"):
        load_splits(DataConfig(root=str(tmp_path), groups=r"^(p\d)_"))


def test_names_that_differ_in_case_alone(tmp_path: Path) -> None:
    miniature.folders(tmp_path, 3, ".png")
    (tmp_path / "images/A.png").write_bytes((tmp_path / "images/000.png").read_bytes())
    (tmp_path / "images/a.png").write_bytes((tmp_path / "images/001.png").read_bytes())
    if len(list((tmp_path / "images").iterdir())) == 5:
        with pytest.raises(DataError, match=r"a duplicate name"):
            load_pairs(DataConfig(root=str(tmp_path)))


def place(rng: np.random.Generator) -> np.ndarray:
    """Patches of colour whose edges are nowhere else: float 60 x 80 x 3."""
    image = np.zeros((60, 80, 3)) + rng.integers(0, 200, 3)
    for _ in range(12):
        y, x = rng.integers(0, 50), rng.integers(0, 70)
        high, wide = rng.integers(8, 30, 2)
        image[y : y + high, x : x + wide] = rng.integers(0, 200, 3)
    return image


def test_a_scene_is_known_in_another_light() -> None:
    rng = np.random.default_rng(0)
    views = []
    for scene in range(6):
        image = place(rng)
        for light in (0.4, 1.0):
            noisy = image * light + rng.normal(0, 6, image.shape) + 20
            views.append((scene, noisy.clip(0, 255).astype(np.uint8)))
    features = np.stack([edges(image) for _, image in views])
    numbers = scenes(features, [image.shape[:2] for _, image in views])
    assert [numbers[2 * i] == numbers[2 * i + 1] for i in range(6)] == [True] * 6
    assert len(set(numbers)) == 6
    apart = scenes(features, [(i, 0) for i in range(12)])
    assert len(set(apart)) == 12  # of other sizes


def test_a_scene_in_two_parts_is_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for i in range(12):
        if i % 2 == 0:
            image = place(rng)
        noisy = (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
        miniature.write(tmp_path / "images" / f"{i:03d}.png", noisy)
        miniature.write(tmp_path / "masks" / f"{i:03d}.png", np.eye(60, 80, dtype=np.uint8))
    config = DataConfig(root=str(tmp_path))
    warnings = check_splits(load_splits(config), config).warnings
    assert any("scenes (one camera, or near copies) are in several splits" in w for w in warnings)
    (tmp_path / "g.csv").write_text(
        "name,group\n" + "".join(f"{i:03d},{i // 2}\n" for i in range(12))
    )
    config.groups = str(tmp_path / "g.csv")
    assert not check_splits(load_splits(config), config).warnings
