"""The runs that are compared: each a composition of prompter, mask decoder and trainable parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PROMPTERS = {
    "learned": "a prompt generator emits SAM's prompt embeddings",
    "none": "SAM's mask decoder is given no prompt",
    "rough": "prompts come from a color prior",
    "grid": "SAM is prompted with a grid of points, and a mask classifier selects masks",
    "box": "prompts are boxes from true masks",
    "points": "prompts are points from true masks",
}
"""Description of each prompter, which `build_prompter` in autosam/models/build.py builds."""


@dataclass(frozen=True)
class Composition:
    """What a run is made of: who supplies the prompt, who draws the mask, what learns."""

    prompter: Literal["learned", "none", "box", "points", "rough", "grid"]
    decoder: Literal["sam", "head"]
    trainable: tuple[str, ...]
    """Keys of `PARTS` in autosam/models/parts.py, or of `PLAIN_PARTS` without SAM."""

    @property
    def learns(self) -> bool:
        """Whether gradients train anything."""
        return bool(self.trainable)

    @property
    def uses_training_images(self) -> bool:
        """Whether it learns, or a mask classifier is fitted to training images."""
        return self.learns or self.prompter == "grid"

    @property
    def learns_prompt(self) -> bool:
        """Whether a prompt generator makes the prompts."""
        return self.prompter == "learned"

    @property
    def needs_truth(self) -> bool:
        """Whether its prompts come from the true masks, which new images do not have."""
        return self.prompter in ("box", "points")

    @property
    def uses_color_prior(self) -> bool:
        """Whether its prompts come from a rule on colours."""
        return self.prompter == "rough"

    @property
    def tunes_encoder(self) -> bool:
        """Whether adapters in SAM's image encoder learn, so that its embeddings change."""
        return "lora" in self.trainable

    @property
    def uses_sam(self) -> bool:
        """Whether it uses SAM at all, and so image embeddings that can be cached."""
        return self.decoder == "sam"


RUNS: dict[str, Composition] = {
    "autosam": Composition("learned", "sam", ("prompter",)),
    "decoder": Composition("none", "sam", ("decoder",)),
    "hybrid": Composition("learned", "sam", ("prompter", "decoder")),
    "lora": Composition("none", "sam", ("decoder", "lora")),
    "autosam-lora": Composition("learned", "sam", ("prompter", "lora")),
    "head": Composition("none", "head", ("backbone", "decoder")),
    "probe": Composition("none", "head", ("decoder",)),
    "decoder-box": Composition("box", "sam", ("decoder",)),
    "decoder-points": Composition("points", "sam", ("decoder",)),
    "decoder-rough": Composition("rough", "sam", ("decoder",)),
    "sam-box": Composition("box", "sam", ()),
    "sam-points": Composition("points", "sam", ()),
    "sam-rough": Composition("rough", "sam", ()),
    "sam-auto": Composition("grid", "sam", ()),
}
"""The one table of runs. `head` and `probe` use no SAM at all: the controls that say whether SAM
helps. Boxes and points are taken from the true mask: such runs are oracles, good for comparison
only. Those of `rough` runs are taken from a rule on colours, which needs no truth; those of
`sam-auto` from a grid, and a classifier fitted to training images says which masks count."""
