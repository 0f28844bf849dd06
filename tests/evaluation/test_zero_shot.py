"""Zero-shot scores."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, build_tiny
from PIL import Image

from autosam.config.commands import EvaluateConfig
from autosam.data.labels import class_masks
from autosam.errors import ConfigError, DataError
from autosam.evaluate import evaluate
from autosam.evaluation.zero_shot import ZeroShot, ellipse_in_box, filled_box, random_decoder
from autosam.models.prompters import iou_of
from autosam.models.sam import load_sam
from autosam.models.sam.interactive import correct, mask_logits, prompt_with_boxes


def test_iou_by_hand() -> None:
    a = torch.tensor([[[True, True, False]], [[False, False, False]]])
    b = torch.tensor([[[False, True, True]], [[False, False, False]]])
    assert iou_of(a, b).tolist() == pytest.approx([1 / 3, 1.0])


def test_trivial_masks() -> None:
    mask = np.zeros((40, 50), bool)
    mask[10:30, 5] = mask[12, 5:45] = True
    box = filled_box(mask)
    assert box.sum() == 20 * 40
    assert box[10:30, 5:45].all()
    ellipse = ellipse_in_box(mask)
    assert not (ellipse & ~box).any()
    assert ellipse.sum() == pytest.approx(np.pi / 4 * 20 * 40, rel=0.04)
    single = np.zeros((9, 9), bool)
    single[4, 4] = True
    assert filled_box(single).sum() == 1


def test_a_mask_prompt_is_the_share_of_each_cell_as_a_logit() -> None:
    masks = np.zeros((1, 8, 8), bool)
    masks[0, :2, :1] = True
    low = mask_logits(masks, 4)
    assert low.shape == (1, 1, 4, 4)
    assert low[0, 0, 0, 0] == 0
    assert low[0, 0, 1:].eq(-8).all()
    assert mask_logits(np.ones((1, 8, 8), bool), 4).eq(8).all()


def test_a_correction_brings_the_mask_so_far_and_a_point() -> None:
    masks = np.zeros((2, 64, 64), bool)
    masks[:, 10:40, 10:40] = True
    rng = np.random.default_rng(0)
    first = prompt_with_boxes(masks, torch.tensor([0, 1]), rng)
    again = correct(first, torch.full((2, 1, 32, 32), -5.0), rng)
    assert again.labels.tolist() == [[1], [1]]
    assert again.low.eq(-5).all()
    assert again.image_index.tolist() == [0, 1]


def test_a_forgotten_decoder_is_another_and_the_sam_stays_itself() -> None:
    sam = build_tiny(TINY).eval()
    before = {k: v.clone() for k, v in sam.state_dict().items()}
    other = random_decoder(sam)
    assert all(torch.equal(v, before[k]) for k, v in sam.state_dict().items())
    for key, value in other.state_dict().items():
        same = torch.equal(value, before[key])
        # Zeros of fresh biases, and ones of fresh norms, are what a random network has too.
        assert same == (
            not key.startswith("mask_decoder")
            or "norm" in key
            or key.endswith(("upscaling.1.weight", "upscaling.1.bias"))
            or same
        ), key
    assert not torch.equal(
        other.mask_decoder.mask_tokens.weight, sam.mask_decoder.mask_tokens.weight
    )


def test_scores_of_a_image(tiny_file: Path) -> None:
    scores = ZeroShot(load_sam("tiny", tiny_file))
    label = np.zeros((40, 56), np.uint8)
    label[4:20, 4:30], label[24:36, 10:22], label[24:36, 30:50] = 1, 1, 2
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    scores.add("a", image, class_masks(label, 2), "cpu")
    scores.add("empty", image, class_masks(np.zeros_like(label), 1), "cpu")
    table = scores.table()
    assert list(table) == [
        "box", "1 point", "3 points", "mask", "box, untrained decoder",
        "(the box, filled)", "(the ellipse in the box)",
    ]  # fmt: skip
    assert table["(the box, filled)"] == (1.0, 1.0)  # rectangles
    assert 0.7 < table["(the ellipse in the box)"][0] < 0.83  # pi / 4
    assert {(row["class"], row["object"]) for row in scores.rows} == {(1, 0), (1, 1), (2, 0)}
    assert all(0 <= row["iou"] <= 1 for row in scores.rows)
    again = ZeroShot(load_sam("tiny", tiny_file))
    again.add("a", image, class_masks(label, 2), "cpu")
    assert again.rows == scores.rows


def test_the_command(tiny_file: Path, folders: Path, tmp_path: Path, capsys) -> None:
    config = EvaluateConfig(zero_shot=True, sam="tiny", sam_checkpoint=str(tiny_file))
    config.data.root, config.output = str(folders), str(tmp_path / "rows.csv")
    means = evaluate(config)
    printed = capsys.readouterr().out
    assert f"{means['3 points']:.4f}" in printed
    assert "3 images, 3 objects" in printed
    with open(tmp_path / "rows.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["prompt"] == "box"]
    assert np.mean([float(row["iou"]) for row in rows]) == pytest.approx(means["box"])
    with pytest.raises(ConfigError, match="exists"):
        evaluate(config)
    config.checkpoint, config.output = "runs/x", None
    with pytest.raises(ConfigError, match="leave --checkpoint out"):
        evaluate(config)
    with pytest.raises(ConfigError, match="only for --zero-shot"):
        evaluate(EvaluateConfig("runs/x", sam="vit_b"))


def test_two_folders_are_scored_as_a_whole(tiny_file: Path, folders: Path, capsys) -> None:
    config = EvaluateConfig(zero_shot=True, sam="tiny", sam_checkpoint=str(tiny_file))
    config.data.images = str(folders / "train" / "images")
    config.data.masks = str(folders / "train" / "masks")
    evaluate(config)
    assert "6 images, 6 objects" in capsys.readouterr().out


def test_a_data_set_without_objects_is_an_error(tiny_file: Path, tmp_path: Path) -> None:
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / kind).mkdir()
        Image.new(mode, (20, 20)).save(tmp_path / kind / "a.png")
    config = EvaluateConfig(zero_shot=True, sam="tiny", sam_checkpoint=str(tiny_file))
    config.data.images, config.data.masks = str(tmp_path / "images"), str(tmp_path / "masks")
    with pytest.raises(DataError, match="every mask is empty"):
        evaluate(config)
