"""Each layout on a miniature, and what is wrong with it named."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import miniature
import numpy as np
import pytest

from autosam.config import ClassConfig, DataConfig
from autosam.data.labels import class_masks
from autosam.data.pairs import PARTS
from autosam.data.sources import LAYOUTS, load_pairs, load_split
from autosam.errors import ConfigError, DataError


def sizes(config: DataConfig) -> list[int]:
    split = load_split(config)
    return [len(split[part]) for part in PARTS]


def test_every_layout_has_a_test_here() -> None:
    tested = {"folders", "manifest", "coco", "voc", "huggingface", "glas", "monuseg", "polyp",
              "stamps", "volumes"}  # fmt: skip
    assert set(LAYOUTS) == tested


# ---- VOC ----------------------------------------------------------------------------------------


def test_voc(tmp_path: Path) -> None:
    config = DataConfig(layout="voc", root=str(miniature.voc(tmp_path)), num_classes=2, ignore=255)
    split = load_split(config)
    assert {part: len(pairs) for part, pairs in split.items()} == dict(
        zip(PARTS, (4, 1, 1), strict=True)
    )
    values = split["train"][1].mask.read()
    assert sorted(np.unique(values)) == [0, 2, 255]
    with open(tmp_path / "ImageSets/Segmentation/train.txt", "a") as file:
        file.write("\n2007_999999\n")
    with pytest.raises(DataError, match=r"train\.txt:6: 2007_999999 is not in .*JPEGImages"):
        load_split(config)


# ---- GlaS ---------------------------------------------------------------------------------------


def test_glas(tmp_path: Path) -> None:
    config = DataConfig(layout="glas", root=str(miniature.glas(tmp_path)), instances=True,
                        validation=0.34)  # fmt: skip
    split = load_split(config)
    assert [pair.name for pair in split["test"]] == [
        "testA/testA_1", "testA/testA_2", "testB/testB_1",
    ]  # fmt: skip
    assert len(split["train"]) == 4
    patients = {pair.group for pair in split["validation"]}
    assert len(patients) == 1  # the two tiles of a patient stay together
    assert not patients & {pair.group for pair in split["train"]}
    (tmp_path / "train_3_anno.bmp").unlink()
    with pytest.raises(DataError, match=r"train_3\.bmp: has no mask train_3_anno\.bmp"):
        load_pairs(config)


# ---- polyps -------------------------------------------------------------------------------------


def test_polyps(tmp_path: Path) -> None:
    config = DataConfig(layout="polyp", root=str(miniature.polyp(tmp_path)))
    split = load_split(config)
    assert [pair.name for pair in split["test"]] == [
        "CVC-300/0", "CVC-300/1", "Kvasir/0", "Kvasir/1",
    ]  # fmt: skip
    assert len(split["train"]) + len(split["validation"]) == 6
    (tmp_path / "TestDataset/Kvasir/masks").rename(tmp_path / "TestDataset/Kvasir/truth")
    with pytest.raises(DataError, match=r"Kvasir/masks: no such folder"):
        load_split(config)


# ---- stamps -------------------------------------------------------------------------------------


def test_stamps(tmp_path: Path) -> None:
    config = DataConfig(layout="stamps", root=str(miniature.stamps(tmp_path)))
    pairs = load_pairs(config)
    _, mask = miniature.picture(0, (56, 40))
    mask[:, ::4] = False
    assert np.array_equal(pairs[0].mask.read(), mask)
    region = pairs[0].regions.read()
    rows, columns = np.nonzero(mask)
    assert region.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
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
    split = load_split(manifest(tmp_path, ROWS, name))
    assert [len(split[part]) for part in PARTS] == [4, 2, 2]
    assert split["test"][0].group == "patient 3"
    assert split["test"][0].image.path == tmp_path / "images/006.jpg"


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
        ({"image": "/etc/passwd.png"}, r"list\.csv:3: /etc/passwd\.png leads out of"),
        ({"image": "../images/001.jpg"}, r"list\.csv:3: \.\./images/001\.jpg leads out of"),
        ({"image": "images/none.jpg"}, r"list\.csv:3: .*none\.jpg: no such file"),
        ({"image": "images/001.h5"}, r"list\.csv:3: images/001\.h5 is no picture"),
        ({"image": "images/000.jpg"}, r"list\.csv:3: .*000\.jpg stands in line 2 already"),
        ({"mask": ""}, r"list\.csv:3: no 'mask'; columns found: image, mask, split, group"),
        ({"split": "holdout"}, r"list\.csv:3: split 'holdout'; expected train, validation, test"),
        ({"split": ""}, r"1 of 8 lines have no split\. Give all, or none"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    miniature.folders(tmp_path)
    rows = [dict(row) for row in ROWS]
    rows[1] |= change
    with pytest.raises(DataError, match=message):
        load_split(manifest(tmp_path, rows))


def test_malformed_tables_name_the_line(tmp_path: Path) -> None:
    miniature.folders(tmp_path)
    config = manifest(tmp_path, ROWS)
    path = Path(config.root)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], "only,two"]))
    with pytest.raises(DataError, match=r"list\.csv:4: expected 4 values \(image, mask"):
        load_split(config)
    path.write_text("\n".join([*lines[:3], '"images/x.jpg,masks']))
    with pytest.raises(DataError, match=r"list\.csv:3: not CSV: unexpected end"):
        load_split(config)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"list\.csv: not UTF-8"):
        load_split(config)
    config = manifest(tmp_path, ROWS, "list.jsonl")
    with open(config.root, "a") as file:
        file.write("{nonsense\n")
    with pytest.raises(DataError, match=r"list\.jsonl:9: not JSON"):
        load_split(config)


def test_paths_outside_on_request(tmp_path: Path) -> None:
    miniature.folders(tmp_path)
    (tmp_path / "lists").mkdir()
    rows = [row | {"image": f"../{row['image']}", "mask": f"../{row['mask']}"} for row in ROWS]
    config = manifest(tmp_path / "lists", rows)
    with pytest.raises(DataError, match=r"--data.outside true"):
        load_split(config)
    config.outside = True
    assert sizes(config) == [4, 2, 2]


# ---- COCO ---------------------------------------------------------------------------------------


def test_coco_by_root(tmp_path: Path) -> None:
    config = DataConfig(layout="coco", root=str(miniature.coco(tmp_path)), num_classes=2)
    pairs = load_pairs(config)
    assert len(pairs) == 8
    _, mask = miniature.picture(0)
    expected = mask.astype(np.uint8)
    expected[2:8, 2:10] = 2  # the square is the smaller and lies on top
    assert np.array_equal(pairs[0].mask.read(), expected)
    assert not pairs[-1].mask.read().any()
    assert sizes(config) == [6, 1, 1]
    binary = DataConfig(layout="coco", root=config.root)
    assert np.array_equal(load_pairs(binary)[0].mask.read(), expected > 0)


def test_coco_classes_by_name_and_overlapping(tmp_path: Path) -> None:
    root = str(miniature.coco(tmp_path))
    one = DataConfig(layout="coco", root=root, classes=[ClassConfig("square")])
    assert load_pairs(one)[0].mask.read().sum() == 6 * 8
    both = DataConfig(layout="coco", root=root, num_classes=2, exclusive=False)
    masks = class_masks(load_pairs(both)[0].mask.read(), 2)
    assert np.array_equal(masks[0], miniature.picture(0)[1])
    assert masks[1].sum() == 6 * 8
    with pytest.raises(DataError, match=r"has no category cat, which --data.classes names; it has"):
        load_pairs(DataConfig(layout="coco", root=root, classes=[ClassConfig("cat")]))
    with pytest.raises(DataError, match=r"has 2 categories \(blob, square\)"):
        load_pairs(DataConfig(layout="coco", root=root, num_classes=5))


def test_coco_as_other_tools_write_it(tmp_path: Path) -> None:
    miniature.coco(tmp_path)
    file = tmp_path / "annotations/instances_train2017.json"
    one = DataConfig(layout="coco", images=str(tmp_path / "train2017"), annotations=str(file))
    assert len(load_pairs(one)) == 8
    for name, path in (("train", tmp_path / "r/train"), ("valid", tmp_path / "r/valid")):
        content = json.loads(file.read_text())
        number = 3 if name == "train" else 5
        content["images"] = content["images"][:number] if name == "train" else content["images"][5:]
        known = {entry["id"] for entry in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in known]
        path.mkdir(parents=True)
        for entry in content["images"]:
            source = tmp_path / "train2017" / entry["file_name"]
            (path / entry["file_name"]).write_bytes(source.read_bytes())
        (path / "_annotations.coco.json").write_text(json.dumps(content))
    parts = [pair.part for pair in load_pairs(DataConfig(layout="coco", root=str(tmp_path / "r")))]
    assert parts == ["train"] * 3 + ["validation"] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("image_id", 99), "annotation 1: its image 99 is not in the list of images"),
        (("category_id", 4), "annotation 1: its category 4 is not listed"),
        (("segmentation", []), "annotation 1: has no segmentation"),
        (("segmentation", {"size": [1, 1], "counts": [1]}), r"annotation 1: .*size \[1, 1\], but"),
        (("segmentation", {"size": [40, 56], "counts": [7]}), "must add up to 2240 pixels"),
        (("segmentation", [[1, 2, "x"]]), "expected polygons"),
        (("segmentation", [[float("nan")] * 6]), "expected polygons"),
        (("image_id", None), "annotation 1: its image None"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, change: tuple, message: str) -> None:
    miniature.coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0][change[0]] = change[1]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_pairs(DataConfig(layout="coco", root=str(tmp_path)))[0].mask.read()


def test_broken_coco_files(tmp_path: Path) -> None:
    miniature.coco(tmp_path)
    path, config = (
        tmp_path / "annotations/instances_train2017.json",
        DataConfig(layout="coco", root=str(tmp_path)),
    )
    content = json.loads(path.read_text())
    for text, message in (
        ('{"images": [],\n  nonsense', r"json:2: not JSON"),
        ("[]", "not a COCO file"),
        ('{"images": [3], "annotations": [], "categories": []}', "not a COCO file"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            load_pairs(config)
    content["images"][0]["file_name"] = "../../secret.png"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"image 10: ../../secret.png leads out of"):
        load_pairs(config)
    del content["images"][0]["file_name"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"lacks or mistypes 'file_name'"):
        load_pairs(config)


# ---- MoNuSeg ------------------------------------------------------------------------------------


def test_monuseg(tmp_path: Path) -> None:
    config = DataConfig(layout="monuseg", root=str(miniature.monuseg(tmp_path)), validation=0.25)
    split = load_split(config)
    assert [len(split[part]) for part in PARTS] == [3, 1, 2]
    assert split["test"][0].group == "TCGA-18-4004"
    (tmp_path / "MoNuSegTestData/TCGA-18-4005-01Z-00-DX1.xml").unlink()
    with pytest.raises(DataError, match=r"TCGA-18-4005-01Z-00-DX1\.tif: has no XML \(1 such"):
        load_pairs(config)


def test_nuclei_agree_with_an_independent_rasteriser(tmp_path: Path) -> None:
    """Holes, overlaps and vertices out of the picture, against scikit-image."""
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
        (miniature.aperio([(False, [("nan", 2)])]), "region 1: a vertex that is not finite"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><Annotations/>', "declarations of its own"),
    ],
)
def test_malformed_xml(tmp_path: Path, text: str, message: str) -> None:
    miniature.write(tmp_path / "a.tif", np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "a.xml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_pairs(DataConfig(layout="monuseg", root=str(tmp_path)))[0].mask.read()


# ---- Hugging Face -------------------------------------------------------------------------------


def test_a_saved_hub_data_set(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = str(miniature.hub(tmp_path / "elwha"))
    config = DataConfig(layout="huggingface", root=root, mask_column="label", test=0.34)
    split = load_split(config)
    assert [len(split[part]) for part in PARTS] == [4, 2, 2]
    image, mask = miniature.picture(6)
    assert np.array_equal(split["validation"][0].image.read(), image)
    assert np.array_equal(split["validation"][0].mask.read(), mask)
    config.mask_column = "mask"
    with pytest.raises(DataError, match=r"no column 'mask'; it has image, label"):
        load_pairs(config)
    with pytest.raises(DataError, match=r"--data.root nobody/nothing"):
        load_pairs(DataConfig(layout="huggingface", root="nobody/nothing"))


# ---- volumes ------------------------------------------------------------------------------------


def test_volumes(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    root = str(miniature.volumes(tmp_path))
    config = DataConfig(layout="volumes", root=root, window=(-400, 620))
    pairs = load_pairs(config)
    assert len(pairs) == 30
    image, mask = miniature.picture(102)
    pair = next(pair for pair in pairs if pair.name == "case1-2")
    assert np.array_equal(pair.image.read()[..., 0], image[..., 0])
    assert np.array_equal(pair.mask.read(), mask)
    split = load_split(config)
    for part in PARTS:  # whole volumes, never slices
        assert len(split[part]) % 5 == 0
    sagittal = load_pairs(DataConfig(layout="volumes", root=root, axis=0))
    assert len(sagittal) == 6 * 56
    assert sagittal[0].image.read().shape == (5, 40, 3)


def test_dicom_series(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    pydicom = pytest.importorskip("pydicom")
    import nibabel
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    miniature.volumes(tmp_path, 1)
    stored = np.asarray(nibabel.load(tmp_path / "images/case0.nii").dataobj)
    (tmp_path / "images/case0.nii").unlink()
    folder = tmp_path / "images/case0"
    folder.mkdir()
    series = generate_uid()
    for k in range(5):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
            CTImageStorage, generate_uid(),
        )  # fmt: skip
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(str(folder / f"{k}.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.Modality, data.InstanceNumber = series, "CT", k + 1
        data.Rows, data.Columns = 40, 56
        data.PixelSpacing, data.SliceThickness = [0.7, 0.7], 3
        data.ImagePositionPatient = [0, 0, 3 * k]
        data.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 1
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = np.ascontiguousarray(stored[..., k].T).tobytes()
        pydicom.dcmwrite(folder / f"{k}.dcm", data, enforce_file_format=True)
    config = DataConfig(layout="volumes", root=str(tmp_path), window=(-400, 620))
    pairs = load_pairs(config)
    assert len(pairs) == 5
    for k, pair in enumerate(pairs):
        image, mask = miniature.picture(k)
        assert np.array_equal(pair.image.read()[..., 0], image[..., 0])
        assert np.array_equal(pair.mask.read(), mask)


def test_a_mask_written_back_as_a_volume(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    from autosam.data.volumes import write_volume

    miniature.volumes(tmp_path, 1)
    label = np.random.default_rng(0).integers(0, 3, (56, 40, 5)).astype(np.uint8)
    write_volume(tmp_path / "out.nii.gz", label, tmp_path / "images/case0.nii")
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), label)
    assert np.allclose(written.affine, np.diag([0.7, 0.7, 3.0, 1.0]))


def test_bad_volumes(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    miniature.volumes(tmp_path, 3)
    config = DataConfig(layout="volumes", root=str(tmp_path))
    (tmp_path / "images/case1.nii.gz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"case1\.nii\.gz: cannot be read as a volume"):
        load_pairs(config)
    lost = nibabel.Nifti1Image(np.zeros((56, 40, 5), np.int16), None)
    nibabel.save(lost, tmp_path / "images/case1.nii")
    (tmp_path / "images/case1.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case1\.nii: holds no orientation"):
        load_pairs(config)
    other = nibabel.Nifti1Image(np.zeros((56, 40, 4), np.int16), np.diag([0.7, 0.7, 3, 1]))
    nibabel.save(other, tmp_path / "images/case1.nii")
    from autosam.data import volumes

    volumes._open.cache_clear()
    with pytest.raises(DataError, match=r"is \(56, 40, 4\) but its mask .* is \(56, 40, 5\)"):
        load_pairs(config)


# ---- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(layout="coco", images="x"), "--data.images and --data.annotations go together"),
        (DataConfig(layout="glas"), "--data.layout glas needs --data.root DIR"),
        (DataConfig(layout="voc", root="nowhere"), "--data.root nowhere: no such folder"),
        (DataConfig(layout="manifest", root="nowhere.csv"), "nowhere.csv: no such file"),
    ],
)
def test_settings_that_cannot_be(config: DataConfig, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        load_split(config)
