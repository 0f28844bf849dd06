"""Every malformed input of the table ends in its error, which names it and says what to do.

The table of outcomes is printed after the tests; AUTOSAM_MALFORMED=FILE keeps it. The long form:
AUTOSAM_VARIANTS=10 python -m pytest tests/faults/test_malformed.py
"""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import bad_folders  # noqa: F401  these fill the table
import bad_images  # noqa: F401
import bad_layouts  # noqa: F401
import bad_lines  # noqa: F401
import bad_objects  # noqa: F401
import bad_rasters  # noqa: F401
import bad_tables  # noqa: F401
import bad_weights  # noqa: F401
import bad_words  # noqa: F401
import helpers
import miniature
import pytest
from corpus import CAUSES, Good

from autosam.__main__ import main
from autosam.errors import AutosamError

SECONDS = 90
"""After which an input counts as one that hangs: the process ends, with all of its stacks."""
RESULTS = ("scores.yaml", "test_scores.csv", "*.onnx", "*.pt2", "table.md", "report.html", "*.png",
           "*.nii.gz", "*.csv", "*.safetensors", "*.pth", "coco.json")  # fmt: skip


@pytest.fixture(scope="module")
def good(trained: Path, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Good:
    root = miniature.folders(tmp_path_factory.mktemp("good"), suffix=".png")
    return Good(root, tiny_file, trained)


@pytest.fixture(autouse=True)
def _quiet_log() -> Iterator[None]:
    """No handler that outlives the output it was made for."""
    log, handler = logging.getLogger("autosam"), logging.NullHandler()
    log.addHandler(handler)
    yield
    log.removeHandler(handler)


def results(folder: Path) -> set[Path]:
    """Files that look finished."""
    return {path for pattern in RESULTS for path in folder.rglob(pattern)}


@pytest.mark.parametrize("name", CAUSES)
def test_malformed(
    name: str,
    good: Good,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cause = CAUSES[name]
    for variant in range(cause.variants):
        folder = tmp_path / str(variant)
        folder.mkdir()
        argv, named = cause.make(Random(f"{name} {variant}"), folder, good)
        before = results(folder)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["autosam", *argv])
        capsys.readouterr()
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
        try:
            with pytest.raises(SystemExit) as stop:
                main()
        finally:
            faulthandler.cancel_dump_traceback_later()
        said = capsys.readouterr()
        where = f"{name}, variant {variant}: autosam {' '.join(argv)}\n{said.err}"
        assert stop.value.code == cause.code, where
        error = stop.value.__context__
        if cause.code == 2:
            assert type(error) is cause.error, where
            last = f"error: {error}\n"
            assert said.err.endswith(last), where
        text = said.out + said.err
        assert "Traceback" not in text, where
        assert named in text, f"{named!r} is not named\n{where}"
        assert re.search(cause.message, text, re.DOTALL), f"expected {cause.message}\n{where}"
        left = results(folder) - before
        kept = {path for path in left if any(path.match(pattern) for pattern in cause.rest)}
        assert left == kept, where
        count, *_ = helpers.MALFORMED.get(name, (0,))
        first = (str(error) if isinstance(error, AutosamError) else text).split("\n")[0]
        short = first.replace(f"{folder}{os.sep}", "").replace(str(tmp_path), "")
        helpers.MALFORMED[name] = (count + 1, cause.error.__name__, short)


def test_the_table_is_large_enough() -> None:
    assert len(CAUSES) >= 60
    assert sum(cause.variants for cause in CAUSES.values()) >= 500
