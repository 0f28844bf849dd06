"""`autosam check`: the inspection of a data set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import miniature
import numpy as np
import pytest
from PIL import Image

from autosam.check import check
from autosam.config import ClassConfig, DataConfig
from autosam.config.commands import CheckConfig
from autosam.data.checks import check_splits
from autosam.data.inspection import Inspection
from autosam.data.layouts import load_splits
from autosam.errors import ConfigError


def folder(root: Path, count: int = 10) -> DataConfig:
    return DataConfig(root=str(miniature.folders(root, count)))


def test_what_a_sound_folder_is_like(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = folder(tmp_path / "data")
    miniature.write(tmp_path / "data/masks/000.png", np.zeros(miniature.SIZE, np.uint8))
    sheet = tmp_path / "sheet.png"
    found = check(CheckConfig(config, output=str(sheet)))
    assert found.errors == []
    facts = found.facts
    assert facts["pairs"] == 10
    assert facts["images"]["stored as"] == {"JPEG RGB": 10}
    assert facts["images"]["largest"] == {"height": 40, "width": 56}
    assert facts["masks with the value"] == {"0": 10, "1": 9}
    assert facts["splits"] == {"train": 6, "validation": 2, "test": 2}
    assert facts["empty masks"] == 1
    shares = [miniature.draw_image(i)[1].mean() for i in range(1, 10)]
    assert facts["classes"]["1"]["share of the pixels"] == pytest.approx(sum(shares) / 10)
    assert facts["classes"]["1"]["images"] == 9
    assert facts["objects"]["an image, median"] == 1
    assert facts["objects"]["vanish on the 128 x 128 masks of lite"] == 0
    records = 6 * 4 + 2 + 2  # copies of training images alone
    cost = facts["cache"]["vit_b, sam-vit-base, medsam, vit_b_lm, vit_b_em_organelles"]
    assert cost["GB"] == records * 2 * 256 * 64**2 / 1e9
    assert cost["minutes"] == pytest.approx(records * cost["seconds a copy"] / 60)
    assert facts["cache"]["sam2.1-tiny"]["GB"] > cost["GB"]
    levels = 256 * 72**2 + 64 * 144**2 + 32 * 288**2  # of SAM 3
    assert facts["cache"]["sam3"]["GB"] == records * 2 * levels / 1e9
    assert sheet.is_file()
    assert "contact sheet" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"sheet\.png: exists"):
        check(CheckConfig(config, output=str(sheet)))


def test_small_objects_vanish_on_a_coarse_grid(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(8):
        mask = np.zeros((640, 640), np.uint8)
        mask[100:300, 100:300] = 1
        mask[498:502, 498:502] = 1  # between the centres of the cells of lite, of 5 px
        image = rng.integers(0, 255, (640, 640, 3), dtype=np.uint8)
        miniature.write(tmp_path / "images" / f"{i}.png", image)
        miniature.write(tmp_path / "masks" / f"{i}.png", mask)
    data = DataConfig(root=str(tmp_path))
    assert check(CheckConfig(data)).facts["objects"]["vanish on the 128 x 128 masks of lite"] == 8
    large = check(CheckConfig(data, sam="vit_b"))
    assert large.facts["objects"]["vanish on the 256 x 256 masks of vit_b"] == 0


def test_touching_objects_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    for i in range(8):
        mask = np.zeros((512, 512), np.uint16)
        mask[100:140, 100:140], mask[100:140, 140:180] = 700, 300  # touch, larger than 32 px
        mask[300:306, 300:306] = i + 1  # smaller than 2 x 2 cells of lite, of 4 px each
        image = np.random.default_rng(i).integers(0, 255, (512, 512, 3), dtype=np.uint8)
        miniature.write(tmp_path / "images" / f"{i}.png", image)
        miniature.write(tmp_path / "masks" / f"{i}.png", mask)
    found = check(CheckConfig(DataConfig(root=str(tmp_path), instances=True)))
    objects = found.facts["objects"]
    assert objects["number"] == 24
    assert objects["told apart"] == "in the masks"
    name = "2 x 2 of the 128 x 128 cells of lite's masks"
    assert objects[f"smaller than {name}"] == 8
    # 6 px of 512 need 85.3 times 2 cells: 86, of 4 px each; tiles of 384 px have 2 cells in 6 px.
    [warning] = [text for text in found.warnings if "cannot be told apart" in text]
    assert warning.startswith(f"8 of 24 objects are smaller than {name}")
    assert "crops (--data.crop 384), or an input of 344 px" in warning
    for path in (tmp_path / "masks").iterdir():
        values = (np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255
        miniature.write(path, values)
    objects = check(CheckConfig(DataConfig(root=str(tmp_path)))).facts["objects"]
    assert objects["number"] == 16
    assert objects["told apart"] == "no: touching objects count as one"


def test_all_that_is_wrong_is_listed(tmp_path: Path) -> None:
    config = folder(tmp_path)
    (tmp_path / "images/003.jpg").write_bytes(b"nonsense")
    miniature.write(tmp_path / "masks/005.png", np.zeros((9, 9), np.uint8))
    miniature.write(tmp_path / "masks/006.png", np.full(miniature.SIZE, 3, np.uint8))
    found = check(CheckConfig(config))
    assert len(found.errors) == 3
    assert "003.jpg: cannot be read as an image" in found.errors[0]
    assert "is 40 x 56 but its mask" in found.errors[1]
    assert "mask values 0, 1, 3 look like several classes" in found.errors[2]
    named = DataConfig(root=config.root, classes=[ClassConfig("a"), ClassConfig("b")])
    for name in ("images/003.jpg", "masks/005.png", "masks/006.png"):
        (tmp_path / name).unlink()
    for i in (3, 5, 6):
        for file in (tmp_path / "images" / f"{i:03d}.jpg", tmp_path / "masks" / f"{i:03d}.png"):
            file.unlink(missing_ok=True)
    found = check(CheckConfig(named))
    assert not found.errors
    assert any("No mask holds the class b" in warning for warning in found.warnings)
    assert not check_splits(load_splits(named), named).errors  # as train, which accepts it
    for path in (tmp_path / "masks").iterdir():
        miniature.write(path, np.zeros(miniature.SIZE, np.uint8))
    assert check(CheckConfig(named)).errors == ["Every mask is empty: there is nothing to learn."]


def test_a_broken_file_beyond_the_limit_is_seen_by_neither_check_nor_train(tmp_path: Path) -> None:
    config = folder(tmp_path)
    config.limit = 1
    used = [pair for pairs in load_splits(config).values() for pair in pairs]
    for path in (tmp_path / "images").iterdir():
        if path not in [pair.image.path for pair in used]:
            path.write_bytes(path.name.encode())
    found = check(CheckConfig(config))
    assert not found.errors
    assert sum(found.facts["splits"].values()) == len(found.pairs) == len(used) == 3


def test_groups_are_proposed_and_fix_the_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for i in range(24):
        if i % 3 == 0:
            scene = rng.integers(0, 200, (60, 80, 3)).astype(float)
            scene[:] = scene[0, 0]
            for _ in range(12):
                y, x, high, wide = rng.integers((0, 0, 8, 8), (50, 70, 30, 30))
                scene[y : y + high, x : x + wide] = rng.integers(0, 200, 3)
        noisy = (scene + rng.normal(0, 4, scene.shape)).clip(0, 255).astype(np.uint8)
        miniature.write(tmp_path / "images" / f"{i:03d}.png", noisy)
        miniature.write(tmp_path / "masks" / f"{i:03d}.png", np.eye(60, 80, dtype=np.uint8))
    groups = tmp_path / "groups.csv"
    found = check(CheckConfig(DataConfig(root=str(tmp_path)), groups=str(groups)))
    assert found.facts["scenes"]["scenes"] == 8
    assert found.facts["scenes"]["in several splits"] > 0
    assert any("are in several splits" in w for w in found.warnings)
    fixed = DataConfig(root=str(tmp_path), groups=str(groups))
    again = check(CheckConfig(fixed))
    assert again.facts["scenes"]["in several splits"] == 0
    assert again.warnings == []
    sizes = [len(split) for split in load_splits(fixed).values()]
    assert sum(sizes) == 24
    assert all(size % 3 == 0 for size in sizes)


def test_json_and_the_exit_code(tmp_path: Path) -> None:
    folder(tmp_path)
    command = [sys.executable, "-m", "autosam.check", "--data.root", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairs"] == 10
    (tmp_path / "images/003.jpg").write_bytes(b"nonsense")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "003.jpg" in json.loads(done.stdout)["errors"][0]


@pytest.mark.real
def test_rivers_of_one_camera_are_found(real_data: Path, tmp_path: Path) -> None:
    data = DataConfig(root=str(real_data / "rivers"))
    groups = tmp_path / "groups.csv"
    found = check(CheckConfig(data, groups=str(groups)))
    assert found.errors == []
    assert found.facts["scenes"]["in several splits"] >= 5
    data.groups = str(groups)
    again = check(CheckConfig(data))
    assert again.facts["scenes"]["in several splits"] == 0


def test_an_inspection_is_short_in_a_notebook() -> None:
    assert repr(Inspection(errors=["a"], images=3)) == "Inspection(3 images, 1 errors, 0 warnings)"
