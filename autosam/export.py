"""`autosam export`: write a run as one ONNX file, image in and mask out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import ExportConfig

if TYPE_CHECKING:
    from autosam.inference.onnx import Exported

__all__ = ["ExportConfig", "export"]


def export(config: ExportConfig | None = None, **settings: Any) -> Exported:
    """Write a run as one ONNX file, and compare it with PyTorch on images.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults, by their short
            name or their key (`epochs=5`, `**{"train.clip": 2.0}`).

    Returns:
        The file, and how far both agree.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is written.
        CheckpointError: the file does not do what the run does; nothing is kept.
    """
    config = with_settings(ExportConfig, config, settings, "export")
    from autosam.inference.onnx import export as run

    return run(config)


def main() -> None:
    run_command(ExportConfig, export)


make_callable(__name__)

if __name__ == "__main__":
    main()
