"""The origin in a run folder, and reproducing a run from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import tiny_config

import autosam
from autosam.config import Config
from autosam.config.cli import parse
from autosam.data.layouts import load_splits
from autosam.data.pairs import SPLITS, fingerprint
from autosam.models import checkpoint
from autosam.models.sam import sam_hash
from autosam.train import train
from autosam.utils import provenance as origin


def test_a_run_says_what_made_it_and_its_config_makes_it_again(
    tiny_file: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths, `--init` among them, mean the same files from elsewhere."""
    monkeypatch.chdir(tmp_path)
    train(tiny_config(tiny_file, "--data.root=data", "--output=before", "--train.epochs=1"))
    first = train(tiny_config(tiny_file, "--data.root=data", "--output=first", "--init=before"))
    monkeypatch.chdir("/")
    typed = ["/usr/bin/python3", "-m", "autosam.train", "--data.root", "a b"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    again = train(parse(Config, ["--config", str(tmp_path / "first/config.yaml"),
                                 f"--output={tmp_path / 'again'}"]))  # fmt: skip
    first_best, again_best = (
        checkpoint.read_trained(tmp_path / name / checkpoint.BEST) for name in ("first", "again")
    )
    assert first_best.keys() == again_best.keys()
    assert all(torch.equal(first_best[key], again_best[key]) for key in first_best)
    scores = [(tmp_path / name / "test_scores.csv").read_text() for name in ("first", "again")]
    assert scores[0] == scores[1]
    assert first.test == again.test
    (row,) = [
        json.loads(line) for line in (tmp_path / "again" / origin.FILE).read_text().splitlines()
    ]
    assert row["files"]["sam"] == sam_hash("tiny", str(tiny_file))
    splits = load_splits(parse(Config, [f"--data.root={folders}"]).data)
    assert row["files"]["data"] == fingerprint({split: splits[split] for split in SPLITS})
    assert row["processes"] == 1
    assert row["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert row["versions"]["python"] == sys.version.split()[0]
    assert row["command"] == "python3 -m autosam.train --data.root 'a b'"


def test_without_an_output_the_config_of_a_run_means_a_new_folder(
    tiny_file: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config(tiny_file, f"--data.root={folders}", "--train.epochs=1", "--run=head")
    first = train(config)
    again = parse(Config, ["--config", str(first.folder / "config.yaml")])
    assert (again.output, again.resume, again.overwrite) == (None, None, False)


def test_the_commit_is_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "checkout"
    package = repository / "autosam/utils"
    package.mkdir(parents=True)
    (package / "provenance.py").touch()
    git = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"], ["tag", "v1"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(origin, "__file__", str(package / "provenance.py"))
    found = origin.commit()
    assert found is not None
    assert re.fullmatch("[0-9a-f]{40}", found)
    (package / "provenance.py").write_text("x = 1\n")
    assert origin.commit() == f"{found}-dirty"
    monkeypatch.setenv("PATH", "")
    assert origin.commit() is None


def test_deterministic_is_torchs_own_switch_and_changes_nothing_on_a_cpu(
    tiny_file: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    flags = (f"--data.root={folders}", "--train.epochs=1")
    try:
        strict = train(tiny_config(tiny_file, *flags, f"--output={tmp_path / 'strict'}",
                                   "--deterministic=true"))  # fmt: skip
        assert torch.are_deterministic_algorithms_enabled()
        plain = train(tiny_config(tiny_file, *flags, f"--output={tmp_path / 'plain'}"))
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert strict.test == plain.test


def test_the_version_that_is_noted_is_the_packages() -> None:
    assert origin.versions()["autosam"] == autosam.__version__
