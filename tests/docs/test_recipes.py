"""Every recipe, from data in their original layout to a checkpoint and a prediction."""

from __future__ import annotations

from pathlib import Path

import miniature
import pytest
import yaml
from PIL import Image

from autosam.config import RUNS, Config
from autosam.config.cli import parse
from autosam.config.commands import PredictConfig
from autosam.predict import predict
from autosam.train import train

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = {
    "glas": miniature.glas,
    "monuseg": miniature.monuseg,
    "nuclei": miniature.nuclei,
    "polyp": miniature.polyp,
    "stamps": miniature.stamps,
    "stamps-dice": miniature.stamps,
    "rivers": miniature.rivers,
    "rivers-points": miniature.rivers,
    "rivers-box": miniature.rivers,
    "rivers-rough": miniature.rivers,
}


def test_every_recipe_is_tried() -> None:
    shipped = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert shipped - {"default", "kvasir"} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_where_its_data_are_and_what_to_expect(name: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    head = text[: text.index("\n", text.rindex("\n#") + 1)]
    assert f"autosam train --config {name} --data.root DIR" in head
    assert "Expect" in head
    assert "DIR/" in head or "tree there" in head


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_on_its_miniature(name: str, tmp_path: Path, tiny_file: Path) -> None:
    root = RECIPES[name](tmp_path / "data")
    wanted = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    config = parse(
        Config,
        [
            f"--config={name}", f"--data.root={root}",
            "--sam=tiny", f"--sam_checkpoint={tiny_file}",
            "--train.epochs=1", "--model.input_size=64", "--data.validation=0.2", "--data.test=0.2",
            f"--output={tmp_path / 'run'}", "--model.width=32", "--train.sheet_images=1",
            "--cache.copies=0",
        ],
    )  # fmt: skip
    result = train(config)
    assert (result.folder / "checkpoints" / "best.safetensors").is_file()
    written = yaml.safe_load((result.folder / "config.yaml").read_text(encoding="utf-8"))
    assert written["train"]["lr"] == wanted.get("train", {}).get("lr")
    assert all(0 <= result.test[metric] <= 1 for metric in ("dice", "iou"))
    sets = yaml.safe_load((result.folder / "scores.yaml").read_text(encoding="utf-8"))
    if name == "polyp":
        assert {"test CVC-300", "test Kvasir"} <= sets.keys()
    if name == "glas":
        assert {"test testA", "test testB"} <= sets.keys()
    if RUNS[config.run].prompter in ("box", "points"):
        return  # prompted by the truth: scored by `evaluate`, never predicted with
    folder = tmp_path / "new"
    for i in range(2):
        miniature.write(folder / f"{i}.png", miniature.draw_image(50 + i)[0])
    files = predict(
        PredictConfig(
            checkpoint=str(result.folder),
            input=str(folder),
            output=str(tmp_path / "out"),
            sam_checkpoint=str(tiny_file),
        )
    )
    assert [file.name for file in files] == ["0.png", "1.png"]
    for file in files:
        with Image.open(file) as mask:
            assert mask.size == (56, 40)
            if config.task == "semantic":
                assert set(mask.getdata()) <= {0, 255}
