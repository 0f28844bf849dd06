"""Image and mask files of users: read correctly, or refused with the file and the remedy."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers import draw
from PIL import Image

from autosam.config import AugmentConfig, DataConfig
from autosam.data.augment import build_augment
from autosam.data.checks import check_pairs, check_splits
from autosam.data.dataset import PairDataset
from autosam.data.images import read_image, read_mask
from autosam.data.layouts import load_splits
from autosam.data.layouts.folders import find_pairs
from autosam.data.loaders import EpochSampler
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.sample import Visit, make_sample
from autosam.errors import ConfigError, DataError
from autosam.types import InputSpec

FRAME = InputSpec(64, 32, 32)


def save(path: Path, values: np.ndarray, **options) -> Path:
    Image.fromarray(values).save(path, **options)
    return path


# ---- images -----------------------------------------------------------------------------------


def test_grey_rgba_and_palette_become_rgb(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    image = read_image(save(tmp_path / "grey.png", grey))
    assert image.shape == (3, 4, 3)
    assert np.array_equal(image[..., 1], grey)
    rgba = np.dstack([grey, grey + 1, grey + 2, np.full_like(grey, 7)])
    assert np.array_equal(read_image(save(tmp_path / "rgba.png", rgba)), rgba[..., :3])
    palette = Image.fromarray(grey).convert("P")
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png")[..., 0], grey)


def test_sixteen_bits_are_stretched_over_their_own_range(tmp_path: Path) -> None:
    values = np.linspace(1000, 5000, 10_000).reshape(100, 100).astype(np.uint16)
    image = read_image(save(tmp_path / "deep.png", values))
    assert image.dtype == np.uint8
    assert image[0, 0, 0] == 0
    assert image[-1, -1, 0] == 255
    # the middle of the range stays in the middle
    assert abs(int(image[50, 0, 0]) - 128) <= 1


def test_sixteen_bit_colour_keeps_its_dark_end(tmp_path: Path) -> None:
    import cv2

    values = np.zeros((64, 64, 3), np.uint16)
    values[..., 0] = np.linspace(0, 4095, 64)  # 12 bits of red, in a 16-bit file
    for name in ("deep.png", "deep.tif"):
        cv2.imwrite(str(tmp_path / name), values[..., ::-1])
        image = read_image(tmp_path / name)
        assert image.shape == (64, 64, 3)
        assert image[0, -1].tolist() == [255, 0, 0]
        assert abs(int(image[0, 32, 0]) - 129) <= 2


def test_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.new("L", (8, 8), v) for v in (1, 2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="holds 2 pages"):
        read_image(tmp_path / "pages.tif")


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    values = np.zeros((20, 30, 3), np.uint8)
    values[:, :5] = 255  # a bright left edge
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    path = save(tmp_path / "turned.jpg", values, exif=exif, quality=95)
    image = read_image(path)
    assert image.shape == (30, 20, 3)
    assert image[:4].mean() > 200  # the left edge has become the top
    assert image[10:].mean() < 30


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.png", np.random.default_rng(0).integers(
        0, 256, (64, 64, 3), dtype=np.uint8)).read_bytes()  # fmt: skip
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    for name in ("cut.png", "text.png", "empty.jpg", "none.png"):
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            read_image(tmp_path / name)


def test_images_beyond_the_limit_are_refused_before_decoding(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    with pytest.raises(DataError, match="20000 x 20000 pixels"):
        read_image(tmp_path / "huge.png")


# ---- masks --------------------------------------------------------------------------------------


def test_palette_masks_give_indices_and_colours_are_refused(tmp_path: Path) -> None:
    index = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(index).convert("P")
    image.putdata(index.ravel().tolist())
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    image.save(tmp_path / "p.png")
    assert np.array_equal(read_mask(tmp_path / "p.png"), index)
    equal = np.dstack([index * 100] * 3)
    assert np.array_equal(read_mask(save(tmp_path / "equal.png", equal)), index * 100)
    equal[0, 0, 1] = 5
    with pytest.raises(DataError, match=r"c\.png: a mask in colour"):
        read_mask(save(tmp_path / "c.png", equal))
    assert read_mask(save(tmp_path / "b.png", index > 0)).max() == 255


# ---- folders and splits -------------------------------------------------------------------------


def test_pairs_without_partner_are_counted_and_named(tmp_path: Path) -> None:
    draw(tmp_path, 3)
    (tmp_path / "masks" / "img01.png").unlink()
    with pytest.raises(DataError, match=r"1 images without a mask, for example img01\.png"):
        find_pairs(tmp_path / "images", tmp_path / "masks")
    draw(tmp_path, 3)
    (tmp_path / "images" / "img00.png").unlink()
    with pytest.raises(DataError, match=r"1 masks without an image, for example img00\.png"):
        find_pairs(tmp_path / "images", tmp_path / "masks")


def test_a_mask_suffix_is_proposed_and_works(tmp_path: Path) -> None:
    draw(tmp_path, 3)
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(path.stem + "_mask.png"))
    with pytest.raises(DataError, match=r"3 of them would pair with --data.mask_suffix _mask"):
        find_pairs(tmp_path / "images", tmp_path / "masks")
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks", DataConfig(mask_suffix="_mask"))
    assert [p.name for p in pairs] == ["img00", "img01", "img02"]


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_pairs(tmp_path / "images", tmp_path / "masks")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        find_pairs(tmp_path / "images", tmp_path / "images")
    with pytest.raises(DataError, match="expected train/, validation/ and test/"):
        load_splits(DataConfig(root=str(_made(tmp_path / "other"))))


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_same_name_twice(tmp_path: Path) -> None:
    draw(tmp_path, 2)
    save(tmp_path / "images" / "img00.jpg", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match="a duplicate name"):
        find_pairs(tmp_path / "images", tmp_path / "masks")


def test_a_given_split_is_kept(folders: Path) -> None:
    splits = load_splits(DataConfig(root=str(folders)))
    assert {split: len(pairs) for split, pairs in splits.items()} == {
        "train": 6,
        "validation": 3,
        "test": 3,
    }
    assert splits["test"][0].image.path == folders / "test" / "images" / "img09.png"
    (folders / "validation").rename(folders / "val")
    assert load_splits(DataConfig(root=str(folders)))["validation"][0].name == "img06"


def test_validation_is_carved_from_train_where_none_is_given(tmp_path: Path) -> None:
    draw(tmp_path / "train", 10)
    draw(tmp_path / "test", 2, start=10)
    splits = load_splits(DataConfig(root=str(tmp_path), validation=0.2))
    assert {split: len(pairs) for split, pairs in splits.items()} == {
        "train": 8,
        "validation": 2,
        "test": 2,
    }


def test_a_seeded_split_is_complete_disjoint_and_repeatable(tmp_path: Path) -> None:
    draw(tmp_path, 20)
    config = DataConfig(images=str(tmp_path / "images"), masks=str(tmp_path / "masks"))
    splits = load_splits(config)
    names = [pair.name for pairs in splits.values() for pair in pairs]
    assert sorted(names) == sorted(f"img{i:02d}" for i in range(20))
    assert [len(splits[p]) for p in ("train", "validation", "test")] == [14, 3, 3]
    assert load_splits(config) == splits
    config.split_seed = 1
    assert load_splits(config) != splits
    rooted = load_splits(DataConfig(root=str(tmp_path)))
    assert rooted == splits


def test_too_few_images_for_a_split(tmp_path: Path) -> None:
    draw(tmp_path, 3)
    with pytest.raises(DataError, match="split is empty: 3 images are too few"):
        load_splits(DataConfig(root=str(tmp_path)))


def test_the_same_image_in_two_parts_is_refused(folders: Path) -> None:
    source = (folders / "train" / "images" / "img02.png").read_bytes()
    (folders / "test" / "images" / "img10.png").write_bytes(source)
    with pytest.raises(DataError, match=r"img02\.png.*img10\.png.*same image: the splits overlap"):
        load_splits(DataConfig(root=str(folders)))


@pytest.mark.parametrize(
    "config",
    [
        DataConfig(root="a", images="b", masks="c"),
        DataConfig(images="b"),
        DataConfig(masks="b"),
    ],
)
def test_contradicting_folders(config: DataConfig) -> None:
    with pytest.raises(ConfigError, match="--data"):
        load_splits(config)


# ---- the check ----------------------------------------------------------------------------------


def test_sizes_that_differ_are_refused(folders: Path) -> None:
    save(folders / "train" / "masks" / "img03.png", np.zeros((41, 56), np.uint8))
    config = DataConfig(root=str(folders))
    with pytest.raises(DataError, match=r"img03\.png is 40 x 56 but its mask .* is 41 x 56"):
        check_splits(load_splits(config), config)


def test_unreadable_files_are_all_found_before_training(folders: Path) -> None:
    for name in ("img00", "img04"):
        (folders / "train" / "images" / f"{name}.png").write_bytes(b"nonsense")
    config = DataConfig(root=str(folders))
    with pytest.raises(DataError, match=r"(?s)img00\.png.*img04\.png"):
        check_splits(load_splits(config), config)


def test_masks_of_which_nothing_is_known_are_counted_and_a_split_of_them_is_an_error(
    folders: Path,
) -> None:
    config = DataConfig(root=str(folders), ignore=7)
    validation = sorted((folders / "validation" / "masks").glob("*.png"))
    save(validation[0], np.full((40, 56), 7, np.uint8))
    report = check_splits(load_splits(config), config)
    said = "1 of 12 masks have no pixel whose class is known"
    assert any(warning.startswith(said) for warning in report.warnings)
    assert not any("are empty" in warning for warning in report.warnings)
    for path in validation[1:]:
        save(path, np.full((40, 56), 7, np.uint8))
    splits = load_splits(config)
    with pytest.raises(DataError, match="Of the validation split: No mask has a pixel whose class"):
        check_splits(splits, config)
    with pytest.raises(DataError, match=r"^No mask has a pixel whose class is known"):
        check_pairs(splits["validation"], config)


def test_empty_masks_are_counted_and_all_empty_is_an_error(folders: Path) -> None:
    config = DataConfig(root=str(folders))
    masks = sorted(folders.glob("*/masks/*.png"))
    for path in masks[:4]:
        save(path, np.zeros((40, 56), np.uint8))
    report = check_splits(load_splits(config), config)
    assert "4 of 12 masks are empty (nothing to segment)." in report.warnings
    for path in masks:
        save(path, np.zeros((40, 56), np.uint8))
    with pytest.raises(DataError, match="Every mask is empty"):
        check_splits(load_splits(config), config)


# ---- samples ------------------------------------------------------------------------------------


def test_a_sample_by_hand() -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 32:] = 200
    label = np.zeros((32, 64), np.uint8)
    label[:, 32:] = 1
    sample = make_sample("x", image, FRAME, label)
    assert sample.sam_input is not None
    assert sample.sam_input.shape == (3, 64, 64)
    assert sample.generator_input.shape == (3, 32, 32)
    assert (sample.sam_valid, sample.generator_valid) == ((32, 64), (16, 32))
    assert sample.sam_input[:, :32, 32:].eq(200).all()
    assert sample.sam_input[:, 32:].eq(0).all()
    assert sample.target is not None
    assert sample.target[0, :16, 16:].eq(1).all()
    assert sample.target.sum() == 16 * 16
    assert sample.weight is not None
    assert sample.weight[0, :16].eq(1).all()
    assert sample.weight[0, 16:].eq(0).all()


def test_augmentation_is_paired_seeded_and_leaves_the_global_state() -> None:
    config = AugmentConfig(0.5, 0.5, True, 30, 0.25, 0.0, 0.0)
    augment = build_augment(config)
    label = np.zeros((48, 64), np.uint8)
    label[10:20, 30:50] = 1
    image = np.repeat(label[..., None] * 255, 3, 2)
    seen = set()
    for seed in range(20):
        changed, mask = augment.move(image, (seed,)), augment.move(label, (seed,))
        assert np.array_equal(changed, augment.move(image, (seed,)))
        # bright pixels follow the mask, up to interpolation at the edge
        assert ((changed[..., 0] > 127) ^ (mask > 0)).mean() < 0.02
        seen.add(mask.tobytes())
    assert len(seen) > 15
    import torch

    torch.manual_seed(3)
    before = torch.get_rng_state()
    augment.move(image, (0,))
    augment.recolour(image, (0,))
    assert torch.equal(before, torch.get_rng_state())


def test_a_quarter_turn_swaps_the_valid_region() -> None:
    turn = build_augment(AugmentConfig(0, 0, True, 0, 0, 0, 0))
    image, label = np.full((32, 64, 3), 9, np.uint8), np.ones((32, 64), np.uint8)
    shapes = set()
    for seed in range(12):
        sample = make_sample("x", image, FRAME, label, visit=Visit(turn, (seed,)))
        shapes.add(sample.sam_valid)
        assert sample.sam_input is not None
        assert (sample.sam_input[0] == 9).sum() == 32 * 64
        assert sample.target is not None
        assert torch_equal(sample.target, sample.weight)
    assert shapes == {(32, 64), (64, 32)}


def torch_equal(a, b) -> bool:
    return bool((a == b).all())


def test_what_is_read_depends_on_epoch_and_position_alone(folders: Path) -> None:
    pairs = find_pairs(folders / "train" / "images", folders / "train" / "masks")
    augment = build_augment(AugmentConfig())
    dataset = PairDataset(pairs, FRAME, MaskEncoding(), augment, seed=5)
    first, other_epoch = dataset[1, 2], dataset[2, 2]
    _ = dataset[1, 0]
    assert torch_equal(first.generator_input, dataset[1, 2].generator_input)
    assert not torch_equal(first.generator_input, other_epoch.generator_input)
    assert first.label is None  # the augmented image is another one
    again = pickle.loads(pickle.dumps(dataset))  # as a worker process receives it
    assert torch_equal(first.generator_input, again[1, 2].generator_input)
    plain = PairDataset(pairs, FRAME, MaskEncoding())[0, 2]
    assert plain.label is not None
    assert plain.label.shape == (40, 56)


def test_fixed_views_keep_their_geometry_and_their_sam_view(folders: Path) -> None:
    pairs = find_pairs(folders / "train" / "images", folders / "train" / "masks")
    augment = build_augment(AugmentConfig(quarter_turns=True))
    input_spec = InputSpec(image_size=64, generator_size=32, mask_size=16)
    dataset = PairDataset(pairs, input_spec, MaskEncoding(), augment, seed=5, copies=3)
    drawn = {}
    for epoch in range(30):
        sample = dataset[epoch, 1]
        assert sample.sam_input is not None
        assert sample.target is not None
        drawn.setdefault(sample.sam_input.numpy().tobytes(), []).append(sample)
    assert len(drawn) == 3
    squares = {dataset.sam_input_of(1, v)[0].numpy().tobytes() for v in range(3)}
    assert drawn.keys() == squares
    for samples in drawn.values():  # one geometry, many colours
        assert len({s.target.numpy().tobytes() for s in samples}) == 1
        assert len({s.sam_valid for s in samples}) == 1
        assert len({s.generator_input.numpy().tobytes() for s in samples}) == len(samples)
    clean = PairDataset(pairs, input_spec, MaskEncoding())[0, 1]
    assert torch_equal(clean.sam_input, dataset.sam_input_of(1, 0)[0])
    # Another seed of training draws other views of the same few.
    other = PairDataset(pairs, input_spec, MaskEncoding(), augment, seed=6, copies=3)
    assert all(other[e, 1].sam_input.numpy().tobytes() in squares for e in range(5))


def test_shuffled_sam_sees_another_image_and_the_rest_stays(folders: Path) -> None:
    pairs = find_pairs(folders / "train" / "images", folders / "train" / "masks")
    input_spec = InputSpec(image_size=64, generator_size=64, mask_size=16)
    plain = PairDataset(pairs, input_spec, MaskEncoding())
    shuffled = PairDataset(pairs, input_spec, MaskEncoding(), shuffled=True)
    others = [plain[0, i].sam_input for i in range(len(pairs))]
    seen = []
    for epoch in range(40):
        sample, own = shuffled[epoch, 2], plain[0, 2]
        for name in ("generator_input", "target", "weight", "label"):
            assert torch_equal(getattr(sample, name), getattr(own, name))
        seen += [i for i, other in enumerate(others) if torch_equal(sample.sam_input, other)]
    assert len(seen) == 40
    assert set(seen) == set(range(len(pairs))) - {2}


def test_a_size_mismatch_is_found_while_reading_too(folders: Path) -> None:
    pairs = find_pairs(folders / "train" / "images", folders / "train" / "masks")
    save(folders / "train" / "masks" / "img03.png", np.zeros((41, 56), np.uint8))
    with pytest.raises(DataError, match=r"img03\.png is 40 x 56 but its mask"):
        PairDataset(pairs, FRAME, MaskEncoding())[0, 3]


def test_sampler() -> None:
    sampler = EpochSampler(5, shuffle=True, seed=1)
    sampler.epoch = 3
    order = list(sampler)
    assert {e for e, _ in order} == {3}
    assert sorted(i for _, i in order) == list(range(5))
    assert list(sampler) == order
    sampler.epoch = 4
    assert [i for _, i in sampler] != [i for _, i in order]
    assert list(EpochSampler(3, shuffle=False)) == [(0, 0), (0, 1), (0, 2)]
