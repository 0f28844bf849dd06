"""`autosam rough`: what a rule on colours finds, and how near the truth it is."""

from __future__ import annotations

from autosam.config.cli import run_command
from autosam.config.commands import RoughPreview
from autosam.evaluation.rough_preview import rough

__all__ = ["RoughPreview", "rough"]


def main() -> None:
    run_command(RoughPreview, rough)


if __name__ == "__main__":
    main()
