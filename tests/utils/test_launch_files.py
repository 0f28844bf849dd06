"""The files of train/, with stand-ins for the programs that they call."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from autosam.config import Config
from autosam.config.cli import parse

FOLDER = Path(__file__).parents[2] / "train"
STAND_INS = {
    "scontrol": "echo host1; echo host2",
    "srun": 'exec "$@"',
    **dict.fromkeys(("torchrun", "accelerate", "python"), 'printf "%s\\n" "$@" >"$SAID"'),
}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, line in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return folder


def start(programs: Path, script: str, *arguments: str) -> tuple[list[str], Config]:
    """The words before the module that was started, and the settings given to it."""
    said = programs / "said"
    subprocess.run(
        ["bash", str(FOLDER / script), *arguments],
        env={
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "SAID": str(said),
            "SLURM_JOB_NODELIST": "host[1-2]",
            "SLURM_NNODES": "2",
            "SLURM_JOB_ID": "7",
        },
        check=True,
    )
    words = said.read_text().splitlines()
    at = words.index("autosam.train")
    return words[:at], parse(Config, words[at + 1 :])


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.sh")))
def test_every_file_starts_the_run_that_it_says(
    programs: Path, tmp_path: Path, script: str
) -> None:
    run = tmp_path / "a run"
    resumes = script in ("slurm.sh", "preemptible.sh")
    arguments = ["my images", "my masks", *[str(run)] * resumes]
    before, config = start(programs, script, *arguments)
    assert (config.data.images, config.data.masks) == ("my images", "my masks")
    assert before[-1] == "--" if script == "slurm.sh" else before[-1] == "-m"
    if script == "slurm.sh":
        assert {"--nnodes", "2", "host1:29500"} <= set(before)
    if not resumes:
        return
    assert config.output == str(run)
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/state-000001-0123456789abcdef.pt").touch()
    _, config = start(programs, script, *arguments)
    assert config == Config(resume=str(run))
