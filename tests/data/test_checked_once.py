"""Files are decoded and hashed once until they change."""

from __future__ import annotations

import os
import pickle
import time
from collections import Counter, OrderedDict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autosam.comparison import jobs
from autosam.config import DataConfig
from autosam.data import checks, images, known_digests
from autosam.data.checks import decode_pairs, kept_checks
from autosam.data.images import ImageFile, MaskFile
from autosam.data.known_digests import kept_digests
from autosam.data.pairs import Pair
from autosam.data.readers import file_cache


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file has been decoded."""
    found: Counter[str] = Counter()
    plain = images.PlainImage.__init__

    def counted(self: images.PlainImage, source: Path | bytes, name: str) -> None:
        found[Path(name).name] += 1
        plain(self, source, name)

    monkeypatch.setattr(images.PlainImage, "__init__", counted)
    return found


def draw(folder: Path, value: int = 255) -> Pair:
    """A BMP, whose size does not depend on its pixels."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = value
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(folder / "a.bmp")
    Image.fromarray(mask).save(folder / "mask.bmp")
    return Pair("a", ImageFile(folder / "a.bmp"), MaskFile(folder / "mask.bmp"))


def values(pair: Pair) -> tuple[int, ...]:
    """The distinct values of the mask."""
    [check] = decode_pairs([pair], DataConfig())
    return check.stats[0].values


def test_files_that_do_not_change_are_decoded_once(
    tmp_path: Path, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = draw(tmp_path)
    monkeypatch.setattr(file_cache, "SETTLED", 0.0)
    time.sleep(0.02)
    for _ in range(3):
        assert values(pair) == (0, 255)
    assert decoded == {"a.bmp": 1, "mask.bmp": 1}
    # By other settings it is another check.
    [check] = decode_pairs([pair], DataConfig(ignore=255))
    assert check.stats[0].values == (0,)
    # The same files by a relative path.
    monkeypatch.chdir(tmp_path)
    assert values(Pair("a", ImageFile(Path("a.bmp")), MaskFile(Path("mask.bmp")))) == (0, 255)
    assert decoded == {"a.bmp": 2, "mask.bmp": 2}


def inspections(pair: Pair) -> int:
    """How many pairs `decode_pairs` decodes."""
    with pytest.MonkeyPatch.context() as patch:
        found: list[Pair] = []
        inspect = checks._inspect

        def counted(pair: Pair, config: DataConfig) -> checks.PairCheck:
            found.append(pair)
            return inspect(pair, config)

        patch.setattr(checks, "_inspect", counted)
        patch.setattr(file_cache, "SETTLED", 0.0)
        decode_pairs([pair], DataConfig())
        return len(found)


def test_processes_are_told_what_was_checked(tmp_path: Path) -> None:
    pair = draw(tmp_path)
    time.sleep(0.02)
    assert inspections(pair) == 1
    (tmp_path / "checks").write_bytes(pickle.dumps(kept_checks()))
    settings = get_context("spawn"), jobs._initialize_process, (1, 1, tmp_path / "checks")
    with ProcessPoolExecutor(1, *settings) as pool:
        assert pool.submit(inspections, pair).result() == 0


def test_changed_pixels_are_noticed_where_size_and_time_are_those_before(
    tmp_path: Path, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = draw(tmp_path)
    os.utime(tmp_path / "mask.bmp", (10**9, 10**9))
    monkeypatch.setattr(file_cache, "SETTLED", 0.0)
    time.sleep(0.02)
    before = (tmp_path / "mask.bmp").stat()
    assert values(pair) == (0, 255)
    digest = pair.mask.digest()
    time.sleep(0.02)
    draw(tmp_path, 7)
    os.utime(tmp_path / "mask.bmp", (10**9, 10**9))
    after = (tmp_path / "mask.bmp").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert values(pair) == (0, 7)
    assert pair.mask.digest() != digest
    assert decoded["mask.bmp"] == 2


def test_changes_at_once_are_noticed(tmp_path: Path) -> None:
    """Many a file system dates changes by steps of milliseconds or seconds."""
    pair, digests = draw(tmp_path), set()
    for value in range(1, 31):
        draw(tmp_path, value)
        for name in ("a.bmp", "mask.bmp"):
            os.utime(tmp_path / name, (10**9, 10**9))
        assert values(pair) == (0, value)
        digests.add(pair.image.digest())
    assert len(digests) == 30


def test_a_sidecar_is_part_of_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_cache, "SETTLED", -1.0)
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    before = file_cache.stamp(path)
    digest = MaskFile(path).digest()
    assert before is not None
    (tmp_path / "a.tif.aux.xml").write_text("<a><NoDataValue>0</NoDataValue></a>")
    assert file_cache.stamp(path) != before
    assert MaskFile(path).digest() != digest
    assert file_cache.stamp(tmp_path) is None
    assert file_cache.stamp(tmp_path / "b.tif") is None


def test_digests_are_kept_for_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = draw(tmp_path)
    monkeypatch.setattr(file_cache, "SETTLED", 0.0)
    time.sleep(0.02)
    read: list[Path] = []
    compute = images._digest

    def counted(path: Path, how: str) -> str:
        read.append(path)
        return compute(path, how)

    monkeypatch.setattr(images, "_digest", counted)
    found = []
    for _ in range(3):  # three processes
        forget(monkeypatch)
        with kept_digests(tmp_path / "cache"):
            found.append(pair.image.digest())
    assert len(set(found)) == 1
    assert len(read) == 1
    draw(tmp_path, 9)
    time.sleep(0.02)
    with kept_digests(tmp_path / "cache"):
        assert pair.image.digest() != found[0]
    (tmp_path / "cache" / known_digests.FILE).write_text("[1")
    forget(monkeypatch)
    with kept_digests(tmp_path / "cache"):
        pair.image.digest()
    forget(monkeypatch)
    with kept_digests(tmp_path / "cache"):
        pair.image.digest()
    assert len(read) == 3  # the first, the changed file, the damaged list of digests


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process."""
    monkeypatch.setattr(known_digests, "_known", OrderedDict())
    monkeypatch.setattr(known_digests, "_asked", set())


def test_of_too_many_files_as_many_are_known_as_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_digests, "MOST", 5)
    monkeypatch.setattr(known_digests, "stamp", lambda path: path)
    read: list[Path] = []

    def digests(names: str) -> int:
        """How many files a new process reads."""
        forget(monkeypatch)
        read.clear()
        with kept_digests(tmp_path):
            for path in map(Path, names):
                known_digests.digest_once(path, "", lambda path=path: read.append(path) or "0")
        return len(read)

    assert [digests("abcdefg") for _ in range(3)] == [7, 2, 2]
    assert [digests("vwxyz") for _ in range(2)] == [5, 0]  # instead of what nobody asked for
    assert [digests("vwx"), digests("ab"), digests("ab")] == [0, 2, 0]
