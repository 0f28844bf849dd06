"""`autosam rough`: preview the masks of a color prior, with their IoU."""

from __future__ import annotations

from typing import Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import RoughPreview

__all__ = ["RoughPreview", "rough"]


def rough(config: RoughPreview | None = None, **settings: Any) -> list[float]:
    """Draw the color prior's masks of some training images, with the prompts taken from them.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults, by their short
            name or their key (`epochs=5`, `**{"train.clip": 2.0}`).

    Returns:
        IoU of the color prior's mask and the true mask of each image.

    Raises:
        ConfigError: invalid settings, or the output file exists.
        DataError: data that cannot be used.
    """
    config = with_settings(RoughPreview, config, settings, "rough")
    from autosam.evaluation.rough_preview import rough as run

    return run(config)


def main() -> None:
    run_command(RoughPreview, rough)


make_callable(__name__)

if __name__ == "__main__":
    main()
