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
        (miniature.aperio([(False, [("nan", 2)])]), "region 1: expected polygons"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><Annotations/>', "with DOCTYPE or ENTITY"),
    ],
)
def test_malformed_xml(tmp_path: Path, text: str, message: str) -> None:
    miniature.write(tmp_path / "a.tif", np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "a.xml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_pairs(DataConfig(layout="monuseg", root=str(tmp_path)))[0].mask.read()
