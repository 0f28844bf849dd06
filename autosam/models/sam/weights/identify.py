"""Identify a weights file by its keys and shapes, and convert it for a SAM."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from autosam.errors import AutosamError, CheckpointError, ConfigError
from autosam.models.sam.base import SamSpec
from autosam.models.sam.registry import SAMS
from autosam.models.state_dict import differences, without_prefix

OWN = ("prompter.", "generator.", "class_prompt.", "head.", "sam.mask_decoder.")
"""Prefixes of the keys that a checkpoint of autosam may hold."""
# fmt: off
BACKBONE = (
    "conv", "bn", "layer", "stem", "stage", "patch_embed", "pos_embed", "cls_token", "class_token",
    "blocks.", "features.", "encoder.", "downsample_layers.", "norm.", "fc", "classifier.", "head.",
    "heads.", "base.",
)
# fmt: on
"""Prefixes of the keys of timm's and torchvision's classifiers."""

# Per layout: the tensor whose first dimension is the width of the image encoder, the name of the
# layout, and for each width its name and its names in the registry.
LAYOUTS: tuple[tuple[str, str, dict[int, tuple[str, tuple[str, ...]]]], ...] = (
    (
        "image_encoder.patch_embed.proj.weight",
        "SAM",
        {
            768: ("ViT-B", ("vit_b", "medsam", "vit_b_lm", "vit_b_em_organelles")),
            1024: ("ViT-L", ("vit_l", "vit_l_lm", "vit_l_em_organelles")),
            1280: ("ViT-H", ("vit_h",)),
        },
    ),
    (
        "vision_encoder.patch_embed.projection.weight",
        "Hugging Face's SAM",
        {
            768: ("ViT-B", ("sam-vit-base",)),
            1024: ("ViT-L", ("sam-vit-large",)),
            1280: ("ViT-H", ("sam-vit-huge",)),
        },
    ),
    (
        "image_encoder.patch_embed.seq.0.c.weight",
        "MobileSAM",
        {32: ("TinyViT", ("mobile_sam", "vit_t_lm", "vit_t_em_organelles"))},
    ),
    ("image_encoder.lateral.0.weight", "autosam's own SAM", {128: ("lite", ("lite",))}),
)
HIERA: dict[tuple[int, int], tuple[str, tuple[str, ...]]] = {
    (96, 12): ("tiny", ("sam2.1-tiny",)),
    (96, 16): ("small", ("sam2.1-small",)),
    (112, 24): ("base-plus", ("sam2.1-base-plus",)),
    (144, 48): ("large", ("sam2.1-large",)),
}
"""SAM 2 by width and number of blocks."""
VERSION_2_1 = {"no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"}
"""Tensors of SAM 2.1 that SAM 2 lacks, in Meta's and Hugging Face's names."""
HQ = ("mask_decoder.hf_token.weight", "mask_decoder.hq_token.weight")
"""The token of HQ-SAM, in the authors' and Hugging Face's names."""
SAM3 = "vision_encoder.backbone.embeddings.patch_embeddings.projection.weight"
"""The end of the key of SAM 3's first layer."""
HQ_NAMES = {"ViT-B": "vit_b", "ViT-L": "vit_l", "ViT-H": "vit_h", "TinyViT": "vit_tiny"}
UNKNOWN = "with another image encoder than the published SAMs"


def recognise(state: Mapping[str, Tensor]) -> tuple[str, tuple[str, ...]]:
    """Recognise a state dict by its keys and shapes.

    Args:
        state: tensors by key.

    Returns:
        A description ("" if unknown), and the names of matching SAMs in the registry.
    """
    learned = any(key.startswith(("prompter.", "generator.")) for key in state)
    if learned or all(key.startswith(OWN) for key in state):
        return (
            "a checkpoint of autosam itself: give it as --checkpoint, or as --init in training",
            (),
        )
    state = without_prefix(state)
    for owner, trunk in (
        ("", "image_encoder.trunk."),
        ("Hugging Face's ", "vision_encoder.backbone."),
    ):
        if stem := [k for k in state if re.match(trunk + r"patch_embed\.\w+\.weight", k)]:
            blocks = {k.split(".")[3] for k in state if k.startswith(trunk + "blocks.")}
            version = "2.1" if VERSION_2_1 & state.keys() else "2"
            size, names = HIERA.get((len(state[stem[0]]), len(blocks)), (UNKNOWN, ()))
            return f"{owner}SAM {version} {size}", names
    if stem := [key for key in state if key.endswith(SAM3)]:
        if not any(key.endswith("mask_decoder.conv_s0.weight") for key in state):
            return "SAM 3 without its tracker", ()
        same = len(state[stem[0]]) == 1024
        return ("SAM 3", ("sam3",)) if same else (f"SAM 3 {UNKNOWN}", ())
    for key, owner, sizes in LAYOUTS:
        if key in state:
            size, names = sizes.get(len(state[key]), (UNKNOWN, ()))
            if any(token in state for token in HQ):
                owner = "Hugging Face's HQ-SAM" if key.startswith("vision") else "HQ-SAM"
                names = (f"sam_hq_{HQ_NAMES[size]}",) if size in HQ_NAMES else ()
            return f"{owner} {size}", names
    if all(key.startswith(BACKBONE) for key in state):
        return (
            "an image backbone of timm or torchvision, no SAM: give it as --model.backbone_weights "
            "with its --model.backbone",
            (),
        )
    return "", ()


def guess(state: Mapping[str, Tensor]) -> str:
    """A sentence for error messages: what the tensors look like, and the `--sam` that fits."""
    what, names = recognise(state)
    if not what:
        first = sorted({key.split(".")[0] for key in state})
        return f"Its tensors (under {', '.join(first[:5])}) are those of no known SAM."
    known = [name for name in names if name in SAMS]
    if not known:
        return f"This looks like {what}."
    choice = " or ".join(known)
    try:
        problems = differences(skeleton(SAMS[known[0]]), _convert(SAMS[known[0]], state))
    except ConfigError:  # a package is missing; loading reports it
        problems = {}
    except Exception:  # an unknown file can raise any kind
        problems = {"not convertible": list(state)}
    if not problems:
        return f"This looks like {what}: use --sam {choice}."
    changes = ", ".join(f"{len(keys)} tensors {kind}" for kind, keys in problems.items())
    return (
        f"This looks like {what} ({choice}) that was changed ({changes}): a SAM with adapters or "
        "other parts of its own cannot be loaded; merge or remove them and save a plain SAM's "
        "state dict."
    )


def convert(spec: SamSpec, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Convert the tensors of a file to the names of a SAM's network, in float32.

    Args:
        spec: the SAM.
        state: tensors by key, as read.
        source: the file, for messages.

    Raises:
        CheckpointError: the file is of another kind; the message says which, if it is known.
    """
    try:
        return _convert(spec, state)
    except Exception as error:  # the keys and shapes of an unknown file can raise any kind
        reason = str(error) if isinstance(error, AutosamError) else repr(error)
        raise CheckpointError(
            f"{source}: not a file of SAM {spec.name} ({reason}).\n{guess(state)}"
        ) from None


def _convert(spec: SamSpec, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    floats = {key: value.float() for key, value in without_prefix(state).items()}
    return spec.convert(floats) if spec.convert else floats


def skeleton(spec: SamSpec) -> dict[str, Tensor]:
    """Keys and shapes of the network of `spec`, on the meta device if the network allows it.

    Raises:
        ConfigError: the SAM needs a package that is not installed.
    """
    try:
        with torch.device("meta"):
            sam = spec.build(spec)
    except (RuntimeError, NotImplementedError):  # a network that computes values while it is built
        sam = spec.build(spec)
    return sam.state_dict()
