"""What Windows and macOS lack or do otherwise, shown on whatever runs the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import draw_folders

from autosam.config import DataConfig
from autosam.data.sources import load_split

UNIX_ONLY = ("pread", "pwrite", "fork", "forkpty", "getuid", "geteuid", "getpgid", "killpg",
             "setsid", "sync", "nice", "sched_getaffinity", "mkfifo", "statvfs", "chown",
             "posix_fadvise", "sendfile", "uname", "getloadavg")  # fmt: skip
"""Of `os`; Windows has none of them."""


@pytest.fixture
def like_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """`os` without what Windows lacks."""
    for name in UNIX_ONLY:
        monkeypatch.delattr(os, name, raising=False)


def test_data_are_split_without_what_windows_lacks(like_windows: None, tmp_path: Path) -> None:
    split = load_split(DataConfig(root=str(draw_folders(tmp_path / "data"))))
    assert all(split.values())
