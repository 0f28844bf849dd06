"""Every setting of a run, typed and documented; the same names in YAML, flags and Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from autosam.config.choices import check_choices
from autosam.config.runs import RUNS
from autosam.errors import ConfigError

MOST_OVERLAPPING = 16
"""K of classes that may overlap: they are bits of whole numbers, which resizing keeps exact."""


LearnedPrompt = Literal[
    "dense",
    "sparse",
    "high_res",
    "dense+sparse",
    "dense+high_res",
    "sparse+high_res",
    "dense+sparse+high_res",
    "both",
]
"""See `ModelConfig.prompt`."""


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
    root: str | None = None
    """What the layout describes. folders: a folder with train/, validation/ and test/, each holding
    images/ and masks/; or with images/ and masks/ directly, which are then split by a seed.
    manifest: the CSV or JSONL file. huggingface: a data set's name, or a folder that it was saved
    to. Unset, and `images` too: the embedded synthetic data set."""
    images: str | None = None
    """Folder of images (instead of `root`; for coco beside `annotations`)."""
    masks: str | None = None
    """Folder of masks; a mask has its image's file name, with any extension."""
    annotations: str | None = None
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
    axis: int = 2
    """Axis along which volumes are cut into slices: 0, 1 or 2; 2 is axial in NIfTI's order."""
    num_classes: int = 1
    """K: classes besides background. 1: masks are read as foreground or not. More: a mask's pixel
    values are 0 for background and 1..K."""
    classes: list[ClassConfig] | None = None
    """Names, colours and mask values of the K classes; sets `num_classes`."""
    values: int | list[int] | str | None = None
    """Mask values that are foreground, for one class: 2 or 1,3 or 128-255; others are background.
    Unset: by what the masks hold, refused where that is not clear (docs/data.md)."""
    ignore: int | None = None
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
    split_seed: int = 0
    """Seed of the split."""
    stratify: bool = False
    """Give each split its share of images with little and with much foreground."""
    groups: str | None = None
    """What must not stand on both sides of a split (patient, slide, camera): a CSV file with the
    columns name and group, or a regular expression on the name whose first bracket is the group.
    (A manifest has a column `group`.)"""
    folds: int | None = None
    """k-fold cross-validation: the images in k folds, of which `fold` is the test split."""
    fold: int = 0
    """Which of the k folds, from 0, is the test split."""
    limit: int | None = None
    """At most so many images of each split, drawn by `split_seed`: for a first look."""
    workers: int | None = None
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


@dataclass
class AugmentConfig:
    """Random changes to training images; masks follow. All zero or false: none."""

    flip: float = 0.5
    """Probability of a left-right flip."""
    vertical_flip: float = 0.0
    """Probability of an upside-down flip."""
    quarter_turns: bool = False
    """Turn by 0, 90, 180 or 270 degrees (for images without an upright)."""
    rotate: float = 15.0
    """Largest rotation, degrees."""
    scale: float = 0.25
    """Largest relative change of scale: 0.25 is 0.75 to 1.25."""
    color: float = 0.3
    """Largest relative change of brightness, contrast and saturation."""
    hue: float = 0.03
    """Largest shift of hue, as a share of the colour circle."""


@dataclass
class ModelConfig:
    """The prompt generator (and, for the run `head`, the plain network)."""

    backbone: str = "tf_efficientnet_lite0"
    """Any timm model that supports features_only; hardnet39ds, 68, 68ds and 85 are among them."""
    backbone_weights: str = "auto"
    """`auto`: ImageNet weights (bundled for tf_efficientnet_lite0, else timm's); `none`: from
    scratch; or a file."""
    view_size: int = 256
    """G: side of the square that the backbone sees, pixels; a multiple of 32."""
    width: int = 192
    """Channels of the neck at stride 16; finer levels have half as many at each step."""
    prompt: LearnedPrompt = "dense+high_res"
    """Which prompt embeddings the generator emits. dense (the published AutoSAM's): on the grid of
    the image embedding. sparse: tokens, as of points. high_res: maps of twice and four times the
    grid, added where the mask decoder upscales. both: dense+sparse."""
    sparse_tokens: int = 8
    """N: sparse prompt tokens per class, where there are any."""
    gate: bool = True
    """Whether a high_res prompt comes with a gate on the image embedding: how far SAM's view of
    each cell is trusted, which starts nearly closed."""

    @property
    def prompt_kinds(self) -> tuple[str, ...]:
        """The kinds that `prompt` names."""
        return ("dense", "sparse") if self.prompt == "both" else tuple(self.prompt.split("+"))

    @property
    def prompt_has_maps(self) -> bool:
        """Whether the surrogate decoder can read the prompt: tokens have no cells."""
        return self.prompt != "sparse"


@dataclass
class PromptConfig:
    """Prompts taken from true masks (runs decoder-box, decoder-points, sam-box, sam-points). Every
    connected part of a class is an object of its own."""

    objects: int = 8
    """Most objects of a training image that are prompted at a time, drawn anew at each visit; the
    others count as background then. In evaluation every object is prompted."""
    box_jitter: float = 0.1
    """Largest move of each side of a box as a share of the box's width or height, in training."""
    box_pixels: float = 0.0
    """The same in pixels of SAM's input, on top of it."""
    points: int = 3
    """Points on each object."""
    negative_points: int = 0
    """Points beside each object, in its neighbourhood."""
    erosion: float = 0.3
    """Points keep this share of the object's largest inner radius from its edge."""
    spacing: float = 0.5
    """Intended distance between an object's points, as a share of the root of its area."""
    grid: int = 8
    """Points in each row and column of the grid (run sam-auto)."""
    multimask: Literal["single", "best", "true", "mean"] = "single"
    """Which of SAM's masks counts. single: the one made for unambiguous prompts. Of the three
    others: best by SAM's estimate of IoU; best by true IoU (in training only); or their mean."""


@dataclass
class RoughConfig:
    """Rough masks by a rule on colours, from which prompts are taken (runs decoder-rough and
    sam-rough); `autosam rough` shows what a rule finds."""

    method: Literal["otsu", "hsv", "index"] = "otsu"
    """otsu: grey values above Otsu's threshold. hsv: colours between `lower` and `upper`. index:
    the normalised difference of two bands above `threshold`."""
    threshold: float | None = None
    """Unset: Otsu's for otsu, 0 for index."""
    dark: bool = False
    """otsu: what is below the threshold is foreground."""
    lower: tuple[int, int, int] = (0, 0, 0)
    """Least hue (0..179, as OpenCV counts), saturation and value (0..255)."""
    upper: tuple[int, int, int] = (179, 255, 255)
    """Most hue, saturation and value; an upper hue below the lower one goes round by red."""
    bands: tuple[int, int] = (2, 4)
    """(first - second) / (first + second) of these bands, from 1; water: green, near infrared."""
    erosion: int = 2
    """Pixels taken off the edge."""
    min_share: float = 0.002
    """Smallest connected part that is kept, as a share of the image."""
    prompt: Literal["box", "points"] = "box"
    """What is taken from each part that is left."""


@dataclass
class LossConfig:
    """Weights of the loss parts, all taken inside the valid region."""

    bce: float = 1.0
    """Cross entropy: binary for one class or independent ones, softmax for exclusive ones."""
    focal: float = 0.0
    """Focal loss (gamma 2) on each class."""
    dice: float = 1.0
    """Soft Dice loss."""
    mse: float = 0.0
    """Mean squared error of the probabilities."""
    resolution: Literal["low", "full"] = "low"
    """Where the loss is taken. low: at the logits' own size, a quarter of SAM's input (truth as the
    share of each cell that is covered). full: at the size of SAM's input, logits interpolated:
    sixteen times the cells."""


@dataclass
class CacheConfig:
    """Image embeddings computed once and kept on disk, so that training costs no image encoder."""

    views: int | None = None
    """V: geometric views of each training image whose embeddings are cached, the image as it is
    among them; one is drawn at each visit. Colours then change in the prompt generator's view only.
    0: no cache, every visit encodes an augmented image of its own. Unset: 4 for SAMs of 1024 px,
    0 for smaller ones."""
    dtype: Literal["bf16", "fp16", "fp32", "int8"] = "bf16"
    """How embeddings are kept. fp32 also computes them in float32."""
    dir: str | None = None
    """Folder of the caches; unset: `embeddings` in the folder of downloaded weights."""
    max_gb: float = 100.0
    """Most that the caches in that folder may take up together, 10^9 bytes."""


@dataclass
class TrainConfig:
    """The training loop."""

    epochs: int | None = None
    """Most epochs; early stopping may end before. Unset: 5, or on fewer than 288 images as many
    (up to 50) as it takes to see 1440: a first answer within minutes."""
    batch_size: int = 8
    """Images per step and process."""
    accumulate: int = 1
    """Batches per optimiser step."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """adam: weight decay is added to the gradient, as the published AutoSAM has it."""
    lr: float | None = None
    """Peak learning rate of all that learns. Unset: 1e-3 for what is pretrained (the backbone,
    SAM's mask decoder), 4e-3 for what starts at random (neck and heads)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: down to zero along a cosine, or level."""
    weight_decay: float = 0.01
    """On matrices and kernels only."""
    warmup: float = 0.05
    """Share of all steps over which the learning rate rises."""
    clip: float = 1.0
    """Largest gradient norm; larger ones are scaled down."""
    patience: int = 10
    """Epochs without a better validation Dice before training stops."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """`auto`: bf16 on a GPU that has it; elsewhere float32, but for frozen image encoders of
    1024 px where the processor multiplies bf16. `no`: float32 throughout, embeddings out of a
    cache aside. `bf16`: everywhere."""
    seed: int = 0
    """Seed of the weights, the order and the augmentation."""
    save_minutes: float = 10.0
    """Minutes between two states that --resume can go on from, besides those of each epoch."""
    pictures: int = 6
    """Validation images drawn in TensorBoard after each epoch."""


@dataclass
class PaperConfig:
    """What the published AutoSAM's code does and this package does not, to see what each is worth.
    Whatever is on is in the run's name."""

    double_normalisation: bool = False
    """SAM's pixels are normalised twice: its encoder sees an almost black image."""
    min_max_logits: bool = False
    """The logits of each class of an image are stretched so that the least becomes 0 and the
    largest 1, and cut at 0.5: no mask can be empty."""
    loss_on_padding: bool = False
    """The loss is taken on the padding, too (and on pixels that nobody labelled)."""
    select_on_test: bool = False
    """The best epoch is chosen by its score on test, which then says nothing any more."""

    @property
    def names(self) -> list[str]:
        """Of those that are on."""
        return [name for name, on in vars(self).items() if on]


@dataclass
class Settings:
    """What runs that are compared with each other share."""

    sam: str = "lite"
    """Which SAM: lite (shipped) or another that `autosam weights list` shows."""
    sam_checkpoint: str | None = None
    """Weights file of that SAM; unset: the shipped or downloaded one."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    rough: RoughConfig = field(default_factory=RoughConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    deterministic: bool = False
    """Let GPUs take slower algorithms that give the same figures every time, and none that have no
    such form (torch names it then). CPUs do so anyway."""


@dataclass
class Config(Settings):
    """A run: a prompter and a set of trainable parts, on some data."""

    run: Literal[
        "autosam",
        "decoder",
        "hybrid",
        "head",
        "decoder-box",
        "decoder-points",
        "decoder-rough",
        "sam-box",
        "sam-points",
        "sam-rough",
        "sam-auto",
    ] = "autosam"
    """autosam: learned prompts, SAM frozen. decoder: SAM's mask decoder tuned, no prompt. hybrid:
    both learn. head: the same backbone with a plain head and no SAM. decoder-box, decoder-points:
    the mask decoder tuned with prompts taken from the true masks. decoder-rough: with prompts taken
    from a rule on colours, see `rough`. sam-box, sam-points, sam-rough: the same prompts, nothing
    trained. sam-auto: points on a grid; training images say which masks count."""
    embedding: Literal["real", "blank", "shuffled"] = "real"
    """What SAM's mask decoder is given of the image, for controls. blank: zeros. shuffled: the
    image embedding of another image of the same split. The prompt generator sees the image."""
    paper: PaperConfig = field(default_factory=PaperConfig)
    output: str | None = None
    """Run folder; unset: runs/<time>-<run>."""
    overwrite: bool = False
    """Replace the output folder if it exists."""
    init: str | None = None
    """Start from the weights of this run (folder or checkpoint file)."""
    auto_batch: bool = False
    """Before training, halve the batch until a step fits into memory; so many batches then make up
    an optimiser step that it sees as many images as before."""
    resume: str | None = None
    """Go on with this run from its last state, with its settings. Only these may be said anew:
    data.{root,images,masks,annotations,groups,workers}, cache.{dir,max_gb}, sam_checkpoint."""

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def title(self) -> str:
        """The run and everything that makes it another than it seems."""
        odd = [self.embedding] if self.embedding != "real" else []
        return "+".join([self.run, *odd, *self.paper.names])

    @property
    def color_prior(self) -> RoughConfig | None:
        """The rule on colours that the prompts come from; None where they come from elsewhere."""
        return self.rough if RUNS[self.run].uses_color_prior else None
