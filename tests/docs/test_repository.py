"""The repository: import layers, documented commands, words."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from autosam import COMMANDS, embeddings, weights
from autosam.config import Config
from autosam.config.cli import parse
from autosam.config.commands import (
    AppConfig,
    BenchConfig,
    CheckConfig,
    CompareConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    PretrainConfig,
    RoughPreview,
)

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "train": Config,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "app": AppConfig,
    "check": CheckConfig,
    "rough": RoughPreview,
    "compare": CompareConfig,
    "pretrain": PretrainConfig,
    "bench": BenchConfig,
}
ACTIONS = {"weights": weights.parse_arguments, "embeddings": embeddings.parse_arguments}
"""Verbs with actions instead of settings."""
PAGES = [ROOT / "README.md"]
for pattern in ("docs/*.md", "weights/*.md", "configs/*.yaml", "train/*"):
    PAGES += sorted(ROOT.glob(pattern))


def commands() -> list[tuple[str, str, str]]:
    """(page, verb, arguments) of every `python -m autosam.VERB ...` in the docs and configs."""
    found, verbs = [], "|".join(COMMANDS)
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for match in re.finditer(rf"(?:-m autosam\.|\bautosam )({verbs})\b([^\n`#|&]*)", text):
            if "tversky" not in match[2]:  # the setting that docs/extending.md adds
                found.append((page.name, match[1], match[2].strip()))
    return found


def test_imports_point_one_way() -> None:
    # In a process of its own, because import-linter switches off every logger it finds.
    call = (
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("page", "verb", "arguments"), commands())
def test_every_documented_command_is_understood(page: str, verb: str, arguments: str) -> None:
    assert verb in COMMANDS
    words = [w for w in shlex.split(arguments) if w not in ("...", "[...]")]
    if "--help" in words:
        return
    if verb in ACTIONS:
        ACTIONS[verb](words)
    else:
        parse(KINDS[verb], words)


def test_the_readme_starts_with_what_it_is_and_has_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = next(line for line in text.splitlines()[1:] if line.strip())
    assert "Shaharabany" in text.split("\n\n")[1] or "Shaharabany" in first
    lines = [line for line in text.splitlines() if line.startswith("python3 -m venv")]
    assert len(lines) == 2
    assert lines[0].endswith("autosam train")
    assert lines[1].endswith("python -m pytest -n 2 --dist loadfile")
    assert "[test]" in lines[1]


def test_each_line_of_the_threat_model_has_its_test() -> None:
    lines = (ROOT / "docs/security.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    assert len(rows) >= 12
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            [path] = (ROOT / "tests").rglob(file)
            assert f"def {test}(" in path.read_text(encoding="utf-8"), test


RETIRED = (
    r"pictures?|mend(ed|ing|s)?|anew|stands? twice|torn|for ever|doctor|verdict|standings|journal|"
    r"twins?|trials?|unfold(s|ed)?|outlive|learners|unscored|of_all|same_for_all|is not there|"
    r"bring (it |them )?back"
)
"""Words that standard ones have replaced."""


def test_retired_words_are_gone() -> None:
    pages = [*PAGES, *(ROOT / "autosam").rglob("*.html"), *(ROOT / "autosam").rglob("*.md")]
    pages += [path for folder in ("autosam", "tests") for path in (ROOT / folder).rglob("*.py")]
    found = [
        f"{page.relative_to(ROOT)}:{number}: {line.strip()}"
        for page in pages
        if page != Path(__file__)
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(rf"(?<![a-z</])({RETIRED})(?![a-z])", line, re.I) and "alias" not in line
    ]
    assert found == []
