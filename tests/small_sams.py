"""A small SAM of each backend, with random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from helpers import TINY, build_tiny
from torch import nn

from autosam.models.sam import SAMS
from autosam.models.sam.base import SamSpec
from autosam.models.sam.hq import HqEncoder, HqSam, add_mask_layers
from autosam.models.sam.mobile import build_mobile
from autosam.models.sam.sam2 import Hiera, Sam2, build_hiera, from_sam2_file
from autosam.models.sam.sam3 import PerceptionEncoder, build_sam3, from_sam3_file

SIZE, GRID, WIDTH = 128, 8, 32


def liven_sam2(network: nn.Module) -> None:
    """Random weights under which signals keep their size and logits are of order 1: transformers'
    own start leaves embeddings at zero and logits at hundredths."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1 + name.endswith("weight"))
            elif parameter.dim() < 2 or "embed" in name or "token" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.copy_(torch.randn_like(parameter) * parameter[0].numel() ** -0.5)
            if "output_hypernetworks_mlps" in name:
                parameter *= 0.7


def build_tiny_sam2(spec: SamSpec) -> Sam2:
    """128 px, grid 8 x 8, width 32."""
    sam = build_hiera(spec, Hiera(16, 1, (1, 1, 2, 1), (3,)), WIDTH)
    liven_sam2(sam)
    return sam


TINY_SAM2 = SamSpec(
    "tiny-sam2", build_tiny_sam2, image_size=SIZE, geometry="square", convert=from_sam2_file
)


def build_tiny_sam3(spec: SamSpec) -> Sam2:
    """Grid 8 x 8 of 112 px: cells of the masks are 3.5 px wide, as in SAM 3 itself."""
    encoder = PerceptionEncoder(32, 48, 3, 2, (1,), window=4, pretrained=4)
    sam = build_sam3(spec, encoder, WIDTH)
    liven_sam2(sam)
    return sam


TINY_SAM3 = SamSpec(
    "tiny-sam3",
    build_tiny_sam3,
    image_size=112,
    pixel_mean=(127.5, 127.5, 127.5),
    pixel_std=(127.5, 127.5, 127.5),
    geometry="square",
    convert=from_sam3_file,
)


def build_tiny_hq(spec: SamSpec) -> HqSam:
    """The tiny SAM with the layers of HQ-SAM."""
    sam = build_tiny(spec)
    decoder = add_mask_layers(sam.mask_decoder, WIDTH)
    network = HqSam(
        spec, HqEncoder(sam.image_encoder, 0, WIDTH, WIDTH), sam.prompt_encoder, decoder
    )
    with torch.no_grad():
        decoder.hf_mlp.layers[-1].weight *= 60
    return network


SPECS = {
    spec.name: spec
    for spec in (
        replace(TINY, name="segment_anything"),
        replace(TINY, name="medsam", pixel_mean=None, pixel_std=None, geometry="square"),
        SamSpec(
            "mobile_sam",
            partial(build_mobile, dims=(8, 16, 16, 32), depths=(1, 1, 1, 1), heads=(1, 2, 2, 4)),
            image_size=128,
        ),
        replace(TINY_SAM2, name="sam2"),
        replace(TINY_SAM3, name="sam3"),
        SamSpec("hq", build_tiny_hq, image_size=64),
        replace(SAMS["lite"], image_size=64),
    )
}
