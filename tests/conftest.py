"""Fixtures, and the tables that the test run ends with."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Every test, and every process that one starts, has one core: `pytest -n` shares out the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from helpers import ENDED, MALFORMED, TINY, build_reference_tiny, draw, draw_folders, tiny_config

from autosam.models.sam import SAMS

torch.set_num_threads(1)


PARITY: dict[tuple[str, str], float] = {}
"""Largest difference from the reference implementation, by backend and what was compared."""


@pytest.fixture
def parity() -> Callable[..., None]:
    """`parity("mobile_sam", "masks: box", ours, reference)`: the two agree to 1e-4 in fp32. The
    largest difference of each row is printed as a table at the end of the test run."""

    def compare(
        backend: str, what: str, ours: torch.Tensor, reference: torch.Tensor, bound: float = 1e-4
    ) -> None:
        assert ours.shape == reference.shape
        error = (ours - reference).abs().max().item() if ours.numel() else 0.0
        PARITY[backend, what] = max(error, PARITY.get((backend, what), 0.0))
        assert error < bound, f"{backend}, {what}: {error:.1e}"

    return compare


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of `pytest -n` hands its errors to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["parity"] = [[*key, error] for key, error in PARITY.items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # A process that was killed has none.
    for backend, what, error in getattr(node, "workeroutput", {}).get("parity", []):
        PARITY[backend, what] = max(error, PARITY.get((backend, what), 0.0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables of parity errors, of malformed inputs, and of processes that were ended."""
    if PARITY:
        terminalreporter.section("largest difference from the reference implementation")
        for (backend, what), error in sorted(PARITY.items()):
            terminalreporter.write_line(f"{backend:<20} {what:<36} {error:.1e}")
    if ENDED:
        total = sum(times for times, *_ in ENDED.values())
        terminalreporter.section(f"{total} processes ended: times, most seconds, exit codes")
        for name, (times, seconds, codes) in sorted(ENDED.items()):
            line = f"{name:<64} {times:>3} {seconds:>5.1f} s  {', '.join(map(str, sorted(codes)))}"
            terminalreporter.write_line(line)
    if MALFORMED:
        lines = [
            f"{name:<60} {count:>3}  {kind:<16} {message}"
            for name, (count, kind, message) in MALFORMED.items()
        ]
        total = sum(count for count, *_ in MALFORMED.values())
        terminalreporter.section(f"{total} malformed inputs of {len(MALFORMED)} causes")
        for line in lines:
            terminalreporter.write_line(line[:180])
        if file := os.environ.get("AUTOSAM_MALFORMED"):
            Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the tiny SAM, as Meta's files are written: torch.save of the state dict of
    `segment_anything`'s own network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sam") / "sam_tiny.pth"
    torch.save(build_reference_tiny().state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are sought in an empty folder and downloaded from a closed port of this machine."""
    monkeypatch.setenv("AUTOSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AUTOSAM_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.fixture(autouse=True)
def _reset_log() -> Iterator[None]:
    """What writes the log holds on to the standard output of one test."""
    yield
    logging.getLogger("autosam").handlers.clear()


@pytest.fixture(autouse=True)
def _tiny_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMS, "tiny", TINY)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return draw_folders(tmp_path / "data")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> Path:
    """The folder of a run of autosam; its data are beside it, in data/."""
    root = tmp_path_factory.mktemp("trained")
    for start, split, count in ((0, "train", 6), (6, "validation", 3), (9, "test", 3)):
        draw(root / "data" / split, count, start)
    from autosam.train import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMS, "tiny", TINY)
        flags = (f"--data.root={root / 'data'}", f"--output={root / 'run'}", "--train.epochs=6")
        return train(tiny_config(tiny_file, *flags)).folder


@pytest.fixture
def real_data() -> Path:
    """The folder of real photographs."""
    if not os.environ.get("AUTOSAM_DATA"):
        pytest.skip("AUTOSAM_DATA is not set: no real photographs to test on")
    return Path(os.environ["AUTOSAM_DATA"])
