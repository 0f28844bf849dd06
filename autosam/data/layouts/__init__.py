"""Data set layouts: each function finds the pairs of image and mask. See docs/data.md."""

from __future__ import annotations

from collections.abc import Callable

from autosam.config import DataConfig
from autosam.config.validation import check_data, check_folders
from autosam.data.layouts.coco import pairs_of_coco
from autosam.data.layouts.folders import pairs_of_folders
from autosam.data.layouts.glas import pairs_of_glas
from autosam.data.layouts.huggingface import pairs_of_hub
from autosam.data.layouts.manifest import pairs_of_manifest
from autosam.data.layouts.monuseg import pairs_of_monuseg
from autosam.data.layouts.objects import pairs_of_objects
from autosam.data.layouts.polyp import pairs_of_polyps
from autosam.data.layouts.rasters import pairs_of_rasters
from autosam.data.layouts.stamps import pairs_of_stamps
from autosam.data.layouts.voc import pairs_of_voc
from autosam.data.layouts.volumes import pairs_of_volumes
from autosam.data.pairs import Pair, Splits
from autosam.data.splits import draw_splits
from autosam.errors import DataError
from autosam.utils.io import require_text
from autosam.utils.suggest import require_choice

LAYOUTS: dict[str, Callable[[DataConfig], list[Pair]]] = {
    "folders": pairs_of_folders,
    "manifest": pairs_of_manifest,
    "coco": pairs_of_coco,
    "voc": pairs_of_voc,
    "huggingface": pairs_of_hub,
    "glas": pairs_of_glas,
    "monuseg": pairs_of_monuseg,
    "polyp": pairs_of_polyps,
    "stamps": pairs_of_stamps,
    "volumes": pairs_of_volumes,
    "objects": pairs_of_objects,
    "rasters": pairs_of_rasters,
}
"""All layouts, by `--data.layout`. See docs/extending.md to add one."""


def load_pairs(config: DataConfig) -> list[Pair]:
    """Find all pairs of a data set, with their split if the data set defines it.

    Args:
        config: the data settings.

    Raises:
        ConfigError: an unknown layout, or settings that contradict each other.
        DataError: files are missing, or do not match the layout.
    """
    require_choice("--data.layout", config.layout, LAYOUTS)
    check_data(config)
    check_folders(config)
    where = (config.root, config.images, config.masks, config.annotations)
    require_text(name for name in where if name)
    found = LAYOUTS[config.layout](config)
    require_text(pair.name for pair in found)
    names: dict[tuple[str, str], Pair] = {}
    for pair in found:
        other = names.setdefault((pair.given, pair.name), pair)
        if other is not pair:
            raise DataError(f"{other.image} and {pair.image}: a duplicate name. Keep one of them.")
    return found


def load_splits(config: DataConfig) -> Splits:
    """Find the pairs of a data set and split them.

    Args:
        config: the data settings.

    Returns:
        The pairs of each split.

    Raises:
        ConfigError: settings that contradict each other.
        DataError: see `load_pairs` and `draw_splits`.
    """
    return draw_splits(load_pairs(config), config)
