"""Embeddings on disk: round trips, and damaged records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from autosam.data.embedding_store import INDEX, META, RECORDS, Layout, Store, entries
from autosam.errors import DataError
from autosam.types import ImageEmbedding

SHAPES = ((4, 3, 3), (2, 6, 6))
FACTS = {"sam": "abc", "views": 2, "pixel_mean": [1.5, 2.0, 3.0]}


def embedding(seed: int) -> ImageEmbedding:
    torch.manual_seed(seed)
    return ImageEmbedding(torch.randn(1, 4, 3, 3) * 3, (torch.randn(1, 2, 6, 6),))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Five records, of which 0, 1 and 3 are there."""
    store = Store.create(tmp_path / "s", FACTS, 5, Layout(SHAPES, "fp32"), "five")
    for i in (0, 1, 3):
        store.put(i, embedding(i))
    return store


@pytest.mark.parametrize(
    ("dtype", "size"), [("fp32", 432), ("bf16", 216), ("fp16", 216), ("int8", 108 + 4 * 6)]
)
def test_a_record_has_the_size_it_should_and_comes_back(dtype: str, size: int) -> None:
    layout, before = Layout(SHAPES, dtype), embedding(7)
    record = layout.pack(before)
    assert len(record) == layout.size == size
    after = layout.unpack(np.frombuffer(record, np.uint8).copy())
    for ours, given in zip(after.levels, before.levels, strict=True):
        assert ours.shape == given.shape
        error = (ours.float() - given).abs()
        if dtype == "int8":  # half a step of 1/127 of the channel's largest value
            bound = given.abs().amax((2, 3), keepdim=True) / 127 / 2 + 1e-6
        else:
            bound = given.abs() * {"fp32": 0, "bf16": 2**-8, "fp16": 2**-11}[dtype]
        assert (error <= bound).all()


def test_int8_by_hand() -> None:
    level = torch.tensor([[[[0.0, 1.27], [-2.54, 0.635]]]])
    layout = Layout(((1, 2, 2),), "int8")
    record = layout.pack(ImageEmbedding(level))
    assert np.frombuffer(record[:4], np.float32)[0] == pytest.approx(0.02)
    assert np.frombuffer(record[4:], np.int8).tolist() == [0, 64, -127, 32]  # halves to even


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "bf16"), (1e6, "fp16")])
def test_what_is_not_finite_is_refused(value: float, dtype: str) -> None:
    broken = embedding(0)
    broken.features[0, 1, 1, 1] = value
    with pytest.raises(DataError, match=f"not finite in {dtype}"):
        Layout(SHAPES, dtype).pack(broken)


def test_records_come_back_in_any_order(store: Store) -> None:
    again = Store.open(store.folder, FACTS, 5)
    assert again is not None
    assert again.layout == store.layout
    assert again.missing() == [2, 4]
    for i in (3, 0, 1):
        assert torch.equal(again.get(i).features, embedding(i).features)
        assert torch.equal(again.get(i).high_res_features[0], embedding(i).high_res_features[0])


def test_a_truncated_file_loses_what_is_not_whole(store: Store) -> None:
    path = store.folder / RECORDS
    path.write_bytes(path.read_bytes()[:-1])
    assert store.missing() == [2, 3, 4]
    path.write_bytes(b"")
    assert store.missing() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="--resume RUN, or starts again with --overwrite"):
        store.get(0)


def test_a_flipped_byte_is_detected(store: Store) -> None:
    path = store.folder / RECORDS
    content = bytearray(path.read_bytes())
    content[store.layout.size + 5] ^= 1
    content[3 * store.layout.size + 7] ^= 1  # found with the other
    path.write_bytes(content)
    said = r"embedding 1 is damaged, and 1 others\. The same command computes it again"
    with pytest.raises(DataError, match=said):
        store.get(1)
    assert store.missing() == [1, 2, 3, 4]
    store.get(0)


def test_a_record_that_was_never_written_is_not_read(store: Store) -> None:
    with pytest.raises(DataError, match="damaged"):  # a hole in the file, before record 3
        store.get(2)
    with pytest.raises(DataError):  # beyond its end
        store.get(4)


@pytest.mark.parametrize(
    "what", ["facts", "count", "index", "meta", "deep", "records", "no folder"]
)
def test_a_foreign_or_broken_folder_is_no_store(store: Store, what: str) -> None:
    folder, facts, count = store.folder, dict(FACTS), 5
    if what == "facts":
        facts["sam"] = "abd"
    elif what == "count":
        count = 6
    elif what == "index":
        (folder / INDEX).write_bytes(b"1234")
    elif what == "meta":
        (folder / META).write_text((folder / META).read_text()[:-9])
    elif what == "deep":
        (folder / META).write_text("[" * 99999)
        assert entries(folder.parent) == []
    elif what == "records":
        (folder / RECORDS).unlink()
    else:
        folder = folder / "none"
    assert Store.open(folder, facts, count) is None


def test_create_replaces_what_is_there(store: Store) -> None:
    again = Store.create(store.folder, {}, 2, Layout(SHAPES, "bf16"), "two")
    assert again.missing() == [0, 1]
    assert json.loads((store.folder / META).read_text())["title"] == "two"


def test_entries_list_stores_alone(store: Store) -> None:
    (store.folder.parent / "other").mkdir()
    (store.folder.parent / "file").write_text("x")
    (entry,) = entries(store.folder.parent)
    assert entry.folder == store.folder
    assert entry.title == "five"
    assert entry.done == pytest.approx(0.6)
    assert entry.bytes == sum(file.stat().st_size for file in store.folder.iterdir())
    assert entries(store.folder.parent / "none") == []
