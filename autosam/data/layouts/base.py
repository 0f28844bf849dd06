"""Helpers shared by the layouts."""

from __future__ import annotations

from pathlib import Path

from autosam.config import DataConfig
from autosam.errors import DataError


def root_of(config: DataConfig) -> Path:
    """`--data.root` as a folder.

    Raises:
        DataError: unset, or not a folder.
    """
    if not config.root:
        raise DataError(f"--data.layout {config.layout} needs --data.root DIR.")
    if not Path(config.root).is_dir():
        raise DataError(f"--data.root {config.root}: no such folder. Fix the path.")
    return Path(config.root)
