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
EncoderBackend = Literal["auto", "torch", "openvino"]
"""See `Settings.encoder_backend`."""
ObjectPrompt = Literal["tokens", "point", "box", "tokens+point", "tokens+box"]
"""See `ModelConfig.object_prompt`."""


@dataclass
class AugmentConfig:
    """Augmentation of training images and their masks. All zero or false: none."""

    flip: float = setting(0.5, min=0, max=1)
    """Probability of a horizontal flip."""
    vertical_flip: float = setting(0.0, min=0, max=1)
    """Probability of a vertical flip."""
    quarter_turns: bool = False
    """Rotate by 0, 90, 180 or 270 degrees, for images without a preferred orientation."""
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
    """Any timm model that supports features_only; hardnet39ds, 68, 68ds and 85 are among them.
    `none`: prompts of `sam_features` alone."""
    backbone_weights: str = setting("auto", path=_path_if_no_word)
    """`auto`: ImageNet weights (bundled for tf_efficientnet_lite0, else timm's); `none`: from
    scratch; or a file."""
    input_size: int = setting(256, min=32, multiple=32, alias="view_size")
    """G: input size of the backbone, pixels; a multiple of 32."""
    width: int = setting(192, min=16, max=4096)
    """Channels of the neck at stride 16; half as many at each finer level."""
    prompt: LearnedPrompt = "dense+high_res"
    """Which prompt embeddings the generator emits. dense (the published AutoSAM's): on the grid of
    the image embedding. sparse: tokens, as of points. high_res: maps of twice and four times the
    grid, added where the mask decoder upscales. both: dense+sparse."""
    sparse_tokens: int = setting(8, min=1, max=1024)
    """N: sparse prompt tokens per class, if the prompt has any."""
    sam_features: Literal["none", "last", "blocks"] = "none"
    """What of SAM's image encoder the generator also reads. last: the image embedding. blocks: also
    the outputs of every second block (at most six)."""
    object_prompt: ObjectPrompt = "tokens+box"
    """What prompts an object (task instances). tokens: learned ones, read out of the feature map at
    its centre. point: its centre. box: a box that is learned, too. Points and boxes go through
    SAM's prompt encoder."""
    gate: bool = True
    """Whether a high_res prompt comes with a learned gate that scales each cell of SAM's image
    embedding from 0 to 1; it starts nearly closed."""

    @property
    def prompt_kinds(self) -> tuple[str, ...]:
        """The kinds that `prompt` names."""
        return ("dense", "sparse") if self.prompt == "both" else tuple(self.prompt.split("+"))

    @property
    def has_surrogate(self) -> bool:
        """Whether masks can be made without SAM, by the surrogate decoder: tokens have no cells,
        and a generator that reads SAM's features needs its image encoder."""
        return self.prompt != "sparse" and self.sam_features == "none"


@dataclass
class PromptConfig:
    """Prompts derived from true masks (runs decoder-box, decoder-points, sam-box, sam-points).
    Every connected component of a class is an object."""

    objects: int = setting(8, min=1, max=10_000)
    """Largest number of prompted objects per training image, drawn at random each time; the others
    count as background. In evaluation every object is prompted."""
    box_jitter: float = setting(0.1, min=0, max=1)
    """Random shift of each side of a box in training, as a share of the box's width or height."""
    box_pixels: float = setting(0.0, min=0, max=10_000)
    """Additional random shift, pixels of SAM's input."""
    points: int = setting(3, min=1, max=1000)
    """Foreground points per object."""
    negative_points: int = setting(0, min=0, max=1000)
    """Background points per object, near it."""
    erosion: float = setting(0.3, min=0, max=1)
    """Distance of points from the object's edge, as a share of its largest inner radius."""
    spacing: float = setting(0.5, min=0, max=10)
    """Distance between points of an object, as a share of the square root of its area."""
    grid: int = setting(8, min=1, max=256)
    """Points per row and column of the grid (run sam-auto)."""
    multimask: Literal["single", "best", "true", "mean"] = "single"
    """Which of SAM's masks is used. single: the one for unambiguous prompts. Of the three others,
    best: highest estimated IoU; true: highest true IoU (in training only); mean: their mean."""


@dataclass
class RoughConfig:
    """Rough masks from a rule on colours, from which prompts are derived (runs decoder-rough and
    sam-rough); `autosam rough` shows them."""

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
class LoraConfig:
    """LoRA in SAM's image encoder (runs lora and autosam-lora)."""

    rank: int = setting(4, min=1, max=256)
    """Rank of each adapter."""
    alpha: int | None = setting(None, min=1, max=1_000_000)
    """Adapters are scaled by alpha / rank. Unset: equal to the rank."""
    dropout: float = setting(0.0, min=0, max=0.9)
    """Dropout probability of the adapters' inputs in training."""
    layers: Literal["attention", "all"] = "attention"
    """Layers with adapters. attention: the projections of attention, or pointwise convolutions in
    blocks without attention. all: the MLPs too."""
    blocks: int | None = setting(None, min=1, max=1000)
    """Number of blocks with adapters, counted from the last. Tokens in front of them are cached
    like embeddings (`cache`). Unset: all blocks, without a cache."""


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
    """Image embeddings computed once and stored, so that training needs no image encoder."""

    copies: int | None = setting(None, min=0, max=1000, alias="views")
    """V: augmented copies of each training image whose embeddings are cached, including the image
    without augmentation; one of them is drawn each time. Colour augmentation then applies to the
    generator input only. 0: no cache; each image is augmented and encoded each time. Unset: 4 for
    SAMs of 1008 px or more, 0 for smaller ones."""
    dtype: Literal["bf16", "fp16", "fp32", "int8"] = "bf16"
    """Data type of stored embeddings. fp32 also computes them in float32."""
    dir: str | None = setting(None, path=always_path, resume=True, result=False)
    """Folder for the caches; unset: `embeddings` in the folder of downloaded weights."""
    max_gb: float = setting(100.0, min=0, resume=True, result=False)
    """Largest total size of the caches in that folder, 10^9 bytes."""


@dataclass
class TrainConfig:
    """The training loop."""

    epochs: int | None = setting(None, min=1, short="epochs")
    """Largest number of epochs; early stopping may end before. Unset: 5, or with fewer than 288
    images as many (up to 50) as 1440 training samples take."""
    batch_size: int = setting(8, min=1, max=1_000_000, short="batch_size")
    """Images per batch and process."""
    accumulate: int = setting(1, min=1)
    """Batches per optimiser step (gradient accumulation)."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """adam: L2 regularisation instead of decoupled weight decay, as in the published AutoSAM."""
    lr: float | None = setting(None, min=1e-12, max=100, short="lr")
    """Peak learning rate of all trained parameters. Unset: 1e-3 for pretrained ones (the backbone,
    SAM's mask decoder), 4e-3 for randomly initialised ones (neck and heads)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: cosine decay to zero, or constant."""
    weight_decay: float = setting(0.01, min=0, max=100)
    """Weight decay of matrices and kernels; none for biases and norms."""
    warmup: float = setting(0.05, min=0, max=0.99)
    """Share of all steps with a linearly rising learning rate."""
    clip: float = setting(1.0, min=1e-12)
    """Gradient clipping by norm."""
    patience: int = setting(10, min=1)
    """Early stopping: epochs without a better validation Dice."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """`auto`: bf16 on GPUs that support it and on processors with AMX; float32 elsewhere, except
    frozen image encoders of 1024 px on processors with other bf16 instructions. `no`: float32,
    except cached embeddings. `bf16`: always."""
    seed: int = setting(0, min=0, max=2**32 - 1, short="seed")
    """Seed of initialisation, order and augmentation."""
    save_minutes: float = setting(10.0, min=0, result=False)
    """Minutes between saved states for --resume, besides the state after each epoch."""
    sheet_images: int = setting(6, min=0, max=1000, alias="pictures", result=False)
    """Validation images shown in TensorBoard after each epoch."""


@dataclass
class PaperConfig:
    """Peculiarities of the published AutoSAM's code, to measure the effect of each. Those that are
    on are in the run's title."""

    double_normalisation: bool = False
    """SAM's pixels are normalised twice: its encoder sees an almost black image."""
    min_max_logits: bool = False
    """The logits of each class of an image are stretched to 0..1 and thresholded at 0.5: no mask
    can be empty."""
    loss_on_padding: bool = False
    """The loss includes padding and unlabelled pixels."""
    select_on_test: bool = False
    """The best epoch is selected on test, so that the test score is biased."""

    @property
    def names(self) -> list[str]:
        """Of those that are on."""
        return [name for name, on in vars(self).items() if on]


@dataclass
class Settings:
    """Settings that the runs of a comparison share."""

    task: Literal["semantic", "instances"] = setting("semantic", common=True)
    """What is segmented. semantic: the classes of pixels. instances: objects, each by itself. Runs
    with learned prompts find and prompt every object; others predict classes, which `separate`
    divides into objects."""
    separate: Literal["watershed", "components"] = "watershed"
    """How a mask becomes objects (task instances, runs that predict classes). watershed: of the
    distance to the mask's edge. components: connected parts."""
    sam: str = setting("lite", common=True)
    """SAM: lite (shipped) or another one of `autosam weights list`."""
    sam_checkpoint: str | None = setting(
        None, path=always_path, resume=True, result=False, missing=(CheckpointError, "file")
    )
    """Weights file of that SAM; unset: the shipped or downloaded file."""
    encoder_backend: EncoderBackend = setting("auto", resume=True, result=False)
    """What computes a frozen image encoder on a CPU (on a GPU PyTorch does). auto: OpenVINO if it
    is installed (pip install 'autosam[openvino]') and computes the same, PyTorch otherwise.
    openvino: an error in place of PyTorch; not for runs with LoRA or model.sam_features blocks."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    rough: RoughConfig = field(default_factory=RoughConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    deterministic: bool = False
    """Use deterministic algorithms on GPUs, which are slower; torch names operations that have
    none. CPUs are always deterministic."""


@dataclass
class Config(Settings):
    """Train a run (a prompter, a mask decoder and the parts that learn) and score it once on test.

    Examples:
        autosam train --images images --masks masks
        autosam train --config kvasir --data.root Kvasir-SEG --epochs 20 --sam vit_b
    """

    run: str = setting("autosam", choices=RUNS, common=True)
    """What to train. autosam: learned prompts, SAM frozen. decoder: SAM's mask decoder trained, no
    prompt. hybrid: both trained. lora: SAM's mask decoder and LoRA in its image encoder trained, no
    prompt. autosam-lora: learned prompts and LoRA. head: the same backbone with a plain head, no
    SAM. probe: the same with the backbone frozen. decoder-box, decoder-points: the mask decoder
    trained with prompts from the true masks. decoder-rough: with prompts from a rule on colours,
    see `rough`. sam-box, sam-points, sam-rough: the same prompts, nothing trained. sam-auto: points
    on a grid, masks classified by a fit to training images."""
    embedding: Literal["real", "blank", "shuffled"] = "real"
    """Image embedding that SAM's mask decoder gets, for controls. blank: zeros. shuffled: that of
    another image of the same split. The prompt generator gets the image; what it reads of SAM by
    model.sam_features is blank or shuffled, too."""
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
    """Before training, halve the batch size until a step fits into memory, and accumulate gradients
    so that an optimiser step still uses as many images."""
    resume: str | None = setting(
        None, common=True, result=False, call=True, missing=(CheckpointError, "run folder")
    )
    """Continue this run from its last state, with its settings. Only paths and limits of the
    machine may change: data.{root,images,masks,annotations,groups,workers}, cache.{dir,max_gb},
    sam_checkpoint."""

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def title(self) -> str:
        """The run's name, with controls and peculiarities that are on."""
        odd = [self.embedding] if self.embedding != "real" else []
        return "+".join([self.run, *odd, *self.paper.names])

    @property
    def finds_objects(self) -> bool:
        """Whether objects are found and prompted one by one."""
        return self.task == "instances" and RUNS[self.run].learns_prompt

    @property
    def separation(self) -> Literal["watershed", "components"] | None:
        """How masks become objects; None if only classes are segmented."""
        return self.separate if self.task == "instances" else None

    @property
    def color_prior(self) -> RoughConfig | None:
        """The rule on colours that the prompts come from; None where they come from elsewhere."""
        return self.rough if RUNS[self.run].uses_color_prior else None
