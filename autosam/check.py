"""`autosam check`: what a data set holds, and what is wrong with it."""

from __future__ import annotations

import sys

from autosam.config.cli import run_command
from autosam.config.commands import CheckConfig
from autosam.evaluation.data_report import check

__all__ = ["CheckConfig", "check"]


def main() -> None:
    def run(config: CheckConfig) -> None:
        if check(config).errors:
            sys.exit(1)

    run_command(CheckConfig, run)


if __name__ == "__main__":
    main()
