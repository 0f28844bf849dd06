"""Cost of the image embeddings of each SAM: bytes on disk, and seconds on this machine."""

from __future__ import annotations

import math
import time
from collections import defaultdict

import torch

from autosam.models.sam import SAMS, SamSpec
from autosam.models.sam.encode import LARGE
from autosam.models.sam.vit import Vit, VitEncoder
from autosam.utils.device import choose_device, gains_from_bf16, half_precision, wait

UNIT = 512, Vit(width=768, depth=1, heads=12, global_blocks=())
"""Input size, pixels, and architecture of the encoder that is timed: one block of ViT-B."""
COST = {
    "ViT-B": 49,
    "ViT-L": 173,
    "ViT-H": 360,
    "TinyViT-5M": 12,
    "Hiera-T": 18,
    "Hiera-S": 20,
    "Hiera-B+": 33,
    "Hiera-L": 80,
    "PE-L+": 280,
}
"""Passes of `UNIT` that take as long as PyTorch's pass of the image encoder for one image of 1024
px, by architecture. Between what was measured on two processors (docs/experiments.md); ViT-L, ViT-H
and PE-L+ are scaled from ViT-B by their operations."""
COST |= {f"HQ {name}": COST[name] for name in ("ViT-B", "ViT-L", "ViT-H", "TinyViT-5M")}
BYTES = {
    "Hiera": 2 * (256 * 64**2 + 64 * 128**2 + 32 * 256**2),
    "HQ": 2 * (256 * 64**2 + 32 * 256**2),
    "PE-L+": 2 * (256 * 72**2 + 64 * 144**2 + 32 * 288**2),
    "": 2 * 256 * 64**2,
}
"""Bytes of one cached embedding in bf16, by prefix of the architecture."""


def cache_costs(records: int) -> dict[str, dict[str, float]]:
    """Cost of a cache of embeddings, for SAMs with an input of 1008 px or more.

    Args:
        records: number of embeddings.

    Returns:
        By names of SAMs: `GB` (10^9 bytes) and, if the cost of the encoder is known, a rough
        estimate of `minutes` and `seconds a copy` in which PyTorch computes it on this machine.
    """
    unit = unit_seconds(choose_device())
    names: dict[str, list[str]] = defaultdict(list)
    for name, spec in SAMS.items():
        if spec.image_size >= LARGE:
            names[spec.architecture].append(name)
    table: dict[str, dict[str, float]] = {}
    for architecture, alike in names.items():
        size = record_bytes(SAMS[alike[0]])
        row = {"GB": records * size / 1e9}
        if architecture in COST:
            seconds = COST[architecture] * unit
            row |= {"minutes": records * seconds / 60, "seconds a copy": seconds}
        table[", ".join(alike)] = row
    return table


def record_bytes(spec: SamSpec) -> int:
    """Bytes of one cached embedding in bf16."""
    known = [size for word, size in BYTES.items() if spec.architecture.startswith(word)]
    if spec.architecture in COST:
        return known[0]
    with torch.device("meta"):
        sam = spec.build(spec)
    return 2 * sum(map(math.prod, sam.shapes))


@torch.no_grad()
def unit_seconds(device: torch.device) -> float:
    """Seconds of a pass of `UNIT`, the fastest of three after a warm-up, in the precision of large
    encoders."""
    size, vit = UNIT
    with torch.random.fork_rng(devices=[]):
        encoder = VitEncoder(size, vit).eval().to(device)
    pixels = torch.zeros(1, 3, size, size, device=device)
    seconds = []
    for _ in range(4):
        wait(device)
        started = time.perf_counter()
        with half_precision(device, gains_from_bf16(device)):
            encoder(pixels)
        wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
