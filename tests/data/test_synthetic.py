"""The embedded data set: reproducible, disjoint splits, and not solvable by colour."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from autosam.data.synthetic import embedded as synthetic
from autosam.data.synthetic.embedded import MARKER, draw_example, synthetic_root, write_synthetic
from autosam.errors import DataError

BINS = 32
COUNTS = {"train": 6, "validation": 3, "test": 4}


@pytest.fixture(scope="module")
def examples() -> list[tuple[np.ndarray, np.ndarray]]:
    """The first images of the default training split."""
    return [draw_example(np.random.default_rng([0, 0, i])) for i in range(80)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("data") / "set", **COUNTS)


def _digests(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*"))]


def test_same_seed_same_example(examples) -> None:
    for i in range(10):
        image, mask = draw_example(np.random.default_rng([0, 0, i]))
        assert np.array_equal(image, examples[i][0])
        assert np.array_equal(mask, examples[i][1])


def test_form(examples) -> None:
    for image, mask in examples:
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape == (*mask.shape, 3)
        assert set(np.unique(mask)) <= {0, 255}
        assert all(192 <= side <= 320 for side in mask.shape)
    assert 0.3 <= np.mean([mask.shape[0] != mask.shape[1] for _, mask in examples]) <= 0.7


def test_amount_of_target(examples) -> None:
    shares = np.array([np.mean(mask > 0) for _, mask in examples])
    assert 0.01 <= np.mean(shares == 0) <= 0.16
    assert 0.03 <= shares.mean() <= 0.12
    assert shares.max() < 0.5


def _channels(image: np.ndarray) -> dict[str, np.ndarray]:
    """Every channel of RGB, HSV, Lab and grey, uint8 (H, W)."""
    hsv, lab = (cv2.cvtColor(image, code) for code in (cv2.COLOR_RGB2HSV, cv2.COLOR_RGB2LAB))
    found = {"grey": cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)}
    for name, channels in (("rgb", image), ("hsv", hsv), ("lab", lab)):
        found |= {f"{name}:{name[c]}": channels[..., c] for c in range(3)}
    return found


def _interval_dice(inside: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Dice of every interval of bins: (..., BINS, BINS), first by low then by high bin.

    ``inside`` and ``total`` count the target and all pixels per bin, (..., BINS). Images
    without target and without hits score 1, as in the project's metric.
    """

    def between(counts: np.ndarray) -> np.ndarray:
        ends = np.cumsum(counts, axis=-1)
        return ends[..., None, :] - (ends - counts)[..., :, None]

    hits, chosen = between(inside), between(total)
    truth = inside.sum(axis=-1)[..., None, None]
    dice = np.where(chosen + truth > 0, 2 * hits / np.maximum(chosen + truth, 1), 1.0)
    return np.where(np.triu(np.ones((BINS, BINS), bool)), dice, 0.0)


def test_no_colour_threshold_solves_it(examples) -> None:
    """Neither pooled over the set nor averaged over images does any interval reach 0.5."""
    histograms: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for image, mask in examples:
        for name, channel in _channels(image).items():
            bins = (channel.astype(np.intp) * BINS) >> (8 if name != "hsv:h" else 0)
            if name == "hsv:h":
                bins //= 180
            pair = (
                np.bincount(bins[mask > 0], minlength=BINS),
                np.bincount(bins.ravel(), minlength=BINS),
            )
            histograms.setdefault(name, []).append(pair)
    scores = {}
    for name, pairs in histograms.items():
        inside, total = (np.array(counts) for counts in zip(*pairs, strict=True))
        pooled = _interval_dice(inside.sum(axis=0), total.sum(axis=0)).max()
        mean = _interval_dice(inside, total).mean(axis=0).max()
        scores[name] = (round(float(pooled), 3), round(float(mean), 3))
    print("best threshold (pooled, mean per image):", scores)
    assert max(max(pair) for pair in scores.values()) < 0.5, scores


def test_files_read_back_as_drawn(written: Path) -> None:
    for split_index, (split, count) in enumerate(COUNTS.items()):
        images = sorted((written / split / "images").iterdir())
        masks = sorted((written / split / "masks").iterdir())
        assert [path.stem for path in images] == [path.stem for path in masks]
        assert [path.stem for path in masks] == [f"{i:04d}" for i in range(count)]
        for index in range(count):
            image, mask = draw_example(np.random.default_rng([0, split_index, index]))
            read = cv2.cvtColor(cv2.imread(str(images[index])), cv2.COLOR_BGR2RGB)
            assert read.shape == image.shape
            near, true = (cv2.blur(a.astype(np.float32), (4, 4)) for a in (read, image))
            assert np.abs(near - true).mean() < 4  # JPEG drops fine noise in colour
            assert np.array_equal(cv2.imread(str(masks[index]), cv2.IMREAD_UNCHANGED), mask)
            objects = written / split / "objects" / masks[index].name
            numbers = cv2.imread(str(objects), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(numbers > 0, mask > 0)
            found = np.unique(numbers[numbers > 0])
            assert np.array_equal(found, np.arange(1, len(found) + 1))


def test_splits_do_not_overlap(written: Path) -> None:
    digests = [d for split in COUNTS for d in _digests(written / split / "images")]
    assert len(set(digests)) == len(digests) == sum(COUNTS.values())


def test_complete_set_is_reused(written: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    assert write_synthetic(written, **COUNTS) == written
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


def test_incomplete_or_other_set_is_rebuilt(tmp_path: Path) -> None:
    root = write_synthetic(tmp_path / "a" / "set", 2, 1, 1, size=64)
    digests = _digests(root / "train" / "images")
    (root / "train" / "masks" / "0001.png").unlink()
    write_synthetic(root, 2, 1, 1, size=64)
    assert (root / "train" / "masks" / "0001.png").is_file()
    write_synthetic(root, 3, 1, 1, size=64)
    assert _digests(root / "train" / "images")[:2] == digests  # counts do not change images
    write_synthetic(root, 3, 1, 1, size=64, seed=1)
    assert _digests(root / "train" / "images")[:2] != digests
    assert [path.name for path in root.parent.iterdir()] == ["set"]  # no temporary folder left


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match=r"mine\.txt"):
        write_synthetic(tmp_path, 1, 1, 1, size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="not a synthetic data set"):
        write_synthetic(tmp_path / "mine.txt", 1, 1, 1, size=64)


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(synthetic, "_write_split", fail)
    with pytest.raises(RuntimeError):
        write_synthetic(tmp_path / "set", 1, 1, 1, size=64)
    assert list(tmp_path.iterdir()) == []


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def note(root: Path) -> Path:
        asked.append(root)
        return root

    monkeypatch.setattr(synthetic, "write_synthetic", note)
    name = f"synthetic-v{synthetic.VERSION}"
    monkeypatch.setenv("AUTOSAM_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert synthetic_root() == tmp_path / "own" / name
    monkeypatch.delenv("AUTOSAM_CACHE")
    assert synthetic_root() == tmp_path / "xdg" / "autosam" / name
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert synthetic_root() == tmp_path / "home" / ".cache" / "autosam" / name
    assert len(asked) == 3


def test_marker_names_the_recipe(written: Path) -> None:
    recipe = json.loads((written / MARKER).read_text())
    assert recipe == {"version": synthetic.VERSION, "size": 256, "seed": 0, **COUNTS}
