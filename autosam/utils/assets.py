"""Files shipped with the package (configs/ and weights/ of the source tree), and the cache folder.

A wheel holds them in `autosam/assets/`; a checkout or an editable install beside `autosam/`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parents[1]


def asset_folder(kind: str) -> Path:
    """The folder of the shipped files of a kind: `configs` or `weights`."""
    installed = _PACKAGE / "assets" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def cache_folder() -> Path:
    """The folder of downloaded and computed files.

    $AUTOSAM_CACHE, else `autosam` in the user's cache folder by the rules of the operating system;
    on macOS the folder of earlier versions, ~/.cache/autosam, if only that one exists.
    """
    if own := os.environ.get("AUTOSAM_CACHE"):
        return Path(own).expanduser()
    usual = platformdirs.user_cache_path("autosam", appauthor=False, opinion=False)
    former = Path("~/.cache/autosam").expanduser()
    use_former = sys.platform == "darwin" and former.is_dir() and not usual.is_dir()
    return former if use_former else usual
