"""How torch's threads wait, as the OpenMP runtime reports it, and how many there are."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autosam.utils import control_groups, memory, threads

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
    """After a tenth of a millisecond; libgomp's default is 300,000 rounds."""
    assert spins() == ("3000", "1")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("30000000000", "None")),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, ("0", "None")),
        ({"GOMP_SPINCOUNT": "1234"}, ("1234", "1")),
        ({"KMP_BLOCKTIME": "7"}, ("3000", "7")),
    ],
    ids=lambda value: str(value),
)
def test_what_the_user_has_set_stays(said: dict[str, str], found: tuple[str, str]) -> None:
    assert spins(**said) == found


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({}, 8),
    ],
)
def test_cores_of_a_container(
    files: dict[str, str], found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files as the kernel writes them (cgroup-v2.rst, sched-bwc.rst), on a machine of 8 cores."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(control_groups, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert threads.cores() == found
    monkeypatch.setattr(threads, "_most", 2)
    assert threads.cores() == min(2, found)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux binds processes to cores")
@pytest.mark.parametrize(("said", "found"), [({}, "1 1"), ({"OMP_NUM_THREADS": "2"}, "1 2")])
def test_torch_takes_the_cores_of_the_process(said: dict[str, str], found: str) -> None:
    """A process that is bound to one core."""
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "import autosam; from autosam.utils.threads import cores; import torch; "
        "print(cores(), torch.get_num_threads())"
    )
    kept = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | said, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == found


def test_the_free_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were read are kept as long as there is room (memory.stat in cgroup-v2.rst)."""
    for name, text in (
        ("max", "1000"), ("current", "900"), ("stat", "anon 300\nfile 600\ninactive_file 500\n")
    ):  # fmt: skip
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(control_groups, "ROOT", tmp_path)
    assert memory.free_bytes() == 600
    (tmp_path / "memory.max").write_text("max")
    assert memory.free_bytes() > 2**20


@pytest.mark.parametrize(
    ("groups", "folder", "files"),
    [
        ("0::/slurm/job_7/step_0\n", "slurm/job_7", ("memory.max", "memory.current", "cpu.max")),
        (
            "9:name=systemd:/x\n5:cpuacct,cpu:/slurm/job_7/step_0\n4:memory:/slurm/job_7/step_0\n",
            "memory/slurm/job_7",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "../../../cpu/slurm/job_7/"),
        ),
    ],
)
def test_limits_of_a_job_within_a_machine(
    groups: str,
    folder: str,
    files: tuple[str, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job's step is in a group without limits of its own, below one with them (cgroups(7))."""
    own, (most, used, cores) = tmp_path / folder, files
    (own / "step_0").mkdir(parents=True)
    (own / most).write_text("7000\n")
    (own / used).write_text("2000\n")
    (own / "memory.stat").write_text("anon 2000\ninactive_file 0\n")
    if cores.endswith("/"):
        (own / cores).mkdir(parents=True)
        (own / cores / "cpu.cfs_quota_us").write_text("300000\n")
        (own / cores / "cpu.cfs_period_us").write_text("100000\n")
    else:
        (own / cores).write_text("300000 100000\n")
    (tmp_path / "cgroup").write_text(groups)
    monkeypatch.setattr(control_groups, "ROOT", tmp_path)
    monkeypatch.setattr(control_groups, "OWN", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert memory.free_bytes() == 5000
    assert threads.cores() == 3
