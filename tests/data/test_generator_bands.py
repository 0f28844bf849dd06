"""Bands that the prompt generator reads beside the three that SAM sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from autosam.config import AugmentConfig, DataConfig
from autosam.config.data import parse_bands
from autosam.config.validation import check_data
from autosam.data.augment import build_augment
from autosam.data.images import ImageFile
from autosam.data.measured_windows import measure_windows, measured
from autosam.data.pairs import Pair, read_valid
from autosam.data.readers.files import image_file
from autosam.data.sample import Visit, make_sample
from autosam.errors import ConfigError, DataError
from autosam.types import InputSpec

SIZE = (40, 56)


def write(path: Path, values: np.ndarray, **settings: object) -> Path:
    """bands x H x W."""
    count, height, width = values.shape
    facts = {"driver": "GTiff", "count": count, "height": height, "width": width}
    with rasterio.open(path, "w", dtype=values.dtype, **facts, **settings) as file:
        file.write(values)
    return path


def draw(seed: int, dtype: type = np.uint16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    means = np.array([300, 500, 800, 2500, 90])[:, None, None]
    return rng.normal(means, means / 8, (5, *SIZE)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int16])
def test_channels_are_the_stretched_bands(tmp_path: Path, dtype: type) -> None:
    path = write(tmp_path / "a.tif", draw(0, dtype))
    windows = ((2000.0, 3000.0), (50.0, 130.0))
    image = ImageFile(path, (3, 2, 1), None, None, (4, 5), windows)
    found, valid = image.read_valid()
    assert valid is None
    assert found.shape == (*SIZE, 5)
    with rasterio.open(path) as file:
        stored = file.read([4, 5]).astype(np.float64)
    for channel, (low, high) in enumerate(windows):
        expected = ((stored[channel] - low) / (high - low) * 255).round().clip(0, 255)
        assert np.array_equal(found[..., 3 + channel], expected)
    assert np.array_equal(found[..., :3], ImageFile(path, (3, 2, 1)).read())
    assert np.array_equal(image.read(), found[..., :3])
    reader = image.open()
    part, _ = reader.part(5, 7, 20, 30)
    reader.close()
    assert np.array_equal(part, found[5:25, 7:37])
    assert image.digest() == ImageFile(path, (3, 2, 1)).digest()  # the embedding is SAM's alone


def test_a_missing_band_is_the_middle_of_its_window(tmp_path: Path) -> None:
    values = draw(1)
    values[:, :10] = 0
    values[3, 20] = 0
    path = write(tmp_path / "a.tif", values, nodata=0)
    found, valid = ImageFile(path, (3, 2, 1), None, None, (4,), ((2000.0, 3000.0),)).read_valid()
    assert valid is not None
    assert not valid[:10].any()
    assert valid[10:].all()
    assert (found[:10, :, 3] == 128).all()
    assert (found[20, :, 3] == 128).all()
    assert found[21:, :, 3].std() > 10


def test_windows_are_those_of_the_training_images(tmp_path: Path) -> None:
    """Mean and three standard deviations of the known pixels, without the outermost thousandths."""
    drawn = [draw(seed, np.float32) for seed in range(3)]
    drawn[0][3, 0, :2] = 1e7  # two broken pixels
    drawn[1][:, 5:15] = -9999
    pairs = []
    for i, values in enumerate(drawn):
        image = ImageFile(
            write(tmp_path / f"{i}.tif", values, nodata=-9999), (3, 2, 1), None, None, (4, 5)
        )
        pairs.append(Pair(str(i), image, image))
    data = DataConfig(bands=(3, 2, 1), generator_bands="4,5")
    for (low, high), band in zip(measure_windows(pairs, data), (3, 4), strict=True):
        known = np.concatenate([values[band][values[band] != -9999] for values in drawn])
        clean = np.sort(known)[len(known) // 1000 : -(len(known) // 1000)]
        assert (low + high) / 2 == pytest.approx(clean.mean(), rel=0.002)
        assert (high - low) / 6 == pytest.approx(clean.std(), rel=0.02)


def test_percentiles_of_the_data_set(tmp_path: Path) -> None:
    """A dark and a bright tile of one scene keep their difference; by themselves they lose it."""
    dark, bright = draw(0), draw(1) * 3
    pairs = []
    for name, values in (("dark", dark), ("bright", bright)):
        image = ImageFile(write(tmp_path / f"{name}.tif", values), (3, 2, 1))
        pairs.append(Pair(name, image, image))
    data = DataConfig(bands=(3, 2, 1), stretch="dataset")
    splits = {"train": pairs, "validation": pairs[:1], "test": pairs[1:]}
    found, splits = measured(data, splits)
    assert found.window is not None
    every = np.concatenate([dark[:3].ravel(), bright[:3].ravel()])
    low, high = np.percentile(every, (0.1, 99.9))
    assert found.window == pytest.approx((low, high), rel=1e-6)
    for pair, values in ((splits["validation"][0], dark), (splits["test"][0], bright)):
        expected = ((values[[2, 1, 0]].astype(float) - low) / (high - low) * 255).clip(0, 255)
        assert np.abs(pair.image.read() - expected.transpose(1, 2, 0)).max() <= 0.5
    apart = [pair.image.read().mean() for pair in pairs]
    together = [pair.image.read().mean() for pair in splits["train"]]
    assert apart[1] / apart[0] == pytest.approx(1, abs=0.1)
    assert together[1] / together[0] > 2
    assert measured(found, splits)[0] == found  # once
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    eight = Pair("a", ImageFile(tmp_path / "a.png"), ImageFile(tmp_path / "a.png"))
    assert measured(DataConfig(stretch="dataset"), {"train": [eight]})[0].window is None


def test_8_bits_where_the_data_have_more_are_refused(tmp_path: Path) -> None:
    """All would be black, or a constant. A standardised window of bright 8-bit bands reaches above
    255 by itself."""
    path = write(tmp_path / "a.tif", np.full((5, *SIZE), 90, np.uint8))
    for image in (
        ImageFile(path, (3, 2, 1), (100.0, 3000.0)),
        ImageFile(path, (3, 2, 1), None, None, (4,), ((2000.0, 3000.0),)),
    ):
        with pytest.raises(DataError, match=r"a\.tif: its values have 8 bits.*00 to 3000 become"):
            image.read_valid()
        with pytest.raises(DataError, match="its values have 8 bits"):
            image.read_part((0, 0, 8, 8))
    bright = ImageFile(path, (3, 2, 1), (0.0, 200.0), None, (4,), ((50.0, 330.0),))
    assert (bright.read_valid()[0][0, 0] == [115, 115, 115, 36]).all()


def test_a_band_without_data_is_refused(tmp_path: Path) -> None:
    values = draw(0)
    values[4] = 0
    path = write(tmp_path / "a.tif", values, nodata=0)
    image = ImageFile(path, (3, 2, 1), None, None, (5,))
    with pytest.raises(DataError, match="band 5 holds no data"):
        measure_windows([Pair("a", image, image)], DataConfig(bands=(3, 2, 1), generator_bands=5))
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    data = DataConfig(bands=(3, 2, 1), generator_bands=5)
    with pytest.raises(DataError, match=r"b\.png"):
        measure_windows([Pair("b", *2 * (image_file(tmp_path / "b.png", data),))], data)


def test_a_band_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", draw(0))
    data = DataConfig(bands=(3, 2, 1), generator_bands="1-6", generator_window=[(0, 1)] * 6)
    with pytest.raises(DataError, match="choose from 1 to 5"):
        read_valid(image_file(path, data))


@pytest.mark.parametrize(
    ("text", "bands"),
    [("1-8", [*range(1, 9)]), ("5,1-2", [5, 1, 2]), (4, [4]), ([2, 3], [2, 3]), ("[1, 2]", [1, 2])],
)
def test_numbers_of_bands(text: str | int | list[int], bands: list[int]) -> None:
    assert parse_bands(text) == bands


@pytest.mark.parametrize("text", ["", "0", "3-1", "a", "1.5", "1,,2", [0]])
def test_what_is_no_number_of_a_band(text: str | list[int]) -> None:
    with pytest.raises(ConfigError, match="expected numbers of bands"):
        parse_bands(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generator_bands": "1-4"}, "needs --data.bands"),
        ({"generator_window": [(0, 1)]}, "belongs to"),
        (
            {"bands": (1, 2, 3), "generator_bands": "1-4", "generator_window": [(0, 1)]},
            "1 ranges for 4",
        ),
        (
            {"bands": (1, 2, 3), "generator_bands": 1, "generator_window": [(1, 1)]},
            "must be below",
        ),
        ({"slices": 2, "layout": "volumes"}, "odd"),
        ({"slices": 3}, "is for --data.layout volumes"),
    ],
)
def test_settings_that_contradict(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_data(DataConfig(**settings))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_samples(count: int) -> None:
    """Each channel is resized and moved as an image of its own, and SAM sees the others."""
    rng = np.random.default_rng(count)
    image = rng.integers(0, 256, (*SIZE, 3 + count), dtype=np.uint8)
    augment = build_augment(AugmentConfig(vertical_flip=0.5, quarter_turns=True, color=0))
    spec = InputSpec(64, 64, 16)
    visit = Visit(augment, (1, 2, 3))
    sample = make_sample("a", image, spec, visit=visit)
    assert sample.generator_input.shape == (count, 64, 64)
    assert sample.sam_input is not None
    assert sample.sam_input.equal(make_sample("a", image[..., :3], spec, visit=visit).sam_input)
    for channel in range(count):
        alone = np.repeat(image[..., 3 + channel, None], 3, axis=2)
        expected = make_sample("a", alone, spec, visit=visit).generator_input[0]
        assert sample.generator_input[channel].equal(expected)


def test_brightness_changes_all_channels_alike() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (*SIZE, 1), dtype=np.uint8)
    image = np.repeat(one, 5, axis=2)
    changed = build_augment(AugmentConfig()).recolour(image, (4,), is_rgb=False)
    assert not np.array_equal(changed, image)
    assert (changed == changed[..., :1]).all()
