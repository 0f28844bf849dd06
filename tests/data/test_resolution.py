"""`--data.resolution`: crops and tiles cover the same ground, whatever pixels the images have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
import yaml
from affine import Affine
from helpers import TINY, tiny_config
from PIL import Image

import autosam
from autosam.config import Config, DataConfig
from autosam.config.commands import EvaluateConfig, PredictConfig
from autosam.config.validation import check_data
from autosam.data.dataset import Cropping, PairDataset
from autosam.data.ground import ground_size
from autosam.data.images import ImageFile, MaskFile
from autosam.data.inspection import Tally
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.pairs import Pair
from autosam.data.readers.memory import MemoryImage
from autosam.data.tiles import draw_crop, tile_side
from autosam.errors import ConfigError, DataError
from autosam.evaluate import evaluate
from autosam.inference.app import read_upload
from autosam.predict import predict
from autosam.train import train
from autosam.types import InputSpec

PLACE = Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and mask of 240 x 320 pixels."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.random((240, 320, 3)), (0, 0), 6)
    image = ((image - image.min()) / np.ptp(image) * 90).astype(np.uint8)
    mask = np.zeros((240, 320), np.uint8)
    for y, x in rng.integers(20, 200, (6, 2)):
        cv2.circle(mask, (int(x) + 40, int(y)), 16, 255, -1)
    image[mask > 0] += 120
    return image, mask


def write(folder: Path, name: str, seed: int, scale: int, crs: str = "EPSG:25832") -> None:
    """The scene at 0.25 m a pixel, or reduced by `scale`, with its mask."""
    image, mask = scene(seed)
    size = (320 // scale, 240 // scale)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    place = PLACE @ Affine.scale(scale / 2)
    settings = {"driver": "GTiff", "height": size[1], "width": size[0], "count": 3}
    path = folder / "images" / f"{name}.tif"
    with rasterio.open(path, "w", crs=crs, transform=place, dtype="uint8", **settings) as file:
        file.write(image.transpose(2, 0, 1))
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


def geotiff(path: Path, crs: str | None, place: Affine) -> ImageFile:
    settings = {"driver": "GTiff", "height": 8, "width": 8, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=crs, transform=place, **settings) as file:
        file.write(np.zeros((1, 8, 8), np.uint8))
    return ImageFile(path)


def test_ground_size(tmp_path: Path) -> None:
    """Metres, feet, a rotated grid, and degrees by the ellipsoid's radii of curvature."""
    path = tmp_path / "a.tif"
    assert ground_size(geotiff(path, "EPSG:25832", PLACE)) == pytest.approx(0.5)
    feet = geotiff(path, "EPSG:2263", Affine(2, 0, 985_000, 0, -2, 195_000))
    assert ground_size(feet) == pytest.approx(2 * 1200 / 3937)  # US survey feet
    turned = PLACE @ Affine.rotation(30) @ Affine.scale(1, 2)
    assert ground_size(geotiff(path, "EPSG:25832", turned)) == pytest.approx(0.5 * math.sqrt(2))
    degrees = geotiff(path, "EPSG:4326", Affine(2e-6, 0, 9, 0, -1e-6, 48.7))
    a, squared, latitude = 6378137.0, 0.00669437999014, math.radians(48.7)
    w = math.sqrt(1 - squared * math.sin(latitude) ** 2)
    east = math.radians(2e-6) * a / w * math.cos(latitude)
    north = math.radians(1e-6) * a * (1 - squared) / w**3
    assert ground_size(degrees) == pytest.approx(math.sqrt(east * north), rel=1e-6)
    with pytest.raises(DataError, match=r"a\.tif: has no coordinate reference system, so that"):
        ground_size(geotiff(path, None, PLACE))
    with pytest.raises(DataError, match="the size of its pixels on the ground"):
        ground_size(MemoryImage(np.zeros((8, 8), np.uint8)))


def test_side_of_tiles(tmp_path: Path) -> None:
    half = geotiff(tmp_path / "a.tif", "EPSG:25832", PLACE)
    quarter = geotiff(tmp_path / "b.tif", "EPSG:25832", PLACE @ Affine.scale(0.5))
    assert [tile_side(one, 512, 0.5) for one in (half, quarter)] == [512, 1024]
    assert [tile_side(one, 512, 0.1) for one in (half, quarter)] == [102, 205]
    assert tile_side(quarter, 512, None) == 512
    assert tile_side(MemoryImage(np.zeros((8, 8), np.uint8), ground=0.25), 64, 0.5) == 128


@pytest.mark.parametrize("training", [False, True])
def test_crops_show_the_same_ground(
    tmp_path: Path, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One scene at 0.25 and 0.5 m a pixel."""
    from autosam.config import AugmentConfig
    from autosam.data.augment import build_augment

    still = AugmentConfig(flip=0, scale=0, rotate=0, color=0, hue=0)
    samples: list[Any] = []
    drawn = []

    def draw(label: np.ndarray, size: int, *rest: Any) -> Any:
        drawn.append(size)
        return draw_crop(label, size, *rest)

    monkeypatch.setattr("autosam.data.dataset.draw_crop", draw)
    for name, scale in (("fine", 1), ("coarse", 2)):
        write(tmp_path, name, 3, scale)
        image, mask = tmp_path / f"images/{name}.tif", tmp_path / f"masks/{name}.png"
        dataset = PairDataset(
            [Pair(name, ImageFile(image), MaskFile(mask))],
            InputSpec(64, 64, 64),
            MaskEncoding(1),
            augment=build_augment(still) if training else None,
            cropping=Cropping(48, 0.0, 0.5),
        )
        samples.append((dataset, dataset[0, 0]))
    (fine, one), (coarse, other) = samples
    assert len(fine.records) == len(coarse.records) > 4
    for (_, a), (_, b) in zip(fine.records, coarse.records, strict=True):
        assert a is not None
        assert b is not None
        assert np.abs(np.array(a) - 2 * np.array(b)).max() <= 1
    assert drawn == ([96, 48] if training else [])  # 24 m, at places drawn at random
    if not training:
        a, b = one.generator_input.float(), other.generator_input.float()
        assert a.shape == b.shape
        assert (a - b).abs().mean() < 4  # of 255


@pytest.fixture(scope="module")
def run(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ground")
    for seed, split in enumerate(("train", "train", "validation", "test")):
        write(root / "data" / split, f"s{seed}", seed, 1 + seed % 2)
    from autosam.models.sam import SAMS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMS, "tiny", TINY)
        flags = (f"--data.root={root / 'data'}", f"--output={root / 'run'}", "--train.epochs=6")
        more = ("--data.crop=40", "--data.resolution=0.5")
        return train(tiny_config(tiny_file, *flags, *more)).folder


def test_a_run_tiles_every_image_by_its_ground(run: Path, tmp_path: Path) -> None:
    """Test score of training, of `evaluate` and of the files are one; a scene has the same mask at
    both resolutions; what has no coordinates is refused."""
    own = yaml.safe_load((run / "scores.yaml").read_text())["test"]["dice"]
    assert evaluate(EvaluateConfig(checkpoint=str(run)))["dice"] == pytest.approx(own, abs=1e-6)
    for name, scale in (("fine", 1), ("coarse", 2)):
        write(tmp_path / "in", name, 3, scale)
    out = tmp_path / "out"
    predict(PredictConfig(str(run), str(tmp_path / "in/images"), str(out)))
    predictor = autosam.load(run)
    assert predictor.tile_of(ImageFile(tmp_path / "in/images/fine.tif")) == 80
    masks: dict[str, Any] = {
        name: np.asarray(Image.open(out / f"{name}.png")) > 0 for name in ("fine", "coarse")
    }
    small = cv2.resize(masks["fine"].astype(np.uint8), (160, 120), interpolation=cv2.INTER_AREA)
    both, either = (small > 0) & masks["coarse"], (small > 0) | masks["coarse"]
    assert both.sum() / either.sum() > 0.85
    truth = np.asarray(Image.open(tmp_path / "in/masks/coarse.png")) > 0
    found = masks["coarse"]
    assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) == pytest.approx(own, abs=1e-6)
    upload = read_upload(tmp_path / "in/images/fine.tif", predictor, 50)
    assert np.array_equal(predictor(upload).masks[0], masks["fine"])
    # --tile counts the pixels of each image, as for any other run.
    predict(PredictConfig(str(run), str(tmp_path / "in/images"), str(tmp_path / "px"), tile=80))
    again = np.asarray(Image.open(tmp_path / "px/fine.png")) > 0
    assert np.array_equal(again, masks["fine"])
    with pytest.raises(DataError, match=r"which --data\.resolution needs"):
        predictor(np.zeros((100, 100, 3), np.uint8))


def test_large_images_are_tiled_by_their_ground(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By strips, the same masks as in memory."""
    write(tmp_path / "in", "fine", 5, 1)
    whole = autosam.load(run)(tmp_path / "in/images/fine.tif").masks[0]
    monkeypatch.setattr("autosam.inference.writers.MAX_LOGITS", 10)
    predict(PredictConfig(str(run), str(tmp_path / "in/images"), str(tmp_path / "out")))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/fine.png")) > 0, whole)


def test_small_objects_are_measured_on_the_ground(tmp_path: Path) -> None:
    """Objects of 24 and of 12 px are of equal size on the ground, and so is the proposed crop."""
    found = []
    for name, scale in (("fine", 1), ("coarse", 2)):
        write(tmp_path, name, 3, scale)
        data = DataConfig(crop=120, resolution=0.5)
        tally = Tally(data, "lite", InputSpec(64, 64, 4))
        for y, x in ((0, 0), (100, 120)):
            mask = np.zeros((240 // scale, 320 // scale), np.uint8)
            mask[y // scale :, x // scale :][: 24 // scale, : 24 // scale] = 1
            tally.add(mask, None, ImageFile(tmp_path / f"images/{name}.tif"))
        found.append((tally._small(4), tally.vanished))
    assert found[0] == found[1]
    assert found[0][0].small == 2
    assert found[0][0].tile == 32  # 4 cells of 12 px, in steps of 32


def test_resolution_is_that_of_crops() -> None:
    with pytest.raises(ConfigError, match=r"--data\.resolution 0\.5: is that of crops"):
        check_data(DataConfig(resolution=0.5))
    check_data(DataConfig(resolution=0.5, crop=64))
    assert Config().data.resolution is None


def test_slides_of_aperio(run: Path, tmp_path: Path) -> None:
    """A pyramid with a thumbnail and a label: its first level is read by region, as tifffile reads
    it, and its microns per pixel count."""
    values = cv2.resize(scene(2)[0], (400, 300))
    about = "Aperio Image Library v11.2.1\n400x300 [0,0 400x300] (64x64) JPEG/RGB Q=70|AppMag = 20"
    path = tmp_path / "in/a.svs"
    path.parent.mkdir()

    def write_slide(text: str) -> None:
        with tifffile.TiffWriter(path) as file:
            for step, tile in ((1, (64, 64)), (8, None), (4, (64, 64)), (16, None)):
                level = np.ascontiguousarray(values[::step, ::step])
                file.write(level, tile=tile, description=text, photometric="rgb", metadata=None)

    write_slide(f"{about}|MPP = 0.4990")
    assert tifffile.TiffFile(path).is_svs
    assert ground_size(ImageFile(path)) == pytest.approx(0.499e-6)
    assert tile_side(ImageFile(path), 512, 1e-6) == 1026
    reader = ImageFile(path).open(limit=False)
    assert reader.shape == (300, 400)
    assert np.array_equal(reader.part(50, 70, 100, 200)[0], tifffile.imread(path)[50:150, 70:270])
    reader.close()
    predict(PredictConfig(str(run), str(path.parent), str(tmp_path / "out"), tile=80))
    found = autosam.load(run)
    found.tile, found.resolution = 80, None
    expected = found(tifffile.imread(path)).masks[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/a.png")) > 0, expected)
    for text in (about, f"{about}|MPP = 0", f"{about}|MPP = x"):
        write_slide(text)
        with pytest.raises(DataError, match=r"or an \.svs slide with its microns per pixel"):
            ground_size(ImageFile(path))
