"""A comparison of runs that find objects with runs that divide masks."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import tiny_config
from instance_cases import cell_folders

import autosam.comparison.jobs
import autosam.comparison.scores
from autosam.compare import compare
from autosam.comparison.jobs import Job
from autosam.comparison.variants import Variant, ablated_variants
from autosam.config import Config, Settings
from autosam.config.commands import CompareConfig
from autosam.evaluation.scores import read_scores

COMPONENTS = Variant("head", ablation="components")


def config_of(tiny_file: Path, root: Path, output: Path, *flags: str, **more: object):
    tiny = tiny_config(
        tiny_file, "--task=instances", "--data.instances=true", f"--data.root={root}",
        "--train.epochs=1", "--data.workers=0", *flags,
    )  # fmt: skip
    shared = {f.name: getattr(tiny, f.name) for f in dataclasses.fields(Settings)}
    return CompareConfig(**shared, output=str(output), **more)


def test_a_table_of_objects(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = cell_folders(tmp_path / "data"), tmp_path / "compare"
    more = {"runs": "autosam,head", "seeds": 2, "attribution": False}
    config = config_of(tiny_file, root, out, **more)
    found = compare(config)
    assert found.measure == "pq"
    titles = {row.title for row in found.rows}
    assert titles == {"autosam", "head", "head, components"}
    order = [(row.variant.is_oracle, -row.metrics["pq"][0]) for row in found.rows]
    assert order == sorted(order)
    for name in ("autosam", "head"):
        shown, rows = [], []
        for seed in (0, 1):
            (folder,) = (out / "runs").glob(f"{name}-seed{seed}-*")
            shown.append(yaml.safe_load((folder / "scores.yaml").read_text())["test"])
            rows.append(read_scores(folder / "test_scores.csv"))
        metrics = found[Variant(name)].metrics
        # Pooled over the objects of all images, not a mean of images.
        for key in ("ap50", "pooled_pq"):
            values = [one[key] for one in shown]
            assert metrics[key] == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        means = [np.mean([row["pq"] for row in one.values()]) for one in rows]
        assert metrics["pq"] == pytest.approx((np.mean(means), np.std(means, ddof=1)), abs=1e-5)
        assert "ap50" not in next(iter(rows[0].values()))
    # The same masks, divided in another way.
    head, parts = found[Variant("head")], found[COMPONENTS]
    assert parts.metrics["dice"] == pytest.approx(head.metrics["dice"], abs=1e-6)
    assert parts.metrics["predicted_objects"][0] <= head.metrics["predicted_objects"][0]
    assert {"ap50", "pooled_pq"} <= parts.metrics.keys()
    (folder,) = (out / "runs").glob("head-seed0-*")
    assert (folder / "test_scores-components.csv").is_file()
    assert (folder / "test_pooled-components.yaml").is_file()
    header = found.header()
    assert header[1:4] == ["PQ", "AP50", "AP"]
    assert "PQ - autosam [95 %]" in header
    difference = found[Variant("head")].difference
    assert difference is not None
    expected = head.metrics["pq"][0] - found[Variant("autosam")].metrics["pq"][0]
    assert difference.mean == pytest.approx(expected, abs=1e-5)
    markdown = (out / "table.md").read_text()
    assert "| head, components |" in markdown
    with open(out / "table.csv", newline="") as file:
        table = {row["run"]: row for row in csv.DictReader(file)}
    assert table.keys() == titles
    assert float(table["head"]["pq_difference"]) == pytest.approx(expected, abs=1e-5)
    # Again: nothing is trained or scored, and the table is the same.
    monkeypatch.setattr(autosam.comparison.jobs, "train", None)
    monkeypatch.setattr(autosam.comparison.scores, "evaluate", None)
    again = compare(config)
    assert [row.metrics for row in again.rows] == [row.metrics for row in found.rows]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), [Variant("head", ablation="components"), Variant("decoder", ablation="components")]),
        (("--separate=components",), []),
        (("--task=semantic",), [Variant("autosam", ablation="surrogate")]),
    ],
)
def test_which_rows_test_a_run_with_a_change(
    tiny_file: Path, tmp_path: Path, flags: tuple[str, ...], expected: list[Variant]
) -> None:
    """With controls, those of autosam come first; there is no row without SAM for objects."""
    config = config_of(tiny_file, tmp_path, tmp_path / "out", *flags, runs="autosam,head,decoder")
    controls = [Variant("autosam", ablation=name) for name in ("blank", "shuffled")]
    assert ablated_variants(config) == controls + expected
    config = dataclasses.replace(config, attribution=False)
    plain = [one for one in expected if one.ablation == "components"]
    assert ablated_variants(config) == plain


def test_average_precision_of_each_class(tmp_path: Path) -> None:
    """Of the scores of a training, in the rows of its classes."""
    job = Job(Variant("head"), 0, Config(output=str(tmp_path)))
    content = {"test": {"pq": 0.5, "ap50": 0.6, "ap50/cell": 0.7, "ap": 0.3, "ap/cell": 0.4}}
    (tmp_path / "scores.yaml").write_text(yaml.safe_dump(content))
    expected = {name: value for name, value in content["test"].items() if name != "pq"}
    assert job.pooled() == expected
