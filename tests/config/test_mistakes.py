"""Help and mistakes are answered at once, with the nearest sensible thing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autosam.config import RUNS, Config
from autosam.config.cli import parse
from autosam.config.commands import (
    BenchConfig,
    CompareConfig,
    PredictConfig,
)
from autosam.config.data import LAYOUT_NAMES
from autosam.config.help import help_of
from autosam.config.sams import SAM_NAMES
from autosam.data.layouts import LAYOUTS
from autosam.embeddings import parse_arguments as embeddings_arguments
from autosam.errors import ConfigError
from autosam.models.sam import SAMS


@pytest.mark.parametrize("columns", ["1", "40", "400"])
def test_help_fits_every_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for kind in (Config, PredictConfig, BenchConfig):
        lines = help_of(kind, "autosam x", everything=True).splitlines()
        assert "--config FILE" in "\n".join(lines)
        assert max(map(len, lines)) <= 100


def test_help_says_how_a_switch_that_is_on_is_turned_off() -> None:
    assert "--attribution true|false" in help_of(CompareConfig, "autosam compare", True)
    assert "--quick  " in help_of(CompareConfig, "autosam compare", True)


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no such signal")
@pytest.mark.parametrize("buffered", [[], ["-u"]])
@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "train --help-all",
        "weights --help",
        "weights",
        "embeddings list",
        "embeddings prune --days 9",
        "check",
        "check --json true",
    ],
)
def test_output_ends_quietly_where_nobody_reads_on(
    words: str, buffered: list[str], folders: Path, tmp_path: Path
) -> None:
    line = [sys.executable, *buffered, "-m", "autosam", *words.split()]
    if words.startswith("check"):
        line.append(f"--data.root={folders}")
    reader, writer = os.pipe()
    os.close(reader)
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    env = {**kept, "AUTOSAM_CACHE": str(tmp_path)}
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, check=False, env=env)
    os.close(writer)
    swallowed = "weights --help" in words and "-u" in buffered  # by argparse, with some Pythons
    assert (done.returncode or 141 * swallowed, done.stderr) == (141, b"")


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no such signal")
def test_commands_that_print_keep_their_process(capsys: pytest.CaptureFixture) -> None:
    """Writing to another pipe that is closed is an error there, not the end of the process."""
    before = signal.getsignal(signal.SIGPIPE)
    with pytest.raises(SystemExit):
        parse(Config, ["--help"])
    with pytest.raises(SystemExit):
        embeddings_arguments(["--help"])
    assert capsys.readouterr().out
    assert signal.getsignal(signal.SIGPIPE) == before == signal.SIG_IGN


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("embeddings", "the following arguments are required: {list,prune}."),
        ("embeddings prune --days x", "--days: x: expected a number of days, 0 or more."),
        ("embeddings prune --days=-1", "--days: -1: expected a number of days, 0 or more."),
        ("embeddings list --dir nowhere", "--dir nowhere: no such folder."),
        ("embeddings --dir nowhere list", "--dir nowhere: no such folder."),
    ],
)
def test_mistakes_in_commands_of_actions(words: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        embeddings_arguments(words.split()[1:])
    assert message in str(error.value)


@pytest.mark.parametrize("words", [[], ["train", "--help"], ["train", "--trian.lr=3"], ["tran"]])
def test_help_and_mistakes_import_nothing_heavy(words: list[str]) -> None:
    done = run_and_name_heavy_modules(*words)
    assert done.stdout.splitlines()[-1] in ("0", "2")


UNKNOWN_SAM = f"--sam vitb: unknown. Choose one of {', '.join(SAM_NAMES)}. Did you mean vit_b?"


def test_the_names_of_sams_are_the_registry() -> None:
    assert [*SAM_NAMES] == [name for name in SAMS if name != "tiny"]


def test_the_names_of_layouts_are_the_table() -> None:
    assert [*LAYOUT_NAMES] == [*LAYOUTS]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("weights lits", "autosam weights lits: unknown action. Choose one of list, get, verify, "
         "add. Did you mean list?"),
        ("embeddings --dir . prun", "autosam embeddings prun: unknown action. Choose one of list, "
         "prune. Did you mean prune?"),
        ("train --images . --masks . --sam vitb", UNKNOWN_SAM),
        ("check --images . --masks . --sam vitb", UNKNOWN_SAM),
        ("evaluate --zero-shot --sam vitb", UNKNOWN_SAM),
        ("compare --images . --masks . --sam vitb", UNKNOWN_SAM),
        ("bench --sam vitb", UNKNOWN_SAM),
        ("weights get lite vitb", UNKNOWN_SAM),
        ("weights add vitb x.pth", UNKNOWN_SAM),
        ("weights verify x.pth --sam vitb", UNKNOWN_SAM),
        ("--hlep", "autosam --hlep: a command comes first. Did you mean --help?"),
        ("predict", "--checkpoint, --input, --output are needed."),
        ("predict --checkpoint . --input . --output o --threshold 2 --min-area -1",
         "--threshold 2: must be below 1.\n--min-area -1: must be at least 0."),
        ("evaluate", "--checkpoint RUN is needed: a run folder or a checkpoint file. (Or "
         "--zero-shot.)"),
        ("export", "--checkpoint RUN is needed."),
        ("export --checkpoint . --output m.txt", "--output m.txt: the name must end in .onnx or "
         ".pt2."),
        ("export --checkpoint . --images no", "--images no: no such folder. Fix the path."),
        ("app", "--checkpoint RUN is needed."),
        ("app --checkpoint . --checkpoint no", "--checkpoint no: no such file or folder. Fix the "
         "path."),
        ("compare --runs autosam,hed", f"--runs autosam,hed: choose from {', '.join(RUNS)}. Did "
         "you mean head?"),
        ("train --data.layout cocoo", f"--data.layout cocoo: unknown. Choose one of "
         f"{', '.join(LAYOUTS)}. Did you mean coco?"),
        ("train --images .", "--data.images and --data.masks go together. Give both."),
        ("train --images no --masks no2", "--data.images no: no such folder. Fix the path.\n"
         "--data.masks no2: no such folder. Fix the path."),
        ("train --resume no", "--resume no: no such run folder. Fix the path."),
        ("check --output x.txt", "--output x.txt: the name must end in .png."),
        ("weights verify no", "weights verify no: no such file. Fix the path."),
        ("weights add vit_b no", "weights add no: no such file. Fix the path."),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_before_anything_heavy_is_imported(words: str, message: str) -> None:
    done = run_and_name_heavy_modules(*words.split())
    assert done.stderr.partition("\nusage:")[0].strip() == f"error: {message}"
    assert done.stdout == "2\n"


def run_and_name_heavy_modules(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `autosam`, and print its exit code and the heavy modules that it imported."""
    code = (
        "import sys; sys.argv = ['autosam', *sys.argv[1:]]\n"
        "from autosam.__main__ import main\n"
        "code = 0\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, *{'torch', 'timm', 'monai', 'numpy', 'cv2', 'rich', 'PIL'} & {*sys.modules})"
    )
    line = [sys.executable, "-c", code, *words]
    return subprocess.run(line, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("flag", ["--task=semantic", "--train.lr=0.004", "--data.crop=null"])
def test_defaults_beside_resume_are_refused(flag: str) -> None:
    """What equals the default may differ from what the run was trained with."""
    with pytest.raises(ConfigError, match=f"leave {flag[2:].split('=')[0]} out"):
        parse(Config, ["--resume=runs/mine", flag])
    parse(Config, ["--resume=runs/mine", "--data.workers=2", "--data.root=images"])
