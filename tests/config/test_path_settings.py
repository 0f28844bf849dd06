"""Settings that are a keyword or a path: a keyword is never read as a path."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from helpers import draw_folders

from autosam.config import RUNS, Config
from autosam.config.cli import parse
from autosam.config.commands import EvaluateConfig
from autosam.config.yaml import config_path
from autosam.data.layouts import LAYOUTS, load_splits
from autosam.models.backbones.timm import Backbone
from autosam.models.sam import SAMS
from autosam.training.run_folder import resolve

WORDS = {"auto", "none", "no", "null", "bf16", "real", "single", "low", "full", "box", "points",
         "default", "kvasir", "default.yaml", "tf_efficientnet_lite0", "test_efficientnet",
         *RUNS, *SAMS, *LAYOUTS}  # fmt: skip


@pytest.fixture(params=["folders", "files"])
def litter(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which every word of the settings is a folder, or a file."""
    for word in WORDS:
        path = tmp_path / "work" / word
        if request.param == "folders":
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text("run: head\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def same(flags: list[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The settings in force, which must be those in an empty directory."""
    here, _ = resolve(parse(Config, flags))
    with monkeypatch.context() as patch:
        patch.chdir(elsewhere)
        there, _ = resolve(parse(Config, flags))
    assert dataclasses.replace(here, output="") == dataclasses.replace(there, output="")
    return here


def test_words_win_over_what_lies_around(
    litter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in ("auto", "none"):
        config = same([f"--model.backbone_weights={word}"], tmp_path, monkeypatch)
        assert config.model.backbone_weights == word
        Backbone("tf_efficientnet_lite0", config.model.backbone_weights, 64)
    for name in RUNS:
        same([f"--run={name}", "--sam=lite", "--train.precision=no"], tmp_path, monkeypatch)
    for expression in ("none", "no", "(auto)", "auto"):
        found = same([f"--data.groups={expression}"], tmp_path, monkeypatch)
        assert found.data.groups == expression
    for name in ("default", "kvasir"):
        assert config_path(name).parent != Path(".")
        assert yaml.safe_load(config_path(name).read_text(encoding="utf-8")) != {"run": "head"}
        same([f"--config={name}", "--data.root=/data"], tmp_path, monkeypatch)
    assert parse(EvaluateConfig, ["--sam=lite"]).sam == "lite"
    assert parse(Config, ["--data.root=null", "--output=null"]).data.root is None


def test_what_lies_around_is_meant_by_a_path(litter: Path) -> None:
    config, _ = resolve(parse(Config, ["--model.backbone_weights=./auto", "--data.root=./null"]))
    assert config.model.backbone_weights == str(litter / "auto")
    assert config.data.root == str(litter / "null")
    if (litter / "kvasir").is_file():
        assert parse(Config, ["--config=./kvasir"]).run == "head"
        assert parse(Config, ["--config=./default.yaml"]).run == "head"


def test_a_table_of_groups_is_a_path_and_an_expression_is_none(
    litter: Path, tmp_path: Path
) -> None:
    root = draw_folders(tmp_path / "data")
    (litter / "groups.csv").write_text(
        "name,group\n" + "".join(f"img{i:02d},{i // 2}\n" for i in range(12)), encoding="utf-8"
    )
    flags = [f"--data.root={root}", "--data.groups"]
    listed, _ = resolve(parse(Config, [*flags, "groups.csv"]))
    assert listed.data.groups == str(litter / "groups.csv")
    splits = load_splits(resolve(parse(Config, [*flags, "(img.+)"]))[0].data)
    assert all(pair.group == pair.name for pairs in splits.values() for pair in pairs)
