"""The learning curve: subsets, the sentences, and a comparison from start to end."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers import draw_folders, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st

import autosam.comparison.jobs
import autosam.data.splits
from autosam.compare import compare
from autosam.comparison.conclusion import conclusion
from autosam.comparison.curve import Curve, Size, sized, sizes_of
from autosam.comparison.jobs import Job, time_left
from autosam.comparison.rows import Row
from autosam.comparison.table import ResultsTable
from autosam.comparison.variants import Variant
from autosam.config import Config, DataConfig, Settings, TrainConfig
from autosam.config.commands import CompareConfig
from autosam.data.images import ImageFile, MaskFile
from autosam.data.pairs import Pair, Splits
from autosam.data.splits import draw_splits
from autosam.errors import ConfigError
from autosam.evaluation.scores import read_scores


@pytest.fixture(autouse=True, scope="module")
def names_alone() -> Iterator[None]:
    """Pairs without files: nothing is compared by content."""
    with mock.patch.object(autosam.data.splits, "_refuse_equal"):
        yield


def pairs(count: int, split: str = "") -> list[Pair]:
    names = [f"{split}{i:04d}" for i in range(count)]
    return [Pair(n, ImageFile(Path(n)), MaskFile(Path(n)), split) for n in names]


@settings(max_examples=60, deadline=None)
@given(st.integers(30, 90), st.integers(1, 30), st.integers(1, 9), st.integers(0, 10**6))
def test_smaller_subsets_are_in_larger_ones(count: int, train: int, held: int, seed: int) -> None:
    def drawn(limit: int | None, held: int | None, seed: int) -> Splits:
        data = DataConfig(limit_train=limit, limit_validation=held, limit_seed=seed)
        return draw_splits(pairs(count), data)

    whole = drawn(None, None, 0)
    small, large = drawn(train, held, seed), drawn(train + 3, held + 1, seed)
    for split in ("train", "validation"):
        names = [{pair.name for pair in one[split]} for one in (small, large, whole)]
        assert names[0] <= names[1] <= names[2]
    assert len(small["train"]) == min(train, len(whole["train"]))
    assert len(small["validation"]) == min(held, len(whole["validation"]))
    assert small["test"] == large["test"] == whole["test"]


def test_every_image_is_drawn_as_often_by_many_seeds() -> None:
    """600 draws of 8 of 28: 171 each, standard deviation 11."""
    counts: dict[str, int] = {}
    for seed in range(600):
        data = DataConfig(limit_train=8, limit_seed=seed)
        for pair in draw_splits(pairs(40), data)["train"]:
            counts[pair.name] = counts.get(pair.name, 0) + 1
    assert len(counts) == 28
    assert all(abs(count - 600 * 8 / 28) < 4.5 * 11.1 for count in counts.values())


def test_sizes() -> None:
    splits = {"train": pairs(85), "validation": pairs(15, "validation"), "test": []}
    found = sizes_of(["8", "16", "64", "all"], splits, 0.15)
    assert [(s.train, s.validation) for s in found] == [(6, 2), (14, 2), (54, 10), (85, 15)]
    assert [s.whole for s in found] == [False, False, False, True]
    # The same number again, and more training images than there are.
    assert sizes_of(["100", "all"], splits, 0.15) == [Size(85, 15, whole=True)]
    assert sizes_of(["98"], splits, 0.05) == [Size(85, 13)]
    with pytest.raises(ConfigError, match="101: training and validation hold 100 images"):
        sizes_of(["101"], splits, 0.15)
    # A large share of validation leaves two images for training.
    half = {"train": pairs(30), "validation": pairs(30, "validation"), "test": []}
    assert sizes_of(["4", "60"], half, 0.95) == [Size(2, 2), Size(30, 30, whole=True)]
    with pytest.raises(ConfigError, match=r"4 \(2 \+ 2\), 6 \(2 \+ 4\) .* train on the same"):
        sizes_of(["4", "6"], half, 0.95)


def test_fewer_images_get_more_epochs() -> None:
    whole = Size(800, 100, whole=True)
    own = Settings(train=TrainConfig(epochs=12, patience=6))
    assert sized(own, whole, whole) is own
    few = sized(own, Size(50, 9), whole)
    assert (few.train.epochs, few.train.patience) == (48, 24)
    assert (few.data.limit_train, few.data.limit_validation) == (50, 9)


def table(dice: dict[str, float], seeds: int = 3) -> ResultsTable:
    """40 images whose difficulty all runs share, with noise of 0.02."""
    rng = np.random.default_rng(int(sum(1000 * value for value in dice.values())))
    hard = rng.normal(0, 0.08, 40)
    rows = []
    for name, mean in dice.items():
        scores = [
            {f"i{i}": {"dice": float(mean + h + rng.normal(0, 0.02))} for i, h in enumerate(hard)}
            for _ in range(seeds)
        ]
        rows.append(Row(Variant(name), scores))
    return ResultsTable(rows, Variant(next(iter(dice))))


def test_the_sentences_follow_from_the_figures() -> None:
    curve = Curve({
        Size(6, 2): table({"autosam": 0.60, "hybrid": 0.50, "head": 0.50}),
        Size(26, 6): table({"autosam": 0.70, "hybrid": 0.65, "head": 0.66}),
        Size(102, 26): table({"autosam": 0.78, "hybrid": 0.78, "head": 0.78}),
        Size(400, 60, whole=True): table({"autosam": 0.80, "hybrid": 0.86, "head": 0.86}),
    })  # fmt: skip
    text = curve.conclusion()
    assert "autosam is behind the best with all 460 images." in text
    assert "hybrid is not significantly worse than the best from 128 images on." in text
    assert "head is not significantly worse than the best from 128 images on." in text
    assert "better than head (p by Holm) with 8 images (autosam); with 32 images (autosam)." in text
    assert "head is better than all" not in text
    assert "Twice as many labelled images would bring hybrid +0.0" in text
    assert [line[0] for line in curve.lines()] == [v.title for v in curve.variants]
    assert curve.header() == ["labelled images", "8", "32", "128", "all 460"]


def test_controls_are_no_runs_of_the_curve() -> None:
    """With all images there are rows that smaller numbers do not have, here better than any run."""
    last = table({"autosam": 0.80, "head": 0.80})
    control = table({"autosam": 0.90, "head": 0.90}).rows[0]
    last.rows.append(dataclasses.replace(control, variant=Variant("autosam", control="blank")))
    last = ResultsTable(last.rows, Variant("autosam"))
    assert not last.rows[0].variant.is_plain
    text = Curve({Size(6, 2): table({"autosam": 0.6, "head": 0.6}), Size(26, 6): last}).conclusion()
    assert "autosam is not significantly worse than the best at any number of images." in text
    assert "behind" not in text


def test_one_seed_and_one_run() -> None:
    """No spread over one seed, nothing to be level with, and an error that rises."""
    numbers = {Size(6, 2): 0.9, Size(10, 2): 0.85, Size(14, 2): 0.8, Size(26, 6): 0.7}
    curve = Curve({size: table({"autosam": dice}, 1) for size, dice in numbers.items()})
    assert "±" not in curve.markdown()
    for text in (curve.csv(), curve.tables[Size(26, 6)].csv()):
        [row] = [one for one in csv.DictReader(text.splitlines()) if one.get("train", "26") == "26"]
        assert float(row["dice"]) == pytest.approx(0.7, abs=0.05)
        assert row["dice_sd"] == ""
    text = curve.conclusion()
    assert "worse than" not in text
    assert "would bring autosam -0.0" in text
    assert "falling" not in text


def test_too_few_test_images_for_a_comparison() -> None:
    tables = {}
    means = {Size(6, 2): 0.3, Size(10, 2): 0.36, Size(14, 2): 0.4, Size(26, 6): 0.5}
    for size, dice in means.items():
        scores = {name: [{f"i{i}": {"dice": dice + more} for i in range(5)}]
                  for name, more in (("autosam", 0.0), ("head", 0.3))}  # fmt: skip
        rows = [Row(Variant(name), own) for name, own in scores.items()]
        tables[size] = ResultsTable(rows, Variant("autosam"))
    text = Curve(tables).conclusion()
    assert "there are 5 test images, and below 6 no difference is significant" in text
    assert "worse than" not in text
    assert "SAM" not in text
    assert "would bring head +0.0" in text


def test_nothing_follows_from_trainings_of_two_epochs() -> None:
    def short(curve: list[float]) -> Curve:
        tables = {
            Size(6, 2): table({"autosam": 0.60, "head": 0.40}),
            Size(26, 6): table({"autosam": 0.70, "head": 0.50}),
        }
        for one in tables.values():
            for row in one.rows:
                row.curves = [curve] * 3
        return Curve(tables)

    assert short([0.3, 0.5]).conclusion() == "No conclusion: a run was trained for 2 epochs only."
    assert "(p by Holm) with 8 images (autosam)" in short([0.3, 0.5, 0.5, 0.5]).conclusion()


def curves(table: ResultsTable, of: dict[str, list[float]]) -> ResultsTable:
    for row in table.rows:
        row.curves = [of[row.title]] * 3
    return table


def test_the_curve_says_no_more_than_the_table() -> None:
    """A head that had not converged, and runs that learned nothing, as in docs/compare.md."""
    flat, rising = [0.5] * 8, [0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65]
    tables = {}
    for size in (Size(6, 2), Size(26, 6)):
        own = table({"autosam": 0.7, "head": 0.5})
        tables[size] = curves(own, {"autosam": flat, "head": rising})
    last = tables[Size(26, 6)]
    assert "No conclusion: head had not converged" in conclusion(last)
    text = Curve(tables).conclusion()
    assert "At no number of images is a run that uses SAM significantly better than head" in text
    for one in tables.values():
        curves(one, {"autosam": flat, "head": flat})
    text = Curve(tables).conclusion()
    assert "better than head (p by Holm) with 8 images (autosam); with 32 images (autosam)." in text
    assert "Whether SAM is the reason is for the controls to say (--attribution true)." in text
    for one in tables.values():
        one.trivial = {"an empty mask": 0.9}
    text = Curve(tables).conclusion()
    assert "autosam has learned nothing (Dice 0.698; an empty mask has 0.900) with 32" in text
    assert "worse than" not in text
    assert "Twice" not in text


def test_one_seed_tells_no_runs_apart() -> None:
    curve = Curve({
        Size(6, 2): table({"autosam": 0.5, "head": 0.6}, 1),
        Size(14, 2): table({"autosam": 0.5, "head": 0.7}, 1),
    })  # fmt: skip
    text = curve.conclusion()
    assert text.startswith("The runs cannot be compared by one seed")
    assert "better" not in text


def test_no_run_uses_sam() -> None:
    both = {"probe": 0.5, "head": 0.6}
    text = Curve({Size(6, 2): table(both), Size(14, 2): table(both)}).conclusion()
    assert "head is not significantly worse than the best at any number of images." in text
    assert "SAM" not in text


def test_what_no_training_image_changes() -> None:
    """More labels bring nothing to runs that learn nothing."""
    both = {"autosam": 0.5, "sam-rough": 0.5, "sam-box": 0.9}
    sizes = [Size(6, 2), Size(14, 2), Size(26, 6)]
    curve = Curve({size: table(both | {"autosam": 0.5 + i / 10}) for i, size in enumerate(sizes)})
    text = curve.conclusion()
    assert text.count("Twice as many labelled images") == 1
    assert "would bring autosam" in text


def test_a_run_that_a_trivial_prediction_beats_does_not_help() -> None:
    """Both runs are worse than a mask of the whole image at 8 images, but not at 16."""
    tables = {
        Size(6, 2): table({"autosam": 0.25, "head": 0.1}),
        Size(14, 2): table({"autosam": 0.5, "head": 0.3}),
    }
    for one in tables.values():
        one.trivial = {"a mask of the whole image": 0.4}
    assert "(p by Holm) with 16 images (autosam), leaving out" in Curve(tables).conclusion()
    for one in tables.values():
        one.trivial["a mask of the whole image"] = 0.6
    text = Curve(tables).conclusion()
    assert "At no number of images" in text
    assert "better than head, leaving out where" in text
    swapped = {size: table({"autosam": 0.1, "head": 0.3}) for size in tables}
    for one in swapped.values():
        one.trivial = {"a mask of the whole image": 0.4}
    assert "head is better" not in Curve(swapped).conclusion()


def test_where_head_is_better() -> None:
    curve = Curve({
        Size(6, 2): table({"autosam": 0.5, "head": 0.6}),
        Size(14, 2): table({"autosam": 0.7, "head": 0.7}),
    })  # fmt: skip
    text = curve.conclusion()
    assert "At no number of images is a run that uses SAM significantly better than head." in text
    assert "head is better than all of them with 8 images." in text
    assert "Twice" not in text  # two numbers are no curve


def test_time_left(tmp_path: Path) -> None:
    def job(name: str, run: str, passes: int, seconds: float | None) -> Job:
        (tmp_path / name).mkdir()
        if seconds is not None:
            (tmp_path / name / "scores.yaml").write_text(f"seconds: {seconds}\ntrainable: 1\n")
        return Job(Variant(run), 0, Config(output=str(tmp_path / name)), passes)

    done = [job("a", "head", 100, 70.0), job("b", "head", 1000, 520.0)]
    left = [job("c", "head", 12_000, None), job("d", "autosam", 2000, None)]
    assert time_left(left, 1) == ""
    assert time_left(done, 1) == ""
    # 20 s and 0.5 s an image: 6020 s and 1020 s, in two processes.
    assert time_left(done + left, 2) == ", about 0 h 59 min left"


@pytest.fixture
def config(tiny_file: Path, tmp_path: Path) -> CompareConfig:
    folders = draw_folders(tmp_path / "data")
    tiny = tiny_config(tiny_file, f"--data.root={folders}", "--train.epochs=1")
    shared = {f.name: getattr(tiny, f.name) for f in dataclasses.fields(Settings)}
    return CompareConfig(
        **shared, runs="autosam,head", seeds=2, attribution=False, output=str(tmp_path / "out")
    )


def test_a_curve_from_start_to_report(
    config: CompareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(config)
    before = {folder.name for folder in (tmp_path / "out" / "runs").iterdir()}
    config.train_sizes = "4,6,all"
    compare(config)
    after = {folder.name for folder in (tmp_path / "out" / "runs").iterdir()}
    assert len(before) == 4  # trained once
    assert len(after) == 12
    assert before < after
    with open(tmp_path / "out" / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["labelled"], r["train"], r["validation"]) for r in rows[:3]] == [
        ("4", "2", "2"), ("6", "4", "2"), ("9", "6", "3"),
    ]  # fmt: skip
    for row in rows:
        counts = f"-{row['train']}+{row['validation']}" if row["labelled"] != "9" else ""
        means = []
        for folder in (tmp_path / "out" / "runs").glob(f"{row['run']}{counts}-seed*"):
            scores = read_scores(folder / "test_scores.csv")
            assert scores.keys() == {"img09", "img10", "img11"}
            means.append(np.mean([one["dice"] for one in scores.values()]))
        assert len(means) == 2
        assert float(row["dice"]) == pytest.approx(np.mean(means), abs=1e-5)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("Dice by number of labelled images") < page.index("Scores on test")
    first = (tmp_path / "out" / "curve.csv").read_bytes()
    monkeypatch.setattr(autosam.comparison.jobs, "train", None)
    compare(config)
    assert (tmp_path / "out" / "curve.csv").read_bytes() == first
    config.train_sizes = ""
    compare(config)  # the files beside a report are those of that report
    assert not list((tmp_path / "out").glob("curve.*"))
    assert len(list((tmp_path / "out").glob("events.*"))) == 1


@pytest.mark.parametrize(
    ("sizes", "more", "message"),
    [
        ("8,4", {}, "rising"),
        ("3,all", {}, "at least 4"),
        ("all,8", {}, "at the end"),
        ("8,x", {}, "expected numbers"),
        ("4,all", {"folds": 2}, "exclude each other"),
        ("8", {}, "two numbers or more"),
        (",", {}, "expected numbers"),
        ("9,all", {}, "all of them are the 9 images .* so there is no curve"),
    ],
)
def test_what_cannot_work(
    config: CompareConfig, sizes: str, more: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(dataclasses.replace(config, train_sizes=sizes, **more))
