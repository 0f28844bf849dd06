"""`autosam app`: a page on which images are dropped and the masks of runs appear."""

from __future__ import annotations

from autosam.config.cli import run_command
from autosam.config.commands import AppConfig
from autosam.inference.app import app

__all__ = ["AppConfig", "app"]


def main() -> None:
    run_command(AppConfig, app)


if __name__ == "__main__":
    main()
