"""Comparisons: the plan, reused runs, the results table and the conclusion."""

from __future__ import annotations

import csv
import dataclasses
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_config

import autosam.comparison.jobs
import autosam.comparison.scores
import autosam.data.checks
import autosam.training.trainer
from autosam.compare import compare
from autosam.comparison.conclusion import conclusion, judge, rise
from autosam.comparison.plan import plan
from autosam.comparison.rows import Row
from autosam.comparison.table import ResultsTable
from autosam.comparison.variants import SWITCHES, Variant
from autosam.config import RUNS, Settings
from autosam.config.commands import CompareConfig
from autosam.data.layouts import load_splits
from autosam.errors import ConfigError, Stopped
from autosam.evaluation.sanity import sanity_warnings
from autosam.evaluation.scores import read_scores
from autosam.evaluation.tables import COLUMNS
from autosam.models.losses import SegmentationLoss
from autosam.utils.logging import log


@pytest.fixture
def config(tiny_file: Path, folders: Path, tmp_path: Path) -> CompareConfig:
    tiny = tiny_config(tiny_file, f"--data.root={folders}", "--train.epochs=1")
    shared = {f.name: getattr(tiny, f.name) for f in dataclasses.fields(Settings)}
    return CompareConfig(
        **shared, runs="autosam,head,sam-box", seeds=2, output=str(tmp_path / "compare")
    )


BLANK = Variant("autosam", control="blank")
NO_SAM = Variant("autosam", ablation="surrogate")
TIMES = ("seconds", "images_per_second", "peak_gib")


def without_times(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def test_a_comparison_from_start_to_table(
    config: CompareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare(config)
    assert log.level == logging.INFO  # as a training leaves it
    titles = {row.title for row in found.rows}
    assert titles == {
        "autosam", "head", "sam-box", "autosam, blank", "autosam, shuffled",
        "autosam, blank at test", "autosam, shuffled at test", "autosam, no SAM",
    }  # fmt: skip
    # Oracles stand below the others, each group by its Dice.
    order = [(row.variant.is_oracle, -row.metrics["dice"][0]) for row in found.rows]
    assert order == sorted(order)
    assert [row.title for row in found.rows if row.variant.is_oracle] == ["sam-box"]
    # The table's figures are those of the runs' own folders.
    means = []
    for seed in (0, 1):
        (folder,) = (tmp_path / "compare" / "runs").glob(f"autosam-seed{seed}-*")
        rows = read_scores(folder / "test_scores.csv")
        assert rows.keys() == {"img09", "img10", "img11"}
        means.append(np.mean([row["dice"] for row in rows.values()]))
    assert found[Variant("autosam")].metrics["dice"] == pytest.approx(
        (np.mean(means), np.std(means, ddof=1)), abs=1e-5
    )
    # SAM's part in the masks is gone where it is taken away.
    assert found[NO_SAM].metrics != found[Variant("autosam")].metrics
    markdown = (tmp_path / "compare" / "table.md").read_text()
    assert "| autosam, shuffled at test |" in markdown
    assert "1 epochs of 6 images" in markdown
    assert found.conclusion in markdown

    # Again: nothing is trained or scored, and the table is the same.
    first = without_times(tmp_path / "compare" / "table.csv")
    monkeypatch.setattr(autosam.comparison.jobs, "train", None)
    monkeypatch.setattr(autosam.comparison.scores, "evaluate", None)
    compare(config)
    assert without_times(tmp_path / "compare" / "table.csv") == first


def test_trainings_in_several_precisions_are_said(
    config: CompareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun on a machine whose default is float32, continued on one where it is bfloat16."""
    settings = dataclasses.replace(config.train, precision="auto")
    config = dataclasses.replace(config, runs="head", seeds=1, train=settings, attribution=False)
    for here, runs in ((False, "head"), (True, "autosam,head,sam-box")):
        monkeypatch.setattr(autosam.training.trainer, "trains_in_bf16", lambda *_, h=here: h)
        found = compare(dataclasses.replace(config, runs=runs)).facts
        if not here:
            assert found["precision of the steps"] == "float32"
            assert "warning, precision of the steps" not in found
    assert "precision of the steps" not in found
    said = found["warning, precision of the steps"]
    assert re.match(
        r"bfloat16 in 1 training \(autosam-seed0-\w+\); "
        r"float32 in 1 training \(head-seed0-\w+\)\. .*--train\.precision no",
        said,
    )


def test_trainings_with_several_numbers_of_threads_are_said(config: CompareConfig) -> None:
    """Begun beside another process, continued alone."""
    config = dataclasses.replace(config, seeds=1, attribution=False)
    threads = torch.get_num_threads()
    try:
        for more, runs in ((0, "head"), (1, "autosam,head,sam-box")):
            torch.set_num_threads(threads + more)
            found = compare(dataclasses.replace(config, runs=runs)).facts
            assert found.get("threads of each training") == (None if more else str(threads))
    finally:
        torch.set_num_threads(threads)
    assert re.match(
        rf"{threads} in 1 training \(head-seed0-\w+\); "
        rf"{threads + 1} in 1 training \(autosam-seed0-\w+\)\. .*OMP_NUM_THREADS",
        found["warning, threads of each training"],
    )


def test_files_that_are_newer_than_a_training_are_said(config: CompareConfig) -> None:
    """A corrected mask of the same size is the same file by its name and size."""
    config = dataclasses.replace(config, seeds=1, attribution=False, runs="head,sam-box")
    assert "warning, files" not in compare(config).facts
    mask = Path(load_splits(config.data)["test"][0].mask.path)
    later = time.time() + 60
    os.utime(mask, (later, later))
    found = compare(config).facts["warning, files"]
    assert re.match(rf"{mask} was written after 2 trainings \(head-seed0-\w+, sam-box-", found)


def test_other_settings_are_other_runs(config: CompareConfig, tmp_path: Path) -> None:
    splits = load_splits(config.data)

    def folders(**changes: object) -> set[str]:
        settings = dataclasses.replace(config, **changes)
        return {t.folder.name for t in plan(settings, [Variant("head")], 2, tmp_path, splits)}

    first = folders()
    assert len(first) == 2
    assert folders() == first
    train = dataclasses.replace(config.train, lr=0.1)
    assert not folders(train=train) & first
    # One image more or less is other data.
    splits["train"].pop()
    assert not folders() & first


def test_an_interrupted_comparison_goes_on(
    config: CompareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in the first epoch, in the second, and between two runs."""
    settings = dataclasses.replace(config.train, epochs=2)
    config = dataclasses.replace(config, runs="head,sam-box", seeds=1, train=settings)
    train, seen = autosam.comparison.jobs.train, []
    forward, batches = SegmentationLoss.forward, []

    def counted(run):
        seen.append(run.run if run.resume is None else "resumed")
        return train(run)

    def cut_off(self, *args):
        batches.append(1)
        if len(batches) in cuts:
            raise KeyboardInterrupt
        return forward(self, *args)

    # 3 batches and 3 images of validation make an epoch: the 2nd of the first attempt, and of the
    # second attempt the 2nd of its second epoch.
    cuts = (2, 2 + 6 + 2)
    monkeypatch.setattr(autosam.comparison.jobs, "train", counted)
    monkeypatch.setattr(SegmentationLoss, "forward", cut_off)
    for _ in cuts:
        with pytest.raises(KeyboardInterrupt):
            compare(config)
    with monkeypatch.context() as patch:
        patch.setattr("autosam.training.trainer.Trainer._asked_to_stop", lambda run: True)
        with pytest.raises(Stopped, match="the same command continues") as stopped:
            compare(config)
    assert stopped.value.signal == 15
    found = compare(config)
    assert seen == ["head", "head", "resumed", "resumed", "sam-box"]
    assert {row.title for row in found.rows} == {"head", "sam-box"}


def test_quick_is_small_whatever_the_config_says(config: CompareConfig) -> None:
    config.train.epochs, config.data.limit = 30, None
    config.data.groups = r"img(0\d|1)"  # of the test images img10 and img11 are of one
    found = compare(dataclasses.replace(config, runs="sam-box", seeds=3, quick=True))
    assert found.facts["budget of each run"].startswith("5 epochs of 6 images")
    assert len(found[Variant("sam-box")].scores) == 1
    assert found.minus(found[Variant("sam-box")], found[Variant("sam-box")]).groups == 2
    assert "test over groups" in found.facts["figures"]


def test_folds_test_every_image_once(config: CompareConfig) -> None:
    found = compare(dataclasses.replace(config, runs="head", seeds=1, folds=3))
    assert sorted(found[Variant("head")].scores[0]) == sorted(f"img{i:02d}" for i in range(12))


def test_two_jobs_give_what_one_gives(
    config: CompareConfig,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Three trainings: one process has to train twice.
    monkeypatch.setattr("autosam.data.readers.file_cache.SETTLED", 0.0)
    config = dataclasses.replace(config, runs="head,sam-box,sam-points", seeds=1, sam="lite",
                                 sam_checkpoint=None)  # fmt: skip
    inspect, inspected = autosam.data.checks._inspect, []

    def counted(*args: Any) -> Any:
        inspected.append(args)
        return inspect(*args)

    monkeypatch.setattr("autosam.data.checks._inspect", counted)
    compare(config)
    assert len(inspected) == 12  # by all trainings and the report together
    both = dataclasses.replace(config, jobs=2, output=str(tmp_path / "two"))
    compare(both)
    compare(both)  # nothing is left to train
    one, two = (without_times(tmp_path / name / "table.csv") for name in ("compare", "two"))
    assert one == two
    assert "Logging error" not in capfd.readouterr().err


def test_trainings_in_parallel_from_a_thread(config: CompareConfig) -> None:
    """As in a server; signals reach the main thread alone."""
    config = dataclasses.replace(config, runs="sam-box,sam-points", seeds=1, sam="lite", jobs=2,
                                 sam_checkpoint=None)  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(compare, config).result()
    assert found[Variant("sam-points")].scores


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": "autosam,nothing"}, "--runs autosam,nothing: choose from autosam, decoder"),
        ({"runs": "head,head"}, "a run is listed twice"),
        ({"seeds": 0}, "--seeds 0: must be 1 to 1000"),
        ({"folds": 1}, "--folds 1: must be 2 to 1000"),
        ({"prompts": "dense,fine"}, "--prompts dense,fine: expected some of dense, sparse"),
        ({"prompts": "dense", "runs": "head"}, "needs autosam among --runs"),
        ({"prompts": "dense,dense+high_res"}, r"dense\+high_res would be trained twice"),
        ({"prompts": "both,dense+sparse"}, "both would be trained twice"),
    ],
)
def test_settings_that_cannot_work(config: CompareConfig, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(dataclasses.replace(config, **changes))
    assert not os.path.exists(config.output)


def row(name: str | Variant, dice: list[float], seeds: int = 3, **more) -> Row:
    scores = [{f"p{i}": {"dice": v} for i, v in enumerate(dice)} for _ in range(seeds)]
    return Row(name if isinstance(name, Variant) else Variant(name), scores, **more)


def test_the_conclusion_follows_the_figures() -> None:
    rng = np.random.default_rng(0)
    head = rng.uniform(0.6, 0.9, 40)
    noise = rng.normal(0, 0.02, 40)

    def conclusion_of(gain: float) -> str:
        rows = [row("autosam", list(head + gain + noise)), row("head", list(head))]
        return conclusion(ResultsTable(rows, Variant("autosam")))

    assert conclusion_of(0.05).endswith("So SAM helps here, in autosam.")
    assert conclusion_of(-0.05).endswith("the same backbone without it is better.")
    none = conclusion_of(-float(noise.mean()))
    assert "neither significantly better nor significantly worse" in none
    assert none.endswith(
        "no evidence that SAM helps here: the same backbone without it is as good."
    )
    # Better than the head, but no better than without SAM's view of the image.
    rows = [row("autosam", list(head + 0.05)), row("head", list(head))]
    blind = conclusion(
        ResultsTable([*rows, row(BLANK, list(head + 0.05 + noise))], Variant("autosam"))
    )
    assert "no evidence that its image encoder contributes" in blind
    assert conclusion(ResultsTable([row("head", list(head))], Variant("head"))) == ""


@pytest.mark.parametrize(
    ("blank", "alone", "words"),
    [
        (-0.05, -0.05, "SAM's image encoder improves the masks"),
        (0.0, -0.05, "SAM's mask decoder improves on the prompt alone"),
        (0.0, 0.0, "the learned prompt alone determines the mask"),
        (0.05, 0.05, "the learned prompt alone determines the mask"),
        (-0.05, 0.0, "SAM's image encoder improves the masks"),
    ],
)
def test_the_conclusion_names_what_helps(blank: float, alone: float, words: str) -> None:
    rng = np.random.default_rng(0)
    own = rng.uniform(0.6, 0.9, 40)

    def against(name: str | Variant, difference: float) -> Row:
        noise = rng.normal(0, 0.01, 40)
        return row(name, list(own + difference + noise - noise.mean()))

    rows = [row("autosam", list(own)), against(BLANK, blank)]
    about_decoder = re.compile("In short.*(decoder|alone)")
    assert not about_decoder.search(conclusion(ResultsTable(rows, Variant("autosam"))))
    rows.append(against(NO_SAM, alone))
    said = conclusion(ResultsTable(rows, Variant("autosam")))
    assert said.count("In short") == 1
    assert f"In short: {words}" in said or "In short: there is no evidence" in said
    assert words in said


HEAD = np.random.default_rng(1).uniform(0.5, 0.8, 60)
NOISE = np.random.default_rng(2).normal(0, 0.03, 60)


def test_every_run_that_uses_sam_is_judged() -> None:
    """Of a real comparison: `decoder` was ahead by 0.113, yet "SAM does not help"."""
    rows = [
        row("decoder", list(HEAD + 0.113 + NOISE)),
        row("autosam", list(HEAD - 0.04 + NOISE)),
        row("hybrid", list(HEAD + NOISE - NOISE.mean())),
        row("head", list(HEAD)),
        row("sam-box", list(HEAD + 0.2)),
    ]
    said = conclusion(ResultsTable(rows, Variant("autosam")))
    assert said.startswith(
        f"On 60 test images and 3 seeds, decoder scores {rows[0].means('dice')[0]:.3f}"
    )
    assert "the best of those that use SAM" in said
    assert "decoder is better (+0.1" in said
    assert "hybrid is neither significantly better nor significantly worse" in said
    assert "autosam is worse (-0.0" in said
    assert said.endswith("So SAM helps here, in decoder.")
    assert "sam-box" not in said


def test_many_runs_find_nothing_by_chance_alone() -> None:
    """Each of three runs may look better than the head by chance: p is of all three (Holm)."""
    shift = 0.0087
    rows = [row(name, list(HEAD + NOISE - NOISE.mean() + shift * (name == "decoder")))
            for name in ("autosam", "decoder", "hybrid")]  # fmt: skip
    alone = ResultsTable([rows[1], row("head", list(HEAD))], Variant("head"))
    assert 1 / 60 < alone.minus(rows[1], alone[Variant("head")]).p < 0.05
    assert conclusion(alone).endswith("So SAM helps here, in decoder.")
    together = conclusion(ResultsTable([*rows, row("head", list(HEAD))], Variant("head")))
    assert "decoder is neither significantly better" in together
    assert "no evidence that SAM helps" in together


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"curves": [[0.1, 0.2, 0.3, 0.4]]}, "head had not converged .* rose by 0.100"),
        ({"curves": [[0.1, 0.2]]}, "head was trained for 2 epochs only"),
        ({"curves": [[0.9] * 8], "trivial": {"a mask of the whole image": 0.95}},
         r"head has learned nothing \(Dice 0.\d+; a mask of the whole image has 0.950\)"),
        ({"groups": 5}, "there are 5 test groups, and below 6 no difference"),
    ],
)  # fmt: skip
def test_no_conclusion_from_what_is_unfinished(changes: dict, reason: str) -> None:
    head = row("head", list(HEAD), curves=changes.get("curves", []))
    found = ResultsTable([row("decoder", list(HEAD + 0.1 + NOISE)), head], Variant("head"))
    found.trivial = changes.get("trivial", {})
    if "groups" in changes:
        found.groups = {f"p{i}": f"patient {i % changes['groups']}" for i in range(60)}
    assert re.search(rf"No conclusion: {reason}", conclusion(found))


def test_the_conclusion_of_few_images_is_a_sentence() -> None:
    rows = [row(name, [0.8, 0.7]) for name in (Variant("autosam"), BLANK, NO_SAM)]
    said = conclusion(ResultsTable(rows, Variant("autosam")))
    assert said.count("is not comparable (+0.000 Dice, too few images).") == 2


def test_the_results_table_is_short_in_a_notebook() -> None:
    rows = [row("decoder", [0.5, 0.7]), row("head", [0.8, 0.9])]
    shown = repr(ResultsTable(rows, Variant("head")))
    assert shown == "ResultsTable(test Dice: head 0.850, decoder 0.600)"


def test_a_run_that_is_behind_and_still_learns_is_not_called_worse() -> None:
    learning = row("decoder", list(HEAD - 0.1 + NOISE), curves=[[0.2, 0.3, 0.4, 0.5]] * 3)
    done = row("head", list(HEAD), curves=[[0.5, 0.7, 0.7, 0.7]] * 3)
    assert "No conclusion: decoder had not converged" in conclusion(
        ResultsTable([learning, done], Variant("head"))
    )
    learning.curves = [[0.2, 0.5, 0.5, 0.5]] * 3
    assert conclusion(ResultsTable([learning, done], Variant("head"))).endswith("is better.")


def test_how_steeply_curves_rise() -> None:
    assert rise([[0.1, 0.5, 0.6, 0.7]]) == pytest.approx(0.1)
    assert rise([[0.1, 0.7, 0.6, 0.7]]) == 0
    # Of 8 epochs the last two: 0.9 above 0.8 and 0.7 below 0.8, on average 0.05.
    assert rise([[0.8] * 6 + [0.9, 0.6], [0.8] * 6 + [0.7, 0.7]]) == pytest.approx(0.05)


def test_a_difference_that_other_seeds_could_make_is_not_sure() -> None:
    """Over the images it is sure; but one seed each differs by 0.016 in 1 of 20 cases or more."""
    one, other = row("decoder", list(HEAD + 0.015 + NOISE / 10), 1), row("head", list(HEAD), 1)
    said = judge(ResultsTable([one, other], Variant("head")), one, other)
    assert "neither significantly better" in said
    assert "other seeds alone can make a difference of 0.022, so more seeds are needed" in said
    one.scores, other.scores = one.scores * 3, other.scores * 3
    assert judge(ResultsTable([one, other], Variant("head")), one, other).startswith("better")


def test_warnings_are_of_the_means_that_the_table_shows() -> None:
    """One seed of two marks everything: the table shows neither seed, nor do the warnings."""

    def seed(dice: float, share: float) -> dict[str, dict[str, float]]:
        shares = {"predicted_share": share, "truth_share": 0.25, "miss": 0.0}
        return {f"p{i}": {"dice": dice, **shares} for i in range(4)}

    half = Row(Variant("head"), [seed(0.4, 1.0), seed(0.8, 0.3)])
    assert len(sanity_warnings(half.scores[0], False)) == 1
    assert sanity_warnings(half.over_seeds(), False) == []
    low = Row(Variant("head"), [seed(0.35, 0.2), seed(0.25, 0.2)])
    assert low.metrics["dice"][0] == pytest.approx(0.3)
    (said,) = sanity_warnings(low.over_seeds(), False)
    assert re.fullmatch(r"the Dice of 0.300 is not above that of .* \(0.400\)", said)


def test_images_without_a_score_are_not_counted() -> None:
    values = [*HEAD[:8], float("nan")]
    rows = [row("autosam", values), row("head", values)]
    assert conclusion(ResultsTable(rows, Variant("autosam"))).startswith(
        "On 8 test images and 3 seeds, autosam"
    )


def test_classes_stand_below_their_mean() -> None:
    values = {f"{name}{end}": 0.5 for name in COLUMNS for end in ("", "/water", "/rock")}
    values |= {"dice/water": 0.75, "dice/rock": 0.25}
    found = ResultsTable(
        [Row(Variant("head"), [{"p": values}], trainable=1234, seconds=9.6)], Variant("head")
    )
    header, lines = found.header()[1:], list(found.lines())
    assert [[line.label, line.cells[0]] for line in lines] == [
        ["head", "0.500"], ["head: water", "0.750"], ["head: rock", "0.250"],
    ]  # fmt: skip
    first = dict(zip(header, lines[0].cells, strict=True))
    assert (first["trainable"], first["training, s"], first["peak GiB"]) == ("1,234", "10", "")
    assert "| head: rock | 0.250 |" in found.markdown()


def test_titles_name_what_a_row_is() -> None:
    assert Variant("head").title == "head"
    assert Variant("autosam", control="blank").title == "autosam, blank"
    assert Variant("autosam", ablation="shuffled").title == "autosam, shuffled at test"
    assert NO_SAM.title == "autosam, no SAM"
    assert Variant("autosam", prompt="dense").title == "autosam, dense"
    assert Variant("autosam", paper=SWITCHES[:1]).title == f"autosam, {SWITCHES[0]}"
    assert Variant("autosam", paper=SWITCHES).title == "autosam, all of the paper's"


def test_what_the_conclusion_is_about() -> None:
    """Runs that use SAM as intended, without the truth: whatever prompt they learn."""
    judged = [Variant(run) for run in RUNS if Variant(run).is_judged]
    assert [variant.run for variant in judged] == [
        "autosam", "decoder", "hybrid", "lora", "autosam-lora", "decoder-rough", "sam-rough",
        "sam-auto",
    ]  # fmt: skip
    assert Variant("autosam", prompt="dense").is_judged
    for other in (BLANK, NO_SAM, Variant("autosam", paper=SWITCHES), Variant("sam-box")):
        assert not other.is_judged
