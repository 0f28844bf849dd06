"""The conclusion of a comparison says what score tables with a known truth hold."""

from __future__ import annotations

import numpy as np
import pytest

from autosam.comparison.conclusion import conclusion
from autosam.comparison.rows import Row
from autosam.comparison.table import ResultsTable
from autosam.comparison.variants import Variant

TITLES = {
    "autosam": Variant("autosam"),
    "head": Variant("head"),
    "hybrid": Variant("hybrid"),
    "blank": Variant("autosam", "blank"),
    "shuffled": Variant("autosam", "shuffled"),
    "alone": Variant("autosam", ablation="surrogate"),
}


def concluded(gates: tuple[float, ...] = (), **gains: float) -> str:
    """The conclusion of a table of 60 images and 3 seeds.

    Args:
        gates: mean of each gate of the run autosam.
        gains: by row, its mean Dice above that of `head`.
    """
    rng = np.random.default_rng(0)
    images = rng.uniform(0.5, 0.8, 60)
    rows = []
    for name, gain in {"head": 0.0, **gains}.items():
        noise = rng.normal(0, 0.01, 60)
        dice = images + gain + noise - noise.mean()
        trust = dict(zip(("trust", "trust_2x", "trust_4x"), gates, strict=False))
        scores = {f"p{i}": {"dice": value, **trust} for i, value in enumerate(dice)}
        rows.append(Row(TITLES[name], [scores] * 3))
    return conclusion(ResultsTable(rows, Variant("autosam")))


def test_an_encoder_that_is_no_better_than_with_other_images_does_not_contribute() -> None:
    """A blank embedding lacks what all embeddings share, so being better than it is not enough."""
    said = concluded(autosam=0.05, blank=0, shuffled=0.05, alone=0)
    assert "image encoder improves" not in said
    assert (
        "In short: SAM's mask decoder improves on the prompt alone, but there is no evidence that "
        "it needs SAM's image encoder: autosam is as good with embeddings of other images." in said
    )
    assert said.endswith(
        "So SAM helps here, in autosam, but there is no evidence that its image encoder "
        "contributes: autosam is as good with embeddings of other images."
    )
    said = concluded(autosam=0.05, blank=0, shuffled=0, alone=0)
    assert "In short: SAM's image encoder improves the masks of autosam." in said
    assert said.endswith("So SAM helps here, in autosam.")


@pytest.mark.parametrize("alone", [-0.05, 0.05])
def test_an_embedding_that_does_harm_is_named_so(alone: float) -> None:
    said = concluded(autosam=0, blank=0.05, shuffled=0, alone=alone)
    assert "its image embedding does harm (autosam is better with a blank embedding)" in said
    assert "no evidence that it needs" not in said
    said = concluded(autosam=0.05, blank=0.1, shuffled=0.1, alone=0)
    assert said.endswith(
        "So SAM helps here, in autosam, but its image embedding does harm: autosam is better with "
        "a blank embedding and with embeddings of other images."
    )


@pytest.mark.parametrize("others", [{}, {"hybrid": 0.06}])
def test_the_conclusion_does_not_contradict_its_summary(others: dict[str, float]) -> None:
    """Better than `head`, but blank embeddings and the prompt alone are as good."""
    said = concluded(autosam=0.05, blank=0.05, shuffled=0.05, alone=0.05, **others)
    assert "In short: there is no evidence that SAM contributes" in said
    assert ("SAM helps here, in hybrid, and" in said) == bool(others)
    assert "in autosam" not in said
    assert said.endswith(
        "autosam is better than the plain head, but there is no evidence that SAM is the reason: "
        "autosam is as good with a blank embedding and with embeddings of other images, and the "
        "mask of its prompt alone is not worse."
    )


def test_controls_of_autosam_count_beside_other_runs() -> None:
    said = concluded(autosam=0.05, hybrid=0.06, blank=0.05, shuffled=0.05, alone=0)
    assert "So SAM helps here, in hybrid, autosam, but there is no evidence that its image" in said


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ((0.12,), "pass 12% of SAM's image embedding."),
        ((0.12, 0.3, 0.07), "pass 12%, 30%, 7% (coarse to fine) of SAM's image embedding."),
        ((0.004, 0.0, 1.0), "pass <1%, 0%, 100% (coarse to fine) of SAM's image embedding."),
    ],
)
def test_gates_are_shown_as_they_are(gates: tuple[float, ...], words: str) -> None:
    assert f"The learned gates {words}" in concluded(gates, autosam=0)


def test_sparse_prompts_have_no_mask_of_their_own() -> None:
    """Without the surrogate decoder the summary is on SAM's image encoder alone."""
    said = concluded(autosam=0.05, blank=0, shuffled=0)
    assert "In short: SAM's image encoder improves the masks of autosam." in said
    said = concluded(autosam=0.05, blank=0.05, shuffled=0)
    assert "In short: there is no evidence that SAM's image encoder contributes: autosam is" in said
    assert "as good with a blank embedding" in said
    said = concluded(autosam=0, blank=0.05, shuffled=0)
    assert "In short: SAM's image embedding does harm to autosam (autosam is better with" in said
