"""Images of training that are kept in memory."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from autosam.config import AugmentConfig, PromptConfig
from autosam.data import images
from autosam.data.augment import build_augment
from autosam.data.dataset import Cropping, PairDataset, Prompting, samples_of
from autosam.data.images import ImageFile, MaskFile
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.mask_stats import present_values
from autosam.data.memory_cache import MemoryCache
from autosam.data.pairs import Pair
from autosam.types import InputSpec, Sample


def draw(folder: Path) -> list[Pair]:
    """Three photographs of other shapes with a rectangle each; one on its side by its tag."""
    rng, pairs = np.random.default_rng(0), []
    for i, (height, width) in enumerate(((90, 60), (33, 100), (48, 48))):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 0 else 1
        image.save(folder / f"{i}.jpg", exif=exif)
        mask = np.zeros((width, height) if i == 0 else (height, width), np.uint8)
        mask[5:25, 8:30] = 255
        Image.fromarray(mask).save(folder / f"{i}.png")
        pairs.append(Pair(str(i), ImageFile(folder / f"{i}.jpg"), MaskFile(folder / f"{i}.png")))
    return pairs


def tensors(sample: Sample) -> list[Tensor]:
    """All tensors of a sample."""
    found: list[Tensor] = []
    for value in vars(sample).values():
        if isinstance(value, Tensor):
            found.append(value)
        elif hasattr(value, "map"):
            value.map(lambda tensor: found.append(tensor) or tensor)
    return found


@pytest.mark.parametrize("geometry", ["longest-pad", "square"])
@pytest.mark.parametrize("sizes", [(64, 64), (64, 32), (32, 64)])
@pytest.mark.parametrize(
    ("copies", "stretch", "needs_image"),
    [(0, False, True), (0, True, True), (3, False, True), (3, False, False)],
)
def test_samples_are_those_of_files_read_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    geometry: str,
    sizes: tuple[int, int],
    copies: int,
    stretch: bool,
    needs_image: bool,
) -> None:
    pairs = draw(tmp_path)
    spec = InputSpec(*sizes, 16, geometry, needs_image, prompts="box", stretch=stretch)
    augment = build_augment(AugmentConfig())
    read: Counter[str] = Counter()
    plain = images.PlainImage.__init__

    def counted(self: images.PlainImage, source: Path | bytes, name: str) -> None:
        read[name] += 1
        plain(self, source, name)

    monkeypatch.setattr(images.PlainImage, "__init__", counted)
    prompting = Prompting(PromptConfig())
    kept, plainly = (
        PairDataset(pairs, spec, MaskEncoding(), augment, 1, prompting, copies) for _ in range(2)
    )
    monkeypatch.setattr(plainly, "open_kept", plainly.open)
    for epoch in range(3):
        for position in range(3):
            one = kept[epoch, position]
            if epoch == 0:
                assert one.size == ((60, 90), (33, 100), (48, 48))[position]
            other = plainly[epoch, position]
            assert (one.size, one.sam_valid) == (other.size, other.sam_valid)
            assert one.generator_valid == other.generator_valid
            assert len(tensors(one)) == len(tensors(other)) > 3
            assert all(map(torch.equal, tensors(one), tensors(other)))
    assert set(read.values()) == {1 + 3}


@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("copies", [0, 2])
@pytest.mark.parametrize("crop", [None, 24])
def test_crops_and_objects_are_those_of_files_read_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    instances: bool,
    copies: int,
    crop: int | None,
) -> None:
    pairs, reads = draw(tmp_path), Counter[str]()
    plain = images.PlainImage.__init__

    def counted(self: images.PlainImage, source: Path | bytes, name: str) -> None:
        reads[name] += 1
        plain(self, source, name)

    monkeypatch.setattr(images.PlainImage, "__init__", counted)

    def opened(whole: int) -> PairDataset:
        monkeypatch.setattr("autosam.data.dataset.WHOLE", whole)
        return PairDataset(
            pairs,
            InputSpec(32, 32, 8, prompts="objects" if instances else None),
            MaskEncoding(),
            build_augment(AugmentConfig()),
            1,
            Prompting(PromptConfig()) if instances else None,
            copies,
            instances=instances,
            cropping=None if crop is None else Cropping(crop),
        )

    kept, plainly = opened(2**20), opened(0)
    # 60 x 90, 33 x 100 and 48 x 48 px in crops of 24 px: 3 x 4, 2 x 5 and 2 x 2 of them.
    assert len(kept) == samples_of(pairs, kept.cropping) == (3 if crop is None else 26)
    keys = [(epoch, position) for epoch in range(3) for position in range(len(kept))]
    samples = [kept[key] for key in keys]
    assert set(reads.values()) == {1}
    monkeypatch.setattr(plainly, "open_kept", plainly.open)
    for key, one in zip(keys, samples, strict=True):
        assert all(map(torch.equal, tensors(one), tensors(plainly[key]))), key
    assert min(reads.values()) > 3


def test_scores_are_of_the_whole_mask(tmp_path: Path) -> None:
    dataset = PairDataset(draw(tmp_path), InputSpec(32, 32, 8), MaskEncoding())
    for _ in range(2):
        label = dataset[0, 0].label
        assert label is not None
        assert label.shape == (60, 90)


def test_values_are_kept_until_their_share_of_memory_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autosam.data.memory_cache.free_bytes", lambda: 1000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    cache = MemoryCache()  # 20 % of 1000 bytes, for two processes
    for i, size in enumerate((60, 50, 40, 1)):
        cache.put(i, str(i), size)
    assert [cache.get(i) for i in range(4)] == ["0", None, "2", None]
    assert pickle.loads(pickle.dumps(cache)).get(0) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_values_of_a_mask(dtype: type) -> None:
    rng, most = np.random.default_rng(0), np.iinfo(dtype).max
    for shape in ((0,), (1,), (7, 9), (40, 30)):
        values = rng.integers(0, most, shape, dtype, endpoint=True)
        values[values > most // 2] = most
        assert present_values(values).tolist() == np.unique(values).tolist()
        assert present_values(values[::2]).tolist() == np.unique(values[::2]).tolist()
    assert present_values(np.zeros((5, 4), dtype)).tolist() == [0]
