"""Side by side: the plan, what is reused, the table, the figures behind it, and what they say."""

from __future__ import annotations

import csv
import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_config

import autosam.scoring
import autosam.trials
from autosam.compare import CompareConfig, compare
from autosam.config import Settings
from autosam.errors import ConfigError, Stopped
from autosam.losses import SegmentationLoss
from autosam.report import COLUMNS
from autosam.scoring import SWAPS
from autosam.significance import Difference
from autosam.significance import compare as difference
from autosam.standings import Row, Standings
from autosam.tracking import log, read_scores
from autosam.trials import Variant, plan
from autosam.verdict import judge, verdict


@pytest.fixture
def config(tiny_file: Path, folders: Path, tmp_path: Path) -> CompareConfig:
    tiny = tiny_config(tiny_file, f"--data.root={folders}", "--train.epochs=1")
    shared = {f.name: getattr(tiny, f.name) for f in dataclasses.fields(Settings)}
    return CompareConfig(
        **shared, runs="autosam,head,sam-box", seeds=2, output=str(tmp_path / "compare")
    )


TIMES = ("seconds", "images_per_second", "peak_gib")


def without_times(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def test_a_comparison_from_start_to_table(
    config: CompareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare(config)
    assert log.level == logging.INFO  # as a training leaves it
    names = {row.name for row in found.rows}
    assert names == {
        "autosam", "head", "sam-box", "autosam, blank", "autosam, shuffled",
        "autosam, blank at test", "autosam, shuffled at test", "autosam, no SAM",
    }  # fmt: skip
    # Oracles stand below the others, each group by its Dice.
    order = [(row.oracle, -row.metrics["dice"][0]) for row in found.rows]
    assert order == sorted(order)
    assert [row.name for row in found.rows if row.oracle] == ["sam-box"]
    # The table's figures are those of the runs' own folders.
    means = []
    for seed in (0, 1):
        (folder,) = (tmp_path / "compare" / "runs").glob(f"autosam-seed{seed}-*")
        rows = read_scores(folder / "test_scores.csv")
        assert rows.keys() == {"img09", "img10", "img11"}
        means.append(np.mean([row["dice"] for row in rows.values()]))
    assert found["autosam"].metrics["dice"] == pytest.approx(
        (np.mean(means), np.std(means, ddof=1)), abs=1e-5
    )
    # SAM's part in the masks is gone where it is taken away.
    assert found["autosam, no SAM"].metrics != found["autosam"].metrics
    markdown = (tmp_path / "compare" / "table.md").read_text()
    assert "| autosam, shuffled at test |" in markdown
    assert "1 epochs of 6 pictures" in markdown
    assert found.facts["verdict"] in markdown

    # Again: nothing is trained or scored, and the table is the same.
    first = without_times(tmp_path / "compare" / "table.csv")
    monkeypatch.setattr(autosam.trials, "train", None)
    monkeypatch.setattr(autosam.scoring, "evaluate", None)
    compare(config)
    assert without_times(tmp_path / "compare" / "table.csv") == first


def test_other_settings_are_other_runs(config: CompareConfig, tmp_path: Path) -> None:
    split = autosam.compare.load_split(config.data)

    def folders(**changes: object) -> set[str]:
        settings = dataclasses.replace(config, **changes)
        return {
            t.folder.name for t in plan(settings, {"head": Variant("head")}, 2, tmp_path, split)
        }

    first = folders()
    assert len(first) == 2
    assert folders() == first
    train = dataclasses.replace(config.train, lr=0.1)
    assert not folders(train=train) & first
    # One picture more or less is other data.
    split["train"].pop()
    assert not folders() & first


def test_an_interrupted_comparison_goes_on(
    config: CompareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in the first epoch, in the second, and between two runs."""
    settings = dataclasses.replace(config.train, epochs=2)
    config = dataclasses.replace(config, runs="head,sam-box", seeds=1, train=settings)
    train, seen = autosam.trials.train, []
    forward, batches = SegmentationLoss.forward, []

    def counted(run):
        seen.append(run.run if run.resume is None else "resumed")
        return train(run)

    def cut_off(self, *args):
        batches.append(1)
        if len(batches) in cuts:
            raise KeyboardInterrupt
        return forward(self, *args)

    # 3 batches and 3 pictures of validation make an epoch: the 2nd of the first attempt, and of the
    # second attempt the 2nd of its second epoch.
    cuts = (2, 2 + 6 + 2)
    monkeypatch.setattr(autosam.trials, "train", counted)
    monkeypatch.setattr(SegmentationLoss, "forward", cut_off)
    for _ in cuts:
        with pytest.raises(KeyboardInterrupt):
            compare(config)
    with monkeypatch.context() as patch:
        patch.setattr("autosam.run.Run._asked_to_stop", lambda run: True)
        with pytest.raises(Stopped, match="the same command goes on") as stopped:
            compare(config)
    assert stopped.value.signal == 15
    found = compare(config)
    assert seen == ["head", "head", "resumed", "resumed", "sam-box"]
    assert {row.name for row in found.rows} == {"head", "sam-box"}


def test_quick_is_small_whatever_the_config_says(config: CompareConfig) -> None:
    config.train.epochs, config.data.limit = 30, None
    found = compare(dataclasses.replace(config, runs="sam-box", seeds=3, quick=True))
    assert found.facts["budget of each run"].startswith("5 epochs of 6 pictures")
    assert len(found["sam-box"].scores) == 1


def test_folds_test_every_picture_once(config: CompareConfig) -> None:
    found = compare(dataclasses.replace(config, runs="head", seeds=1, folds=3))
    assert sorted(found["head"].scores[0]) == sorted(f"img{i:02d}" for i in range(12))


def test_two_jobs_give_what_one_gives(
    config: CompareConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Three trainings: one process has to train twice.
    config = dataclasses.replace(config, runs="head,sam-box,sam-points", seeds=1, sam="lite",
                                 sam_checkpoint=None)  # fmt: skip
    compare(config)
    compare(dataclasses.replace(config, jobs=2, output=str(tmp_path / "two")))
    one, two = (without_times(tmp_path / name / "table.csv") for name in ("compare", "two"))
    assert one == two
    assert "Logging error" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": "autosam,nothing"}, "--runs autosam,nothing: choose from autosam, decoder"),
        ({"runs": "head,head"}, "a run stands twice"),
        ({"seeds": 0}, "--seeds 0: must be 1 to 1000"),
        ({"folds": 1}, "--folds 1: must be 2 to 1000"),
    ],
)
def test_settings_that_cannot_work(config: CompareConfig, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(dataclasses.replace(config, **changes))
    assert not os.path.exists(config.output)


def test_a_difference_worked_by_hand() -> None:
    found = difference(np.array([0.5, 0.7, 0.9]), np.array([0.5, 0.6, 0.7]))
    assert found.mean == pytest.approx(0.1)
    # Of 27 resamples of the differences 0, 0.1 and 0.2 one is all 0 and one all 0.2: over 2.5 %.
    assert (found.low, found.high) == pytest.approx((0.0, 0.2))
    same = difference(np.ones(4), np.ones(4))
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    # Six positive differences of different size: 2 of the 2^6 orders of signs are as extreme.
    assert difference(np.arange(1.0, 7), np.zeros(6)).p == pytest.approx(2 / 64)


def row(name: str, dice: list[float], seeds: int = 3, **more) -> Row:
    scores = [{f"p{i}": {"dice": v} for i, v in enumerate(dice)} for _ in range(seeds)]
    return Row(name, scores, **more)


def test_the_verdict_follows_the_figures() -> None:
    rng = np.random.default_rng(0)
    head = rng.uniform(0.6, 0.9, 40)
    noise = rng.normal(0, 0.02, 40)

    def verdict_of(gain: float) -> str:
        rows = [row("autosam", list(head + gain + noise)), row("head", list(head))]
        return verdict(Standings(rows, "autosam"))

    assert verdict_of(0.05).endswith("So SAM helps here.")
    assert verdict_of(-0.05).endswith("without it the same backbone does better.")
    none = verdict_of(-float(noise.mean()))
    assert "neither clearly better nor clearly worse" in none
    assert none.endswith("no sign that SAM helps here: without it the same backbone does as well.")
    # Better than the head, but no better than without SAM's view of the picture.
    rows = [row("autosam", list(head + 0.05)), row("head", list(head))]
    blind = verdict(Standings([*rows, row("autosam, blank", list(head + 0.05 + noise))], "autosam"))
    assert "no sign that it is by what its image encoder sees" in blind
    assert verdict(Standings([row("head", list(head))], "head")) == ""
    small = Difference(0.01, 0.005, 0.015, 0.001)
    assert "more seeds are needed" in judge(small, seeds=1)
    assert "more seeds are needed" not in judge(small, seeds=3)


def test_classes_stand_below_their_mean() -> None:
    values = {f"{name}{end}": 0.5 for name in COLUMNS for end in ("", "/water", "/rock")}
    values |= {"dice/water": 0.75, "dice/rock": 0.25}
    found = Standings([Row("head", [{"p": values}], trainable=1234, seconds=9.6)], "head")
    header, lines = found.header(), found.cells()
    assert [line[:2] for line in lines] == [
        ["head", "0.500"], ["head: water", "0.750"], ["head: rock", "0.250"],
    ]  # fmt: skip
    first = dict(zip(header, lines[0], strict=True))
    assert (first["trainable"], first["training, s"], first["peak GiB"]) == ("1,234", "10", "")
    assert "| head: rock | 0.250 |" in found.markdown()


def test_every_swap_has_a_name() -> None:
    assert set(autosam.compare.SWAP_ROWS) == set(SWAPS)
