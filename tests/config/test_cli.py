"""The command line: types, strictness and error messages."""

from __future__ import annotations

import inspect
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from autosam.config import RUNS, Config
from autosam.config.cli import from_dict, parse, run_command, to_dict
from autosam.config.commands import (
    AppConfig,
    BenchConfig,
    EvaluateConfig,
    PredictConfig,
)
from autosam.config.help import help_of
from autosam.config.setting import value_at
from autosam.config.validation import check_settings
from autosam.config.yaml import config_path
from autosam.errors import ConfigError, DataError
from autosam.models.build import build_segmenter
from autosam.utils.assets import asset_folder

CONFIGS = sorted(asset_folder("configs").glob("*.yaml"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trian.lr", "3"], "Did you mean --train.lr?"),
        (["--lrr", "3"], "Did you mean --lr?"),
        (["--train.lrr=3"], "Did you mean --train.lr?"),
        (["--learning-rate", "3"], "--learning-rate: unknown setting. Did you mean --lr?"),
        (["--bs", "3"], "Did you mean --batch-size?"),
        (["--LR", "3"], "Did you mean --lr?"),
        (
            ["-lr", "3"],
            "-lr: unexpected word; settings are written --NAME VALUE. Did you mean --lr",
        ),
        (["lr=3"], "Did you mean --lr?"),
        (["--hlep"], "Did you mean --help?"),
        (["--no-overwrite"], "Did you mean --overwrite false?"),
        (["--run", "HEAD"], "Did you mean head?"),
        (["--config", "kvasr"], "Did you mean kvasir?"),
        (["--data", "folder"], "data is a section. Its settings are written --data.NAME VALUE."),
        (["--epochs"], "--epochs: expected a value, a whole number."),
        (["--output", "--overwrite"], "--output: expected a value."),
        (["--cache.dtype"], "--cache.dtype: expected a value, one of bf16, fp16, fp32, int8."),
        (["--epochs", "0x10"], "--epochs 0x10: expected a whole number."),
        (["--epochs", "1:30"], "--epochs 1:30: expected a whole number."),
        (["--lr="], "--lr: empty."),
        (["--lr", "-1"], "--lr -1: must be 1e-12 to 100."),
        (["--batch-size", "9" * 20], f"--batch-size {'9' * 20}: must be 1 to 1000000."),
        (["--data.bands", "1,2"], "expected 3 whole numbers, such as [1, 2, 3]."),
        (["--data.classes", "a"], "a list of entries with name, color, values: [{name: ...}, "),
        (["--data.classes", "[{name: a, colour: red}]"], "Did you mean color?"),
        (["a.png", "b.png", "c.png"], "a.png and 2 more: unexpected words; settings are written "),
        (["--train.lr", "abc"], "train.lr"),
        (["--train.epochs", "3.5"], "--train.epochs 3.5: expected a whole number."),
        (["--run", "foo"], "autosam"),
        (["--config", "nowhere"], "not a shipped config (default, "),
    ],
)
def test_wrong_flags(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(Config, flags)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runn: head", "unknown key 'runn'. Did you mean run?"),
        ("runn: head\nrun: hed", "run 'hed': expected one of "),
        ("epochs: 3", "unknown key 'epochs'. Did you mean train.epochs?"),
        ("train.lr: 3", "unknown key 'train.lr'. Write lr indented below `train:`."),
        ("train: {epochs: 0}", "c.yaml: train.epochs 0: must be at least 1."),
        ("train:\n  lrr: 3", "Did you mean train.lr?"),
        ("train:\n  lr: [1]", "train.lr"),
        ("run: [head", "not valid YAML"),
        ("run: head\ntrain:\n\tlr: 3", "not valid YAML: line 3: a tab; indent with spaces."),
        ("train:\n  lr: 1\n  lr: 2", "not valid YAML: line 3: the key 'lr' is a duplicate."),
        ("- a\n- b", "expected `key: value` lines"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        parse(Config, ["--config", str(path)])
    assert message in str(error.value)
    assert "c.yaml" in str(error.value)


def test_a_config_builds_no_objects(tmp_path: Path) -> None:
    path, harm = tmp_path / "c.yaml", tmp_path / "harm"
    call = "!!python/object/apply:pathlib.Path"
    path.write_text(f"run: {call}.touch [{call} [{harm}]]")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        parse(Config, ["--config", str(path)])
    assert not harm.exists()


def test_flags_win_over_the_file_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("run: head\ntrain: {lr: 0.5, epochs: 7}\n")
    config = parse(Config, [f"--config={path}", "--train.lr=0.25"])
    assert (config.run, config.train.lr, config.train.epochs) == ("head", 0.25, 7)
    assert config.train.batch_size == Config().train.batch_size


@pytest.mark.parametrize("flag", ["--images", "--task", "--train.epochs", "--lr"])
def test_a_setting_of_another_command(flag: str) -> None:
    hint = "It belongs to autosam train; --help lists the settings of this command."
    with pytest.raises(ConfigError, match=f"^{flag}: unknown setting. {hint}$"):
        parse(PredictConfig, [flag, "3"])


def test_a_switch_needs_no_value() -> None:
    assert parse(Config, ["--overwrite", "--run", "head"]).overwrite
    assert parse(Config, ["--overwrite"]).overwrite
    assert not parse(Config, ["--overwrite", "false"]).overwrite


def test_a_config_without_anything_for_the_verb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has nothing for this command"):
        parse(PredictConfig, ["--config", "kvasir"])


def test_another_verb_takes_its_part_of_a_config() -> None:
    config = parse(EvaluateConfig, ["--config", "kvasir", "--checkpoint", "x", "--data.root", "r"])
    assert config.data.root == "r"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_loads_builds_and_opens_with_its_command(
    path: Path, tiny_file: Path
) -> None:
    for name in (path.stem, f"configs/{path.name}", str(path)):
        config = parse(Config, ["--config", name])
    check_settings(config)
    assert from_dict(Config, to_dict(config)) == config
    if config.sam != "lite":  # a download of gigabytes
        config.sam, config.sam_checkpoint = "tiny", str(tiny_file)
    for run in RUNS:
        config.run = run
        build_segmenter(config)
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert f"autosam train --config {path.stem}" in head
    # A config holds only what differs from the defaults.
    defaults, settings = to_dict(Config()), yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in settings.items():
        if isinstance(values, dict):
            same = [k for k, v in values.items() if defaults[section][k] == v]
            assert not same or path.stem == "default", (section, same)


def test_shipped_configs_are_found_by_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_path("kvasir").name == "kvasir.yaml"
    with pytest.raises(ConfigError):
        config_path("elsewhere/kvasir.yaml")


@pytest.mark.parametrize(
    "flag",
    [
        "--train.epochs=0",
        "--train.batch_size=0",
        "--train.lr=0",
        "--train.lr=.nan",
        "--train.warmup=1.5",
        "--loss.dice=-1",
        "--data.num_classes=0",
        "--data.workers=-1",
        "--augment.scale=1",
        "--augment.hue=0.6",
        "--model.sparse_tokens=0",
        "--train.seed=-1",
    ],
)
def test_numbers_that_cannot_work(flag: str) -> None:
    with pytest.raises(ConfigError, match=flag.split("=")[0]):
        check_settings(parse(Config, [flag]))


def test_an_error_ends_with_code_2_and_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(config: Config) -> None:
        raise DataError("x.png: broken")

    with pytest.raises(SystemExit) as stop:
        run_command(Config, fail, [])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: x.png: broken\n"


def test_modules_and_verbs_answer_to_help() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for command in (["autosam", "predict"], ["autosam.train"]):
        done = subprocess.run(
            [sys.executable, "-m", *command, "--help"],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "--checkpoint" in done.stdout or "--lr" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "autosam", "frobnicate"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 2
    assert "train" in done.stderr


def test_a_flag_for_a_list_may_come_again() -> None:
    for flags in (["--checkpoint", "a", "--checkpoint=b"], ["--checkpoint", '["a", "b"]']):
        assert parse(AppConfig, [*flags, "--port", "1"]).checkpoint == ["a", "b"]
    assert parse(AppConfig, ["--checkpoint", "[odd"]).checkpoint == ["[odd"]
    assert parse(AppConfig, ["--checkpoint", "7"]).checkpoint == ["7"]


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (Config, "cache.views", "cache.copies"),
        (Config, "model.view_size", "model.input_size"),
        (Config, "train.pictures", "train.sheet_images"),  # alias
        (PredictConfig, "window", "tile"),
        (BenchConfig, "view_size", "input_size"),
    ],
)
def test_old_names_are_understood(kind: Any, old: str, new: str, tmp_path: Path) -> None:
    section, _, name = old.rpartition(".")
    values: dict[str, Any] = {section: {name: 64}} if section else {name: 64}
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(values))
    for config in (
        parse(kind, [f"--{old}=64"]),
        parse(kind, [f"--{old.replace('_', '-')}", "64"]),
        parse(kind, [f"--config={file}"]),
        from_dict(kind, values),
    ):
        assert value_at(config, new) == 64
    assert old not in help_of(kind, "autosam", everything=True)


def test_short_names_and_every_mistake_in_one_message() -> None:
    flags = ["--images=i", "--masks", "m", "--epochs", "3", "--batch-size=4", "--lr=1e-3"]
    config = parse(Config, [*flags, "--seed", "7", "--data.mask-suffix=_m"])
    assert (config.data.images, config.data.masks, config.data.mask_suffix) == ("i", "m", "_m")
    assert (config.train.epochs, config.train.batch_size) == (3, 4)
    assert (config.train.lr, config.train.seed) == (1e-3, 7)
    with pytest.raises(ConfigError) as error:
        parse(Config, ["--runn=head", "--run=hed", "--epochs=x", "--cache.dtype=fp8", "y"])
    assert str(error.value).splitlines() == [
        "--runn: unknown setting. Did you mean --run?",
        f"--run hed: expected one of {', '.join(RUNS)}. Did you mean head?",
        "--epochs x: expected a whole number.",
        "--cache.dtype fp8: expected one of bf16, fp16, fp32, int8.",
        "y: unexpected word; settings are written --NAME VALUE.",
    ]


def test_values_out_of_range_are_named_along_with_those_of_the_wrong_kind() -> None:
    with pytest.raises(ConfigError) as error:
        parse(Config, ["--seed=-1", "--epochs=x", "--data.workers=-2", "--foo"])
    assert str(error.value).splitlines() == [
        "--epochs x: expected a whole number.",
        "--foo: unknown setting.",
        "--data.workers -2: must be 0 to 256.",
        "--seed -1: must be 0 to 4294967295.",
    ]


def test_numbers_on_the_command_line_are_decimal() -> None:
    assert parse(Config, ["--epochs", "010"]).train.epochs == 10
    assert parse(Config, ["--lr", "1E-3", "--data.nodata", ".nan"]).train.lr == 1e-3


@pytest.mark.parametrize(("option", "split"), [("val", "validation"), ("Train", "train")])
def test_the_beginning_of_a_choice_is_recognised(option: str, split: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean {split}?"):
        parse(EvaluateConfig, ["--split", option])


def test_old_names_are_not_suggested() -> None:
    with pytest.raises(ConfigError) as error:
        parse(EvaluateConfig, ["--pat", "x"])
    assert "--part" not in str(error.value)


def test_commands_are_called_with_settings_or_keywords(monkeypatch: pytest.MonkeyPatch) -> None:
    import autosam

    monkeypatch.setattr("autosam.training.fit.train", lambda config: config)
    assert list(inspect.signature(autosam.train).parameters) == ["config", "settings"]
    config = autosam.train(images="i", masks="m", epochs=5, run="head")  # type: ignore[operator]
    assert (config.data.images, config.data.masks) == ("i", "m")
    assert (config.train.epochs, config.run) == (5, "head")
    again = autosam.train(config, seed=3)  # type: ignore[operator]
    assert (again.train.seed, again.train.epochs, config.train.seed) == (3, 5, 0)
    with pytest.raises(ConfigError, match=r"train\(epoch=...\): unknown setting.*epochs"):
        autosam.train(epoch=5)  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
    "path", sorted(asset_folder("configs").parent.glob("autosam/*.py")), ids=lambda p: p.stem
)
def test_processes_that_a_command_spawns_can_import_it(path: Path) -> None:
    """multiprocessing runs the main module of `python -m` again, under this name."""
    runpy.run_module(f"autosam.{path.stem}", run_name="__mp_main__")
