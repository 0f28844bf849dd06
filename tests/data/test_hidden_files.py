"""Hidden and system files are ignored wherever a folder is read."""

from __future__ import annotations

from pathlib import Path

import miniature
import pytest

from autosam.config import DataConfig
from autosam.data.layouts import load_pairs
from autosam.utils.io import is_hidden, list_folder

APPLEDOUBLE = bytes.fromhex("00051607000200004d6163204f5320582020202020202020")


def litter(folder: Path) -> None:
    """Leave beside every file what macOS, Windows, a NAS and Jupyter leave there."""
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        (path.parent / f"._{path.name}").write_bytes(APPLEDOUBLE)
        for inner in ("__MACOSX", "@eaDir", ".ipynb_checkpoints", ".AppleDouble"):
            (path.parent / inner).mkdir(exist_ok=True)
            (path.parent / inner / path.name).write_bytes(APPLEDOUBLE)
    for sub in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (sub / name).write_bytes(b"\0")


@pytest.mark.parametrize(
    "layout", ["folders", "voc", "glas", "monuseg", "polyp", "stamps", "coco", "objects"]
)
def test_layouts_ignore_them(tmp_path: Path, layout: str) -> None:
    if layout == "folders":
        root = tmp_path / "train"
        for i in range(2):
            image, mask = miniature.draw_image(i)
            miniature.write(root / "images" / f"{i}.png", image)
            miniature.write(root / "masks" / f"{i}.png", mask)
        root = tmp_path
    else:
        root = getattr(miniature, layout)(tmp_path)
    config = DataConfig(layout=layout, root=str(root), instances=True)
    before = load_pairs(config)
    litter(root)
    assert [str(pair.image) for pair in load_pairs(config)] == [str(p.image) for p in before]
    assert [str(pair.mask) for pair in load_pairs(config)] == [str(p.mask) for p in before]


def test_what_is_hidden(tmp_path: Path) -> None:
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "THUMBS.DB", "Desktop.ini", "__MACOSX",
                 "@eaDir", ".AppleDouble", "$RECYCLE.BIN", "lost+found"):  # fmt: skip
        assert is_hidden(name)
    for name in ("a.png", "_a.png", "a.b.png", "thumbs.png", "a", "__x"):
        assert not is_hidden(name)
    base = tmp_path / ".cache" / "data"  # a hidden folder above does not count
    (base / "__MACOSX").mkdir(parents=True)
    for path in (base / "a.png", base / "__MACOSX" / "a.png", base / "._a.png"):
        path.write_bytes(b"")
    assert not is_hidden(base / "a.png", base)
    assert is_hidden(base / "__MACOSX" / "a.png", base)
    assert list_folder(base) == [base / "a.png"]
    assert list_folder(base, "**/*") == [base / "a.png"]
