"""What the figures of the benchmark mean: time of a training, and what to choose."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from autosam.benchmark.cases import COPIES

ENCODERS = ("autosam, fp32", "autosam, bf16")
"""Cases of the encoders that training and prediction use."""
OPENVINO = tuple(f"{name}, OpenVINO" for name in ENCODERS)
"""The same, computed by OpenVINO, which they use where it is installed."""

CLEAR = 1.05
"""What is less than so many times faster is not advised: times differ as much between calls."""


@dataclass(frozen=True)
class Plan:
    """A way to train the run autosam."""

    copies: int
    """Of each image in the cache; 0 for no cache."""
    seconds: float
    """Of the training, without validation."""
    disk: float
    """Bytes of the cache."""


def plans_of(figures: dict[str, Any], images: int, epochs: int, record: int) -> list[Plan]:
    """Estimate trainings with and without a cache.

    Args:
        figures: figures by case, see `measure`.
        images: number of training images.
        epochs: number of epochs.
        record: bytes of a cached embedding.

    Returns:
        The plans whose cases were measured.
    """
    plain, cached, encoder = costs_of(figures)
    found = []
    if plain is not None:
        found.append(Plan(0, images * epochs * plain, 0))
    if cached is not None and encoder is not None:
        for copies in (1, COPIES):
            seconds = images * (copies * encoder + epochs * cached)
            found.append(Plan(copies, seconds, images * copies * record))
    return found


def advise(figures: dict[str, Any]) -> list[str]:
    """Say what to choose on this machine, by speed alone.

    Args:
        figures: see `plans_of`.

    Returns:
        A sentence for each choice whose cases were measured.
    """
    lines = []
    full, half = (seconds_of(figures, name) for name in ENCODERS)
    if full is not None and half is not None:
        full_flags = "--train.precision no --cache.dtype fp32"
        advice = full_flags if half > full * CLEAR else "--train.precision auto"
        lines.append(f"{advice}: bf16, the default here, encodes {full / half:.2f} times as fast")
    for name, other in zip(ENCODERS, OPENVINO, strict=True):
        pytorch, vino = seconds_of(figures, name), seconds_of(figures, other)
        if pytorch is not None and vino is not None:
            advice = "torch" if vino > pytorch * CLEAR else "auto"
            times = f"{pytorch / vino:.2f} times as fast as PyTorch"
            lines.append(f"--encoder_backend {advice}: OpenVINO, its default, encodes {times}")
    batches = {
        row["batch size"]: median(row["seconds"])
        for name, row in figures.items()
        if name == "cached" or name.startswith("cached, batch of ")
    }
    if len(batches) > 1:
        best = min(batches, key=lambda size: batches[size])
        asked = figures.get("cached", {}).get("batch size", best)
        each = ", ".join(f"{size}: {1000 * batches[size]:.0f}" for size in sorted(batches))
        if batches[asked] <= batches[best] * CLEAR:
            found = "no other is clearly faster"
            best = asked
        else:
            found = "the fastest"
        lines.append(f"--train.batch_size {best}: {found} (ms per image of {each})")
    plain, cached, encoder = costs_of(figures)
    if plain is not None and cached is not None and encoder is not None:
        name = f"--cache.copies {COPIES}"
        if plain > cached:
            lines.append(
                f"{name} pays above {COPIES * encoder / (plain - cached):.1f} epochs, "
                f"--cache.copies 1 above {encoder / (plain - cached):.1f}"
            )
        else:
            lines.append(f"{name} never pays: --cache.copies 0")
    if (one := seconds_of(figures, "one image")) is not None:
        lines.append(f"prediction: {3600 / one:,.0f} images an hour, one after the other")
    return lines


def costs_of(figures: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    """Seconds per image of a step without a cache, of one with it, and of the image encoder."""
    plain, cached = (seconds_of(figures, name) for name in ("not cached", "cached"))
    # What a run takes by default, faster or not: OpenVINO, and bf16 where that case is listed.
    names = (*OPENVINO[::-1], *ENCODERS[::-1])
    encoder = next((seconds_of(figures, name) for name in names if name in figures), None)
    return plain, cached, encoder


def seconds_of(figures: dict[str, Any], name: str) -> float | None:
    """Median seconds per image of a case; None if it was not measured."""
    return median(figures[name]["seconds"]) if name in figures else None
