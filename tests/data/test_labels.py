"""Labels as class numbers and as bitmasks."""

from __future__ import annotations

import numpy as np
import pytest

from autosam.config import ClassConfig, DataConfig
from autosam.config.validation import check_classes
from autosam.data.checks import infer_encoding
from autosam.data.geometry import resize_label
from autosam.data.labels import IGNORED, class_masks, known, pack
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.mask_stats import compute_mask_stats
from autosam.errors import ConfigError, DataError
from autosam.evaluation.metrics import score


class Stored:
    """A mask in memory."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def read(self) -> np.ndarray:
        return self.values

    def __str__(self) -> str:
        return "m.png"


def decide(values: list[int] | np.ndarray, config: DataConfig) -> MaskEncoding:
    """The encoding of one mask that holds these values as flat areas."""
    array = np.asarray(values, np.uint16)
    array = array if array.ndim == 2 else array.repeat(9)[None].repeat(9, 0)
    mask = Stored(array.astype(np.uint8 if array.max() < 256 else np.uint16))
    return infer_encoding([(mask, stats) for stats in compute_mask_stats(mask, config)[0]], config)


def test_masks_of_numbers_and_of_bits() -> None:
    label = np.array([[0, 1], [2, IGNORED]], np.uint8)
    assert class_masks(label, 2).tolist() == [
        [[False, True], [False, False]],
        [[False, False], [True, False]],
    ]
    assert known(label).tolist() == [[True, True], [True, False]]
    masks = np.random.default_rng(0).random((5, 6, 7)) > 0.5
    bits = pack(masks)
    assert bits.dtype == np.int32
    assert np.array_equal(class_masks(bits, 5), masks)
    assert known(bits).all()


def test_bits_survive_resizing() -> None:
    masks = np.random.default_rng(1).random((16, 9, 9)) > 0.5
    large = resize_label(pack(masks), (18, 27))
    assert np.array_equal(class_masks(large, 16), masks.repeat(2, 1).repeat(3, 2))


def test_ignored_pixels_neither_help_nor_hurt() -> None:
    label = np.array([[1, 1, IGNORED, 0]], np.uint8)
    for guess in (True, False):
        predicted = np.array([[[True, False, guess, False]]])
        found = score(predicted, label, ("dice", "iou"))
        assert (found["dice"], found["iou"]) == (2 / 3, 0.5)


def test_a_table_of_values() -> None:
    config = DataConfig(
        classes=[ClassConfig("water", values=[10, 20]), ClassConfig("rock", "#ff0000", [300])],
        ignore=255,
    )
    assert config.num_classes == 2
    values = np.array([[0, 10, 20], [300, 255, 10]], np.uint16)
    encoding = decide(values, config)
    assert encoding.read(Stored(values)).tolist() == [[0, 1, 1], [2, IGNORED, 1]]
    with pytest.raises(DataError, match=r"mask value 30, which --data.classes does not list"):
        decide([0, 30], config)
    with pytest.raises(DataError, match=r"holds the value 30, which is no class"):
        encoding.read(Stored(np.array([[30]], np.uint8)))


def test_the_table_and_the_number_of_classes_agree() -> None:
    with pytest.raises(ConfigError, match=r"--data.num_classes 3: --data.classes lists 2"):
        DataConfig(classes=[ClassConfig("a"), ClassConfig("b")], num_classes=3)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([ClassConfig("a"), ClassConfig("a")], "listed twice"),
        ([ClassConfig("a", values=[1]), ClassConfig("b", values=[1])], "listed twice"),
        ([ClassConfig("a", "red")], "color red, expected #rrggbb"),
        ([ClassConfig("a/b")], "a name without / is needed"),
    ],
)
def test_classes_that_cannot_be(classes: list[ClassConfig], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_classes(DataConfig(classes=classes))


def test_instance_numbers_are_one_class() -> None:
    encoding = decide(list(range(40)), DataConfig(instances=True))
    assert encoding.read(Stored(np.array([[0, 1, 39]], np.uint8))).tolist() == [[0, 1, 1]]


def test_255_asks_for_ignore() -> None:
    with pytest.raises(DataError, match=r"--data.ignore 255"):
        decide([0, 2, 255], DataConfig(num_classes=2))
    encoding = decide([0, 2, 255], DataConfig(num_classes=2, ignore=255))
    assert encoding.read(Stored(np.array([[0, 2, 255]], np.uint8))).tolist() == [[0, 2, IGNORED]]
