"""MoNuSeg: tiles, outlines in XML, and the messages about invalid ones."""

from __future__ import annotations

from pathlib import Path

import miniature
import numpy as np
import pytest

from autosam.config import DataConfig
from autosam.data.layouts import load_pairs, load_splits
from autosam.data.pairs import SPLITS
from autosam.errors import DataError


def test_monuseg(tmp_path: Path) -> None:
    config = DataConfig(layout="monuseg", root=str(miniature.monuseg(tmp_path)), validation=0.25)
    splits = load_splits(config)
    assert [len(splits[split]) for split in SPLITS] == [3, 1, 2]
    assert splits["test"][0].group == "TCGA-18-4004"
    (tmp_path / "MoNuSegTestData/TCGA-18-4005-01Z-00-DX1.xml").unlink()
    with pytest.raises(DataError, match=r"TCGA-18-4005-01Z-00-DX1\.tif: has no XML \(1 such"):
        load_pairs(config)


def test_nuclei_agree_with_an_independent_rasteriser(tmp_path: Path) -> None:
    """Holes, overlaps and vertices out of the image, against scikit-image."""
    from skimage.draw import polygon2mask

    rng = np.random.default_rng(0)
    polygons, expected = [], np.zeros((300, 260), bool)
    holes = np.zeros_like(expected)
    for i in range(60):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        centre = rng.uniform((-5, -5), (265, 305))
        radius = rng.uniform(6, 24) * rng.uniform(0.8, 1.2, 12)
        points = centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        hole = i % 10 == 9
        polygons.append((hole, [(round(x, 2), round(y, 2)) for x, y in points]))
        mask = polygon2mask(expected.shape, np.array(polygons[-1][1])[:, ::-1])
        if hole:
            holes |= mask
        else:
            expected |= mask
    expected &= ~holes
    path = tmp_path / "TCGA-1.xml"
    path.write_text(miniature.aperio(polygons), encoding="utf-8")
    miniature.write(tmp_path / "TCGA-1.tif", np.zeros((*expected.shape, 3), np.uint8))
    config = DataConfig(layout="monuseg", root=str(tmp_path))
    found = load_pairs(config)[0].mask.read() > 0
    assert 0.2 < expected.mean() < 0.5
    assert (found != expected).mean() < 0.005


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<Annotations>\n<Annotation>\n", r"xml:3: not XML"),
        ("<html/>", "expected <Annotations>, found <html>"),
        (
            miniature.aperio([(False, [(1, 2), ("x", 3)])]),
            "region 1: a vertex without X or Y",
        ),
        (miniature.aperio([(False, [("nan", 2)])]), "region 1: a vertex without X or Y as numbers"),
        (miniature.aperio([(False, [(1, "inf")])]), "region 1: a vertex without X or Y as numbers"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><Annotations/>', "with DOCTYPE or ENTITY"),
    ],
)
def test_malformed_xml(tmp_path: Path, text: str, message: str) -> None:
    miniature.write(tmp_path / "a.tif", np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "a.xml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_pairs(DataConfig(layout="monuseg", root=str(tmp_path)))[0].mask.read()


def square(left: float, top: float, side: float) -> list[tuple[float, float]]:
    """Vertices of a square whose first pixel is (left, top); vertices are at pixel centres."""
    low, high = (left - 0.5, top - 0.5), (left + side - 0.5, top + side - 0.5)
    return [low, (high[0], low[1]), high, (low[0], high[1])]


def test_what_is_lost_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A nucleus in a hole, and regions that hold no pixel."""
    for name, regions in {
        "hole": [(False, square(2, 2, 20)), (True, square(4, 4, 10)), (False, square(7, 7, 3))],
        "empty": [(False, square(1, 1, 3)), (False, [(5, 5), (6, 6)]), (False, square(90, 0, 4))],
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        miniature.write(folder / "a.tif", np.zeros((30, 30, 3), np.uint8))
        (folder / "a.xml").write_text(miniature.aperio(regions), encoding="utf-8")
        mask = load_pairs(DataConfig(layout="monuseg", root=str(folder)))[0].mask
        found = mask.read_instances()
        assert np.bincount(found.ids.ravel())[1:].tolist() == [{"hole": 300, "empty": 9}[name]]
    said = caplog.text
    assert f"{tmp_path / 'hole' / 'a.xml'}: 1 of 2 objects lie wholly in holes" in said
    assert f"{tmp_path / 'empty' / 'a.xml'}: 2 of 3 regions enclose no pixel" in said
    assert "listed twice" not in said
