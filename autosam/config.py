"""Every setting of a run, typed and documented; the same names in YAML, flags and Python."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from autosam.errors import ConfigError


@dataclass(frozen=True)
class Composition:
    """What a run is made of: who supplies the prompt, who draws the mask, what learns."""

    prompter: Literal["learned", "none", "box", "points"]
    decoder: Literal["sam", "head"]
    trainable: tuple[Literal["prompter", "decoder"], ...]


RUNS: dict[str, Composition] = {
    "autosam": Composition("learned", "sam", ("prompter",)),
    "decoder": Composition("none", "sam", ("decoder",)),
    "hybrid": Composition("learned", "sam", ("prompter", "decoder")),
    "head": Composition("none", "head", ("decoder",)),
    "decoder-box": Composition("box", "sam", ("decoder",)),
    "decoder-points": Composition("points", "sam", ("decoder",)),
    "sam-box": Composition("box", "sam", ()),
    "sam-points": Composition("points", "sam", ()),
}
"""The one table of runs. `head` uses no SAM at all: the control that says whether SAM helps. Boxes
and points are taken from the true mask: such runs are oracles, good for comparison only."""


@dataclass
class DataConfig:
    """Where the images and masks are, and how masks are read."""

    root: str | None = None
    """Folder with train/, validation/ and test/, each holding images/ and masks/; or with images/
    and masks/ directly, which are then split by a seed. Unset, and `images` too: the embedded
    synthetic data set."""
    images: str | None = None
    """Folder of images (instead of `root`)."""
    masks: str | None = None
    """Folder of masks; a mask has its image's file name, with any extension."""
    mask_suffix: str = ""
    """What a mask's name adds to its image's: `_mask` pairs cell1.jpg with cell1_mask.png."""
    num_classes: int = 1
    """K: classes besides background. 1: masks are read as foreground or not. More: a mask's pixel
    values are 0 for background and 1..K."""
    exclusive: bool = True
    """True: a pixel has one class or background (soft-max, arg-max). False: classes are judged
    independently (sigmoid, 0.5)."""
    validation: float = 0.15
    """Share of images for validation where no validation folder is given, 0..1."""
    test: float = 0.15
    """Share of images for testing where no split is given, 0..1."""
    split_seed: int = 0
    """Seed of the split."""
    workers: int | None = None
    """Processes that read images; unset: by the number of processors."""


@dataclass
class AugmentConfig:
    """Random changes to training images; masks follow. All zero or false: none."""

    flip: float = 0.5
    """Probability of a left-right flip."""
    vertical_flip: float = 0.0
    """Probability of an upside-down flip."""
    quarter_turns: bool = False
    """Turn by 0, 90, 180 or 270 degrees (for pictures without an upright)."""
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
    """Any timm model that supports features_only; hardnet39ds, hardnet68, hardnet68ds and
    hardnet85 are among them."""
    backbone_weights: str = "auto"
    """`auto`: ImageNet weights (bundled for tf_efficientnet_lite0, else timm's); `none`: from
    scratch; or a file."""
    view_size: int = 256
    """G: side of the square that the backbone sees, pixels; a multiple of 32."""
    width: int = 192
    """Channels of the neck at stride 16; finer levels have half as many at each step."""
    prompt: Literal["dense", "sparse", "both"] = "dense"
    """Which prompt embeddings the generator emits."""
    sparse_tokens: int = 8
    """N: sparse prompt tokens per class, where there are any."""


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
    """Wanted distance between an object's points, as a share of the root of its area."""
    multimask: Literal["single", "best", "true", "mean"] = "single"
    """Which of SAM's masks counts. single: the one made for unambiguous prompts. Of the three
    others: best by SAM's own estimate of IoU; best by true IoU (in training; by the estimate in
    evaluation); or their mean."""


@dataclass
class LossConfig:
    """Weights of the loss parts, all taken inside the valid region."""

    bce: float = 1.0
    """Cross entropy: binary for one class or independent ones, over classes and background for
    exclusive ones."""
    focal: float = 0.0
    """Focal loss (gamma 2) on each class."""
    dice: float = 1.0
    """Soft Dice loss."""
    resolution: Literal["low", "full"] = "low"
    """Where the loss is taken. low: at the logits' own size, a quarter of SAM's input (truth as the
    share of each cell that is covered). full: at the size of SAM's input, logits interpolated:
    sixteen times the cells."""


@dataclass
class CacheConfig:
    """Image embeddings computed once and kept on disk, so that training costs no image encoder."""

    views: int | None = None
    """V: geometric views of each training image whose embeddings are cached, the picture as it is
    among them; one is drawn at each visit. Colours then change in the prompt generator's view only.
    0: no cache, every visit encodes an augmented picture of its own. Unset: 4 for SAMs of 1024 px,
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
    lr: float = 5e-4
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.01
    """Of AdamW, on matrices and kernels only."""
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
    pictures: int = 6
    """Validation images drawn in TensorBoard after each epoch."""


@dataclass
class Config:
    """A run: a prompter and a set of trainable parts, on some data."""

    run: Literal[
        "autosam",
        "decoder",
        "hybrid",
        "head",
        "decoder-box",
        "decoder-points",
        "sam-box",
        "sam-points",
    ] = "autosam"
    """autosam: learned prompts, SAM frozen. decoder: SAM's mask decoder tuned, no prompt. hybrid:
    both learn. head: the same backbone with a plain head and no SAM. decoder-box, decoder-points:
    the mask decoder tuned with prompts taken from the true masks. sam-box, sam-points: the same
    prompts, nothing trained."""
    sam: str = "lite"
    """Which SAM: lite (shipped) or another that `python -m autosam.weights list` shows."""
    sam_checkpoint: str | None = None
    """Weights file of that SAM; unset: the shipped or downloaded one."""
    output: str | None = None
    """Run folder; unset: runs/<time>-<run>."""
    overwrite: bool = False
    """Replace the output folder if it exists."""
    init: str | None = None
    """Start from the weights of this run (folder or checkpoint file)."""
    resume: str | None = None
    """Go on with this run from its last finished epoch; other settings are taken from it."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


_RANGES: dict[str, tuple[float, float]] = {
    "data.num_classes": (1, 255),
    "data.workers": (0, 256),
    "augment.flip": (0, 1),
    "augment.vertical_flip": (0, 1),
    "augment.rotate": (0, 180),
    "augment.scale": (0, 0.99),
    "augment.color": (0, 1),
    "augment.hue": (0, 0.5),
    "model.width": (16, 4096),
    "model.sparse_tokens": (1, 1024),
    "prompt.objects": (1, 10_000),
    "prompt.box_jitter": (0, 1),
    "prompt.box_pixels": (0, 10_000),
    "prompt.points": (1, 1000),
    "prompt.negative_points": (0, 1000),
    "prompt.erosion": (0, 1),
    "prompt.spacing": (0, 10),
    "loss.bce": (0, math.inf),
    "loss.focal": (0, math.inf),
    "loss.dice": (0, math.inf),
    "cache.views": (0, 1000),
    "cache.max_gb": (0, math.inf),
    "train.epochs": (1, math.inf),
    "train.batch_size": (1, math.inf),
    "train.accumulate": (1, math.inf),
    "train.lr": (1e-12, 100),
    "train.weight_decay": (0, 100),
    "train.warmup": (0, 0.99),
    "train.clip": (1e-12, math.inf),
    "train.patience": (1, math.inf),
    "train.seed": (0, 2**32 - 1),
    "train.pictures": (0, 1000),
}


def check_settings(config: Config) -> None:
    """Refuse numbers that cannot work, before anything is built.

    Raises:
        ConfigError: naming the key, what was found and what is expected.
    """
    for key, (least, most) in _RANGES.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if value is not None and not least <= value <= most:
            raise ConfigError(f"--{key} {value}: must be {least:g} to {most:g}.")
    if config.model.view_size <= 0 or config.model.view_size % 32:
        near = max(32, round(config.model.view_size / 32) * 32)
        raise ConfigError(
            f"--model.view_size {config.model.view_size}: must be a multiple of 32, for example "
            f"{near}."
        )
    if config.loss.bce + config.loss.focal + config.loss.dice == 0:
        raise ConfigError("--loss.bce, --loss.focal, --loss.dice: one must be above 0.")
    if config.resume and config.init:
        raise ConfigError("--resume and --init exclude each other.")
