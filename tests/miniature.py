"""Public data sets in their true layout, with a few small images each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 56)


def draw_image(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """A blob on a textured ground: uint8 H x W x 3 and bool H x W."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0.35, 0.65, 2) * size
    radius = rng.uniform(0.18, 0.3) * height
    mask = (y - cy) ** 2 + ((x - cx) / 1.3) ** 2 < radius**2
    image = rng.integers(60, 100, (height, width, 3))
    image[mask] += rng.integers(60, 140, 3)
    return image.astype(np.uint8), mask


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def folders(root: Path, count: int = 8, suffix: str = ".jpg") -> Path:
    """root/{images,masks}, masks of 0 and 1."""
    for i in range(count):
        image, mask = draw_image(i)
        write(root / "images" / f"{i:03d}{suffix}", image)
        write(root / "masks" / f"{i:03d}.png", mask.astype(np.uint8))
    return root


def glas(root: Path) -> Path:
    """Warwick QU: BMP, a number for each gland, and the table of patients."""
    lines = ["name, patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]
    for kind, count in (("train", 6), ("testA", 2), ("testB", 1)):
        for i in range(1, count + 1):
            image, mask = draw_image(len(lines))
            label = mask.astype(np.uint8)
            label[:4, :6] = 2  # a second gland
            write(root / f"{kind}_{i}.bmp", image)
            write(root / f"{kind}_{i}_anno.bmp", label)
            lines.append(f"{kind}_{i}, {kind}-{(i + 1) // 2}, benign, adenomatous")
    (root / "Grade.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def aperio(polygons: list[tuple[bool, list[tuple[float, float]]]]) -> str:
    """ImageScope's XML with these regions; True for a hole."""
    regions = "".join(
        f'<Region Id="{i}" Type="0" NegativeROA="{int(hole)}"><Attributes/><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in polygon)
        + "</Vertices></Region>"
        for i, (hole, polygon) in enumerate(polygons, 1)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?><Annotations MicronsPerPixel="0.252">'
        f'<Annotation Id="1" Name=""><Attributes/><Regions><RegionAttributeHeaders/>{regions}'
        "</Regions><Plots/></Annotation></Annotations>"
    )


def monuseg(root: Path) -> Path:
    """Training tiles in sister folders, test tiles beside their XML."""
    names = [f"TCGA-18-{4000 + i}-01Z-00-DX1" for i in range(6)]
    for i, name in enumerate(names):
        image, mask = draw_image(i)
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max(), rows.max()]
        corners = [(box[0], box[1]), (box[2], box[1]), (box[2], box[3]), (box[0], box[3])]
        polygons = [(False, corners), (False, [(2, 2), (9.5, 2), (9.5, 7.25)])]
        if i < 4:
            folder = root / "MoNuSeg 2018 Training Data"
            tile, text = folder / "Tissue Images", folder / "Annotations"
        else:
            tile = text = root / "MoNuSegTestData"
        write(tile / f"{name}.tif", image)
        text.mkdir(parents=True, exist_ok=True)
        (text / f"{name}.xml").write_text(aperio(polygons), encoding="utf-8")
    return root


def polyp(root: Path) -> Path:
    """PraNet's folders; its training set says image/ and mask/."""
    seed = 0
    for folder, inner, count in (
        ("TrainDataset", ("image", "mask"), 6),
        ("TestDataset/CVC-300", ("images", "masks"), 2),
        ("TestDataset/Kvasir", ("images", "masks"), 2),
    ):
        for i in range(count):
            image, mask = draw_image(seed)
            write(root / folder / inner[0] / f"{i}.png", image)
            write(root / folder / inner[1] / f"{i}.png", mask.astype(np.uint8) * 255)
            seed += 1
    return root


def stamps(root: Path) -> Path:
    """StaVer: black letters on a white truth, a grey region for each stamp on a white map."""
    for i in range(8):
        image, mask = draw_image(i, (56, 40))
        letters = mask.copy()
        letters[:, ::4] = False
        rows, columns = np.nonzero(letters)
        region = np.full(mask.shape, 255, np.uint8)
        region[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 90
        truth = np.where(letters, 0, 255).astype(np.uint8)
        name = f"stampDS-{i + 1:05d}"
        write(root / "scans" / "scans" / f"{name}.png", image)
        pixel = np.repeat(truth[..., None], 3, 2)
        write(root / "ground-truth-pixel" / "ground-truth-pixel" / f"{name}-px.png", pixel)
        coloured = np.repeat(region[..., None], 3, 2)
        coloured[region < 255] = (200, 30, 30)
        write(root / "ground-truth-maps" / "ground-truth-maps" / f"{name}-gt.png", coloured)
    return root


def objects(root: Path, count: int = 8) -> Path:
    """The 2018 Data Science Bowl: a folder for each image, a mask for each object; the last image
    has none. The second object is a square on the first."""
    for i in range(count):
        image, mask = draw_image(i)
        folder = root / f"cell{i}"
        write(folder / "images" / f"cell{i}.png", image)
        (folder / "masks").mkdir()
        if i < count - 1:
            square = np.zeros(SIZE, bool)
            square[2:8, 2:10] = True
            for name, part in (("a", mask), ("b", square)):
                write(folder / "masks" / f"{name}.png", part.astype(np.uint8) * 255)
    return root


def nuclei(root: Path) -> Path:
    """images/ and masks/ of 16 bits, whose values number two objects that touch."""
    for i in range(10):
        image, mask = draw_image(i)
        numbers = mask.astype(np.uint16) * (300 + i)
        numbers[:, SIZE[1] // 2 :][mask[:, SIZE[1] // 2 :]] = 7
        write(root / "images" / f"{i}.png", image)
        write(root / "masks" / f"{i}.png", numbers)
    return root


def rivers(root: Path) -> Path:
    """Blue water on brown ground, masks of 0 and 1."""
    for i in range(8):
        _, mask = draw_image(i)
        noise = np.random.default_rng(i).integers(-8, 8, (*SIZE, 3))
        image = np.where(mask[..., None], (40, 110, 190), (140, 110, 70)) + noise
        write(root / "images" / f"{i:05d}.jpg", image.astype(np.uint8))
        write(root / "masks" / f"{i:05d}.png", mask.astype(np.uint8))
    return root


def voc(root: Path) -> Path:
    """Palette masks of two classes with the border of 255."""
    for i in range(6):
        image, mask = draw_image(i)
        write(root / "JPEGImages" / f"2007_{i:06d}.jpg", image)
        label = mask.astype(np.uint8) * (1 + i % 2)
        label[0] = 255
        indexed = Image.fromarray(label, mode="P")
        indexed.putpalette([v for k in range(256) for v in (k, 255 - k, k // 2)])
        path = root / "SegmentationClass" / f"2007_{i:06d}.png"
        path.parent.mkdir(exist_ok=True)
        indexed.save(path)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, numbers in (("train", range(4)), ("val", [4]), ("test", [5])):
        (lists / f"{name}.txt").write_text("".join(f"2007_{i:06d}\n" for i in numbers))
    return root


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed counts: down the columns, background first."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(np.diff(flat.astype(np.int8)))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return [int(n) for n in counts] if len(edges) else [mask.size]


def coco(root: Path, count: int = 8) -> Path:
    """annotations/instances_train2017.json and train2017/: a polygon and an RLE on each
    image, of two categories; the last image has none."""
    images, annotations = [], []
    for i in range(count):
        image, mask = draw_image(i)
        write(root / "train2017" / f"{i:012d}.jpg", image)
        images.append({"id": i + 10, "file_name": f"{i:012d}.jpg", "height": 40, "width": 56})
        if i == count - 1:
            continue
        code = {"size": [40, 56], "counts": run_lengths(mask)}
        square = [[2, 2, 10, 2, 10, 8, 2, 8]]
        for category, shape, crowd in ((3, code, 1), (7, square, 0)):
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": i + 10, "category_id": category,
                                "segmentation": shape, "iscrowd": crowd})  # fmt: skip
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "blob"}, {"id": 7, "name": "square"}],
    }
    path = root / "annotations" / "instances_train2017.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return root


def hub(root: Path) -> Path:
    """What `save_to_disk` leaves of a data set with train and validation, columns image, label."""
    import datasets

    def table(start: int, count: int) -> datasets.Dataset:
        rows = [draw_image(i) for i in range(start, start + count)]
        columns = {
            "image": [Image.fromarray(image) for image, _ in rows],
            "label": [Image.fromarray(mask.astype(np.uint8)) for _, mask in rows],
        }
        features = datasets.Features({name: datasets.Image() for name in columns})
        return datasets.Dataset.from_dict(columns, features)

    splits = datasets.DatasetDict({"train": table(0, 6), "validation": table(6, 2)})
    splits.save_to_disk(str(root))
    return root


def volumes(root: Path, count: int = 6, depth: int = 5) -> Path:
    """images/ and masks/ of NIfTI, CT values with air at -1000."""
    import nibabel

    affine = np.diag([0.7, 0.7, 3.0, 1.0])
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        pairs = [draw_image(100 * i + k) for k in range(depth)]
        values = np.stack([image[..., 0].T.astype(np.int16) * 4 - 400 for image, _ in pairs], 2)
        label = np.stack([mask.T.astype(np.uint8) for _, mask in pairs], 2)
        suffix = ".nii.gz" if i % 2 else ".nii"
        nibabel.save(nibabel.Nifti1Image(values, affine), root / "images" / f"case{i}{suffix}")
        nibabel.save(nibabel.Nifti1Image(label, affine), root / "masks" / f"case{i}.nii.gz")
    return root
