"""Images larger than a tile: read and segmented tile by tile, in bounded memory."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import autosam
from autosam.config.commands import PredictConfig
from autosam.data.images import ImageFile
from autosam.data.tiles import starts
from autosam.errors import ConfigError, DataError
from autosam.inference.tiling import open_pixels, segment_tiles
from autosam.predict import predict


@pytest.fixture
def large(trained: Path, tmp_path: Path) -> Path:
    """A tiled TIFF of 150 x 230 pixels: images of the kind trained on, side by side."""
    images = sorted((trained.parent / "data/test/images").iterdir())
    row = np.hstack([np.asarray(Image.open(path)) for path in images] * 2)[:, :230]
    image = np.vstack([row] * 4)[:150]
    path = tmp_path / "in/large.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", compression="zlib")
    return path


def test_where_windows_begin() -> None:
    assert starts(100, 100, 0.25) == [0]
    assert starts(40, 100, 0.25) == [0]
    assert starts(101, 100, 0.25) == [0, 1]
    assert starts(900, 512, 0.25) == [0, 194, 388]
    assert starts(20, 10, 0.0) == [0, 10]
    for length in range(33, 200):
        found = starts(length, 32, 0.25)
        assert found[0] == 0
        assert found[-1] == length - 32
        assert max(np.diff(found)) <= 24


def test_where_windows_overlap_logits_are_averaged(
    trained: Path, large: Path, tmp_path: Path
) -> None:
    predictor = autosam.load(trained)
    image = tifffile.imread(large)
    (tmp_path / "parts").mkdir()
    pixels = open_pixels(ImageFile(large))
    found = segment_tiles(predictor, pixels, 60, 0.25, tmp_path / "parts")
    sums, counts = np.zeros((150, 230)), np.zeros((150, 230))
    for y in starts(150, 60, 0.25):
        for x in starts(230, 60, 0.25):
            part = (slice(y, y + 60), slice(x, x + 60))
            sums[part] += predictor(np.ascontiguousarray(image[part])).logits[0]
            counts[part] += 1
    assert counts.min() == 1
    assert counts.max() == 4
    assert np.allclose(found[0, 0], sums / counts, atol=1e-4)


@pytest.mark.parametrize("most", [10**8, 10])
def test_predict_by_windows(
    trained: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """In memory, and piece by piece: the same masks and areas."""
    monkeypatch.setattr("autosam.inference.writers.MAX_LOGITS", most)
    monkeypatch.setattr("autosam.inference.strips.CHUNK", 64)
    Image.fromarray(tifffile.imread(large)).save(large.parent / "same.png")
    small = tifffile.imread(large)[:40, :56]
    Image.fromarray(small).save(large.parent / "small.png")
    out = tmp_path / "out"
    predict(PredictConfig(str(trained), str(large.parent), str(out), tile=60))
    predictor = autosam.load(trained)
    (tmp_path / "parts").mkdir()
    logits = segment_tiles(predictor, open_pixels(ImageFile(large)), 60, 0.25, tmp_path / "parts")
    whole = predictor.decide(torch.from_numpy(logits[0])).masks[0]
    masks = {
        "large": whole, "same": whole, "small": predictor(small).masks[0],
    }  # fmt: skip
    with open(out / "areas.csv") as file:
        table = {row["file"]: row for row in csv.DictReader(file)}
    for name, mask in masks.items():
        assert np.array_equal(np.asarray(Image.open(out / f"{name}.png")), mask * 255)
        assert int(table[name]["pixels"]) == mask.sum() > 0
        assert (table[name]["objects"] == "") == (most == 10 and name != "small")
    assert table["large"]["score"] == table["same"]["score"]
    likely = 1 / (1 + np.exp(-logits[0, 0]))
    mean = likely[masks["large"]].mean()
    assert float(table["large"]["score"]) == pytest.approx(mean, abs=1e-4)
    assert not [path for path in out.iterdir() if path.is_dir()]


def test_too_much_is_wanted_of_a_large_image(
    trained: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("autosam.inference.writers.MAX_LOGITS", 10)
    config = PredictConfig(str(trained), str(large), str(tmp_path / "out"), tile=60, overlay=True)
    with pytest.raises(DataError, match="1 of 1 were skipped"):
        predict(config)
    assert "for images this large only masks, areas and polygons are" in capsys.readouterr().err


def test_tiffs_of_other_kinds(tmp_path: Path) -> None:
    deep = (np.arange(4000, dtype=np.uint16) * 16).reshape(40, 100)
    tifffile.imwrite(tmp_path / "deep.tif", deep)
    pixels = open_pixels(ImageFile(tmp_path / "deep.tif", window=(0, 63984)))
    expected = (deep[10:20, 5:9] / 63984 * 255).round()
    assert np.array_equal(pixels.part(10, 5, 10, 4)[0][..., 1], expected)
    pixels.close()
    stretched = open_pixels(ImageFile(tmp_path / "deep.tif")).part(0, 0, 40, 100)[0]
    assert (stretched.min(), stretched.max()) == (0, 255)
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 20, 30), np.uint8))
    with pytest.raises(DataError, match="holds 5 pages"):
        open_pixels(ImageFile(tmp_path / "stack.tif"))
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(DataError, match=r"text\.tif: cannot be read as an image"):
        open_pixels(ImageFile(tmp_path / "text.tif"))


def test_windows_that_cannot_be(trained: Path, large: Path, tmp_path: Path) -> None:
    for settings, message in (
        ({"tile": 8}, "--tile 8: must be at least 32"),
        ({"tile": 64, "overlap": 0.95}, r"--overlap 0\.95: must be 0 to 0\.9"),
    ):
        with pytest.raises(ConfigError, match=message):
            predict(PredictConfig(str(trained), str(large), str(tmp_path / "o"), **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [10, 10**9])
def test_the_smallest_area_is_a_share_of_a_window(
    trained: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Whether the mask is made at once or piece by piece: all of it, or none."""
    monkeypatch.setattr("autosam.inference.writers.MAX_LOGITS", most)

    def found(name: str, **settings: float) -> np.ndarray:
        out = tmp_path / name
        config = PredictConfig(str(trained), str(large), str(out), tile=60, **settings)  # type: ignore[arg-type]
        predict(config)
        with open(out / "areas.csv") as file:
            (row,) = csv.DictReader(file)
        mask = np.asarray(Image.open(out / "large.png"))
        assert int(row["pixels"]) == (mask > 0).sum()
        return mask

    whole = found("whole", min_area=0.0)
    share = float((whole > 0).sum()) / 60**2  # of a window
    area = min(share * 0.99, 0.99)
    assert np.array_equal(found("kept", min_area=area), whole)
    threshold = 0.98  # few pixels are as sure
    sure = found("sure", threshold=threshold, min_area=0.0)
    share = float((sure > 0).sum()) / 60**2
    assert share < 0.9
    assert not found("none", threshold=threshold, min_area=share + 0.01).any()
