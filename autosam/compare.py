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
    """See `autosam.comparison.compare.compare`.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults.
    """
    from autosam.comparison.compare import compare as run

    return run(with_settings(CompareConfig, config, settings, "compare"))


def main() -> None:
    run_command(CompareConfig, compare)


make_callable(__name__)

if __name__ == "__main__":
    main()
