"""`autosam evaluate`: score a checkpoint, or an untrained SAM, on any data set."""

from __future__ import annotations

from autosam.config.cli import run_command
from autosam.config.commands import EvaluateConfig
from autosam.evaluation.evaluate import evaluate

__all__ = ["EvaluateConfig", "evaluate"]


def main() -> None:
    run_command(EvaluateConfig, evaluate, shared=True)


if __name__ == "__main__":
    main()
