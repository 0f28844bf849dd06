"""How torch's threads wait, as the OpenMP runtime reports it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def spins(**said: str) -> tuple[str, str]:
    """Rounds that the threads of torch's own libgomp wait for before they give their core away, and
    the setting of Intel's and LLVM's OpenMP, where autosam is imported first."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    library = Path(spec.origin).parent / "lib/libgomp.so.1"
    if not library.is_file():
        pytest.skip("torch has another OpenMP runtime here than GNU's")
    code = (
        "import autosam, ctypes, os, sys; assert 'torch' not in sys.modules; "
        f"ctypes.CDLL({str(library)!r}); print(os.environ.get('KMP_BLOCKTIME'))"
    )
    kept = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "OMP_DISPLAY_ENV": "verbose", **said},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)
    assert found is not None, done.stderr
    return found[1], done.stdout.strip()


def test_threads_that_wait_give_their_core_away() -> None:
    assert spins() == ("0", "1")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("30000000000", "None")),
        ({"GOMP_SPINCOUNT": "1234"}, ("1234", "1")),
        ({"KMP_BLOCKTIME": "7"}, ("0", "7")),
    ],
    ids=lambda value: str(value),
)
def test_what_the_user_has_set_stays(said: dict[str, str], found: tuple[str, str]) -> None:
    assert spins(**said) == found
