"""`autosam rough`: preview the masks of a color prior, and how near the truth they are."""

from __future__ import annotations

from typing import Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import RoughPreview

__all__ = ["RoughPreview", "rough"]


def rough(config: RoughPreview | None = None, **settings: Any) -> list[float]:
    """See `autosam.evaluation.rough_preview.rough`.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults.
    """
    from autosam.evaluation.rough_preview import rough as run

    return run(with_settings(RoughPreview, config, settings, "rough"))


def main() -> None:
    run_command(RoughPreview, rough)


make_callable(__name__)

if __name__ == "__main__":
    main()
