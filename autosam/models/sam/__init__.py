"""SAM: a plain dict of what can be built, and one function that loads it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import nn

from autosam.errors import CheckpointError, ConfigError
from autosam.models.loading import load_strict, read_weights
from autosam.models.sam.base import Sam, SamSpec
from autosam.models.sam.lite import build_lite
from autosam.models.sam.meta import build_meta
from autosam.shipped import asset_folder

__all__ = ["SAMS", "Sam", "SamSpec", "load_sam", "sam_weights"]

_META = "https://dl.fbaipublicfiles.com/segment_anything/"
_SAM = "Kirillov et al. 2023, arXiv 2304.02643"

SAMS: dict[str, SamSpec] = {
    spec.name: spec
    for spec in (
        SamSpec(
            "lite",
            build_lite,
            image_size=256,
            architecture="EfficientNet-Lite0",
            pixel_mean=(127.5, 127.5, 127.5),
            pixel_std=(127.5, 127.5, 127.5),
            file="sam_lite.safetensors",
            source="shipped with autosam",
            licence="Apache-2.0",
            paper=_SAM,
        ),
        *(
            SamSpec(
                name,
                build_meta,
                image_size=1024,
                architecture=architecture,
                file=file,
                source=_META + file,
                sha256=file[-10:-4],  # Meta's file names carry its start
                megabytes=megabytes,
                licence="Apache-2.0",
                paper=_SAM,
            )
            for name, architecture, file, megabytes in (
                ("vit_b", "ViT-B", "sam_vit_b_01ec64.pth", 375),
                ("vit_l", "ViT-L", "sam_vit_l_0b3195.pth", 1250),
                ("vit_h", "ViT-H", "sam_vit_h_4b8939.pth", 2560),
            )
        ),
    )
}


def sam_weights(name: str, checkpoint: str | Path | None = None) -> Path:
    """The weights file of SAM `name`: `checkpoint` if given, else the shipped one.

    Raises:
        ConfigError: no SAM of that name.
        CheckpointError: the file is not there; the message says where to get it.
    """
    if name not in SAMS:
        raise ConfigError(f"--sam {name}: unknown. Choose one of {', '.join(SAMS)}.")
    spec = SAMS[name]
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise CheckpointError(f"--sam_checkpoint {checkpoint}: no such file.")
        return Path(checkpoint)
    shipped = asset_folder("weights") / spec.file
    if spec.file and shipped.is_file():
        return shipped
    raise CheckpointError(
        f"--sam {name} needs its weights: download {spec.source} and "
        f"pass --sam_checkpoint FILE. (--sam lite needs nothing.)"
    )


def load_sam(name: str, checkpoint: str | Path | None = None) -> Sam:
    """Build SAM `name` and load its weights, every tensor accounted for.

    Args:
        name: a key of `SAMS`.
        checkpoint: weights file; None takes the shipped one.

    Raises:
        ConfigError, CheckpointError: see `sam_weights` and `load_strict`.
    """
    path = sam_weights(name, checkpoint)
    spec = SAMS[name]
    state = {key: value.float() for key, value in read_weights(path).items()}
    if spec.convert is not None:
        state = spec.convert(state)
    sam = spec.build(spec)
    module = cast(nn.Module, sam)
    load_strict(
        module,
        state,
        source=str(path),
        hint=f"Is this a checkpoint of another SAM? --sam {name} was asked for; "
        f"known: {', '.join(SAMS)}.",
    )
    module.to(memory_format=torch.channels_last)
    module.eval()
    module.requires_grad_(False)
    return sam
