"""Images in memory: arrays, tensors and Pillow images, as `autosam.load` takes them."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import autosam
from autosam.config import DataConfig
from autosam.data.readers.files import image_file
from autosam.data.readers.memory import MemoryImage, array_of
from autosam.errors import CheckpointError, ConfigError, DataError
from autosam.models.backbones.timm import Backbone

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def image_of(values: Any) -> np.ndarray:
    return MemoryImage(array_of(values)).read()


def test_arrays_of_other_kinds_are_the_same_image() -> None:
    deep = RGB[..., 0].astype(np.uint16) * 257
    assert np.array_equal(image_of(deep.astype(">u2")), image_of(deep))
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(RGB[..., 0])
    assert np.array_equal(image_of(matrix), image_of(RGB[..., 0]))
    four = Image.fromarray(RGB).convert("RGBX")
    assert np.array_equal(image_of(four), RGB)


def test_what_is_masked_out_holds_no_data() -> None:
    """As rasterio reads with `masked=True`: the value beneath is that of no data."""
    hidden = np.zeros((6, 9), bool)
    hidden[:2] = True
    grey = np.linspace(0, 1, 54).reshape(6, 9)
    for values in (np.where(hidden, -9999, grey), np.where(hidden, np.nan, grey)):
        masked = np.ma.MaskedArray(values, hidden)
        seen, valid = MemoryImage(masked).read_valid()
        assert np.array_equal(valid, ~hidden)
        assert np.array_equal(seen[2:, :, 0], (grey[2:] * 255).round())
    deep = np.where(hidden, 65535, np.arange(54).reshape(6, 9) * 9).astype(np.uint16)
    seen = MemoryImage(np.ma.MaskedArray(deep, hidden)).read()
    assert seen[2:].min() == 0
    assert seen[2:].max() == 255
    colors = np.ma.MaskedArray(RGB, np.repeat(hidden[..., None], 3, 2))
    assert np.array_equal(MemoryImage(colors).read_valid()[1], ~hidden)
    assert MemoryImage(np.ma.MaskedArray(RGB)).read_valid()[1] is None


@pytest.mark.parametrize(("values", "words"), [
    (RGB.transpose(2, 0, 1), r"\(3, 6, 9\); expected .* np.moveaxis\(image, 0, 2\)"),
    (torch.zeros(4, 4).to_sparse(), r"sparse tensor.*to_dense\(\)"),
    (torch.zeros(3, 4, 4, device="meta"), "without values"),
    (Image.new("RGB", (0, 5)), "0 x 5 pixels; expected at least one"),
])  # fmt: skip
def test_what_is_no_image(values: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        image_of(values)


def test_files_that_pillow_has_opened(tmp_path: Path) -> None:
    """Turned as their tags say before and after they are decoded; damaged or closed ones are
    refused."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for name in ("a.tif", "a.png"):
        Image.fromarray(RGB).save(tmp_path / name, exif=turned)
        expected = image_file(tmp_path / name, DataConfig()).read()
        assert np.array_equal(expected, np.rot90(RGB, -1))
        opened = Image.open(tmp_path / name)
        assert np.array_equal(image_of(opened), expected)
        assert np.array_equal(image_of(opened), expected)
        loaded = Image.open(tmp_path / name)
        loaded.load()
        assert np.array_equal(image_of(loaded), expected)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "short.png").write_bytes(content[: len(content) // 2])
    for closed in (False, True):
        image = Image.open(tmp_path / "short.png")
        if closed:
            image = Image.open(tmp_path / "a.png")
            image.close()
        with pytest.raises(DataError, match="cannot be read as an image"):
            image_of(image)


def test_what_a_predictor_is_asked_for(trained: Path) -> None:
    for settings, words in (
        ({"threshold": "0.5"}, "threshold '0.5': must be a number"),
        ({"min_area": "a"}, "min_area 'a': a share"),
        ({"device": "cud"}, "device 'cud': cannot be used .* give cpu"),
    ):
        with pytest.raises(ConfigError, match=words):
            autosam.load(trained, **settings)  # type: ignore[arg-type]
    predictor = autosam.load(trained)
    assert predictor([]) == predictor(()) == []
    for given in ("a.png", Path("a.png"), None, 3):
        with pytest.raises(DataError, match="stream takes several images"):
            next(predictor.stream(given))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError) as error:
        autosam.load(trained.parent)
    assert f"Did you mean {trained.parent}?" not in str(error.value)


def test_a_server_of_weights_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing, which plain downloads wait on forever."""
    server = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{server.getsockname()[1]}/hardnet39ds.pth"

    def create(name: str, pretrained: bool = False, **options: Any) -> Any:
        assert pretrained
        return torch.hub.load_state_dict_from_url(address, progress=False)

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr("autosam.utils.hub.TIMEOUT", 0.5)
    monkeypatch.setattr("autosam.models.backbones.timm._build", lambda *_: None)
    found: list[str] = []

    def build() -> None:
        try:
            Backbone("hardnet39ds", "auto", 64)
        except CheckpointError as error:
            found.append(str(error))

    started, thread = time.monotonic(), threading.Thread(target=build, daemon=True)
    thread.start()
    thread.join(60)
    server.close()
    assert found, f"still waiting after {time.monotonic() - started:.0f} s"
    assert "No pretrained weights for backbone hardnet39ds (timed out)" in found[0]
