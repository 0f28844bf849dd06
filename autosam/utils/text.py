"""Words of messages."""

from __future__ import annotations


def count_of(number: int, thing: str) -> str:
    """A number with its noun: "1 epoch", "2 epochs"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
