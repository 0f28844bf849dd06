"""Text settings keep their text in flags, files, round trips and checkpoints."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_repository import KINDS, PAGES

from autosam.config import ClassConfig, Config
from autosam.config.cli import from_dict, parse, to_dict
from autosam.config.setting import hints_of
from autosam.config.validation import check_settings
from autosam.errors import ConfigError
from autosam.models.build import build_segmenter
from autosam.models.checkpoint import read_header, save

HARD = ["#2277cc", "# x", "a: b", "a #b", "'q'", '"q', "007", "0x10", "1_000", "null", "Null", "~",
        "no", "true", "1e5", ".inf", "{a}", "{a: b}", "[x]", "[", "- a", "-", "&a", "*a", "!a",
        "!!int x", "%a", "@a", "`a", "|", ">", "=", "<<", "?", "2020-01-01", "2020-13-45",
        "12:30:45", "\\d+", "x ", " x", "a\nb", "a\tb", "é", "\U0001f600", "\x7f", "\x85",
        "\u2028", "\ue000a", "$HOME", "${a}", "{{a}}", "---", "...", "(?P<a>[^_]+)_.*"]  # fmt: skip


def text_settings(kind: type, section: str = "") -> list[str]:
    """The keys of all settings whose value may be any text."""
    found = []
    for name, hint in hints_of(kind).items():
        if dataclasses.is_dataclass(hint):
            found += text_settings(typing.cast(type, hint), f"{section}{name}.")
        elif str in (hint, *typing.get_args(hint)):
            found.append(section + name)
    return found


PARSED = ("data.values", "data.generator_bands")
"""Texts that are also numbers, or lists of them: 007 is 7."""
KEYS = [key for key in text_settings(Config) if key not in PARSED]
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
)
"""No text of a command line holds a zero byte."""


def value_of(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def nested(key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


def written(values: dict[str, Any]) -> Path:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False, encoding="utf-8") as file:
        yaml.safe_dump(values, file)
    return Path(file.name)


def test_there_are_settings_to_try() -> None:
    assert {"data.root", "data.groups", "data.mask_suffix", "output", "cache.dir"} <= set(KEYS)
    assert len(KEYS) >= 17


def check_text(key: str, text: str) -> None:
    file = written(nested(key, text))
    try:
        assert value_of(parse(Config, ["--config", str(file)]), key) == text
    finally:
        file.unlink()
    assert value_of(from_dict(Config, nested(key, text)), key) == text
    on_the_line = None if text == "null" and value_of(Config(), key) is None else text
    assert value_of(parse(Config, [f"--{key}={text}"]), key) == on_the_line
    if not text.startswith("-"):
        assert value_of(parse(Config, [f"--{key}", text]), key) == on_the_line


@pytest.mark.parametrize("text", HARD)
def test_a_hard_text_in_a_setting_that_may_be_unset(text: str) -> None:
    check_text("data.groups", text)


@pytest.mark.parametrize("key", KEYS)
def test_every_text_setting(key: str) -> None:
    for text in ("#2277cc", "null", "007", "a: b #c"):
        check_text(key, text)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KEYS), TEXTS)
def test_any_text(key: str, text: str) -> None:
    check_text(key, text)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.none() | TEXTS), min_size=1, max_size=3))
@example([("#1", "#2277cc"), ("null", "~"), ("no", None)])
def test_texts_of_classes(classes: list[tuple[str, str | None]]) -> None:
    expected = [ClassConfig(name, color) for name, color in classes]
    values = {"data": {"classes": [vars(entry) for entry in expected]}}
    config = from_dict(Config, values)
    assert config.data.classes == expected
    assert from_dict(Config, to_dict(config)) == config
    file = written(values)
    try:
        assert parse(Config, ["--config", str(file)]) == config
    finally:
        file.unlink()
    line = yaml.safe_dump(values["data"]["classes"], default_flow_style=True, width=1e9)
    assert parse(Config, [f"--data.classes={line}"]) == config


@pytest.mark.parametrize("text", ["007", "12", "no", "on", "1e5", "2020-01-01", "1_0", "0x1f"])
def test_a_text_without_quotes_is_taken_as_it_is_written(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        f"data: {{root: {text}, mask_suffix: {text}, classes: [{{name: {text}}}]}}\n"
        "train: {precision: no, epochs: 12}\n",
        encoding="utf-8",
    )
    config = parse(Config, ["--config", str(file)])
    assert (config.data.root, config.data.mask_suffix) == (text, text)
    assert config.data.class_names == [text]
    assert (config.train.precision, config.train.epochs) == ("no", 12)


def test_a_comment_where_a_colour_was_meant_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data:\n  classes:\n    - name: a\n      color: #2277cc\n", encoding="utf-8")
    with pytest.raises(ConfigError, match='#2277cc is a comment; a text is written "#2277cc"'):
        parse(Config, ["--config", str(file)])
    file.write_text("data:\n  root:  # to be given as a flag\n", encoding="utf-8")
    assert parse(Config, ["--config", str(file)]).data.root is None


def test_a_comment_behind_a_text_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`name: class #2` may be meant as a text; with a space after # it is a comment."""
    path = tmp_path / "c.yaml"
    path.write_text("data:\n  root: /data # of May\n  axis: 1 #x\n  groups: '^(a #1)'  #x\n"
                    "  mask_suffix: _m #2\n", encoding="utf-8")  # fmt: skip
    data = parse(Config, ["--config", str(path)]).data
    assert (data.root, data.groups, data.mask_suffix) == ("/data", "^(a #1)", "_m")
    (said,) = set(caplog.messages)
    assert said.startswith("line 5: #2 after _m is taken as a comment")


@pytest.mark.parametrize("name", ["007", "no", "1e3", "2020-01-01", "0x1f", "#1", "~x", "1_0"])
def test_a_text_in_a_list_on_the_command_line(name: str) -> None:
    quoted = f'"{name}"' if name.startswith("#") else name
    flag = f'--data.classes=[{{name: {quoted}, color: "#2277cc", values: [1, 2]}}]'
    expected = [ClassConfig(name, "#2277cc", [1, 2])]
    assert parse(Config, [flag]).data.classes == expected
    assert parse(Config, flag.split("=", 1)).data.classes == expected


def test_texts_survive_a_checkpoint(tmp_path: Path) -> None:
    classes = [ClassConfig("#", "#2277cc"), ClassConfig("null"), ClassConfig("no", "112233")]
    config = Config(run="head")
    config.data = dataclasses.replace(config.data, classes=classes, groups="~", mask_suffix="#1")
    config.model.backbone = "test_efficientnet"
    file = tmp_path / "run.safetensors"
    save(file, build_segmenter(config, backbone_weights="none"), config)
    assert from_dict(Config, read_header(file)["config"]) == config


# ---- the examples of the pages -------------------------------------------------------------------

BLOCKS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"```ya?ml\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
]


def shown(content: Any, kind: type, found: Any) -> None:
    """Each value of an example is that of the settings; a null only where the page says null."""
    for key, value in content.items():
        if isinstance(value, dict):
            shown(value, kind, getattr(found, key))
        elif key == "classes":
            for one, entry in zip(value, found.classes, strict=True):
                for name in one:
                    assert getattr(entry, name) == one[name], (key, name)
        else:
            own = getattr(found, key)
            assert (list(own) if isinstance(own, tuple) else own) == value, key


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[page for page, _ in BLOCKS])
def test_every_example_of_yaml_means_what_it_shows(tmp_path: Path, page: str, block: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(block, encoding="utf-8")
    config = parse(Config, ["--config", str(file)])
    check_settings(config)
    shown(yaml.safe_load(block), Config, config)
    for kind in KINDS.values():
        if "data" in {field.name for field in dataclasses.fields(kind)}:
            shown(
                {"data": yaml.safe_load(block)["data"]}, kind, parse(kind, ["--config", str(file)])
            )


def test_there_is_an_example() -> None:
    assert any("#2277cc" in block for _, block in BLOCKS)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("high_res+dense", "dense+high_res"),
        ("High-Res+sparse+dense", "dense+sparse+high_res"),
        ("dense+dense", "dense"),
    ],
)
def test_kinds_of_prompts_in_another_order_are_recognised(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean {re.escape(meant)}\\?$"):
        parse(Config, [f"--model.prompt={typed}"])
