"""Settings of the data: where they are, how they are read, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass

from autosam.config.setting import always_path, path_if_exists, path_if_table, setting
from autosam.errors import ConfigError, DataError

MOST_OVERLAPPING = 16
"""K of classes that may overlap: they are bits of whole numbers, which resizing keeps exact."""


@dataclass
class ClassConfig:
    """One class."""

    name: str
    """As reports, TensorBoard and exports call it."""
    color: str | None = None
    """#rrggbb; unset: the next of a list."""
    values: list[int] | None = None
    """The mask values that are this class; unset: its place in the list of classes, from 1."""


@dataclass
class DataConfig:
    """Where the images and masks are, and how they are read."""

    layout: str = "folders"
    """How the files lie: folders, manifest, coco, voc, huggingface, glas, monuseg, polyp, stamps or
    volumes; docs/data.md has a tree of each, docs/extending.md says how to add one."""
    root: str | None = setting(
        None, common=True, path=path_if_exists, resume=True, missing=(DataError, "folder")
    )
    """Folder or file of the data set, see `layout`. folders: a folder with train/, validation/ and
    test/, each holding images/ and masks/; or with images/ and masks/ directly, which are then
    split by a seed. manifest: the CSV or JSONL file. huggingface: a data set's name, or a folder
    that it was saved to. Unset, and `images` too: the embedded synthetic data set."""
    images: str | None = setting(
        None, short="images", path=always_path, resume=True, missing=(DataError, "folder")
    )
    """Folder of images (instead of `root`; for coco beside `annotations`)."""
    masks: str | None = setting(
        None, short="masks", path=always_path, resume=True, missing=(DataError, "folder")
    )
    """Folder of masks; a mask has its image's file name, with any extension."""
    annotations: str | None = setting(
        None, path=always_path, resume=True, missing=(DataError, "file")
    )
    """COCO file of the images in `images` (layout coco)."""
    mask_suffix: str = ""
    """What a mask's name adds to its image's: `_mask` pairs cell1.jpg with cell1_mask.png."""
    image_column: str = "image"
    """Column of the images (layouts manifest and huggingface)."""
    mask_column: str = "mask"
    """Column of the masks (layouts manifest and huggingface)."""
    outside: bool = False
    """Whether a manifest may name files outside its own folder."""
    bands: tuple[int, int, int] | None = None
    """Which bands of a TIFF, from 1, stand for red, green and blue."""
    window: tuple[float, float] | None = None
    """Stored values that become black and white, for images of more than 8 bits and volumes (a
    soft-tissue CT: [-160, 240]). Unset: the 0.1 and 99.9 percentile of each image or volume."""
    nodata: float | None = None
    """Stored value of pixels without data: left out of stretch, loss, scores and masks. What a TIFF
    itself calls so (GDAL's nodata, NaN) is left out without it."""
    axis: int = setting(2, min=0, max=2)
    """Axis along which volumes are cut into slices: 0, 1 or 2; 2 is axial in NIfTI's order."""
    num_classes: int = setting(1, min=1, max=254)
    """K: classes besides background. 1: masks are read as foreground or not. More: a mask's pixel
    values are 0 for background and 1..K."""
    classes: list[ClassConfig] | None = None
    """Names, colours and mask values of the K classes; sets `num_classes`."""
    values: int | list[int] | str | None = None
    """Mask values that are foreground, for one class: 2 or 1,3 or 128-255; others are background.
    Unset: by what the masks hold, refused where that is not clear (docs/data.md)."""
    ignore: int | None = setting(None, min=0, max=65_535)
    """Mask value of pixels that nobody labelled: no loss, no score."""
    instances: bool = False
    """Mask values number objects: each value above 0 is foreground."""
    exclusive: bool = True
    """True: a pixel has one class or background (soft-max, arg-max). False: classes are judged
    independently (sigmoid, 0.5) and may overlap."""
    validation: float = 0.15
    """Share of images for validation where no validation split is given, 0..1."""
    test: float = 0.15
    """Share of images for testing where no test split is given, 0..1."""
    split_seed: int = setting(0, min=0, max=2**32 - 1)
    """Seed of the split."""
    stratify: bool = False
    """Give each split its share of images with little and with much foreground."""
    groups: str | None = setting(None, path=path_if_table, resume=True)
    """What must not stand on both sides of a split (patient, slide, camera): a CSV file with the
    columns name and group, or a regular expression on the name whose first bracket is the group.
    (A manifest has a column `group`.)"""
    folds: int | None = setting(None, min=2, max=1000)
    """k-fold cross-validation: the images in k folds, of which `fold` is the test split."""
    fold: int = setting(0, min=0, max=999)
    """Which of the k folds, from 0, is the test split."""
    limit: int | None = setting(None, min=1)
    """At most so many images of each split, drawn by `split_seed`: for a first look."""
    workers: int | None = setting(None, min=0, max=256, resume=True, result=False)
    """Processes that read images; unset: by the number of processors."""

    def __post_init__(self) -> None:
        if self.classes:
            if self.num_classes not in (1, len(self.classes)):
                raise ConfigError(
                    f"--data.num_classes {self.num_classes}: --data.classes lists "
                    f"{len(self.classes)}. Leave num_classes out."
                )
            self.num_classes = len(self.classes)

    @property
    def class_names(self) -> list[str]:
        """Of the K classes; their numbers where they have no names."""
        names = [entry.name for entry in self.classes or []]
        return names or [str(k) for k in range(1, self.num_classes + 1)]
