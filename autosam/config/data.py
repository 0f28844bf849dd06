"""Settings of the data: where they are, how they are read, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autosam.config.setting import always_path, path_if_exists, path_if_table, setting
from autosam.config.values import number_ranges
from autosam.errors import ConfigError, DataError

MOST_OVERLAPPING = 16
"""Largest K of overlapping classes: labels are bitmasks, which are resized exactly."""

LAYOUT_NAMES = ("folders", "manifest", "coco", "voc", "huggingface", "glas", "monuseg", "polyp",
                "stamps", "volumes", "objects", "rasters")  # fmt: skip
"""The keys of `LAYOUTS` in autosam/data/layouts; a test compares them."""


@dataclass
class ClassConfig:
    """One class."""

    name: str
    """Name in reports, TensorBoard and exports."""
    color: str | None = None
    """#rrggbb; unset: from a list."""
    values: list[int] | None = None
    """Mask values of this class; unset: its position in the list of classes, from 1."""


@dataclass
class DataConfig:
    """Where images and masks are, and how they are read and split."""

    layout: str = "folders"
    """Layout of the files: folders, manifest, coco, voc, huggingface, glas, monuseg, polyp, stamps,
    volumes, objects or rasters; docs/data.md shows each, docs/extending.md how to add one."""
    root: str | None = setting(
        None, common=True, path=path_if_exists, resume=True, missing=(DataError, "folder")
    )
    """Folder or file of the data set, see --data.layout. folders: a folder with train/, validation/
    and test/, each holding images/ and masks/; or with images/ and masks/ directly, which are then
    split at random. manifest: the CSV or JSONL file. huggingface: a data set's name, or a folder
    that it was saved to. Unset, and `images` too: the embedded synthetic data set."""
    images: str | None = setting(
        None, short="images", path=always_path, resume=True, missing=(DataError, "folder")
    )
    """Folder of images (instead of `root`; for coco beside `annotations`); for rasters, a TIFF."""
    masks: str | None = setting(
        None, short="masks", path=always_path, resume=True, missing=(DataError, "folder")
    )
    """Folder of masks; a mask has its image's file name, with any extension. rasters: a TIFF."""
    annotations: str | None = setting(
        None, path=always_path, resume=True, missing=(DataError, "file")
    )
    """COCO file of the images in `images` (layout coco); vector file of polygons (rasters)."""
    class_column: str | None = None
    """Column of the vector file with the class of a polygon: a name of `classes`, or 1..K."""
    block: int = setting(1024, min=64, max=65_536)
    """Largest side of the blocks that rasters are cut into, pixels; each is an image."""
    mask_suffix: str = ""
    """Suffix of mask names: `_mask` pairs cell1.jpg with cell1_mask.png."""
    image_column: str = "image"
    """Column of the images (layouts manifest and huggingface)."""
    mask_column: str = "mask"
    """Column of the masks (layouts manifest and huggingface)."""
    outside: bool = False
    """Whether a manifest may name files outside its own folder."""
    bands: tuple[int, int, int] | None = None
    """Bands of a TIFF used as red, green and blue, counted from 1."""
    generator_bands: list[int] | str | int | None = None
    """Bands of a TIFF that the prompt generator (of `head` and `probe` the backbone) reads, such as
    1-8 or 1,2,5; SAM sees `bands`. Unset: the same as SAM."""
    generator_window: list[tuple[float, float]] | None = None
    """Stored values of each of these bands that map to the ends of its input's range. Unset: three
    standard deviations on both sides of the mean, over the training images."""
    window: tuple[float, float] | None = None
    """Stored values mapped to black and white, for images of more than 8 bits and volumes
    (soft-tissue CT: [-160, 240]). Unset: the 0.1 and 99.9 percentiles, see `stretch`."""
    stretch: Literal["image", "dataset"] = "image"
    """What these percentiles are of. image: each image or volume. dataset: the training images
    together, for tiles of one scene; the checkpoint keeps them as `window`."""
    nodata: float | None = None
    """Stored value of pixels without data, which are excluded from stretch, loss, scores and masks.
    Values that a TIFF itself marks (GDAL's nodata, NaN) are excluded without it."""
    axis: int = setting(2, min=0, max=2)
    """Axis along which volumes are cut into slices: 0, 1 or 2; 2 is axial in NIfTI's order."""
    slices: int = setting(1, min=1, max=63)
    """Slices of a volume that the prompt generator reads for each: an odd number, with as many
    before as after it. SAM sees one."""
    num_classes: int = setting(1, min=1, max=254)
    """K: classes besides background. 1: binary masks. More: mask values are 0 for background and
    1..K."""
    classes: list[ClassConfig] | None = None
    """Names, colours and mask values of the K classes; sets `num_classes`."""
    values: int | list[int] | str | None = None
    """Mask values of the foreground, for one class: 2 or 1,3 or 128-255; others are background.
    Unset: inferred from the masks, with an error if they are ambiguous (docs/data.md)."""
    ignore: int | None = setting(None, min=0, max=65_535)
    """Mask value of unlabelled pixels, which are excluded from loss and scores."""
    instances: bool = False
    """Mask values are instance numbers: each value above 0 is an object of the foreground."""
    exclusive: bool = True
    """True: a pixel has one class or background (softmax, argmax). False: classes are independent
    (sigmoid) and may overlap."""
    validation: float = 0.15
    """Share of images for validation if no validation split is given, 0..1."""
    test: float = 0.15
    """Share of images for testing if no test split is given, 0..1."""
    split_seed: int = setting(0, min=0, max=2**32 - 1)
    """Seed of the split."""
    stratify: bool = False
    """Stratify the split by the foreground share of the images."""
    groups: str | None = setting(None, path=path_if_table, resume=True)
    """Groups that must not be in two splits (patient, slide, camera): a CSV file with the columns
    name and group, or a regular expression whose first bracket matches the group in the name. (A
    manifest has a column `group`.) Of GeoTIFFs and rasters also squares of the ground, such as
    500m, in which images have their centres; of rasters squares of pixels, such as 4096px."""
    folds: int | None = setting(None, min=2, max=1000)
    """k of k-fold cross-validation, with `fold` as the test split."""
    fold: int = setting(0, min=0, max=999)
    """The fold, counted from 0, that is the test split."""
    limit: int | None = setting(None, min=1)
    """Largest number of images per split, drawn by `split_seed`, for a quick test."""
    limit_train: int | None = setting(None, min=1)
    """Largest number of training images; a smaller number keeps some of those of a larger one."""
    limit_validation: int | None = setting(None, min=1)
    """The same for validation images. The test split stays whole."""
    limit_seed: int = setting(0, min=0, max=2**32 - 1)
    """Draws the images of limit_train and limit_validation."""
    crop: int | None = setting(None, min=32, max=65_536)
    """Side of the squares that larger images are cut into, pixels: random crops in training, tiles
    in validation, test and prediction. Unset: each image as a whole. `autosam check` proposes a
    size where objects are too small for that."""
    resolution: float | None = setting(None, above=0, max=100_000)
    """Metres of the ground that a pixel of --data.crop covers (0.5), for images with coordinates:
    crops and tiles then show the same ground whatever pixels the images have. Unset: --data.crop
    counts the pixels of each image."""
    crop_foreground: float = setting(0.5, min=0, max=1)
    """Share of the crops of a training that are centred on a foreground pixel, 0..1."""
    workers: int | None = setting(None, min=0, max=256, resume=True, result=False)
    """Worker processes that read images; unset: by the number of processors."""

    def __post_init__(self) -> None:
        if isinstance(self.bands, list):
            self.bands = tuple(self.bands)
        if isinstance(self.window, list):
            self.window = tuple(self.window)
        if self.generator_bands is not None:
            self.generator_bands = parse_bands(self.generator_bands)
        if self.classes:
            if self.num_classes not in (1, len(self.classes)):
                raise ConfigError(
                    f"--data.num_classes {self.num_classes}: --data.classes lists "
                    f"{len(self.classes)}. Leave num_classes out."
                )
            self.num_classes = len(self.classes)

    @property
    def generator_channels(self) -> int | None:
        """C: channels that the prompt generator reads; None: the RGB image that SAM sees."""
        if isinstance(self.generator_bands, list):
            return len(self.generator_bands)
        return self.slices if self.slices > 1 else None

    @property
    def class_names(self) -> list[str]:
        """Names of the K classes; their numbers if they have none."""
        names = [entry.name for entry in self.classes or []]
        return names or [str(k) for k in range(1, self.num_classes + 1)]


def parse_bands(bands: list[int] | str | int) -> list[int]:
    """Parse `--data.generator_bands`: numbers and ranges such as 1-4, separated by commas.

    Raises:
        ConfigError: something else.
    """
    ranges = number_ranges(bands)
    if ranges is None or any(not 1 <= first <= last <= 9999 for first, last in ranges):
        raise ConfigError(
            f"--data.generator_bands {bands}: expected numbers of bands from 1, such as 1-8 or "
            "1,2,5."
        )
    return [band for first, last in ranges for band in range(first, last + 1)]
