"""The cache of image embeddings: computed once, never a wrong one, without effect on results."""

from __future__ import annotations

import errno
import json
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers import tiny_config
from PIL import Image

import autosam.training.fit
from autosam import embeddings
from autosam.config import Config
from autosam.config.commands import EvaluateConfig
from autosam.data.dataset import PairDataset
from autosam.data.embedding_store import RECORDS, Store, entries, prune
from autosam.errors import ConfigError, DataError
from autosam.evaluate import evaluate
from autosam.models.build import build_segmenter
from autosam.models.checkpoint import load
from autosam.models.sam import AbsentEncoder, load_sam
from autosam.models.segmenter import Segmenter
from autosam.train import train
from autosam.training.data import open_data
from autosam.training.embedding_cache import copies_of, folder_of, use_cache

CPU = torch.device("cpu")
Made = list[int]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Numbers of the records that were written, in order."""
    numbers: Made = []
    put = Store.put

    def counted(self: Store, i: int, embedding) -> None:
        put(self, i, embedding)
        numbers.append(i)

    monkeypatch.setattr(Store, "put", counted)
    return numbers


@pytest.fixture
def settings(tiny_file: Path, folders: Path) -> Callable[..., Config]:
    return partial(tiny_config, tiny_file, f"--data.root={folders}", "--cache.copies=2")


def splits(config: Config) -> dict[str, PairDataset]:
    """The training images, two views each."""
    input_spec = build_segmenter(config, encoder=False).input_spec
    return {"train": open_data(config, input_spec, copies_of(config)).train}


def cache(config: Config) -> Path:
    """Fill the cache of the training images; its folder."""
    data = splits(config)
    use_cache(config, data, CPU, workers=0)
    return data["train"].embeddings.store.folder  # type: ignore[union-attr]


def test_views_follow_the_sam_and_the_run() -> None:
    assert copies_of(Config()) == 0
    assert copies_of(Config(sam="vit_b")) == 4
    assert copies_of(Config(sam="vit_b", run="head")) == 0
    config = Config()
    config.cache.copies = 3
    assert copies_of(config) == 3


def test_every_view_is_made_once_and_is_the_encoders_own(settings, made: Made) -> None:
    config = settings("--cache.dtype=fp32")
    data = splits(config)
    use_cache(config, data, CPU, workers=0)
    assert made == list(range(12))
    dataset, sam = data["train"], load_sam(config.sam, config.sam_checkpoint)
    seen = set()
    for epoch in range(6):
        sample = dataset[epoch, 4]
        assert sample.sam_input is None
        assert sample.embedding is not None
        for view in range(2):
            image, valid = dataset.sam_input_of(4, view)
            fresh = sam.encode_image(image[None], torch.tensor([valid])).features
            if torch.allclose(fresh, sample.embedding.features, atol=1e-6):
                seen.add(view)
                assert sample.sam_valid == valid
    assert seen == {0, 1}
    cache(config)
    assert made == list(range(12))


@pytest.mark.parametrize(
    ("flag", "serves"),
    [
        ("--augment.color=0.1", True),
        ("--train.seed=7", True),
        ("--model.input_size=32", True),
        ("--run=decoder", True),
        ("--cache.copies=3", False),
        ("--augment.rotate=3", False),
        ("--cache.dtype=fp16", False),
    ],
)
def test_what_an_embedding_does_not_depend_on_does_not_matter(
    settings, made: Made, flag: str, serves: bool
) -> None:
    first = cache(settings())
    again = cache(settings(flag))
    assert (first == again) == serves
    assert (len(made) == 12) == serves


def test_another_image_or_other_weights_are_another_cache(
    settings, folders: Path, tmp_path: Path, made: Made
) -> None:
    first = cache(settings())
    path = folders / "train" / "images" / "img03.png"
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    second = cache(settings())
    state = torch.load(settings().sam_checkpoint, weights_only=True)
    state["image_encoder.pos_embed"] += 1e-3
    torch.save(state, tmp_path / "other.pth")
    third = cache(settings(f"--sam_checkpoint={tmp_path / 'other.pth'}"))
    assert len({first, second, third}) == 3
    assert len(made) == 36


def test_a_killed_build_goes_on_where_it_stopped(
    settings, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        counted = Store.put

        def killed(self: Store, i: int, embedding) -> None:
            if i == 7:
                raise KeyboardInterrupt
            counted(self, i, embedding)

        patch.setattr(Store, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            cache(settings())
    assert made == list(range(7))
    folder = cache(settings())
    assert made == list(range(12))
    (folder / RECORDS).write_bytes((folder / RECORDS).read_bytes()[:-1])
    cache(settings())
    assert made[12:] == [11]


def test_of_two_that_want_a_cache_one_makes_it(settings, made: Made) -> None:
    first = threading.Thread(target=cache, args=(settings(),))
    second = threading.Thread(target=cache, args=(settings(),))
    first.start()
    second.start()
    first.join()
    second.join()
    assert sorted(made) == list(range(12))


def test_no_room_is_said_before_anything_is_made(settings, capsys) -> None:
    with pytest.raises(DataError, match=r"max_gb 1e-05: the cache of train .* needs 0\.00 GB"):
        cache(settings("--cache.max_gb=1e-5"))
    assert entries(folder_of(settings().cache)) == []
    assert "12 records" not in capsys.readouterr().out


def test_a_full_disk_is_said_and_leaves_what_was_made(
    settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, i: int, embedding) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", full)
        with pytest.raises(DataError, match=r"the disk is full .* continue where it stopped"):
            cache(settings())
    cache(settings())


def test_an_embedding_that_is_not_finite_names_its_image(settings, tmp_path: Path) -> None:
    state = torch.load(settings().sam_checkpoint, weights_only=True)
    state["image_encoder.pos_embed"] *= 1e37  # finite itself
    torch.save(state, tmp_path / "large.pth")
    with pytest.raises(DataError, match="not finite"):
        cache(settings(f"--sam_checkpoint={tmp_path / 'large.pth'}"))


@pytest.mark.parametrize(
    "name",
    [
        "autosam",
        "decoder",
        "decoder-box",
        "decoder --embedding=shuffled",
        "autosam --model.sam_features=blocks",
        "autosam --model.sam_features=last --model.backbone=none",
        "lora --lora.blocks=1",
        "autosam-lora --lora.blocks=1 --model.sam_features=blocks",
    ],
)
def test_training_from_the_cache_equals_training_without(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    flags = (*f"--run={name}".split(), "--cache.dtype=fp32", "--train.epochs=3")
    cached = train(settings(*flags, f"--output={tmp_path / 'cached'}"))
    monkeypatch.setattr(autosam.training.fit, "use_cache", lambda *args: None)
    monkeypatch.setattr(autosam.training.fit, "build_segmenter", lambda config, **_: build(config))
    build = build_segmenter
    fresh = train(settings(*flags, f"--output={tmp_path / 'fresh'}"))
    for ours, theirs in zip(losses(cached.folder), losses(fresh.folder), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert cached.test["dice"] == pytest.approx(fresh.test["dice"], abs=1e-3)


def losses(folder: Path) -> list[float]:
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)[k] for row in rows for k in ("train/loss", "validation/loss")]


def test_the_encoder_is_not_in_memory_while_training(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Segmenter] = []
    build = build_segmenter

    def spy(*args, **kwargs) -> Segmenter:
        seen.append(build(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(autosam.training.fit, "build_segmenter", spy)
    result = train(settings(f"--output={tmp_path / 'run'}"))
    assert isinstance(seen[0].sam.image_encoder, AbsentEncoder)  # type: ignore[union-attr]
    # The checkpoint serves where there is no cache, with the score that training found.
    scores = evaluate(EvaluateConfig(checkpoint=str(result.folder)))
    assert scores["dice"] == pytest.approx(result.test["dice"], abs=0.02)
    whole = sum(p.numel() for p in load(result.folder).segmenter.parameters())
    summary = (result.folder / "scores.yaml").read_text()
    trained = sum(p.numel() for p in seen[0].parameters() if p.requires_grad)
    assert f"frozen: {whole - trained}\n" in summary


def test_a_sam_without_encoder_refuses_to_encode(tiny_file: Path) -> None:
    sam = load_sam("tiny", tiny_file, encoder=False)
    with pytest.raises(RuntimeError, match="without its image encoder"):
        sam.encode_image(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]]))


def test_an_untrained_run_caches_no_training_images(settings, tmp_path: Path) -> None:
    config = settings("--run=sam-box", f"--output={tmp_path / 'run'}")
    train(config)
    titles = [entry.title for entry in entries(folder_of(config.cache))]
    assert sorted(title.split()[0] for title in titles) == ["test", "validation"]


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["autosam.embeddings", *words])
    embeddings.main()


def test_list_and_prune(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "caches"
    where = f"--cache.dir={root}"
    first, second = cache(settings(where)), cache(settings(where, "--cache.copies=1"))
    command(monkeypatch, f"--dir={root}", "list")
    out = capsys.readouterr().out
    assert first.name in out
    assert "SAM tiny, 6 images x 2 copies" in out
    assert "2 caches" in out
    with pytest.raises(DataError, match="no cache nowhere"):
        prune(root, ["nowhere"], None)
    with FileLock(root / f"{first.name}.lock"), pytest.raises(DataError, match="another process"):
        prune(root, [first.name], None)
    command(monkeypatch, f"--dir={root}", "prune", first.name)
    assert not first.exists()
    assert second.exists()
    command(monkeypatch, f"--dir={root}", "prune", "--days", "1")
    assert second.exists()
    command(monkeypatch, f"--dir={root}", "prune", "--days", "0")
    assert not second.exists()
    with pytest.raises(SystemExit):
        command(monkeypatch, "prune")
    (root / "notes.txt").write_text("mine")  # what is no cache is left alone
    prune(root, [], 0)
    assert (root / "notes.txt").exists()


def test_views_out_of_range_are_refused(settings) -> None:
    with pytest.raises(ConfigError, match=r"--cache\.copies -1"):
        train(settings("--cache.copies=-1"))
