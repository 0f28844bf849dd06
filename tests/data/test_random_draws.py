"""Random draws for an image are independent of each other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.transforms import v2

import autosam.data.sample
from autosam.config import AugmentConfig, PromptConfig
from autosam.data.augment import QuarterTurn, build_augment
from autosam.data.checks import MaskEncoding
from autosam.data.dataset import PairDataset, Prompting
from autosam.data.loaders import EpochSampler
from autosam.data.pairs import Pair
from autosam.types import ImageEmbedding, InputSpec, ObjectPrompts

SEEDS, EPOCHS, IMAGES = 8, 10, 20
EVERYTHING = AugmentConfig(
    flip=0.5, vertical_flip=0.5, quarter_turns=True, rotate=30, scale=0.3, color=0.4, hue=0.1
)


class Fixed:
    """Pixels in memory."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.path = values, Path("memory")

    def read(self) -> np.ndarray:
        return self.values

    def digest(self) -> str:
        return ""


def square(side: int) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    return mask


class Draws:
    """Every draw of one `PairDataset[epoch, position]`, by name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.row: dict[str, float] = {}
        for name, kind in (("flip", v2.RandomHorizontalFlip), ("upside", v2.RandomVerticalFlip)):
            patch.setattr(kind, "transform", self.wrapped(kind.transform, {name: lambda _: 1.0}))
        parameters = {
            QuarterTurn: {"turns": lambda p: p["turns"]},
            v2.RandomAffine: {"angle": lambda p: p["angle"], "scale": lambda p: p["scale"]},
            v2.ColorJitter: {
                name: lambda p, name=name: p[f"{name}_factor"]
                for name in ("brightness", "contrast", "saturation", "hue")
            },
        }
        for kind, names in parameters.items():
            patch.setattr(kind, "make_params", self.wrapped(kind.make_params, names))
        patch.setattr(autosam.data.sample, "draw_prompts", self.prompts)

    def wrapped(self, function: Any, names: dict[str, Any]) -> Any:
        def recording(*args: Any) -> Any:
            result = function(*args)
            for name, value in names.items():
                new = float(value(result))
                # The image, its other view and its label are moved alike.
                assert self.row.setdefault(name, new) == new
            return result

        return recording

    def prompts(self, seen: np.ndarray, input_spec: InputSpec, prompting: PromptConfig,
                rng: np.random.Generator, *rest: Any) -> Any:  # fmt: skip
        self.row["prompts"] = float(rng.random())
        return ObjectPrompts(np.zeros(0), np.zeros(0)), seen

    def embedding(self, position: int, view: int) -> ImageEmbedding | None:
        self.row["seen"], self.row["view number"] = float(position), float(view)
        return None


@pytest.fixture(scope="module")
def table() -> tuple[list[str], np.ndarray]:
    """Names of the draws, and draws: float SEEDS x EPOCHS x IMAGES x names."""
    pairs = [
        Pair(str(i), Fixed(np.full((8, 8, 3), 90, np.uint8)), Fixed(square(8)))
        for i in range(IMAGES)
    ]
    input_spec = InputSpec(image_size=8, generator_size=4, mask_size=4, prompts="box")
    augment, encoding = build_augment(EVERYTHING), MaskEncoding(127)
    names = ["flip", "upside", "turns", "angle", "scale", "brightness", "contrast", "saturation",
             "hue", "prompts", "partner", "view number", "place"]  # fmt: skip
    found = np.zeros((SEEDS, EPOCHS, IMAGES, len(names)))
    with pytest.MonkeyPatch.context() as patch:
        draws = Draws(patch)
        for seed in range(SEEDS):
            rest = (input_spec, encoding, augment, seed, Prompting(PromptConfig()))
            moved = PairDataset(pairs, *rest, shuffled=True)
            fixed = PairDataset(pairs, *rest, copies=1000)
            moved.use(draws.embedding)
            fixed.use(draws.embedding)
            sampler = EpochSampler(IMAGES, shuffle=True, seed=seed)
            for epoch in range(EPOCHS):
                sampler.epoch = epoch
                order = [position for _, position in sampler]
                for position in range(IMAGES):
                    draws.row = {}
                    fixed[epoch, position]
                    view = draws.row["view number"]
                    draws.row = {}
                    moved[epoch, position]
                    row = {"flip": 0.0, "upside": 0.0, **draws.row, "view number": view}
                    row["partner"] = (row["seen"] - position) % IMAGES
                    row["place"] = order.index(position)
                    found[seed, epoch, position] = [row[name] for name in names]
    return names, found


def unit(values: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and norm 1."""
    values = values - values.mean(0)
    norm = np.linalg.norm(values, axis=0)
    assert (norm > 0).all()
    return values / norm


SHIFTS = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (0, 1, -1)]


def largest(names: list[str], found: np.ndarray) -> tuple[float, str]:
    """The correlation furthest from 0 in standard deviations of what chance gives, over every two
    draws (and over how far they are from their means), of one image and of neighbours in epoch,
    position and seed."""
    flat = found.reshape(-1, found.shape[-1])
    values = [found, np.abs(found - flat.mean(0))]
    worst = (0.0, "")
    for shift in SHIFTS:
        here = tuple(
            slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, found.shape, strict=False)
        )
        there = tuple(
            slice(max(0, s), n + min(0, s)) for s, n in zip(shift, found.shape, strict=False)
        )
        for first, second in itertools.product(values, repeat=2):
            a, b = (v.reshape(-1, found.shape[-1]) for v in (first[here], second[there]))
            a, b = a[:, a.std(0) > 0], b[:, b.std(0) > 0]
            sigma = unit(a).T @ unit(b) * np.sqrt(len(a))
            if not any(shift):
                np.fill_diagonal(sigma, 0)
            i, j = np.unravel_index(np.abs(sigma).argmax(), sigma.shape)
            worst = max(worst, (float(np.abs(sigma[i, j])), f"{names[i]} and {names[j]}, {shift}"))
    return worst


def test_no_two_draws_are_correlated(table: tuple[list[str], np.ndarray]) -> None:
    names, found = table
    sigma, where = largest(names, found)
    # Of 4 kinds x 7 shifts x 13^2 correlations by chance one in 300 tables has one beyond 5.
    assert sigma < 5, where
    print(f"{found[..., 0].size} images, largest {sigma:.1f} standard deviations ({where})")


def test_the_test_sees_streams_that_start_alike(table: tuple[list[str], np.ndarray]) -> None:
    names, found = table
    spoilt = found.copy()
    scale, hue = found[..., names.index("scale")], found[..., names.index("hue")]
    spoilt[..., names.index("hue")] = 0.9 * hue / hue.std() + 0.2 * scale / scale.std()
    assert largest(names, spoilt)[0] > 5


def test_each_draw_covers_its_range(table: tuple[list[str], np.ndarray]) -> None:
    names, found = table
    flat = dict(zip(names, found.reshape(-1, len(names)).T, strict=True))
    count = len(flat["flip"])
    for name, low, high in (("angle", -30, 30), ("scale", 0.7, 1.3), ("hue", -0.1, 0.1),
                            ("brightness", 0.6, 1.4), ("contrast", 0.6, 1.4),
                            ("saturation", 0.6, 1.4), ("prompts", 0, 1)):  # fmt: skip
        bins = np.histogram(flat[name], 10, (low, high))[0]
        assert bins.sum() == count
        assert ((bins - count / 10) ** 2 / (count / 10)).sum() < 30  # chi-square, 9 degrees
    assert abs(flat["flip"].mean() - 0.5) < 0.04
    assert abs(flat["upside"].mean() - 0.5) < 0.04
    assert np.bincount(flat["turns"].astype(int), minlength=4).min() > count / 4 * 0.85
    assert set(flat["partner"]) == set(range(1, IMAGES))  # never the image itself


@pytest.mark.parametrize("config", [EVERYTHING, AugmentConfig(), AugmentConfig(rotate=0, scale=0)])
def test_labels_move_as_their_images_do(config: AugmentConfig) -> None:
    augment = build_augment(config)
    y, x = np.mgrid[:48, :64]
    label = ((y - 15) ** 2 / 2 + (x - 20) ** 2 < 150).astype(np.uint8)
    image = np.repeat(label[..., None] * 255, 3, 2)
    for position in range(40):
        seed = (3, 1, position)
        moved, shape = augment.move(label, seed), augment.move(image, seed)
        odd = (moved > 0) != (shape[..., 0] > 127)
        # Nearest and linear resampling differ on the outline alone.
        assert odd.sum() <= (0 if config.rotate == 0 else 0.35 * np.sqrt(label.sum()) * 4)
        assert (augment.recolour(shape, seed).shape, moved.shape) == (shape.shape, shape.shape[:2])
