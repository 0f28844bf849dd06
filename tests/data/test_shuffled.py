"""Shuffled embeddings, as a control, are always of another image."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from helpers import draw, tiny_config

from autosam.compare import compare
from autosam.config import Settings
from autosam.config.commands import CompareConfig
from autosam.data.dataset import PairDataset
from autosam.data.layouts.folders import find_pairs
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.pairs import Pair
from autosam.errors import DataError
from autosam.train import train
from autosam.types import InputSpec

SPEC = InputSpec(image_size=64, generator_size=64, mask_size=16)


@pytest.fixture
def pairs(folders: Path) -> list[Pair]:
    return find_pairs(folders / "train" / "images", folders / "train" / "masks")


def partners(pairs: list[Pair]) -> list[set[int]]:
    """The images whose SAM inputs each image gets in 30 visits."""
    own = [PairDataset(pairs, SPEC, MaskEncoding())[0, i].sam_input for i in range(len(pairs))]
    shuffled = PairDataset(pairs, SPEC, MaskEncoding(), shuffled=True)
    found: list[set[int]] = []
    for position in range(len(pairs)):
        seen = [shuffled[epoch, position].sam_input for epoch in range(30)]
        found.append(
            {i for i, other in enumerate(own) for one in seen if torch.equal(one, other)}  # type: ignore[arg-type]
        )
    return found


def test_partners_are_of_another_group_if_there_is_one(pairs: list[Pair]) -> None:
    """Slices of one volume are so alike that such a partner would hardly be another image."""
    owners = ["a", "a", "a", "b", "b", ""]
    grouped = [
        dataclasses.replace(pair, group=group) for pair, group in zip(pairs, owners, strict=True)
    ]
    assert partners(grouped) == [{3, 4, 5}] * 3 + [{0, 1, 2, 5}] * 2 + [{0, 1, 2, 3, 4}]
    one_group = [dataclasses.replace(pair, group="a") for pair in pairs[:3]]
    assert partners(one_group) == [{1, 2}, {0, 2}, {0, 1}]
    assert partners(pairs[:2]) == [{1}, {0}]


def test_one_image_has_no_other(tiny_file: Path, tmp_path: Path) -> None:
    """Refused before anything is trained: its own embedding would pass as a control."""
    for start, split, count in ((0, "train", 4), (4, "validation", 2), (6, "test", 1)):
        draw(tmp_path / "data" / split, count, start)
    root = f"--data.root={tmp_path / 'data'}"
    message = re.escape("img06.png") + ": the only image of its split.*--attribution false"
    config = tiny_config(
        tiny_file, root, "--embedding=shuffled", f"--output={tmp_path / 'run'}", "--train.epochs=1"
    )
    with pytest.raises(DataError, match=message):
        train(config)
    tiny = tiny_config(tiny_file, root, "--train.epochs=1")
    shared = {f.name: getattr(tiny, f.name) for f in dataclasses.fields(Settings)}
    comparison = CompareConfig(**shared, runs="autosam", seeds=1, output=str(tmp_path / "compare"))
    with pytest.raises(DataError, match=message):
        compare(comparison)
    assert not (tmp_path / "compare").exists()
