"""`evaluate`: which pairs are scored, and with which settings they are read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import miniature
import numpy as np
import pytest

from autosam.config import ClassConfig, DataConfig
from autosam.config.commands import EvaluateConfig
from autosam.data.checks import check_pairs
from autosam.evaluation.select_pairs import select_pairs


def asked(**data: object) -> EvaluateConfig:
    return EvaluateConfig("run", data=DataConfig(**data))  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return miniature.folders(tmp_path / "data", 12)


def test_the_limit_holds_for_two_folders_and_for_the_training_data(root: Path) -> None:
    two = {"images": str(root / "images"), "masks": str(root / "masks")}
    for trained in (None, DataConfig(root="elsewhere")):
        title, pairs, _ = select_pairs(asked(**two, limit=5), trained)
        assert len(pairs) == 5
        assert title == f"some of {root / 'images'}"
        assert len(select_pairs(asked(**two), trained)[1]) == 12
    own = DataConfig(root=str(root), test=0.5)
    whole = select_pairs(asked(), own)[1]
    some = select_pairs(asked(limit=2), own)[1]
    assert len(whole) == 6
    assert len(some) == 2
    assert {pair.name for pair in some} < {pair.name for pair in whole}


def test_the_training_data_are_read_as_in_training(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / "masks").iterdir():
        mask = np.full(miniature.SIZE, 1, np.uint8)
        mask[:9], mask[9] = 2, 255
        miniature.write(path, mask)
    own = DataConfig(root=str(root), values=2, ignore=255)
    for config in (asked(), asked(root=str(root)), asked(root=str(root), split_seed=4)):
        _, pairs, data = select_pairs(config, own)
        label = check_pairs(pairs, data).encoding.read(pairs[0].mask)
        assert label[:10, 0].tolist() == [1] * 9 + [255]
        assert not label[10:].any()
    assert "--data.split_seed: not used; the training data keep" in capsys.readouterr().out


def test_other_data_have_the_classes_of_the_training(tmp_path: Path) -> None:
    file = miniature.coco(tmp_path) / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 1, "name": "other"})  # the first, by its number
    file.write_text(json.dumps(content))
    trained = DataConfig("coco", "x", classes=[ClassConfig("square"), ClassConfig("blob")])
    config = asked(layout="coco", images=str(tmp_path / "train2017"), annotations=str(file))
    _, pairs, data = select_pairs(config, trained)
    label = check_pairs(pairs, data).encoding.read(pairs[0].mask)
    assert label[5, 5] == 1  # the square, which lies from (2, 2) to (10, 8)
    assert set(np.unique(label)) == {0, 1, 2}
    overlapping = dataclasses.replace(trained, exclusive=False)
    assert select_pairs(config, overlapping)[1][0].mask.read().dtype == np.int32
