"""Rough masks by colour, prompts derived from them, and the preview."""

from __future__ import annotations

from pathlib import Path

import miniature
import numpy as np
import pytest
from PIL import Image

from autosam.config import PromptConfig, RoughConfig
from autosam.config.commands import RoughPreview
from autosam.data.color_prior import clean, color_prior_mask
from autosam.data.images import ImageFile, read_bands, read_image
from autosam.data.prompts import draw_prompts
from autosam.errors import ConfigError, DataError
from autosam.rough import rough
from autosam.types import InputSpec


class Drawn:
    path = Path("no file")

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def read(self) -> np.ndarray:
        return self.image


def half(left: tuple[int, ...], right: tuple[int, ...]) -> Drawn:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :20], image[:, 20:] = left, right
    return Drawn(image)


PLAIN = {"erosion": 0, "min_share": 0.0}


def test_hsv_ranges_and_the_way_round_by_red() -> None:
    image = half((30, 60, 220), (220, 30, 40))  # blue, red
    blue = color_prior_mask(
        image, RoughConfig("hsv", lower=(100, 50, 50), upper=(130, 255, 255), **PLAIN)
    )
    assert blue[:, :20].all()
    assert not blue[:, 20:].any()
    red = color_prior_mask(
        image, RoughConfig("hsv", lower=(170, 50, 50), upper=(10, 255, 255), **PLAIN)
    )
    assert np.array_equal(red, 1 - blue)


def test_otsu_on_either_side() -> None:
    image = half((200, 200, 200), (40, 40, 40))
    light = color_prior_mask(image, RoughConfig("otsu", **PLAIN))
    assert light[:, :20].all()
    assert not light[:, 20:].any()
    dark = color_prior_mask(image, RoughConfig("otsu", dark=True, **PLAIN))
    assert np.array_equal(dark, 1 - light)
    assert not color_prior_mask(image, RoughConfig("otsu", threshold=210, **PLAIN)).any()


def test_cleaning_by_hand() -> None:
    mask = np.zeros((50, 50), bool)
    mask[10:30, 10:30] = True
    mask[40:43, 40:43] = True
    kept = clean(mask, RoughConfig(erosion=0, min_share=10 / 2500))
    assert kept.sum() == 400  # nine pixels are too few
    assert clean(mask, RoughConfig(erosion=0, min_share=9 / 2500)).sum() == 409
    eroded = clean(mask, RoughConfig(erosion=2, min_share=0))
    assert eroded.sum() == 16 * 16
    edge = np.ones((50, 50), bool)
    assert clean(edge, RoughConfig(erosion=2, min_share=0)).all()  # the image's edge is no edge


def test_the_water_index_of_a_image_with_near_infrared(tmp_path: Path) -> None:
    import tifffile

    bands = np.full((20, 40, 4), 50, np.uint16)
    bands[:, :20, 1], bands[:, :20, 3] = 90, 10  # water: green above near infrared
    bands[:, 20:, 1], bands[:, 20:, 3] = 40, 200
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
    image = ImageFile(path, bands=(3, 2, 1))
    found = color_prior_mask(image, RoughConfig("index", bands=(2, 4), **PLAIN))
    assert found[:, :20].all()
    assert not found[:, 20:].any()
    assert not color_prior_mask(image, RoughConfig("index", threshold=0.9, **PLAIN)).any()
    with pytest.raises(DataError, match=r"scene\.tif: has 4 bands, but --rough.bands asks"):
        color_prior_mask(image, RoughConfig("index", bands=(2, 5)))


def test_bands_of_a_tiff_in_either_order(tmp_path: Path) -> None:
    import tifffile

    values = np.random.default_rng(0).integers(0, 256, (6, 12, 16), dtype=np.uint8)
    first, last = tmp_path / "first.tif", tmp_path / "last.tif"
    tifffile.imwrite(first, values, photometric="minisblack", planarconfig="separate")
    tifffile.imwrite(
        last, values.transpose(1, 2, 0), photometric="minisblack", planarconfig="contig"
    )
    for path in (first, last):
        assert np.array_equal(read_bands(path)[0], values.transpose(1, 2, 0))
        chosen = read_image(path, bands=(5, 1, 1))
        assert np.array_equal(chosen, values[[4, 0, 0]].transpose(1, 2, 0))
    with pytest.raises(DataError, match=r"has 6 bands, but --data.bands or .* asks for 7"):
        read_image(first, bands=(7, 1, 1))
    nan = np.full((9, 9, 5), np.nan, np.float32)
    tifffile.imwrite(tmp_path / "nan.tif", nan, photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match=r"nan\.tif: no pixel holds data"):
        read_image(tmp_path / "nan.tif", bands=(1, 2, 3))
    Image.fromarray(values[0]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: cannot be read as a TIFF"):
        read_image(tmp_path / "a.png", bands=(1, 2, 3))


def test_prompts_come_from_the_guide_and_the_target_stays() -> None:
    label = np.zeros((32, 32), np.uint8)
    label[4:10, 4:10] = 1
    prior = np.zeros((32, 32), np.uint8)
    prior[14:24, 14:28] = 1
    prior[2:7, 2:7] = 1
    input_spec = InputSpec(32, 32, 16, prompts="box")
    rng = np.random.default_rng(0)
    prompts, kept = draw_prompts(label, input_spec, PromptConfig(), rng, False, 1, prior)
    assert prompts.boxes.tolist() == [[14, 14, 27, 23], [2, 2, 6, 6]]
    assert np.array_equal(kept, label)
    settings = PromptConfig(objects=1, box_jitter=0)
    prompts, kept = draw_prompts(label, input_spec, settings, rng, True, 1, prior)
    assert prompts.boxes.tolist() == [[14, 14, 27, 23]]  # the largest
    assert np.array_equal(kept, label)


def test_the_preview(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = RoughPreview(output=str(tmp_path / "sheet.png"), count=3)
    config.data.root = str(miniature.rivers(tmp_path / "data"))
    config.rough = RoughConfig("hsv", lower=(90, 80, 50), upper=(130, 255, 255), erosion=0)
    scores = rough(config)
    assert len(scores) == 3
    assert min(scores) > 0.8  # blue water, and JPEG's blur at its edge
    assert "3 images" in capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 3 * 320
    with pytest.raises(ConfigError, match=r"sheet\.png: exists"):
        rough(config)
