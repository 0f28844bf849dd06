"""The variants of a comparison: a run, how it is trained and how it is tested."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, cast

from autosam.config import RUNS, LearnedPrompt, PaperConfig
from autosam.config.command_checks import listed
from autosam.config.commands import CompareConfig

Control = Literal["", "blank", "shuffled"]
"""Replacement of SAM's image embedding in training and test: zeros, or the embedding of another
image; "" for none."""

Ablation = Literal["", "blank", "shuffled", "surrogate", "components"]
"""What is changed at test only. Of SAM's image embedding: zeros, the embedding of another image, or
the surrogate decoder without SAM. Of objects: connected components instead of a watershed. "" for
nothing."""

CONTROLS: tuple[Control, ...] = ("blank", "shuffled")

ABLATIONS: dict[Ablation, str] = {
    "blank": "blank at test",
    "shuffled": "shuffled at test",
    "surrogate": "no SAM",
    "components": "components",
}
"""Title of each ablation."""

SWITCHES = tuple(f.name for f in dataclasses.fields(PaperConfig))
"""Settings that reproduce the published code."""


@dataclass(frozen=True)
class Variant:
    """One row of a comparison."""

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
        """Whether it is a run without control, ablation or other changes."""
        return self == Variant(self.run)

    @property
    def learns(self) -> bool:
        """Whether it has trainings of its own."""
        return RUNS[self.run].learns and not self.ablation

    @property
    def is_oracle(self) -> bool:
        """Whether its prompts come from the true masks of the test images."""
        return RUNS[self.run].needs_truth

    @property
    def is_judged(self) -> bool:
        """Whether the conclusion judges it: it uses SAM, without changes and without the truth."""
        changed = self.control or self.ablation or self.paper
        return RUNS[self.run].uses_sam and not changed and not self.is_oracle


AUTOSAM, HEAD = Variant("autosam"), Variant("head")
NO_SAM = Variant(AUTOSAM.run, ablation="surrogate")
"""The run that has controls, ablations and other prompts, and the one without SAM that all are
compared with. No other code depends on the name of a run."""


def trained_variants(config: CompareConfig) -> list[Variant]:
    """List the rows that have trainings of their own, in the order of training.

    Args:
        config: checked settings.
    """
    names, prompts = listed(config.runs), cast(list[LearnedPrompt], listed(config.prompts))
    variants = [Variant(name) for name in names]
    if config.attribution and AUTOSAM.run in names:
        variants += [Variant(AUTOSAM.run, control) for control in CONTROLS]
    variants += [Variant(AUTOSAM.run, prompt=prompt) for prompt in prompts]
    if config.paper_compat and AUTOSAM.run in names:
        variants += [Variant(AUTOSAM.run, paper=(switch,)) for switch in SWITCHES]
        variants.append(Variant(AUTOSAM.run, paper=SWITCHES))
    return variants


def ablated_variants(config: CompareConfig) -> list[Variant]:
    """List the rows that test a run with a change: `autosam` with replacements of SAM's embedding,
    runs that predict classes with both ways to divide them into objects.

    Args:
        config: checked settings.
    """
    names, found = listed(config.runs), []
    if config.attribution and AUTOSAM.run in names:
        found = [Variant(AUTOSAM.run, ablation=control) for control in CONTROLS]
        if config.model.has_surrogate and config.task == "semantic":
            found.append(NO_SAM)
    if config.task == "instances" and config.separate == "watershed":
        by_class = [name for name in names if RUNS[name].prompter == "none"]
        found += [Variant(name, ablation="components") for name in by_class]
    return found
