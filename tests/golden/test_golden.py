"""What an earlier version computed, kept: every run's losses, scores, masks and graphs; and what
the version before the layout of ten folders wrote: a checkpoint, a resume state, settings, files.

`python tests/golden/test_golden.py` writes the figures: only after a change that is meant to
change results (the last: augmentation by OpenCV and Pillow).

Where torch, its companions and the processor are those that they were written with, results must
agree bit for bit; elsewhere within rounding.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import TINY, tiny_config
from PIL import Image

import autosam
from autosam.config.commands import ExportConfig, PredictConfig
from autosam.export import export
from autosam.models.sam import SAMS
from autosam.predict import predict
from autosam.train import train

HERE = Path(__file__).parent
SAM, DATA, FIGURES = HERE / "sam_tiny.safetensors", HERE / "data", HERE / "figures.json"
INTERRUPTED, WRITTEN = HERE / "interrupted", HERE / "written"
EXPORTED = ("autosam", "decoder", "hybrid", "head")
PROMPTLESS = (*EXPORTED, "decoder-rough", "sam-rough", "sam-auto")


def surroundings() -> dict[str, str]:
    """What the last bits of a result depend on."""
    packages = {
        name: version(name) for name in ("torch", "numpy", "opencv-python-headless", "timm")
    }
    info = Path("/proc/cpuinfo")
    flags = (
        [line for line in info.read_text().splitlines() if line.startswith("flags")][:1]
        if (info.is_file())
        else [platform.processor()]
    )
    return packages | {"processor": hashlib.sha256("".join(flags).encode()).hexdigest()[:16]}


def summary(array: np.ndarray) -> dict[str, Any]:
    """An array as its hash, and as means of 4 x 4 blocks for other processors."""
    array = np.ascontiguousarray(array, np.float32)
    blocks = [
        float(part.mean(dtype=np.float64))
        for rows in np.array_split(array, 4, -2)
        for part in np.array_split(rows, 4, -1)
    ]
    return {"sha256": hashlib.sha256(array.tobytes()).hexdigest(), "blocks": blocks}


def image() -> np.ndarray:
    return np.asarray(Image.open(DATA / "test/images/img09.png"))


def flags_of(name: str) -> list[str]:
    method = ["--rough.method=otsu"] if name.endswith("-rough") else []
    return [f"--run={name}", f"--data.root={DATA}", "--data.workers=0", "--model.width=16", *method]


def results(name: str, folder: Path) -> dict[str, Any]:
    """Train a run for two epochs, segment an image with it and export it."""
    losses: list[float] = []
    backward = Accelerator.backward

    def spy(self: Accelerator, loss: torch.Tensor, **kwargs: Any) -> None:
        losses.append(loss.item())
        backward(self, loss, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Accelerator, "backward", spy)
        result = train(tiny_config(SAM, f"--output={folder}", *flags_of(name)))
    found: dict[str, Any] = {"losses": losses, "validation": result.validation, "test": result.test}
    if name in PROMPTLESS:
        found["logits"] = summary(autosam.load(folder)(image()).logits)
    if name in EXPORTED:
        file = folder / "model.pt2"
        export(ExportConfig(str(folder), str(file), count=1))
        _, logits = torch.export.load(file).module()(torch.from_numpy(image().copy()))
        found["graph"] = summary(logits.detach().numpy())
    return found


def agree(found: Any, golden: Any, exact: bool) -> None:
    if isinstance(golden, dict):
        assert found.keys() == golden.keys()
        for key in golden.keys() - ({"sha256"} if not exact else set()):
            agree(found[key], golden[key], exact)
    elif exact or not isinstance(golden, list | float):
        assert found == golden
    else:
        assert found == pytest.approx(golden, rel=0.02, abs=0.02, nan_ok=True)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(FIGURES.read_text())


@pytest.fixture(scope="module")
def exact(golden: dict[str, Any]) -> bool:
    return golden["surroundings"] == surroundings()


@pytest.mark.parametrize("name", json.loads(FIGURES.read_text())["runs"])  # those of that version
def test_a_run_computes_what_it_did(
    golden: dict[str, Any], exact: bool, tmp_path: Path, name: str
) -> None:
    agree(json.loads(json.dumps(results(name, tmp_path / "run"))), golden["runs"][name], exact)


def resumed(folder: Path) -> Path:
    """A copy of the interrupted run, trained to its end."""
    shutil.copytree(INTERRUPTED, folder)
    return train(autosam_config_to_resume(folder)).folder


def autosam_config_to_resume(folder: Path) -> Any:
    from autosam.config import Config
    from autosam.config.cli import parse

    return parse(Config, [f"--resume={folder}", f"--data.root={DATA}", f"--sam_checkpoint={SAM}"])


def test_an_old_state_settings_and_checkpoint_go_on(
    golden: dict[str, Any], exact: bool, tmp_path: Path
) -> None:
    old = autosam.load(INTERRUPTED, sam_checkpoint=str(SAM))
    agree(summary(old(image()).logits), golden["old checkpoint"], exact)
    after = autosam.load(resumed(tmp_path / "run"), sam_checkpoint=str(SAM))
    agree(summary(after(image()).logits), golden["resumed"], exact)


def write_files(folder: Path) -> None:
    """The interrupted run's masks of the test images, in every format."""
    predict(
        PredictConfig(
            str(INTERRUPTED), str(DATA / "test/images"), str(folder), sam_checkpoint=str(SAM),
            overlay=True, probabilities=True, geojson=True, coco="rle",
        )
    )  # fmt: skip
    for name in ("predictions.jsonl", "autosam.lock"):  # paths of this machine
        (folder / name).unlink(missing_ok=True)


def test_files_hold_the_bytes_that_they_held(golden: dict[str, Any], tmp_path: Path) -> None:
    exact = golden["surroundings of files"] == surroundings()
    write_files(tmp_path / "out")
    files = {path.name: path for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert files.keys() == {path.name for path in WRITTEN.iterdir()}
    for name, path in files.items():
        if name.endswith(".png"):
            assert (
                np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(WRITTEN / name)))
                or not exact
            )
        elif exact:
            assert path.read_bytes() == (WRITTEN / name).read_bytes(), name


def test_a_cache_of_embeddings_is_found_again(tmp_path: Path) -> None:
    train(
        tiny_config(
            SAM, f"--output={tmp_path / 'run'}", *flags_of("autosam"), "--train.epochs=1",
            "--cache.copies=2", "--cache.dtype=fp32", f"--cache.dir={tmp_path / 'cache'}",
        )
    )  # fmt: skip
    folders = {path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()}
    assert folders == {"9623246961d68164", "b4f55f3ea76630fa", "f2c0102a7a9f223c"}


def write_figures() -> None:
    """With the SAM, the data, the interrupted run and its files as they were kept."""
    import tempfile

    SAMS["tiny"] = TINY
    with tempfile.TemporaryDirectory() as folder:
        root, before = Path(folder), json.loads(FIGURES.read_text())
        old = autosam.load(INTERRUPTED, sam_checkpoint=str(SAM))
        after = autosam.load(resumed(root / "resumed"), sam_checkpoint=str(SAM))
        content = {
            "surroundings": surroundings(),
            "surroundings of files": before["surroundings of files"],
            "runs": {name: results(name, root / name) for name in before["runs"]},
            "old checkpoint": summary(old(image()).logits),
            "resumed": summary(after(image()).logits),
        }
    FIGURES.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    write_figures()
