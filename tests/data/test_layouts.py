"""Each layout on a small example, and the messages about invalid ones."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import miniature
import numpy as np
import pytest

from autosam.config import DataConfig
from autosam.data.layouts import LAYOUTS, load_pairs, load_splits
from autosam.data.pairs import SPLITS
from autosam.errors import ConfigError, DataError


def sizes(config: DataConfig) -> list[int]:
    splits = load_splits(config)
    return [len(splits[split]) for split in SPLITS]


def test_every_layout_has_a_test_here() -> None:
    tested = {
        "folders",
        "manifest",
        "coco",
        "voc",
        "huggingface",
        "glas",
        "monuseg",
        "polyp",
        "stamps",
        "volumes",
        "objects",
        "rasters",
    }  # in test_rasters.py; fmt: skip
    assert set(LAYOUTS) == tested


# ---- VOC ----------------------------------------------------------------------------------------


def test_voc(tmp_path: Path) -> None:
    config = DataConfig(layout="voc", root=str(miniature.voc(tmp_path)), num_classes=2, ignore=255)
    splits = load_splits(config)
    assert {split: len(pairs) for split, pairs in splits.items()} == dict(
        zip(SPLITS, (4, 1, 1), strict=True)
    )
    values = splits["train"][1].mask.read()
    assert sorted(np.unique(values)) == [0, 2, 255]
    with open(tmp_path / "ImageSets/Segmentation/train.txt", "a") as file:
        file.write("\n2007_999999\n")
    with pytest.raises(DataError, match=r"train\.txt:6: 2007_999999 is not in .*JPEGImages"):
        load_splits(config)


# ---- GlaS ---------------------------------------------------------------------------------------


def test_glas(tmp_path: Path) -> None:
    config = DataConfig(layout="glas", root=str(miniature.glas(tmp_path)), instances=True,
                        validation=0.34)  # fmt: skip
    splits = load_splits(config)
    assert [pair.name for pair in splits["test"]] == [
        "testA/testA_1", "testA/testA_2", "testB/testB_1",
    ]  # fmt: skip
    assert len(splits["train"]) == 4
    patients = {pair.group for pair in splits["validation"]}
    assert len(patients) == 1  # the two tiles of a patient stay together
    assert not patients & {pair.group for pair in splits["train"]}
    (tmp_path / "train_3_anno.bmp").unlink()
    with pytest.raises(DataError, match=r"train_3\.bmp: has no mask train_3_anno\.bmp"):
        load_pairs(config)


# ---- polyps -------------------------------------------------------------------------------------


def test_polyps(tmp_path: Path) -> None:
    config = DataConfig(layout="polyp", root=str(miniature.polyp(tmp_path)))
    splits = load_splits(config)
    assert [pair.name for pair in splits["test"]] == [
        "CVC-300/0", "CVC-300/1", "Kvasir/0", "Kvasir/1",
    ]  # fmt: skip
    assert len(splits["train"]) + len(splits["validation"]) == 6
    (tmp_path / "TestDataset/Kvasir/masks").rename(tmp_path / "TestDataset/Kvasir/truth")
    with pytest.raises(DataError, match=r"Kvasir/masks: no such folder"):
        load_splits(config)


# ---- a file for each object ---------------------------------------------------------------------


def test_objects(tmp_path: Path) -> None:
    config = DataConfig(layout="objects", root=str(miniature.objects(tmp_path)))
    pairs = load_pairs(config)
    assert [pair.name for pair in pairs] == [f"cell{i}" for i in range(8)]
    expected = miniature.draw_image(0)[1].copy()
    expected[2:8, 2:10] = True
    assert np.array_equal(pairs[0].mask.read(), expected.astype(np.uint8))
    assert not pairs[-1].mask.read().any()
    assert len({pair.mask.digest() for pair in pairs}) == 8
    assert sizes(config) == [6, 1, 1]
    for split, names in (("train", range(5)), ("val", [5, 6]), ("test", [7])):
        (tmp_path / "given" / split).mkdir(parents=True)
        for i in names:
            (tmp_path / f"cell{i}").rename(tmp_path / "given" / split / f"cell{i}")
    assert sizes(DataConfig(layout="objects", root=str(tmp_path / "given"))) == [5, 2, 1]


# ---- stamps -------------------------------------------------------------------------------------


def test_stamps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = DataConfig(layout="stamps", root=str(miniature.stamps(tmp_path)))
    pairs = load_pairs(config)
    _, mask = miniature.draw_image(0, (56, 40))
    mask[:, ::4] = False
    assert np.array_equal(pairs[0].mask.read(), mask)
    region = pairs[0].regions.read()
    rows, columns = np.nonzero(mask)
    assert region.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    (tmp_path / "ground-truth-pixel/ground-truth-pixel/stampDS-00008-px.png").unlink()
    with caplog.at_level("WARNING", logger="autosam"):
        assert len(load_pairs(config)) == 7
    assert "1 scans without pixel truth are skipped, for example stampDS-00008." in caplog.text
    (tmp_path / "ground-truth-maps/ground-truth-maps/stampDS-00002-gt.png").unlink()
    with pytest.raises(DataError, match=r"stampDS-00002\.png: has no region map stampDS-00002-gt"):
        load_pairs(config)


# ---- manifests ----------------------------------------------------------------------------------


def manifest(root: Path, rows: list[dict[str, str]], name: str = "list.csv") -> DataConfig:
    path = root / name
    if name.endswith(".csv"):
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataConfig(layout="manifest", root=str(path))


ROWS = [
    {
        "image": f"images/{i:03d}.jpg",
        "mask": f"masks/{i:03d}.png",
        "split": "test" if i > 5 else "val" if i > 3 else "train",
        "group": f"patient {i // 2}",
    }
    for i in range(8)
]


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_manifest_with_splits_and_groups(tmp_path: Path, name: str) -> None:
    miniature.folders(tmp_path)
    splits = load_splits(manifest(tmp_path, ROWS, name))
    assert [len(splits[split]) for split in SPLITS] == [4, 2, 2]
    assert splits["test"][0].group == "patient 3"
    assert splits["test"][0].image.path == tmp_path / "images/006.jpg"


def test_names_with_spaces_and_umlauts(tmp_path: Path) -> None:
    miniature.folders(tmp_path, 6)
    for folder in ("images", "masks"):
        for path in (tmp_path / folder).iterdir():
            path.rename(path.with_name(f"Übung {path.name}"))
    rows = [
        {"image": f"images/Übung {i:03d}.jpg", "mask": f"masks/Übung {i:03d}.png"} for i in range(6)
    ]
    assert sum(sizes(manifest(tmp_path, rows))) == 6
    assert sum(sizes(DataConfig(root=str(tmp_path)))) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "/etc/passwd.png"}, r"list\.csv:3: /etc/passwd\.png is outside of"),
        ({"image": "../images/001.jpg"}, r"list\.csv:3: \.\./images/001\.jpg is outside of"),
        ({"image": "images/none.jpg"}, r"list\.csv:3: .*none\.jpg: no such file"),
        ({"image": "images/001.h5"}, r"list\.csv:3: images/001\.h5 is not an image"),
        ({"image": "images/000.jpg"}, r"list\.csv:3: .*000\.jpg is a duplicate of line 2"),
        ({"mask": ""}, r"list\.csv:3: no 'mask'; columns found: image, mask, split, group"),
        ({"split": "holdout"}, r"list\.csv:3: split 'holdout'; expected train, validation, test"),
        ({"split": ""}, r"1 of 8 lines have no split\. Set all or none"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    miniature.folders(tmp_path)
    rows = [dict(row) for row in ROWS]
    rows[1] |= change
    with pytest.raises(DataError, match=message):
        load_splits(manifest(tmp_path, rows))


def test_malformed_tables_name_the_line(tmp_path: Path) -> None:
    miniature.folders(tmp_path)
    config = manifest(tmp_path, ROWS)
    path = Path(config.root)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], "only,two"]))
    with pytest.raises(DataError, match=r"list\.csv:4: expected 4 values \(image, mask"):
        load_splits(config)
    path.write_text("\n".join([*lines[:3], '"images/x.jpg,masks']))
    with pytest.raises(DataError, match=r"list\.csv:4: not CSV: unexpected end"):
        load_splits(config)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"list\.csv: not UTF-8"):
        load_splits(config)
    config = manifest(tmp_path, ROWS, "list.jsonl")
    with open(config.root, "a") as file:
        file.write("{nonsense\n")
    with pytest.raises(DataError, match=r"list\.jsonl:9: not JSON"):
        load_splits(config)


TABLE = "image{0}mask{0}split\nimages/000.jpg{0}masks/000.png{0}train\n"
COMMA = TABLE.format(",")


@pytest.mark.parametrize(
    "text",
    [
        COMMA,
        TABLE.format(";"),
        TABLE.format("\t"),
        TABLE.format(", "),
        TABLE.format(";").replace("\n", "\r\n"),
        "sep=;\r\n" + TABLE.format(";"),
        "\ufeff" + COMMA,
        TABLE.format("\t").encode("utf-16"),
        COMMA.replace("\n", ",\n"),
        COMMA.replace("\n", ",,,\n"),
        COMMA.replace("train\n", "train,,\n"),
        COMMA.replace("\n", "\n\n,,\n"),
        "\n" + COMMA,
        COMMA.replace("images/000.jpg", '"images/000.jpg"'),
        COMMA.replace("images/000.jpg,", '"images/000.jpg", '),
        COMMA.replace("images/", "images\\").replace("masks/", "masks\\"),
        COMMA.replace("images/", "./images/"),
        COMMA.replace("images/", "ROOT/images/").replace("masks/", "ROOT/masks/"),
    ],
)
def test_tables_as_programs_write_them(tmp_path: Path, text: str | bytes) -> None:
    miniature.folders(tmp_path)
    if isinstance(text, str):
        text = text.replace("ROOT", str(tmp_path)).encode()
    (tmp_path / "list.csv").write_bytes(text)
    [pair] = load_pairs(DataConfig(layout="manifest", root=str(tmp_path / "list.csv")))
    assert (pair.name, pair.split) == ("images-000", "train")
    assert pair.image.read().shape == (40, 56, 3)
    assert pair.mask.read().shape == (40, 56)


@pytest.mark.parametrize("name", ["list.jsonl", "list.json"])
def test_json_as_programs_write_it(tmp_path: Path, name: str) -> None:
    miniature.folders(tmp_path)
    rows = [{"image": f"images\\{i:03d}.jpg", "mask": str(tmp_path / f"masks/{i:03d}.png")}
            for i in range(2)]  # fmt: skip
    lines = "\ufeff" + "".join(json.dumps(row) + "\r\n\r\n" for row in rows)
    text = json.dumps(rows, indent=1) if name == "list.json" else lines
    (tmp_path / name).write_text(text, encoding="utf-8")
    pairs = load_pairs(DataConfig(layout="manifest", root=str(tmp_path / name)))
    assert [pair.name for pair in pairs] == ["images-000", "images-001"]
    assert pairs[1].mask.read().any()


def test_an_image_under_two_spellings_is_one(tmp_path: Path) -> None:
    miniature.folders(tmp_path)
    rows = [ROWS[0], ROWS[1] | {"image": str(tmp_path / "images/000.jpg")}]
    with pytest.raises(DataError, match=r"list\.csv:3: .*000\.jpg is a duplicate of line 2"):
        load_pairs(manifest(tmp_path, rows))
    linked = tmp_path / "link"
    linked.symlink_to(tmp_path, target_is_directory=True)
    rows = [ROWS[0] | {"image": str(linked / "images/000.jpg")}]
    assert load_pairs(manifest(tmp_path, rows))[0].image.read().any()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_text_are_refused_before_work_starts(tmp_path: Path) -> None:
    miniature.folders(tmp_path)
    for folder, suffix in (("images", ".jpg"), ("masks", ".png")):
        path = tmp_path / folder / f"003{suffix}"
        path.rename(path.with_name(os.fsdecode(b"gr\xfcn" + suffix.encode())))
    with pytest.raises(DataError, match=r"gr\\xfcn.*a file name that is not UTF-8"):
        load_splits(DataConfig(root=str(tmp_path)))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such locale")
@pytest.mark.parametrize("layout", ["folders", "manifest"])
def test_an_ascii_locale_is_refused_before_work_starts(tmp_path: Path, layout: str) -> None:
    miniature.folders(tmp_path)
    for path in [*tmp_path.glob("*/003.*")]:
        path.rename(path.with_name(f"gr\u00fcn{path.suffix}"))
    root = str(tmp_path)
    if layout == "manifest":
        root = str(tmp_path / "list.csv")
        text = "image,mask\nimages/gr\u00fcn.jpg,masks/gr\u00fcn.png\n"
        Path(root).write_text(text, encoding="utf-8")
    code = (
        "import sys; from autosam.config import DataConfig\n"
        "from autosam.data.layouts import load_pairs; from autosam.errors import DataError\n"
        "try: load_pairs(DataConfig(sys.argv[1], sys.argv[2]))\n"
        "except DataError as error: print(error, file=sys.stderr)"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, layout, root]
    done = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True)
    assert "PYTHONUTF8=1" in done.stderr
    assert "list.csv:2: " in done.stderr or layout == "folders"


def test_paths_outside_on_request(tmp_path: Path) -> None:
    miniature.folders(tmp_path)
    (tmp_path / "lists").mkdir()
    rows = [row | {"image": f"../{row['image']}", "mask": f"../{row['mask']}"} for row in ROWS]
    config = manifest(tmp_path / "lists", rows)
    with pytest.raises(DataError, match=r"--data.outside true"):
        load_splits(config)
    config.outside = True
    assert sizes(config) == [4, 2, 2]


# ---- Hugging Face -------------------------------------------------------------------------------


def test_a_saved_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    root = str(miniature.hub(tmp_path / "elwha"))
    config = DataConfig(layout="huggingface", root=root, mask_column="label", test=0.34)
    splits = load_splits(config)
    assert [len(splits[split]) for split in SPLITS] == [4, 2, 2]
    image, mask = miniature.draw_image(6)
    assert np.array_equal(splits["validation"][0].image.read(), image)
    assert np.array_equal(splits["validation"][0].mask.read(), mask)
    config.mask_column = "mask"
    with pytest.raises(DataError, match=r"no column 'mask'; it has image, label"):
        load_pairs(config)
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"--data.root nobody/nothing"):
        load_pairs(DataConfig(layout="huggingface", root="nobody/nothing"))


# ---- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(layout="coco", images="x"), "--data.images and --data.annotations go together"),
        (DataConfig(layout="glas"), "--data.layout glas needs --data.root DIR"),
        (DataConfig(layout="pascal"), r"--data.layout pascal: unknown. .*voc, huggingface"),
        (DataConfig(layout="voc", root="nowhere"), "--data.root nowhere: no such folder"),
        (DataConfig(layout="manifest", root="nowhere.csv"), "nowhere.csv: no such file"),
    ],
)
def test_settings_that_cannot_be(config: DataConfig, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        load_splits(config)
