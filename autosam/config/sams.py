"""The names of the published SAMs, known before torch is imported."""

from __future__ import annotations

import sys

from autosam.utils.suggest import require_choice

SAM_NAMES = (
    "lite",
    "vit_b",
    "vit_l",
    "vit_h",
    "sam-vit-base",
    "sam-vit-large",
    "sam-vit-huge",
    "mobile_sam",
    "medsam",
    "vit_b_lm",
    "vit_b_em_organelles",
    "vit_l_lm",
    "vit_l_em_organelles",
    "vit_t_lm",
    "vit_t_em_organelles",
    "sam_hq_vit_b",
    "sam_hq_vit_l",
    "sam_hq_vit_h",
    "sam_hq_vit_tiny",
    "sam2.1-tiny",
    "sam2.1-small",
    "sam2.1-base-plus",
    "sam2.1-large",
    "sam3",
)
"""The keys of `SAMS`; a test compares them."""
REGISTRY = "autosam.models.sam.registry"


def require_sam_early(name: str | None) -> None:
    """Refuse an unknown SAM before torch is imported.

    Where the registry is imported already, a script may have added SAMs of its own to it. They are
    accepted here; `autosam.models.sam.weights.locate.known` looks them up.

    Args:
        name: of the SAM; None: no SAM is asked for.

    Raises:
        ConfigError: see `require_choice`.
    """
    if name is not None and REGISTRY not in sys.modules:
        require_choice("--sam", name, SAM_NAMES)
