"""`autosam predict`: masks for new images, volumes and videos, no prompt."""

from __future__ import annotations

from autosam.config.cli import run_command
from autosam.config.commands import PredictConfig
from autosam.inference.predict import predict

__all__ = ["PredictConfig", "predict"]


def main() -> None:
    run_command(PredictConfig, predict, shared=True)


if __name__ == "__main__":
    main()
