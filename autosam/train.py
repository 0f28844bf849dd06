"""`autosam train`: train a run, score it once on test, leave everything in its folder."""

from __future__ import annotations

from autosam.config import Config
from autosam.config.cli import run_command
from autosam.training.finalize import TrainResult
from autosam.training.fit import train

__all__ = ["TrainResult", "train"]


def main() -> None:
    run_command(Config, train, shared=True)


if __name__ == "__main__":
    main()
