"""`autosam train`: train a run, score it once on test, leave everything in its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autosam.config import Config
from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command

if TYPE_CHECKING:
    from autosam.training.finalize import TrainResult

__all__ = ["train"]


def train(config: Config | None = None, **settings: Any) -> TrainResult:
    """Train a run, and score it once on test.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults, by their short
            name or their key (`epochs=5`, `**{"train.clip": 2.0}`).

    Returns:
        The run folder, its scores, and a `predictor`.

    Raises:
        AutosamError: before training: settings, data or weights that cannot be used, nothing
            written; during it: a loss that is no longer finite, the last good checkpoint kept.
    """
    config = with_settings(Config, config, settings, "train")
    from autosam.training.fit import train as run

    return run(config)


def main() -> None:
    run_command(Config, train, shared=True)


make_callable(__name__)

if __name__ == "__main__":
    main()
