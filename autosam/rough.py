"""`autosam rough`: preview the masks of a color prior, and how near the truth they are."""

from __future__ import annotations

from typing import Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import RoughPreview

__all__ = ["RoughPreview", "rough"]


def rough(config: RoughPreview | None = None, **settings: Any) -> list[float]:
    """Draw the rough masks of some training images, and the prompts taken from them.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults, by their short
            name or their key (`epochs=5`, `**{"train.clip": 2.0}`).

    Returns:
        The IoU of rough and true mask of each image.

    Raises:
        ConfigError, DataError: the output file exists; data that cannot be used.
    """
    from autosam.evaluation.rough_preview import rough as run

    return run(with_settings(RoughPreview, config, settings, "rough"))


def main() -> None:
    run_command(RoughPreview, rough)


make_callable(__name__)

if __name__ == "__main__":
    main()
