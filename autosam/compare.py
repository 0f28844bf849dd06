"""`autosam compare`: train several runs on the same split and compare their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import CompareConfig

if TYPE_CHECKING:
    from autosam.comparison.table import ResultsTable

__all__ = ["CompareConfig", "compare"]


def compare(config: CompareConfig | None = None, **settings: Any) -> ResultsTable:
    """Train several runs on the same split, and write a report of their scores.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults, by their short
            name or their key (`epochs=5`, `**{"train.clip": 2.0}`).

    Returns:
        The results table; report.html, table.md, table.csv and TensorBoard are in the folder.

    Raises:
        ConfigError: settings that cannot work.
        AutosamError: a run failed. Remove the cause and repeat the call: it continues.
    """
    config = with_settings(CompareConfig, config, settings, "compare")
    from autosam.comparison.compare import compare as run

    return run(config)


def main() -> None:
    run_command(CompareConfig, compare)


make_callable(__name__)

if __name__ == "__main__":
    main()
