"""Cost of the image embeddings of each SAM: bytes on disk, and seconds on this machine."""

from __future__ import annotations

import math
import time
from collections import defaultdict

import torch

from autosam.models.sam import SAMS, SamSpec
from autosam.models.sam.encode import LARGE
from autosam.utils.device import choose_device, gains_from_bf16

COST = {
    "ViT-B": 1650,
    "ViT-L": 5840,
    "ViT-H": 12150,
    "TinyViT-5M": 220,
    "Hiera-T": 700,
    "Hiera-S": 800,
    "Hiera-B+": 1250,
    "Hiera-L": 2900,
    "PE-L+": 9500,
}
"""GFLOP of matrix products that take as long as the image encoder does for one image of 1024 px,
by architecture. Measured on two cores with AVX512-BF16 (docs/speed.md); ViT-L, ViT-H and PE-L+ are
scaled from ViT-B by their operations. A rough estimate on other processors."""
COST |= {f"HQ {name}": COST[name] for name in ("ViT-B", "ViT-L", "ViT-H", "TinyViT-5M")}
BYTES = {
    "Hiera": 2 * (256 * 64**2 + 64 * 128**2 + 32 * 256**2),
    "HQ": 2 * (256 * 64**2 + 32 * 256**2),
    "PE-L+": 2 * (256 * 72**2 + 64 * 144**2 + 32 * 288**2),
    "": 2 * 256 * 64**2,
}
"""Bytes of one cached embedding in bf16, by prefix of the architecture."""


def cache_costs(images: int, copies: int) -> dict[str, dict[str, float]]:
    """Cost of a cache of embeddings, for SAMs with an input of 1008 px or more.

    Args:
        images: number of images.
        copies: augmented copies of each image.

    Returns:
        By names of SAMs: `GB` (10^9 bytes) and, if the cost of the encoder is known, a rough
        estimate of `minutes` and `seconds a copy` to compute it on this machine.
    """
    device = choose_device()
    half = gains_from_bf16(device)
    speed = matrix_speed(device, torch.bfloat16 if half else torch.float32)
    names: dict[str, list[str]] = defaultdict(list)
    for name, spec in SAMS.items():
        if spec.image_size >= LARGE:
            names[spec.architecture].append(name)
    table: dict[str, dict[str, float]] = {}
    for architecture, alike in names.items():
        size = record_bytes(SAMS[alike[0]])
        row = {"GB": images * copies * size / 1e9}
        if architecture in COST:
            seconds = COST[architecture] / speed
            row |= {"minutes": images * copies * seconds / 60, "seconds a copy": seconds}
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


def matrix_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Speed of a matrix product in GFLOP/s, measured in a fraction of a second."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        product = a @ a
        product[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9
