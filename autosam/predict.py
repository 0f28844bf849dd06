"""`autosam predict`: segment images, volumes and videos, without a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import PredictConfig

__all__ = ["PredictConfig", "predict"]


def predict(config: PredictConfig | None = None, **settings: Any) -> list[Path]:
    """See `autosam.inference.predict.predict`.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults.
    """
    from autosam.inference.predict import predict as run

    return run(with_settings(PredictConfig, config, settings, "predict"))


def main() -> None:
    run_command(PredictConfig, predict, shared=True)


make_callable(__name__)

if __name__ == "__main__":
    main()
