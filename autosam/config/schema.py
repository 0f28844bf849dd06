"""Every setting of a run, typed and documented; the same names in YAML, flags and Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from autosam.config.data import DataConfig
from autosam.config.runs import RUNS
from autosam.config.setting import always_path, path_if_exists, setting
from autosam.config.values import check_choices
from autosam.errors import CheckpointError

_HSV = (179, 255, 255)
WEIGHTS_BY_WORD = ("auto", "none")
"""See `ModelConfig.backbone_weights`."""


def _path_if_no_word(text: str) -> bool:
    return text not in WEIGHTS_BY_WORD


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
class AugmentConfig:
    """Random changes to training images; masks follow. All zero or false: none."""

    flip: float = setting(0.5, min=0, max=1)
    """Probability of a left-right flip."""
    vertical_flip: float = setting(0.0, min=0, max=1)
    """Probability of an upside-down flip."""
    quarter_turns: bool = False
    """Turn by 0, 90, 180 or 270 degrees (for images without an upright)."""
    rotate: float = setting(15.0, min=0, max=180)
    """Largest rotation, degrees."""
    scale: float = setting(0.25, min=0, max=0.99)
    """Largest relative change of scale: 0.25 is 0.75 to 1.25."""
    color: float = setting(0.3, min=0, max=1)
    """Largest relative change of brightness, contrast and saturation."""
    hue: float = setting(0.03, min=0, max=0.5)
    """Largest shift of hue, as a share of the colour circle."""


@dataclass
class ModelConfig:
    """The prompt generator (and, for the run `head`, the plain network)."""

    backbone: str = "tf_efficientnet_lite0"
    """Any timm model that supports features_only; hardnet39ds, 68, 68ds and 85 are among them."""
    backbone_weights: str = setting("auto", path=_path_if_no_word)
    """`auto`: ImageNet weights (bundled for tf_efficientnet_lite0, else timm's); `none`: from
    scratch; or a file."""
    input_size: int = setting(256, min=32, multiple=32, alias="view_size")
    """G: side of the square that the backbone sees, pixels; a multiple of 32."""
    width: int = setting(192, min=16, max=4096)
    """Channels of the neck at stride 16; finer levels have half as many at each step."""
    prompt: LearnedPrompt = "dense+high_res"
    """Which prompt embeddings the generator emits. dense (the published AutoSAM's): on the grid of
    the image embedding. sparse: tokens, as of points. high_res: maps of twice and four times the
    grid, added where the mask decoder upscales. both: dense+sparse."""
    sparse_tokens: int = setting(8, min=1, max=1024)
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

    objects: int = setting(8, min=1, max=10_000)
    """Most objects of a training image that are prompted at a time, drawn again at each visit; the
    others count as background then. In evaluation every object is prompted."""
    box_jitter: float = setting(0.1, min=0, max=1)
    """Largest move of each side of a box as a share of the box's width or height, in training."""
    box_pixels: float = setting(0.0, min=0, max=10_000)
    """The same in pixels of SAM's input, on top of it."""
    points: int = setting(3, min=1, max=1000)
    """Points on each object."""
    negative_points: int = setting(0, min=0, max=1000)
    """Points beside each object, in its neighbourhood."""
    erosion: float = setting(0.3, min=0, max=1)
    """Points keep this share of the object's largest inner radius from its edge."""
    spacing: float = setting(0.5, min=0, max=10)
    """Intended distance between an object's points, as a share of the root of its area."""
    grid: int = setting(8, min=1, max=256)
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
    threshold: float | None = setting(None, min=-1, max=255)
    """Unset: Otsu's for otsu, 0 for index."""
    dark: bool = False
    """otsu: what is below the threshold is foreground."""
    lower: tuple[int, int, int] = setting((0, 0, 0), min=0, max=_HSV)
    """Least hue (0..179, as OpenCV counts), saturation and value (0..255)."""
    upper: tuple[int, int, int] = setting((179, 255, 255), min=0, max=_HSV)
    """Most hue, saturation and value; an upper hue below the lower one goes round by red."""
    bands: tuple[int, int] = (2, 4)
    """(first - second) / (first + second) of these bands, from 1; water: green, near infrared."""
    erosion: int = setting(2, min=0, max=1000)
    """Pixels taken off the edge."""
    min_share: float = setting(0.002, min=0, max=1)
    """Smallest connected part that is kept, as a share of the image."""
    prompt: Literal["box", "points"] = "box"
    """What is taken from each part that is left."""


@dataclass
class LossConfig:
    """Weights of the terms of the loss, all taken inside the valid region."""

    bce: float = setting(1.0, min=0, max=1_000_000)
    """Cross entropy: binary for one class or independent ones, softmax for exclusive ones."""
    focal: float = setting(0.0, min=0, max=1_000_000)
    """Focal loss (gamma 2) on each class."""
    dice: float = setting(1.0, min=0, max=1_000_000)
    """Soft Dice loss."""
    mse: float = setting(0.0, min=0, max=1_000_000)
    """Mean squared error of the probabilities."""
    resolution: Literal["low", "full"] = "low"
    """Where the loss is taken. low: at the logits' own size, a quarter of SAM's input (truth as the
    share of each cell that is covered). full: at the size of SAM's input, logits interpolated:
    sixteen times the cells."""


@dataclass
class CacheConfig:
    """Image embeddings computed once and kept on disk, so that training costs no image encoder."""

    copies: int | None = setting(None, min=0, max=1000, alias="views")
    """V: augmented copies of each training image whose embeddings are cached, the image as it is
    among them; one is drawn at each visit. Colors then change in the generator input only. 0: no
    cache, every visit encodes an augmented image of its own. Unset: 4 for SAMs of 1024 px,
    0 for smaller ones."""
    dtype: Literal["bf16", "fp16", "fp32", "int8"] = "bf16"
    """How embeddings are kept. fp32 also computes them in float32."""
    dir: str | None = setting(None, path=always_path, resume=True, result=False)
    """Folder of the caches; unset: `embeddings` in the folder of downloaded weights."""
    max_gb: float = setting(100.0, min=0, resume=True, result=False)
    """Most that the caches in that folder may take up together, 10^9 bytes."""


@dataclass
class TrainConfig:
    """The training loop."""

    epochs: int | None = setting(None, min=1, short="epochs")
    """Most epochs; early stopping may end before. Unset: 5, or on fewer than 288 images as many
    (up to 50) as it takes to see 1440: a first answer within minutes."""
    batch_size: int = setting(8, min=1, max=1_000_000, short="batch_size")
    """Images per step and process."""
    accumulate: int = setting(1, min=1)
    """Batches per optimiser step."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """adam: weight decay is added to the gradient, as the published AutoSAM has it."""
    lr: float | None = setting(None, min=1e-12, max=100, short="lr")
    """Peak learning rate of all that learns. Unset: 1e-3 for what is pretrained (the backbone,
    SAM's mask decoder), 4e-3 for what starts at random (neck and heads)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: down to zero along a cosine, or level."""
    weight_decay: float = setting(0.01, min=0, max=100)
    """On matrices and kernels only."""
    warmup: float = setting(0.05, min=0, max=0.99)
    """Share of all steps over which the learning rate rises."""
    clip: float = setting(1.0, min=1e-12)
    """Largest gradient norm; larger ones are scaled down."""
    patience: int = setting(10, min=1)
    """Epochs without a better validation Dice before training stops."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """`auto`: bf16 on a GPU that has it; elsewhere float32, but for frozen image encoders of
    1024 px where the processor multiplies bf16. `no`: float32 throughout, embeddings out of a
    cache aside. `bf16`: everywhere."""
    seed: int = setting(0, min=0, max=2**32 - 1, short="seed")
    """Seed of the weights, the order and the augmentation."""
    save_minutes: float = setting(10.0, min=0, result=False)
    """Minutes between two states that --resume can go on from, besides those of each epoch."""
    sheet_images: int = setting(6, min=0, max=1000, alias="pictures", result=False)
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

    sam: str = setting("lite", common=True)
    """Which SAM: lite (shipped) or another that `autosam weights list` shows."""
    sam_checkpoint: str | None = setting(
        None, path=always_path, resume=True, result=False, missing=(CheckpointError, "file")
    )
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
    """A run: a prompter and a set of trainable parts, on some data.

    Examples:
        autosam train --images images --masks masks
        autosam train --config kvasir --data.root Kvasir-SEG --epochs 20 --sam vit_b
    """

    run: str = setting("autosam", choices=RUNS, common=True)
    """Which composition to train. autosam: learned prompts, SAM frozen. decoder: SAM's mask decoder
    trained, no prompt. hybrid: both train. head: the same backbone with a plain head and no SAM.
    decoder-box, decoder-points: the mask decoder trained with prompts from the true masks.
    decoder-rough: with prompts from a rule on colors, see `rough`. sam-box, sam-points, sam-rough:
    the same prompts, nothing trained. sam-auto: points on a grid; training images say which masks
    count."""
    embedding: Literal["real", "blank", "shuffled"] = "real"
    """What SAM's mask decoder is given of the image, for controls. blank: zeros. shuffled: the
    image embedding of another image of the same split. The prompt generator sees the image."""
    paper: PaperConfig = field(default_factory=PaperConfig)
    output: str | None = setting(None, common=True, result=False, call=True)
    """Run folder; unset: runs/<time>-<run>."""
    overwrite: bool = setting(False, common=True, result=False, call=True)
    """Replace the output folder if it exists."""
    init: str | None = setting(
        None, path=path_if_exists, result=False, missing=(CheckpointError, "file or folder")
    )
    """Start from the weights of this run (folder or checkpoint file)."""
    auto_batch: bool = False
    """Before training, halve the batch until a step fits into memory; so many batches then make up
    an optimiser step that it sees as many images as before."""
    resume: str | None = setting(None, common=True, result=False, call=True)
    """Go on with this run from its last state, with its settings. Only paths and
    limits of this machine may change: data.{root,images,masks,annotations,groups,workers},
    cache.{dir,max_gb}, sam_checkpoint."""

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
