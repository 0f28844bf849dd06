"""`autosam app`: serve a page that shows the masks of runs on dropped images."""

from __future__ import annotations

from typing import Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import AppConfig

__all__ = ["AppConfig", "app"]


def app(config: AppConfig | None = None, wait: bool = True, **settings: Any) -> Any:
    """Serve a page that shows the masks of runs on dropped images, until interrupted.

    Args:
        config: the settings.
        wait: False returns the running page.
        settings: those that differ from `config` or, without it, from the defaults, by their short
            name or their key (`epochs=5`, `**{"train.clip": 2.0}`).

    Returns:
        Nothing, or with `wait=False` the running page (its `local_url`, its `close()`).

    Raises:
        ConfigError, CheckpointError: before anything is served.
    """
    config = with_settings(AppConfig, config, settings, "app")
    from autosam.inference.app import app as run

    return run(config, wait)


def main() -> None:
    run_command(AppConfig, app)


make_callable(__name__)

if __name__ == "__main__":
    main()
