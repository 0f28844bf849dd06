"""Files shipped with the package: configs/ and weights/ of the source tree.

In a wheel they lie under `autosam/assets/`; in a checkout or an editable install beside `autosam/`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def asset_folder(kind: str) -> Path:
    """Folder of the shipped `configs` or `weights`."""
    installed = _PACKAGE / "assets" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind
