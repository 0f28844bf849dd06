"""`autosam compare`: train several runs on one split, score each once, side by side."""

from __future__ import annotations

from autosam.comparison.compare import compare
from autosam.config.cli import run_command
from autosam.config.commands import CompareConfig

__all__ = ["CompareConfig", "compare"]


def main() -> None:
    run_command(CompareConfig, compare)


if __name__ == "__main__":
    main()
