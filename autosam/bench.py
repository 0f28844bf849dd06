"""`autosam bench`: how fast this machine encodes, trains and predicts, and next to what.

All weights are random: they do not change the speed, and nothing is downloaded. Each case runs in a
process of its own, is repeated, and stands in the table with its median and its spread.
"""

from __future__ import annotations

from autosam.benchmark.bench import bench
from autosam.config.cli import run_command
from autosam.config.commands import BenchConfig

__all__ = ["BenchConfig", "bench"]


def main() -> None:
    run_command(BenchConfig, bench)


if __name__ == "__main__":
    main()
