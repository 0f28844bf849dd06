"""The runs that are compared: each a composition of prompter, mask decoder and trainable parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Composition:
    """What a run is made of: who supplies the prompt, who draws the mask, what learns."""

    prompter: Literal["learned", "none", "box", "points", "rough", "grid"]
    decoder: Literal["sam", "head"]
    trainable: tuple[Literal["prompter", "decoder"], ...]


RUNS: dict[str, Composition] = {
    "autosam": Composition("learned", "sam", ("prompter",)),
    "decoder": Composition("none", "sam", ("decoder",)),
    "hybrid": Composition("learned", "sam", ("prompter", "decoder")),
    "head": Composition("none", "head", ("decoder",)),
    "decoder-box": Composition("box", "sam", ("decoder",)),
    "decoder-points": Composition("points", "sam", ("decoder",)),
    "decoder-rough": Composition("rough", "sam", ("decoder",)),
    "sam-box": Composition("box", "sam", ()),
    "sam-points": Composition("points", "sam", ()),
    "sam-rough": Composition("rough", "sam", ()),
    "sam-auto": Composition("grid", "sam", ()),
}
"""The one table of runs. `head` uses no SAM at all: the control that says whether SAM helps. Boxes
and points are taken from the true mask: such runs are oracles, good for comparison only. Those of
`rough` runs are taken from a rule on colours, which needs no truth; those of `sam-auto` from a
grid, and a rule fitted on training images says which masks count."""
