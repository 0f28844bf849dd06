"""`autosam export`: a run as one ONNX file, image in and mask out."""

from __future__ import annotations

from autosam.config.cli import run_command
from autosam.config.commands import ExportConfig
from autosam.inference.onnx import export

__all__ = ["ExportConfig", "export"]


def main() -> None:
    run_command(ExportConfig, export)


if __name__ == "__main__":
    main()
