"""`autosam evaluate`: score a checkpoint, or an untrained SAM, on any data set."""

from __future__ import annotations

from typing import Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import EvaluateConfig

__all__ = ["EvaluateConfig", "evaluate"]


def evaluate(config: EvaluateConfig | None = None, **settings: Any) -> dict[str, float]:
    """Score a trained run on a data set, or a SAM without any training (`zero_shot=True`).

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults, by their short
            name or their key (`epochs=5`, `**{"train.clip": 2.0}`).

    Returns:
        The mean of every metric over the images, each at its own size.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is scored.
    """
    config = with_settings(EvaluateConfig, config, settings, "evaluate")
    from autosam.evaluation.evaluate import evaluate as run

    return run(config)


def main() -> None:
    run_command(EvaluateConfig, evaluate, shared=True)


make_callable(__name__)

if __name__ == "__main__":
    main()
