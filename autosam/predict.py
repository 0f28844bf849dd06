"""`autosam predict`: segment images, volumes and videos, without a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import PredictConfig

__all__ = ["PredictConfig", "predict"]


def predict(config: PredictConfig | None = None, **settings: Any) -> list[Path]:
    """Segment images, volumes and videos with a trained run, and write their masks.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults, by their short
            name or their key (`epochs=5`, `**{"train.clip": 2.0}`).

    Returns:
        The mask files of all sources, those of earlier calls included.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is written.
        DataError: at the end, naming the sources that failed.
    """
    config = with_settings(PredictConfig, config, settings, "predict")
    from autosam.inference.predict import predict as run

    return run(config)


def main() -> None:
    run_command(PredictConfig, predict, shared=True)


make_callable(__name__)

if __name__ == "__main__":
    main()
