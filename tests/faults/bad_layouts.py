"""Other layouts: VOC, GlaS, MoNuSeg, polyps, stamps, objects, Hugging Face data sets, volumes."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from random import Random

import miniature
import numpy as np
from corpus import Bad, Good, cause, cut, predicting, reading

from autosam.errors import ConfigError, DataError


def of(rng: Random, good: Good, root: Path, layout: str, named: str, *flags: str) -> Bad:
    way = (f"--data.layout={layout}", f"--data.root={root}")
    return reading(rng, good, root.parent, *way, *flags), named


# --- Pascal VOC


@cause("voc", DataError, r"\.txt:\d+: .* is not in .*Remove the line, or add the")
def a_name_in_a_list_without_file(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = miniature.voc(folder / "data"), rng.choice(["train.txt", "val.txt", "test.txt"])
    path = root / "ImageSets" / "Segmentation" / name
    path.write_text(path.read_text() + rng.choice(["2007_999999\n", "../x\n", "2007_000001.jpg\n"]))
    return of(rng, good, root, "voc", name)


@cause("voc", DataError, r"not UTF-8 text.*Save it as UTF-8")
def a_list_that_is_no_text(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = miniature.voc(folder / "data"), rng.choice(["train.txt", "val.txt", "test.txt"])
    path = root / "ImageSets" / "Segmentation" / name
    path.write_bytes(b"\xff\xfe" + rng.randbytes(30) + b"\xff")
    return of(rng, good, root, "voc", name)


@cause("voc", DataError, r"holds no train\.txt, val\.txt or test\.txt.*Write")
def no_lists(rng: Random, folder: Path, good: Good) -> Bad:
    root = miniature.voc(folder / "data")
    for path in (root / "ImageSets" / "Segmentation").iterdir():
        path.write_text("\n" * rng.randrange(4))
    return of(rng, good, root, "voc", "Segmentation")


# --- GlaS


@cause("glas", DataError, r"expected train_1\.bmp, train_1_anno\.bmp.*Rename or remove it")
def a_name_of_no_part(rng: Random, folder: Path, good: Good) -> Bad:
    root = miniature.glas(folder / "data")
    name = rng.choice(["test_1.bmp", "train_x.bmp", "extra.png", "testC_3.bmp"])
    shutil.copy(root / "train_1.bmp", root / name)
    return of(rng, good, root, "glas", name, "--data.instances=true")


@cause("glas", DataError, r"has no mask .*_anno\.bmp beside it\. Add it, or remove")
def an_image_without_anno(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = miniature.glas(folder / "data"), f"train_{rng.randrange(1, 7)}"
    (root / f"{name}_anno.bmp").unlink()
    return of(rng, good, root, "glas", f"{name}.bmp", "--data.instances=true")


@cause("glas", DataError, r"expected (the columns name and patient ID|\d values).*")
def a_table_of_patients_cut_short(rng: Random, folder: Path, good: Good) -> Bad:
    root = miniature.glas(folder / "data")
    path = root / "Grade.csv"
    lines = path.read_text().splitlines()
    if rng.random() < 0.5:
        lines[0] = lines[0].replace(rng.choice(["name", "patient ID"]), "x")
    else:
        lines[rng.randrange(1, len(lines))] = "train_1"
    path.write_text("\n".join(lines))
    return of(rng, good, root, "glas", "Grade.csv", "--data.instances=true")


# --- MoNuSeg


def outlined(rng: Random, good: Good, folder: Path, text: str | bytes) -> Bad:
    root = miniature.monuseg(folder / "data")
    path = rng.choice(sorted(root.rglob("*.xml")))
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return of(rng, good, root, "monuseg", path.name)


def vertices(*points: tuple[object, object]) -> str:
    return miniature.aperio([(False, list(points))])  # type: ignore[arg-type]


@cause("monuseg", DataError, r"xml(:\d+)?: not XML.*Fix")
def outlines_that_are_no_xml(rng: Random, folder: Path, good: Good) -> Bad:
    whole = vertices((1, 1), (9, 1), (9, 9))
    text = rng.choice([whole[: rng.randrange(len(whole))], "", "{}", whole.replace("</", "<")])
    return outlined(rng, good, folder, text)


@cause("monuseg", DataError, r"xml(:\d+)?: not XML.*Fix")
def outlines_of_an_unknown_code(rng: Random, folder: Path, good: Good) -> Bad:
    code = rng.choice(["klingon", "utf-32", "hex", "idna"])
    return outlined(rng, good, folder, f'<?xml version="1.0" encoding="{code}"?><Annotations/>')


@cause("monuseg", DataError, r"XML with DOCTYPE or ENTITY is not read.*Remove")
def outlines_that_expand(rng: Random, folder: Path, good: Good) -> Bad:
    """A billion laughs."""
    lines = "".join(
        f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, rng.randrange(9, 20))
    )
    text = f'<!DOCTYPE x [<!ENTITY a0 "ha">{lines}]><Annotations>&a8;</Annotations>'
    return outlined(rng, good, folder, text)


@cause("monuseg", DataError, r"expected <Annotations>, found <\w+>.*Aperio")
def outlines_of_another_program(rng: Random, folder: Path, good: Good) -> Bad:
    tag = rng.choice(["annotation", "ASAP_Annotations", "svg", "html"])
    return outlined(rng, good, folder, f"<{tag}><Regions/></{tag}>")


@cause("monuseg", DataError, r"region 1: a vertex without X or Y as numbers.*Fix or remove it")
def a_vertex_without_place(rng: Random, folder: Path, good: Good) -> Bad:
    text = vertices((1, 1), (9, 1), (9, 9))
    change = rng.choice([("X=", "x="), ('Y="1"', 'Y=""'), ('X="9"', 'X="9,5"'), ("Y=", "Z2=")])
    return outlined(rng, good, folder, text.replace(*change))


@cause("monuseg", DataError, r"region 1: .*(far outside|expected polygons).*Fix or remove it")
def a_vertex_far_outside(rng: Random, folder: Path, good: Good) -> Bad:
    far = rng.choice(["1e9", "-1e12", "nan", "inf", "1e300"])
    return outlined(rng, good, folder, vertices((1, 1), (far, 1), (9, 9)))


@cause("monuseg", DataError, r"has no (XML|tile) \(1 such files\)\. Add it, or remove")
def a_tile_or_outline_alone(rng: Random, folder: Path, good: Good) -> Bad:
    root = miniature.monuseg(folder / "data")
    path = rng.choice(sorted(root.rglob(rng.choice(["*.xml", "*.tif"]))))
    path.unlink()
    return of(rng, good, root, "monuseg", path.stem)


# --- polyps and stamps


@cause("polyp", DataError, r"expected images/ and masks/ \(or image/ and mask/\)\. Unpack")
def a_set_without_folders(rng: Random, folder: Path, good: Good) -> Bad:
    root = miniature.polyp(folder / "data")
    place = rng.choice(["TrainDataset/image", "TestDataset/Kvasir/images"])
    (root / place).rename(root / Path(place).with_name("pics"))
    return of(rng, good, root, "polyp", str(Path(place).parent))


@cause("stamps", DataError, r"holds no NAME-px\.png of any scan|no such folder.*Fix the path")
def scans_without_truth(rng: Random, folder: Path, good: Good) -> Bad:
    root = miniature.stamps(folder / "data")
    inner = root / "ground-truth-pixel" / "ground-truth-pixel"
    for path in list(inner.iterdir()):
        path.rename(path.with_name(path.name.replace("-px", rng.choice(["-gt", "", "_px"]))))
    return of(rng, good, root, "stamps", "ground-truth-pixel")


@cause("stamps", DataError, r"has no region map .*-gt\.png.*Add it, or remove")
def a_scan_without_map(rng: Random, folder: Path, good: Good) -> Bad:
    root = miniature.stamps(folder / "data")
    path = rng.choice(sorted((root / "ground-truth-maps").rglob("*.png")))
    path.unlink()
    return of(rng, good, root, "stamps", path.name)


# --- a file for each object


@cause("objects", DataError, r"expected a folder for each image, with images/.*--data\.layout")
def masks_that_hold_all_objects(rng: Random, folder: Path, good: Good) -> Bad:
    root = folder / "data"
    for i in range(6):
        for name, array in zip(("images", "masks"), miniature.draw_image(i), strict=True):
            miniature.write(root / name / f"{i}.png", array.astype(np.uint8))
    return of(rng, good, root, "objects", str(root))


@cause(
    "objects", DataError, r"has no folder masks/\. Add it|holds 2 images; expected one.*Keep one"
)
def a_folder_of_another_content(rng: Random, folder: Path, good: Good) -> Bad:
    root = miniature.objects(folder / "data")
    place = root / rng.choice(["cell0", "cell3", "cell7"])
    if rng.random() < 0.5:
        shutil.rmtree(place / "masks")
    else:
        miniature.write(place / "images" / "second.png", miniature.draw_image(40)[0])
    return of(rng, good, root, "objects", place.name)


@cause("objects", DataError, r"is 40 x 56 but its mask .* is 9 x 9")
def an_object_of_another_size(rng: Random, folder: Path, good: Good) -> Bad:
    root = miniature.objects(folder / "data")
    path = root / "cell2" / "masks" / rng.choice(["a.png", "b.png", "c.png"])
    miniature.write(path, np.full((9, 9), 255, np.uint8))
    return of(rng, good, root, "objects", path.name)


# --- Hugging Face


def hub(folder: Path, change: object = None, name: str = "train") -> Path:
    """A data set of one table, as `save_to_disk` leaves it."""
    import datasets

    images = [miniature.write(folder / f"{i}.png", miniature.draw_image(i)[0]) for i in range(6)]
    masks = [miniature.write(folder / f"m{i}.png", miniature.draw_image(i)[1].astype(np.uint8))
             for i in range(6)]  # fmt: skip
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": None} for path in images],
        "mask": [{"bytes": path.read_bytes(), "path": None} for path in masks],
    }
    if change is not None:
        change(columns)  # type: ignore[operator]
    features = datasets.Features(
        {key: datasets.Image() if isinstance(column[0], dict) else datasets.Value("int64")
         for key, column in columns.items()}
    )  # fmt: skip
    table = datasets.Dataset.from_dict(columns, features)
    datasets.DatasetDict({name: table}).save_to_disk(str(folder / "data"))
    return folder / "data"


@cause(
    "huggingface", DataError, r"no column '(image|mask)'; it has .*Set --data\.image_column and", 3
)
def columns_of_other_names(rng: Random, folder: Path, good: Good) -> Bad:
    key = rng.choice(["image", "mask"])
    root = hub(folder, lambda columns: columns.__setitem__("x", columns.pop(key)))
    return of(rng, good, root, "huggingface", key)


@cause("huggingface", DataError, r"column 'mask' holds no images\. .*--data\.mask_column", 3)
def a_column_of_numbers(rng: Random, folder: Path, good: Good) -> Bad:
    numbers = [rng.randrange(9) for _ in range(6)]
    root = hub(folder, lambda columns: columns.__setitem__("mask", numbers))
    return of(rng, good, root, "huggingface", str(root))


@cause("huggingface", DataError, r"has a split .*expected train, validation, test\. Save", 3)
def a_split_of_another_name(rng: Random, folder: Path, good: Good) -> Bad:
    name = rng.choice(["dev", "all", "training"])
    return of(rng, good, hub(folder, None, name), "huggingface", name)


@cause(
    "huggingface",
    DataError,
    r"row \d column (image|mask): (empty|cannot be read).*(Fill|[Rr]eplace)",
    3,
)
def a_cell_without_image(rng: Random, folder: Path, good: Good) -> Bad:
    key, i = rng.choice(["image", "mask"]), rng.randrange(1, 6)
    value = rng.choice([None, {"bytes": rng.randbytes(50), "path": None}])
    root = hub(folder, lambda columns: columns[key].__setitem__(i, value))
    return of(rng, good, root, "huggingface", f"row {i}")


@cause("huggingface", DataError, r"--data\.root .*cannot be read as a data set.*save it again", 3)
def files_cut_short(rng: Random, folder: Path, good: Good) -> Bad:
    root = hub(folder)
    what = rng.choice(["*.arrow", "state.json", "dataset_info.json", "dataset_dict.json"])
    cut(rng, next(root.rglob(what)), 0.0, 0.7)
    return of(rng, good, root, "huggingface", str(root))


# --- volumes


def volumes(folder: Path) -> Path:
    return miniature.volumes(folder / "data", count=3, depth=3)


def rewritten(
    rng: Random, folder: Path, what: str, values: np.ndarray | None = None, **header: object
) -> tuple[Path, Path]:
    """The root, and a volume or mask in it that was written again."""
    import nibabel

    root = volumes(folder)
    path = rng.choice(sorted((root / what).iterdir()))
    old = nibabel.load(path)
    affine = header.get("affine", old.affine)
    values = np.asarray(old.dataobj) if values is None else values
    path.unlink()
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return root, path


@cause("volumes", DataError, r"cannot be read.*Replace or remove it")
def a_volume_cut_short(rng: Random, folder: Path, good: Good) -> Bad:
    root = volumes(folder)
    path = cut(rng, rng.choice(sorted(root.rglob("*.nii*"))))
    return of(rng, good, root, "volumes", path.name)


@cause("volumes", DataError, r"cannot be read as a volume.*Replace or remove it")
def a_volume_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    root = volumes(folder)
    path = rng.choice(sorted(root.rglob("*.nii*")))
    content = rng.randbytes(rng.randrange(900))
    packed = path.suffix == ".gz" and rng.random() < 0.5
    path.write_bytes(gzip.compress(content) if packed else content)
    return of(rng, good, root, "volumes", path.name)


@cause("volumes", DataError, r" is \(.*\) but its mask .* is \(.*Export both at one size")
def a_mask_of_another_size(rng: Random, folder: Path, good: Good) -> Bad:
    shape = rng.choice([(56, 40, 4), (40, 56, 3), (56, 40, 2)])
    root, path = rewritten(rng, folder, "masks", np.zeros(shape, np.uint8))
    return of(rng, good, root, "volumes", path.name)


@cause("volumes", DataError, r"differ in orientation \(affine\)\. Resample")
def a_mask_of_another_orientation(rng: Random, folder: Path, good: Good) -> Bad:
    affine = np.diag(rng.choice([[-0.7, 0.7, 3, 1], [0.7, 0.7, 5, 1], [1, 1, 1, 1]])).astype(float)
    root, path = rewritten(rng, folder, "masks", affine=affine)
    return of(rng, good, root, "volumes", path.name)


@cause("volumes", DataError, r"has the shape .*expected three axes.*Save each")
def a_volume_of_other_axes(rng: Random, folder: Path, good: Good) -> Bad:
    shape = rng.choice([(56, 40), (56, 40, 3, 2), (56,)])
    root, path = rewritten(rng, folder, rng.choice(["images", "masks"]), np.ones(shape, np.int16))
    return of(rng, good, root, "volumes", path.name)


@cause("volumes", DataError, r"holds no orientation.*Write it again with its affine")
def a_volume_without_orientation(rng: Random, folder: Path, good: Good) -> Bad:
    import nibabel

    root, path = rewritten(rng, folder, rng.choice(["images", "masks"]))
    image = nibabel.load(path)
    image = nibabel.Nifti1Image(np.asarray(image.dataobj).copy(), None, image.header)
    image.header["sform_code"] = image.header["qform_code"] = 0
    path.unlink()
    nibabel.save(image, path)
    return of(rng, good, root, "volumes", path.name)


@cause("volumes", DataError, r"mask values must be whole numbers from 0 to 65535.*Save")
def a_mask_of_other_numbers(rng: Random, folder: Path, good: Good) -> Bad:
    values = np.zeros((56, 40, 3), np.float32)
    values[3, 4, rng.randrange(3)] = rng.choice([0.5, -1, 70_000, np.nan])
    root, path = rewritten(rng, folder, "masks", values)
    return of(rng, good, root, "volumes", path.name)


@cause(
    "volumes",
    DataError,
    r"holds NaN or infinite pixels\. Fix or remove it|no pixel holds data\. Remove it",
)
def a_volume_that_is_not_finite(rng: Random, folder: Path, good: Good) -> Bad:
    values = np.ones((56, 40, 3), np.float32)
    values[3, 4, 1] = np.inf
    if rng.random() < 0.5:
        values[:] = np.nan
    root, path = rewritten(rng, folder, "images", values)
    return of(rng, good, root, "volumes", path.name)


@cause("volumes", DataError, r"values of type .*expected numbers.*Write it again")
def a_volume_of_other_values(rng: Random, folder: Path, good: Good) -> Bad:
    kind = rng.choice([np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
    values = np.zeros((56, 40, 3), kind)
    root, path = rewritten(rng, folder, "images", values)
    return of(rng, good, root, "volumes", path.name)


@cause("volumes", DataError, r"is in only one of images/ and masks/.*Add it, or remove")
def a_volume_alone(rng: Random, folder: Path, good: Good) -> Bad:
    root = volumes(folder)
    path = rng.choice(sorted((root / rng.choice(["images", "masks"])).iterdir()))
    path.unlink()
    return of(rng, good, root, "volumes", path.name.split(".")[0])


@cause("volumes", DataError, r"cannot be read as DICOM.*Replace or remove it")
def a_series_that_is_no_dicom(rng: Random, folder: Path, good: Good) -> Bad:
    root = volumes(folder)
    path = rng.choice(sorted((root / "images").iterdir()))
    path.unlink()
    series = root / "images" / path.name.split(".")[0]
    series.mkdir()
    for i in range(rng.randrange(1, 4)):
        head = bytes(128) + b"DICM" if rng.random() < 0.5 else b""
        (series / f"{i}.dcm").write_bytes(head + rng.randbytes(rng.randrange(300)))
    return of(rng, good, root, "volumes", series.name)


def dicom_series(rng: Random, folder: Path) -> tuple[Path, Path]:
    """The root of volumes of which one is a DICOM series, and that series."""
    import dicom_files

    root = volumes(folder)
    path = rng.choice(sorted((root / "images").iterdir()))
    path.unlink()
    series = root / "images" / path.name.split(".")[0]
    dicom_files.series(series, np.zeros((3, 40, 56), np.int16))
    return root, series


@cause("volumes", DataError, r"holds 2 series: .*SCOUT.*Move each into a folder of its own")
def two_series_in_a_folder(rng: Random, folder: Path, good: Good) -> Bad:
    import dicom_files

    root, series = dicom_series(rng, folder)
    scout = dicom_files.make(np.zeros((40, 56), np.int16), SeriesInstanceUID="1.2.3",
                             SeriesDescription="SCOUT")  # fmt: skip
    dicom_files.save(scout, series / "scout")
    return of(rng, good, root, "volumes", series.name)


@cause("volumes", DataError, r"lie at one position.*Keep one|slices are missing.*Add them")
def slices_that_are_no_even_stack(rng: Random, folder: Path, good: Good) -> Bad:
    import dicom_files

    root, series = dicom_series(rng, folder)
    place = [-12.5, 20.0, 7.0 + rng.choice([0, 2.5, 9, 13])]
    extra = dicom_files.make(np.zeros((40, 56), np.int16), ImagePositionPatient=place,
                             ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                             PixelSpacing=[0.7, 0.9])  # fmt: skip
    dicom_files.save(extra, series / "extra.dcm")
    return of(rng, good, root, "volumes", series.name)


@cause("volumes", DataError, r"different orientations: .*--data\.axis 2 would be.*Reorient them")
def volumes_of_different_planes(rng: Random, folder: Path, good: Good) -> Bad:
    import nibabel

    root = volumes(folder)
    for path in sorted(root.rglob("case1*")):
        turned = np.array([[0, 0, 2.5, 0], [0.7, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0, 1]])
        values = np.asarray(nibabel.load(path).dataobj)
        nibabel.save(nibabel.Nifti1Image(values, turned), path)
    return of(rng, good, root, "volumes", "case1")


@cause("volumes", ConfigError, r"--data\.axis -?\d: must be 0 to 2")
def an_axis_that_is_not_there(rng: Random, folder: Path, good: Good) -> Bad:
    root, axis = volumes(folder), rng.choice([3, -1, 7])
    return of(rng, good, root, "volumes", "--data.axis", f"--data.axis={axis}")


@cause("volumes", DataError, r"1 of 3 were skipped.*|skipped: .*cannot be read", 4, 2,
       ("*.nii.gz", "areas.csv"))  # fmt: skip
def a_broken_volume_among_good_ones(rng: Random, folder: Path, good: Good) -> Bad:
    root = volumes(folder)
    path = cut(rng, rng.choice(sorted((root / "images").iterdir())), 0.1, 0.5)
    return predicting(good, folder, f"--input={root / 'images'}"), path.name
