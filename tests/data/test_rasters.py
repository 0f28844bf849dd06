"""Large TIFFs cut into blocks, with polygons or label TIFFs; by rasterio and geopandas, too."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import tifffile
import torch
from affine import Affine
from helpers import tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from shapely import affinity, force_3d
from shapely.geometry import MultiPolygon, Point, Polygon, box

from autosam.config import AugmentConfig, DataConfig
from autosam.config.commands import EvaluateConfig
from autosam.config.data import ClassConfig
from autosam.data import images
from autosam.data.augment import build_augment
from autosam.data.blocks import Block, block_regions
from autosam.data.checks import check_pairs
from autosam.data.dataset import Cropping, PairDataset, cropping_of
from autosam.data.images import ImageFile, MaskFile
from autosam.data.labels import IGNORED
from autosam.data.layouts import load_pairs, load_splits
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.pairs import Pair
from autosam.data.readers.raster import cut
from autosam.data.readers.tiff import TiffImage
from autosam.data.splits import with_groups
from autosam.errors import ConfigError, DataError
from autosam.evaluate import evaluate
from autosam.train import train
from autosam.types import InputSpec, Region

SHAPE = (230, 310)
UTM = Affine(0.5, 0, 500_000.2, 0, -0.5, 5_400_000.4)
TURNED = Affine(0.4, 0.1, 500_000, 0.1, -0.4, 5_400_000)
CLASSES = [ClassConfig("tree"), ClassConfig("shrub")]
BANDS: dict[str, Any] = {"bands": (5, 2, 1)}


def write_raster(
    path: Path, place: Affine = UTM, crs: str | None = "EPSG:25832", **more: Any
) -> np.ndarray:
    """Five bands of 16 bits; uint16 5 x H x W."""
    values = np.random.default_rng(len(path.stem)).integers(1, 4000, (5, *SHAPE), dtype=np.uint16)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    values[:, (x + y) < 200] = 0
    values += (x + y > 300).astype(np.uint16) * 500
    settings = {"driver": "GTiff", "height": SHAPE[0], "width": SHAPE[1], "count": 5}
    settings |= {"dtype": "uint16", "crs": crs, "transform": place, "nodata": 0, **more}
    with rasterio.open(path, "w", **settings) as file:
        file.write(values)
    return values


def draw_polygons(place: Affine) -> Any:
    """Polygons in EPSG:25832: large and small ones that overlap, one with a hole, one of two parts,
    one beyond the border."""
    rng = np.random.default_rng(4)
    shapes: list[Any] = [
        box(30.2, 40.7, 200.3, 180.1).difference(box(90.4, 90.3, 120.6, 130.2)),
        MultiPolygon([box(5.6, 150.7, 40.1, 220.3), box(250.2, 10.3, 290.7, 60.9)]),
        box(280.4, 200.4, 400, 300),
        Polygon([(150.3, 20.4), (300.1, 90.2), (180.6, 160.3)]),
    ]
    for x, y in rng.uniform(0, 230, (60, 2)):
        shapes.append(Point(x, y).buffer(rng.uniform(1, 15), quad_segs=2))
    steps = [place.a, place.b, place.d, place.e, place.c, place.f]
    kinds = ["tree" if i % 3 else "shrub" for i in range(len(shapes))]
    moved = [force_3d(affinity.affine_transform(one, steps), 12.5) for one in shapes]
    return geopandas.GeoDataFrame({"kind": kinds}, geometry=moved, crs=25832)


def truth_of(labels: Path, raster: Path) -> tuple[np.ndarray, np.ndarray]:
    """Class and number of the polygon of each pixel, by geopandas and rasterio alone."""
    with rasterio.open(raster) as file:
        place = file.transform
        frame = geopandas.read_file(labels)
        # A change of datum would move points by their height, too.
        frame = frame.set_geometry(frame.force_2d()).to_crs(file.crs)
    frame = frame.assign(area=frame.area).sort_values("area", ascending=False, kind="stable")
    k = frame["kind"].map({"tree": 1, "shrub": 2})
    label = rasterize(zip(frame.geometry, k, strict=True), SHAPE, transform=place)
    numbers = zip(frame.geometry, range(1, len(frame) + 1), strict=True)
    return label, rasterize(numbers, SHAPE, transform=place, dtype=np.int32)


def config_of(folder: Path, labels: str = "labels.gpkg", **more: Any) -> DataConfig:
    keys = {"block": 100, "classes": CLASSES, "class_column": "kind", **BANDS, **more}
    where = {"images": str(folder / "ortho.tif"), "annotations": str(folder / labels)}
    return DataConfig(layout="rasters", **{**where, **keys})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("rasters")
    write_raster(found / "ortho.tif", tiled=True, blockxsize=64, blockysize=64, compress="lzw")
    draw_polygons(UTM).to_crs(4326).to_file(found / "labels.gpkg")
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(64, 300))
def test_blocks_cover_a_raster_once_and_are_alike(height: int, width: int, size: int) -> None:
    counts = np.zeros((height, width), int)
    regions = list(block_regions((height, width), size).values())
    for region in regions:
        cut(counts, region)[...] += 1
        assert max(region[2:]) <= size
    assert (counts == 1).all()
    for side in (2, 3):
        assert np.ptp([region[side] for region in regions]) <= 1


def test_names_say_where_a_block_lies() -> None:
    regions = block_regions((230, 310), 100)
    assert len(regions) == 12
    assert regions["r01c01"] == (0, 0, 77, 78)
    assert regions["r03c04"] == (153, 232, 77, 78)


@pytest.mark.parametrize("place", [UTM, TURNED])
@pytest.mark.parametrize(
    ("name", "crs"),
    [("a.gpkg", 4326), ("a.geojson", 4326), ("a.shp", 3857), ("a.gpkg", 25832), ("a.gpkg", 31467)],
)
def test_masks_are_those_of_gdal(tmp_path: Path, place: Affine, name: str, crs: int) -> None:
    write_raster(tmp_path / "ortho.tif", place)
    draw_polygons(place).to_crs(crs).to_file(tmp_path / name)
    label, ids = truth_of(tmp_path / name, tmp_path / "ortho.tif")
    pairs = load_pairs(config_of(tmp_path, name))
    assert len(pairs) == 11  # the first block holds no data
    for pair in pairs:
        assert isinstance(pair.image, Block)
        assert np.array_equal(pair.mask.read(), cut(label, pair.image.region))
        expected, found = cut(ids, pair.image.region), MaskEncoding(2).read_instances(pair.mask)
        numbers = np.unique(expected[expected > 0])
        assert np.array_equal(np.concatenate([[0], numbers])[found.ids], expected)
        assert np.array_equal(found.classes, [label[ids == number][0] for number in numbers])


def test_classes_by_number_one_class_and_overlap(folder: Path, tmp_path: Path) -> None:
    frame = geopandas.read_file(folder / "labels.gpkg")
    frame["code"] = frame["kind"].map({"tree": "1", "shrub": "2"})
    frame.to_file(tmp_path / "coded.gpkg")
    label, _ = truth_of(folder / "labels.gpkg", folder / "ortho.tif")
    images = {"images": str(folder / "ortho.tif"), "annotations": str(tmp_path / "coded.gpkg")}
    coded = load_pairs(config_of(folder, class_column="code", **images))
    single = load_pairs(config_of(folder, class_column=None, classes=None))
    both = load_pairs(config_of(folder, exclusive=False))
    shrubs = frame.to_crs(25832)[frame["kind"] == "shrub"]
    shrub = rasterize(shrubs.geometry, SHAPE, transform=UTM)
    for one, other, overlapping in zip(coded, single, both, strict=True):
        assert isinstance(one.image, Block)
        expected = cut(label, one.image.region)
        assert np.array_equal(one.mask.read(), expected)
        assert np.array_equal(other.mask.read(), expected > 0)
        assert np.array_equal(overlapping.mask.read() >> 1 & 1, cut(shrub, one.image.region))


@pytest.mark.parametrize(
    "stored",
    [
        {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
        {"compress": "lzw", "blockysize": 1},
        {"compress": "lzw", "blockysize": 32},
        {},
        {"interleave": "band", "compress": "lzw", "blockysize": 3},
    ],
)
def test_blocks_have_the_pixels_of_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: dict[str, Any]
) -> None:
    """The stretch, too, is that of the whole file, of which every n-th row is used."""
    monkeypatch.setattr("autosam.data.readers.stretch.LIMIT_SIDE", 50)
    monkeypatch.setattr("autosam.data.images.LIMIT_SIDE", 50)
    monkeypatch.setattr("autosam.data.images.BLOCK", 5000)
    values = write_raster(tmp_path / "ortho.tif", **stored)
    draw_polygons(UTM).to_file(tmp_path / "labels.gpkg")
    used = values[[4, 1, 0], ::4, ::6]
    low, high = np.percentile(used[used > 0], (0.1, 99.9))
    shown = np.clip((values[[4, 1, 0]] - low) / (high - low) * 255, 0, 255).round()
    shown[:, values[0] == 0] = 0
    for pair in load_pairs(config_of(tmp_path)):
        assert isinstance(pair.image, Block)
        colors, valid = pair.image.read_valid()
        expected = cut(shown.transpose(1, 2, 0), pair.image.region)
        assert np.abs(colors - expected).max() <= 1
        whole, known = pair.image.file.read_valid()
        assert np.array_equal(colors, cut(whole, pair.image.region))
        assert known is not None
        inside = cut(known, pair.image.region)
        assert inside.all() if valid is None else np.array_equal(valid, inside)


def test_a_file_is_scanned_and_hashed_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ortho.tif"
    path.write_bytes((folder / "ortho.tif").read_bytes())
    image = ImageFile(path, (5, 2, 1))
    scans: list[Region] = []
    real = TiffImage.colors

    def colors(self: TiffImage, region: Region, nodata: float | None) -> Any:
        scans.append(region)
        return real(self, region, nodata)

    monkeypatch.setattr(TiffImage, "colors", colors)
    blocks = [Block(image, region) for region in block_regions(SHAPE, 100).values()]
    for block in blocks[1:]:
        block.read()
    assert len(scans) == len(blocks[1:]) + 1
    assert (0, 0, *SHAPE) in scans
    hashed: list[Path] = []
    digest = images.digest

    def counted(path: Path, how: str = "") -> str:
        hashed.append(path)
        return digest(path, how)

    monkeypatch.setattr(images, "digest", counted)
    assert len({block.digest() for block in blocks}) == len(blocks)
    assert hashed == [path]
    other = Block(ImageFile(path, (1, 2, 3)), blocks[0].region)
    assert other.digest() != blocks[0].digest()
    before = blocks[1].digest()
    tifffile.imwrite(path, np.zeros((*SHAPE, 5), np.uint16))
    assert blocks[1].digest() != before  # the file has changed


SPEC = InputSpec(64, 64, 64)
STILL = AugmentConfig(flip=0, rotate=0, scale=0, color=0, hue=0)


class Whole:
    """An image that is only read whole."""

    def __init__(self, image: Block) -> None:
        self.image, self.path = image, image.path
        self.read, self.read_valid, self.digest = image.read, image.read_valid, image.digest


@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("copies", [0, 2])
def test_crops_read_by_region_are_those_of_the_whole_block(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instances: bool, copies: int
) -> None:
    frame = draw_polygons(UTM)
    corner = [UTM @ place for place in ((0, 0), (205, 0), (0, 205))]
    frame.geometry = frame.difference(Polygon(corner))  # which holds no data
    frame.to_file(tmp_path / "labels.gpkg")
    config = config_of(folder, annotations=str(tmp_path / "labels.gpkg"), block=200)
    pairs = load_pairs(config)
    encoding = check_pairs(pairs, config).encoding
    plain = [Pair(pair.stem, Whole(pair.image), pair.mask) for pair in pairs]  # type: ignore[arg-type]

    def opened(some: list[Pair]) -> PairDataset:
        crops = Cropping(48, 1.0)
        return PairDataset(
            some, SPEC, encoding, build_augment(STILL), copies=copies, cropping=crops,
            instances=instances,
        )  # fmt: skip

    ours, theirs = opened(pairs), opened(plain)
    assert len(ours) == len(theirs) > 20
    read: list[tuple[int, int]] = []
    part = Block.read_part

    def read_part(self: Block, region: Region) -> Any:
        read.append(region[2:])
        return part(self, region)

    monkeypatch.setattr(Block, "read_part", read_part)
    for position in range(len(ours)):
        one, other = ours[0, position], theirs[0, position]
        assert torch.equal(one.generator_input, other.generator_input)
        assert one.target is not None
        assert other.target is not None
        assert torch.equal(one.target, other.target)
        assert one.weight is not None
        assert other.weight is not None
        assert torch.equal(one.weight, other.weight)
        given = ours.sam_input_of(position, 0)[0], theirs.sam_input_of(position, 0)[0]
        assert torch.equal(*given)
    assert set(read) == {(48, 48)}


def test_crops_of_a_resolution_may_count_more_pixels_than_a_block(folder: Path) -> None:
    """Blocks of 77 or 78 px at 0.5 m: crops of 128 px at 0.25 m are 64 px of them."""
    config = config_of(folder, crop=128, resolution=0.25)
    data = PairDataset(load_pairs(config), SPEC, MaskEncoding(2), cropping=cropping_of(config))
    regions = [region for _, region in data.records]
    assert {region[2:] for region in regions if region is not None} == {(64, 64)}


def test_no_crop_is_centred_on_a_label_without_data(folder: Path) -> None:
    config = config_of(folder, block=200)
    pairs = load_pairs(config)
    encoding, still = check_pairs(pairs, config).encoding, build_augment(STILL)
    data = PairDataset(pairs[:1], SPEC, encoding, still, cropping=Cropping(32, 1.0))
    for epoch in range(20):
        sample = data[epoch, 0]
        assert sample.target is not None
        assert sample.weight is not None
        assert (sample.target * sample.weight).sum() > 0


def test_pixels_without_data_have_no_loss_and_no_score(folder: Path) -> None:
    config = config_of(folder)
    pairs = load_pairs(config)
    encoding = check_pairs(pairs, config).encoding
    [pair] = [pair for pair in pairs if pair.name == "ortho-r01c02"]
    assert isinstance(pair.image, Block)
    y, x, height, width = pair.image.region
    rows, columns = np.mgrid[y : y + height, x : x + width]
    empty = rows + columns < 200
    assert 0.1 < empty.mean() < 0.95
    whole = PairDataset([pair], SPEC, encoding)[0, 0]
    assert whole.label is not None
    assert np.array_equal(whole.label == IGNORED, empty)
    assert np.array_equal(whole.valid, ~empty)
    still = build_augment(STILL)
    crops = PairDataset([pair], SPEC, encoding, still, cropping=Cropping(64, 0.0))
    weights = [crops[epoch, 0].weight for epoch in range(4)]
    assert all(weight is not None and 0 < weight.mean() < 1 for weight in weights)


def test_a_raster_smaller_than_a_block(folder: Path) -> None:
    [pair] = load_pairs(config_of(folder, block=512))
    assert pair.name == "ortho-r01c01"
    assert pair.image.read().shape == (*SHAPE, 3)


def test_several_rasters_of_several_crs(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One file of labels for all; of a raster without any, a warning."""
    (tmp_path / "images").mkdir()
    other = rasterio.warp.transform("EPSG:25832", "EPSG:32633", [UTM.c], [UTM.f])
    write_raster(tmp_path / "images" / "one.tif")
    place = Affine(0.5, 0, other[0][0], 0, -0.5, other[1][0])
    write_raster(tmp_path / "images" / "second.tif", place, "EPSG:32633")
    far = Affine(0.5, 0, 700_000, 0, -0.5, 5_400_000)
    write_raster(tmp_path / "images" / "far.tif", far)
    with caplog.at_level(logging.INFO, "autosam"):
        pairs = load_pairs(config_of(folder, images=str(tmp_path / "images")))
    assert "touches 2 of 3 rasters; the others, for example" in caplog.text
    assert "33 blocks of at most 100 px; 3 others hold no data and are left out" in caplog.text
    for pair in pairs:
        assert isinstance(pair.image, Block)
        label, _ = truth_of(folder / "labels.gpkg", pair.image.path)
        # The reference moves vertices alone, which may change a pixel at an edge.
        assert (pair.mask.read() != cut(label, pair.image.region)).sum() <= 3
        assert label.any() != pair.name.startswith("far")


def test_label_rasters(folder: Path, tmp_path: Path) -> None:
    label, ids = truth_of(folder / "labels.gpkg", folder / "ortho.tif")
    settings = {"driver": "GTiff", "height": SHAPE[0], "width": SHAPE[1], "count": 1}
    for name, values, crs in (("a", label, 25832), ("b", ids.astype(np.uint16), None)):
        place = {"crs": crs, "transform": UTM} if crs else {}
        path = tmp_path / f"{name}.tif"
        with rasterio.open(path, "w", dtype=values.dtype, **settings, **place) as file:
            file.write(values, 1)
    images = {"layout": "rasters", "images": str(folder / "ortho.tif"), "block": 100, **BANDS}
    classes = DataConfig(**images, masks=str(tmp_path / "a.tif"), num_classes=2)
    numbers = DataConfig(**images, masks=str(tmp_path / "b.tif"), instances=True)
    for config, truth in ((classes, label), (numbers, (ids > 0).astype(np.uint8))):
        pairs = load_pairs(config)
        encoding = check_pairs(pairs, config).encoding
        assert len(pairs) == 11
        for pair in pairs:
            assert isinstance(pair.image, Block)
            assert np.array_equal(encoding.read(pair.mask), cut(truth, pair.image.region))
    numbered = encoding.read_instances(pairs[0].mask)
    assert isinstance(pairs[0].image, Block)
    assert len(numbered) == len(np.unique(cut(ids, pairs[0].image.region))) - 1


def test_groups_are_squares_of_the_ground(folder: Path) -> None:
    """Columns have their middle at x 500019.7, 500058.5, 500097.0 and 500135.7, rows at y
    5399981.2, 5399942.9 and 5399904.7; squares of 60 m begin at 499980 and at 5399880."""
    found = load_splits(config_of(folder, groups="60m", validation=0.3, test=0.3))
    groups = {pair.stem: pair.group for pairs in found.values() for pair in pairs}
    xs, ys = ("x499980", "x500040", "x500040", "x500100"), ("y5399940", "y5399940", "y5399880")
    names = {f"ortho-r{i:02d}c{j:02d}": (i, j) for i in (1, 2, 3) for j in (1, 2, 3, 4)}
    del names["ortho-r01c01"]
    assert groups == {name: f"{xs[j - 1]} {ys[i - 1]}" for name, (i, j) in names.items()}
    split_of = {pair.group: split for split, pairs in found.items() for pair in pairs}
    assert all(split_of[pair.group] == split for split, pairs in found.items() for pair in pairs)


def test_groups_are_squares_of_pixels(folder: Path) -> None:
    """Columns have their middle at 39, 116.5, 193.5 and 271, rows at 38.5, 115 and 191.5."""
    pairs = with_groups(load_pairs(config_of(folder)), "150px")
    groups = {pair.stem: pair.group for pair in pairs}
    assert groups["ortho-r01c02"] == groups["ortho-r02c01"] == "ortho x0 y0"
    assert groups["ortho-r03c03"] == groups["ortho-r03c04"] == "ortho x150 y150"


@pytest.mark.parametrize(
    ("crs", "place", "groups"),
    [
        ("EPSG:2263", Affine(1, 0, 983_440, 0, -1, 195_016), ["x299500 y59000"]),
        ("EPSG:4326", Affine(1e-6, 0, 8.99934, 0, -1e-6, 48.700115), ["32N x499500 y5394000"]),
        ("EPSG:3857", Affine(1, 0, 1_001_679, 0, -1, 6_227_115), ["32N x499500 y5396000"]),
    ],
)
def test_groups_of_tiles_in_feet_degrees_and_web_maps(
    tmp_path: Path, crs: str, place: Affine, groups: list[str]
) -> None:
    from pyproj import Transformer

    write_raster(tmp_path / "a.tif", place, crs)
    pair = Pair("a", ImageFile(tmp_path / "a.tif", (1, 2, 3)), ImageFile(tmp_path / "a.tif"))
    assert [found.group for found in with_groups([pair], "500m")] == groups
    middle = place @ (SHAPE[1] / 2, SHAPE[0] / 2)
    x, y = (value * 1200 / 3937 for value in middle)  # US survey feet
    if crs != "EPSG:2263":
        x, y = Transformer.from_crs(crs, 32632, always_xy=True).transform(*middle)
    assert groups[0].endswith(f"x{x // 500 * 500:.0f} y{y // 500 * 500:.0f}")


def test_groups_need_a_place(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", crs=None)
    pair = Pair("a", ImageFile(tmp_path / "a.tif", (1, 2, 3)), ImageFile(tmp_path / "a.tif"))
    with pytest.raises(DataError, match=r"a\.tif: has no coordinate .*--data.groups 500m needs"):
        with_groups([pair], "500m")
    with pytest.raises(DataError, match=r"a\.tif: --data.groups 50px is for --data.layout rasters"):
        with_groups([pair], "50px")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"root": "x"}, "expected --data.images"),
        ({"annotations": None}, "expected --data.images"),
        ({"masks": "x.tif"}, "expected --data.images"),
        ({"annotations": None, "masks": "x.tif"}, "--data.class_column: belongs to"),
        ({"crop": 128}, "--data.crop 128: is larger than --data.block 100"),
        ({"values": 2, "classes": None, "num_classes": 1}, "layout rasters has no mask values"),
        ({"layout": "folders"}, "--data.class_column: is for --data.layout rasters"),
    ],
)
def test_settings_that_do_not_go_together(folder: Path, more: dict[str, Any], message: str) -> None:
    config = config_of(folder)
    for key, value in more.items():
        setattr(config, key, value)
    with pytest.raises(ConfigError, match=message):
        load_pairs(config)


def test_a_training_on_blocks(folder: Path, tiny_file: Path, tmp_path: Path) -> None:
    classes = "[{name: tree}, {name: shrub}]"
    flags = [f"--data.images={folder / 'ortho.tif'}", f"--data.annotations={folder}/labels.gpkg",
             "--data.layout=rasters", "--data.class_column=kind", f"--data.classes={classes}",
             "--data.block=100", "--data.bands=[3,2,1]", "--data.crop=64", "--data.groups=60m",
             "--train.epochs=1", "--cache.copies=0", "--data.validation=0.3", "--data.test=0.3",
             f"--output={tmp_path / 'run'}"]  # fmt: skip
    trained = train(tiny_config(tiny_file, *flags)).folder
    lines = (trained / "test_scores.csv").read_text().splitlines()
    assert any(line.startswith("ortho-r0") for line in lines)
    assert evaluate(EvaluateConfig(checkpoint=str(trained)))["dice"] >= 0


@pytest.mark.parametrize("crs", ["EPSG:25832", None])
def test_labels_on_other_ground_are_refused_with_and_without_a_crs(
    tmp_path: Path, crs: str | None
) -> None:
    from autosam.data.layouts.rasters import _require_same_place

    def image(name: str, place: Affine, crs: str | None) -> Path:
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", width=50, height=40, count=1, dtype="uint8",
            crs=crs, transform=place,
        ) as file:  # fmt: skip
            file.write(np.ones((1, 40, 50), np.uint8))
        return tmp_path / name

    here = Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)
    ground = ImageFile(image("a.tif", here, "EPSG:25832"))
    same = MaskFile(image("same.tif", here, crs))
    moved = MaskFile(image("moved.tif", here @ Affine.translation(100, 0), crs))
    _require_same_place(ground, (40, 50), same)
    with pytest.raises(DataError, match=r"moved\.tif are 100\.0 pixels apart"):
        _require_same_place(ground, (40, 50), moved)
    nowhere = MaskFile(image("nowhere.tif", Affine.identity(), None))
    _require_same_place(ground, (40, 50), nowhere)


def test_squares_of_less_than_a_metre() -> None:
    from autosam.data.locations import SQUARE

    assert [bool(SQUARE.fullmatch(text)) for text in ("0.5m", "500m", "007px", "1.5 px")] == 4 * [1]
    assert not any(SQUARE.fullmatch(text) for text in ("0m", "0.0px", "m", "-1m"))


def test_lists_from_python_are_numbers_of_bands() -> None:
    assert hash(DataConfig(bands=[3, 2, 1]).bands) == hash((3, 2, 1))  # type: ignore[arg-type]
    assert DataConfig(window=[0, 9]).window == (0, 9)  # type: ignore[arg-type]
    assert DataConfig(generator_bands=(1, 2)).generator_bands == [1, 2]  # type: ignore[arg-type]
