"""`autosam bench`: measure how fast this machine encodes, trains and predicts.

All weights are random: they do not change the speed, and nothing is downloaded. Each case runs in a
process of its own, is repeated, and is reported with median and spread.
"""

from __future__ import annotations

from typing import Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import BenchConfig

__all__ = ["BenchConfig", "bench"]


def bench(config: BenchConfig | None = None, **settings: Any) -> dict[str, Any]:
    """Measure how fast this machine encodes, trains and predicts, and print it.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults, by their short
            name or their key (`epochs=5`, `**{"train.clip": 2.0}`).

    Returns:
        The figures of each case, by its name.

    Raises:
        ConfigError: a SAM or case that does not exist.
    """
    config = with_settings(BenchConfig, config, settings, "bench")
    from autosam.benchmark.bench import bench as run

    return run(config)


def main() -> None:
    run_command(BenchConfig, bench)


make_callable(__name__)

if __name__ == "__main__":
    main()
