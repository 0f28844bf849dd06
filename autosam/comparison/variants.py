"""The rows of a comparison: which run, how it is trained and how it is tested."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, cast

from autosam.config import RUNS, LearnedPrompt, PaperConfig
from autosam.config.commands import CompareConfig

Control = Literal["", "blank", "shuffled"]
"""What a run is trained and tested with instead of SAM's embedding of the image: zeros, or the
embedding of another image. "" is the real embedding."""

Ablation = Literal["", "blank", "shuffled", "surrogate"]
"""What a trained run is only tested with instead: zeros, the embedding of another image, or no SAM
at all. "" is what it was trained with."""

CONTROLS: tuple[Control, ...] = ("blank", "shuffled")

ABLATIONS: dict[Ablation, str] = {
    "blank": "blank at test",
    "shuffled": "shuffled at test",
    "surrogate": "no SAM",
}
"""Title of each ablation."""

SWITCHES = tuple(f.name for f in dataclasses.fields(PaperConfig))
"""Peculiarities of the published code."""


@dataclass(frozen=True)
class Variant:
    """What a row of a comparison is."""

    run: str
    """A key of `RUNS`."""
    control: Control = ""
    ablation: Ablation = ""
    prompt: LearnedPrompt | None = None
    """Learned prompt of `autosam`; None: `ModelConfig.prompt`."""
    paper: tuple[str, ...] = ()
    """Switches of `PaperConfig` that are on."""

    @property
    def title(self) -> str:
        """Name in tables, charts and files."""
        paper = "all of the paper's" if self.paper == SWITCHES else " + ".join(self.paper)
        changes = (self.control, ABLATIONS.get(self.ablation, ""), self.prompt or "", paper)
        return ", ".join([self.run, *filter(None, changes)])

    @property
    def is_plain(self) -> bool:
        """Whether it is a run as it is, without control, ablation or other changes."""
        return self == Variant(self.run)

    @property
    def learns(self) -> bool:
        """Whether something is trained for this row alone."""
        return RUNS[self.run].learns and not self.ablation

    @property
    def is_oracle(self) -> bool:
        """Whether prompts are taken from the true masks of the test images."""
        return RUNS[self.run].needs_truth

    @property
    def is_judged(self) -> bool:
        """Whether the conclusion judges it: it uses SAM as intended, without the truth."""
        as_intended = not (self.control or self.ablation or self.paper)
        return RUNS[self.run].uses_sam and as_intended and not self.is_oracle


def listed(names: str) -> list[str]:
    """`"a, b"` -> `["a", "b"]`."""
    return [name.strip() for name in names.split(",") if name.strip()]


def trained_variants(config: CompareConfig) -> list[Variant]:
    """The rows that need trainings of their own, in the order of training.

    Args:
        config: checked settings.
    """
    names, prompts = listed(config.runs), cast(list[LearnedPrompt], listed(config.prompts))
    variants = [Variant(name) for name in names]
    if config.attribution and "autosam" in names:
        variants += [Variant("autosam", control) for control in CONTROLS]
    variants += [Variant("autosam", prompt=prompt) for prompt in prompts]
    if config.paper_compat and "autosam" in names:
        variants += [Variant("autosam", paper=(switch,)) for switch in SWITCHES]
        variants.append(Variant("autosam", paper=SWITCHES))
    return variants


def ablated_variants(config: CompareConfig) -> list[Variant]:
    """The rows that are tests of the run `autosam` with something else than SAM's embedding."""
    if not config.attribution or "autosam" not in listed(config.runs):
        return []
    return [
        Variant("autosam", ablation=ablation)
        for ablation in ABLATIONS
        if ablation != "surrogate" or config.model.prompt_has_maps
    ]
