"""`autosam check`: inspect a data set and list its errors."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import CheckConfig
from autosam.utils.pipe import ending_with_the_reader

if TYPE_CHECKING:
    from autosam.data.inspection import Inspection

__all__ = ["CheckConfig", "check"]


def check(config: CheckConfig | None = None, **settings: Any) -> Inspection:
    """Inspect a data set and print the result.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults, by their short
            name or their key (`epochs=5`, `**{"train.clip": 2.0}`).

    Returns:
        Errors, warnings and facts.

    Raises:
        ConfigError: invalid settings, or output files that exist.
    """
    config = with_settings(CheckConfig, config, settings, "check")
    from autosam.evaluation.data_report import check as run

    return run(config)


def main() -> None:
    run_command(CheckConfig, fail_on_errors, name="check")


def fail_on_errors(config: CheckConfig) -> None:
    """Inspect a data set; exit code 1 if there are errors."""
    with ending_with_the_reader():
        found = check(config)
    if found.errors:
        sys.exit(1)


make_callable(__name__)

if __name__ == "__main__":
    main()
